"""Section 6.6: learn a descriptor a grid by Algorithm 2, and sample from the histogram of one voxel up."""

from collections.abc import Iterator, Sequence

import torch

from dnet_lib.data import ShapeSet
from dnet_lib.energy import DescriptorNet
from dnet_lib.learning import Record, Run
from dnet_lib.multigrid import begin_grids, learn_grids
from dnet_lib.presets import MultiGrid
from dnet_lib.pretrained import Expanded, Pretrained
from dnet_lib.priors import Histogram, Prior
from dnet_lib.reproduce.drive import Trained
from dnet_lib.reproduce.training import SAVE_EVERY, point, watch
from dnet_lib.reproduce.workplace import Workplace


def begin(preset: MultiGrid, seed: int, device: str = "cpu") -> list[Run]:
    """All grids before the first iteration."""
    generator = torch.Generator().manual_seed(seed)
    nets = [DescriptorNet(a, weight_std=preset.weight_std, generator=generator).to(device) for a in preset.grids]
    return begin_grids(nets, preset.settings, seed=seed)


def learn(preset: MultiGrid, category: str, place: Workplace) -> Trained:
    """Learn all grids, with a progress bar; resumes from a checkpoint."""
    shapes = place.shapes(category, "train", preset.architecture.resolution)
    runs, checkpoint = (
        begin(preset, place.seed, place.device),
        place.checkpoint(preset.experiment, preset.name, category),
    )
    coarse: dict[str, float] = {}

    def finest() -> Iterator[Record]:
        grids = learn_grids(runs, shapes.centred, preset.settings, checkpoint=checkpoint, save_every=SAVE_EVERY)
        for records in grids:
            sizes = (architecture.resolution for architecture in preset.grids)
            coarse.update({f"value_{size}": round(r.value, 2) for size, r in zip(sizes, records, strict=True)})
            yield records[-1]._replace(seconds=sum(run.seconds for run in runs))

    num_iterations = preset.settings[-1].num_iterations
    curve = watch(finest(), num_iterations, checkpoint, lambda record: coarse | point(record, shapes))
    return Trained(pyramid(preset, runs, shapes), shapes, sum(run.seconds for run in runs), curve)


def pyramid(preset: MultiGrid, runs: Sequence[Run], shapes: ShapeSet) -> Pretrained:
    """The finest grid's model, whose chains start on the coarser ones; it stays as the runs go on."""
    model: Pretrained | None = None
    for run, chain, architecture in zip(runs, preset.sampling, preset.grids, strict=True):
        size = architecture.resolution
        prior: Prior = Expanded(model, size) if model is not None else Histogram.fit(shapes.voxels, size)
        model = Pretrained.of(run, shapes.mean, prior, chain)
    assert model is not None, "a multi-grid has grids"
    return model
