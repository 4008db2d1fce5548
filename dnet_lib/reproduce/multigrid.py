"""Section 6.6: learn a descriptor a grid by Algorithm 2, and sample from the histogram of one voxel up."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from dnet_lib.checkpoints import Expanded, Pretrained
from dnet_lib.data import ShapeSet
from dnet_lib.energy import DescriptorNet
from dnet_lib.learning import Record, Run
from dnet_lib.multigrid import begin, learn
from dnet_lib.presets import MultiGrid
from dnet_lib.reproduce.synthesis import Trained
from dnet_lib.reproduce.training import SAVE_EVERY, point, watch
from dnet_lib.starts import Draws, Histogram

CATEGORIES = {"cpu": ("sofa", "toilet", "chair"), "cpu64": ("sofa",), "paper": ("sofa", "toilet", "chair")}
"""Of each preset: what is learned where nothing else is said."""


def train(preset: MultiGrid, shapes: ShapeSet, *, seed: int, checkpoint: Path, device: str = "cpu") -> Trained:
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
        kept = copy.deepcopy(run.kept).eval().requires_grad_(False)
        model = Pretrained(kept, shapes.mean, start, chain, {})
    assert model is not None, "a multi-grid has grids"
    return model
