"""Multi-grid learning and sampling: one descriptor a grid, each starting where the coarser one ended (Algorithm 2).

Nothing of the loop is new. Every grid runs `dnet_lib.learning.learn`; the grids take turns, and `starts.Coarser` hands
the samples up. The learning gradient of grid s approximately descends

    KL(P_data || p_s) - KL(M_s P_(s-1) || p_s),    eq. (19)

where P_(s-1) is the law of the expanded samples of the coarser grid and M_s the finite Langevin chain.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dnet_lib.checks import check_batch, check_kind, check_whole
from dnet_lib.errors import DivergedError, ShapeError
from dnet_lib.learning import GIVEN, Record, Run, Settings, learner
from dnet_lib.resuming import resumable
from dnet_lib.starts import Coarser
from dnet_lib.voxels import resample


def begin_grids(nets: Sequence[nn.Module], settings: Sequence[Settings], *, seed: int = 0) -> list[Run]:
    """One run a grid, coarse to fine, each starting its chains from the samples of the one before.

    The networks are `DescriptorNet`s, or any whose `resolution` says how many entries each axis of their grid has.
    """
    sizes = _checked(nets, settings)
    seed = check_whole(seed, "seed")
    runs: list[Run] = []
    below = None
    for k, (net, size, own) in enumerate(zip(nets, sizes, settings, strict=True)):
        below = Coarser(size, below)
        runs.append(Run.begin(net, below, own, seed=seed + k))
    return runs


def _checked(nets: Sequence[nn.Module], settings: Sequence[Settings]) -> list[int]:
    """The grids' sides; raises ShapeError or ValueError unless they ascend, and there are settings for each."""
    sizes, given = [_side(net) for net in nets], settings if isinstance(settings, (list, tuple)) else [settings]
    for own in () if isinstance(settings, Iterator) else given:
        check_kind(own, Settings, *GIVEN)
    if not sizes or sizes != sorted(set(sizes)) or given is not settings or len(given) != len(sizes):
        raise ShapeError(
            f"give the grids from coarse to fine, and settings for each, in a list: not {sizes}, {len(given)}"
        )
    if len({(s.num_iterations, s.batch_size) for s in given}) > 1:
        raise ValueError("all grids learn from the same mini-batches: num_iterations and batch_size must agree")
    return sizes


def _side(net: nn.Module) -> int:
    side = getattr(net, "resolution", None)
    if not isinstance(side, int):
        raise ShapeError(f"a grid's network must say its `resolution`, a whole number; {type(net).__name__} does not")
    return side


class Grids:
    """The runs of all grids as one: they are kept, and resumed, together."""

    def __init__(self, runs: Sequence[Run]):
        self.runs = runs

    @property
    def iteration(self) -> int:
        """Iterations that all grids have done."""
        return self.runs[-1].iteration

    first = property(lambda self: self.runs[-1].first, lambda self, first: setattr(self.runs[-1], "first", first))

    def state_dict(self) -> dict[str, Any]:
        return {"grids": [run.state_dict() for run in self.runs], "iteration": self.iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for run, own in zip(self.runs, state["grids"], strict=True):
            run.load_state_dict(own)


def learn_grids(
    runs: Sequence[Run],
    shapes: Tensor,
    settings: Sequence[Settings],
    *,
    checkpoint: str | Path | None = None,
    save_every: int = 50,
) -> Iterator[tuple[Record, ...]]:
    """Algorithm 2 as an iterator: all grids learn at once; yields a `Record` a grid after each iteration.

    runs         of `begin_grids`, coarse to fine
    shapes       all observed shapes, centred (N, 1, R, R, R), of the finest grid or finer
    checkpoint   a file: where it exists the runs resume from it; it is rewritten every `save_every` iterations

    Raises `DivergedError`, as `dnet_lib.learning.learn`, naming the grid; its `state` is that of all grids.
    """
    check_batch(shapes, name="the observed shapes")
    for run in runs:
        check_kind(run, Run, "runs must be Runs", "begin_grids(nets, settings) begins them")
    sides = _checked([run.net for run in runs], settings)
    coarsest, grids = runs[0], {f"{side}^3": run for side, run in zip(sides, runs, strict=True)}
    turns = {
        name: learner(
            run,
            resample(shapes, _side(run.net)),
            own,
            batches=None if run is coarsest else lambda: coarsest.index,
        )
        for (name, run), own in zip(grids.items(), settings, strict=True)
    }

    def step() -> tuple[Record, ...]:
        records = []
        for name, turn in turns.items():
            try:
                records.append(turn())
            except DivergedError as error:
                error.add_note(f"on the grid of {name}")
                raise
        return tuple(records)

    yield from resumable(
        Grids(runs),
        step,
        settings[0].num_iterations,
        checkpoint=checkpoint,
        save_every=save_every,
        belongs=lambda: {f"{name} {k}": v for name, run in grids.items() for k, v in run.belongs(shapes).items()},
        told={
            f"{name} {k}": value
            for (name, run), own in zip(grids.items(), settings, strict=True)
            for k, value in (vars(own) | run.options()).items()
        },
        device=coarsest.generator.device,
    )
