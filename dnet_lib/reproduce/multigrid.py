"""Section 6.6: learn a descriptor a grid by Algorithm 2, and sample from the histogram of one voxel up."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from dnet_lib.checkpoints import RESULTS, WEIGHTS, Expanded, Pretrained
from dnet_lib.data import ShapeSet
from dnet_lib.energy import DescriptorNet
from dnet_lib.learning import Record, Run
from dnet_lib.multigrid import begin, learn
from dnet_lib.presets import MultiGrid
from dnet_lib.reproduce.synthesis import evaluate, publish, record, shapes_of
from dnet_lib.reproduce.training import SAVE_EVERY, point, watch
from dnet_lib.starts import Draws, Histogram

CATEGORIES = ("sofa", "toilet", "chair")
"""What is learned where nothing else is said."""


def train(
    preset: MultiGrid, shapes: ShapeSet, *, seed: int, checkpoint: Path, device: str = "cpu"
) -> tuple[Pretrained, float, dict[str, list]]:
    """Learn all grids, with a progress bar; resumes from `checkpoint`. Returns model, seconds and learning curve."""
    generator = torch.Generator().manual_seed(seed)
    nets = [DescriptorNet(a, weight_std=preset.weight_std, generator=generator).to(device) for a in preset.grids]
    runs = begin(nets, preset.settings, seed=seed)
    coarse: dict[str, float] = {}

    def finest() -> Iterator[Record]:
        for records in learn(runs, shapes.centred, preset.settings, checkpoint=checkpoint, save_every=SAVE_EVERY):
            sizes = (architecture.resolution for architecture in preset.grids)
            coarse.update({f"value_{size}": round(r.value, 2) for size, r in zip(sizes, records, strict=True)})
            yield records[-1]._replace(seconds=sum(run.seconds for run in runs))

    num_iterations = preset.settings[-1].num_iterations
    curve = watch(finest(), num_iterations, checkpoint, lambda record: coarse | point(record, shapes))
    return pyramid(preset, runs, shapes), sum(run.seconds for run in runs), curve


def pyramid(preset: MultiGrid, runs: Sequence[Run], shapes: ShapeSet) -> Pretrained:
    """The finest grid's model, whose chains start on the coarser ones; it stays as the runs go on."""
    model: Pretrained | None = None
    for run, chain in zip(runs, preset.sampling, strict=True):
        resolution = run.net.architecture.resolution
        start: Draws = Expanded(model, resolution) if model is not None else Histogram.fit(shapes.voxels, resolution)
        kept = copy.deepcopy(run.net if run.averaged is None else run.averaged).eval().requires_grad_(False)
        model = Pretrained(kept, shapes.mean, start, chain, {})
    assert model is not None, "a multi-grid has grids"
    return model


def reproduce(
    preset: MultiGrid,
    category: str,
    *,
    data: str,
    seed: int,
    runs: Path,
    weights: Path = WEIGHTS,
    results: Path = RESULTS,
    device: str = "cpu",
) -> dict:
    """Train, sample, judge; writes <category>.safetensors and <category>.json into the experiment's folders."""
    shapes = shapes_of(data, category, "train", preset.architecture.resolution)
    checkpoint = runs / f"{preset.experiment}_{preset.name}_{category}_{seed}.pt"
    model, seconds, curve = train(preset, shapes, seed=seed, checkpoint=checkpoint, device=device)
    facts = record(preset, category, shapes, curve, seed=seed, seconds=seconds, device=device)
    publish(preset, category, model, facts, weights=weights, results=results)
    return evaluate(preset, category, data=data, seed=seed, weights=weights, results=results, device=device)
