"""Multi-grid learning and sampling: one descriptor a grid, each starting where the coarser one ended (Algorithm 2).

Nothing of the loop is new. Every grid runs `dnet_lib.learning.learn`; the grids take turns, and `starts.Coarser` hands
the samples up. The learning gradient of grid s approximately descends

    KL(P_data || p_s) - KL(M_s P_(s-1) || p_s),    eq. (19)

where P_(s-1) is the law of the expanded samples of the coarser grid and M_s the finite Langevin chain.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from dnet_lib.energy import DescriptorNet
from dnet_lib.langevin import DivergedError
from dnet_lib.learning import Record, Run, Settings, resume, write_state
from dnet_lib.learning import learn as learn_one
from dnet_lib.starts import Coarser
from dnet_lib.voxels import ShapeError, check_shapes, resample


def begin(nets: Sequence[DescriptorNet], settings: Sequence[Settings], *, seed: int = 0) -> list[Run]:
    """One run a grid, coarse to fine, each starting its chains from the samples of the one before."""
    sizes = [net.architecture.resolution for net in nets]
    if not sizes or sizes != sorted(set(sizes)) or len(settings) != len(sizes):
        raise ShapeError(f"give the grids from coarse to fine, and settings for each: not {sizes}, {len(settings)}")
    if len({(s.num_iterations, s.batch_size) for s in settings}) > 1:
        raise ValueError("all grids learn from the same mini-batches: num_iterations and batch_size must agree")
    runs: list[Run] = []
    below = None
    for k, (net, own) in enumerate(zip(nets, settings, strict=True)):
        below = Coarser(net.architecture.resolution, below)
        runs.append(Run.begin(net, below, own, seed=seed + k))
    return runs


def learn(
    runs: Sequence[Run],
    shapes: Tensor,
    settings: Sequence[Settings],
    *,
    checkpoint: str | Path | None = None,
    save_every: int = 50,
) -> Iterator[tuple[Record, ...]]:
    """Algorithm 2 as an iterator: all grids learn at once; yields a `Record` a grid after each iteration.

    runs         of `begin`, coarse to fine
    shapes       all observed shapes, centred (N, 1, R, R, R), of the finest grid or finer
    checkpoint   a file: where it exists the runs resume from it; it is rewritten every `save_every` iterations

    Raises `DivergedError`, as `dnet_lib.learning.learn`, naming the grid; its `state` is that of all grids.
    """
    check_shapes(shapes, name="the observed shapes")

    def state() -> dict:
        return {"grids": [run.state() for run in runs]}

    def restore(state: dict) -> None:
        for run, own in zip(runs, state["grids"], strict=True):
            run.restore(own)

    if checkpoint is not None and Path(checkpoint).exists():
        resume(checkpoint, restore, runs[0].generator.device)
    good = candidate = state()
    loops = [_grid(run, shapes, own, runs[0], save_every) for run, own in zip(runs, settings, strict=True)]
    try:
        for records in zip(*loops, strict=True):
            done = records[0].iteration
            if (done - 1) % save_every == 0:  # only now is it known that energies are finite at these weights
                good = candidate
                if checkpoint is not None:
                    write_state(good, checkpoint)
            if done % save_every == 0:
                candidate = state()
            if checkpoint is not None and done == settings[0].num_iterations:
                write_state(state(), checkpoint)
            yield records
    except DivergedError as error:
        error.state, error.checkpoint = good, None if checkpoint is None else str(checkpoint)
        raise


def _grid(run: Run, shapes: Tensor, settings: Settings, first: Run, save_every: int) -> Iterator[Record]:
    """The loop of one grid, with the mini-batches of the coarsest."""
    resolution = run.net.architecture.resolution
    batches = None if run is first else lambda: first.index
    try:
        yield from learn_one(run, resample(shapes, resolution), settings, save_every=save_every, batches=batches)
    except DivergedError as error:
        error.add_note(f"on the grid of {resolution}^3")
        raise
