"""How models are learned: an experiment begins a `Lesson`, and whoever asks for its records lets it go on."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnet_lib.cooperative import Teaching
from dnet_lib.data import ShapeSet
from dnet_lib.energy import DescriptorNet
from dnet_lib.generator import GeneratorNet, as_learned
from dnet_lib.learning import Record, Run, learn
from dnet_lib.metrics import coverage, nearest
from dnet_lib.multigrid import begin_grids, learn_grids
from dnet_lib.presets import Conditional, Cooperative, MultiGrid, Synthesis
from dnet_lib.pretrained import Expanded, Pretrained
from dnet_lib.priors import CoarseGaussian, Histogram, Prior
from dnet_lib.reproduce.workplace import ALL, Workplace
from dnet_lib.starts import Fresh, Persistent, Starts, noise
from dnet_lib.voxels import uncentre

SAVE_EVERY = 10  #: Iterations between checkpoints
NUM_PROPOSALS = 64  #: Of a generator, for its learning curve
Records = tuple[Record, ...]  #: Of an iteration, one a grid, coarse to fine


@dataclass(eq=False)
class Lesson:
    """A model that is being learned, and can be had at any time."""

    preset: Any  #: As it is used
    shapes: ShapeSet
    runs: list[Run]  #: Of each grid, coarse to fine; of most models one
    records: Callable[[Path | None], Iterator[Records]]  #: Learns to the end, from a checkpoint where there is one
    model: Callable[[], Pretrained]  #: As it is now; it stays so as the lesson goes on
    columns: Callable[[Records], dict[str, float]] | None = None  #: What a learning curve tells beside the records

    @property
    def seconds(self) -> float:
        """Time spent so far."""
        return sum(run.seconds for run in self.runs)

    @property
    def chains(self) -> Tensor | None:
        """Persistent chains, occupancy: samples that no weights can draw again."""
        starts = self.runs[-1].starts
        return uncentre(starts.chains, self.shapes.mean).cpu() if isinstance(starts, Persistent) else None


def alone(
    preset: Any,
    shapes: ShapeSet,
    run: Run,
    prior: Prior | None = None,
    columns: Callable[[Records], dict[str, float]] | None = None,
) -> Lesson:
    """A lesson of one run; `prior` is what the model's chains start from, None for noise or incomplete shapes."""

    def records(checkpoint: Path | None) -> Iterator[Records]:
        settings = preset.settings
        return zip(learn(run, shapes.centred, settings, checkpoint=checkpoint, save_every=SAVE_EVERY), strict=True)

    def model() -> Pretrained:
        return Pretrained.of(run, shapes.mean, prior, preset.sampling)

    return Lesson(preset, shapes, [run], records, model, columns)


def near(synthesized: Tensor, shapes: ShapeSet) -> dict[str, float]:
    """How near centred shapes are to training shapes."""
    found = nearest(uncentre(synthesized.cpu(), shapes.mean), shapes.voxels)
    return {"nearest": round(found.distance.mean().item(), 1), "distinct_nearest": found.row.unique().numel()}


def synthesis(preset: Synthesis, shapes: ShapeSet, place: Workplace) -> Lesson:
    """Section 6.1: one category, or all together, by Algorithm 1."""
    random, prior = torch.Generator().manual_seed(place.seed), None
    net = DescriptorNet(preset.architecture, weight_std=preset.weight_std, generator=random).to(place.device)
    if preset.start is None:
        chains = noise(preset.num_chains, net.resolution, generator=random).to(place.device)
        starts: Starts = Persistent(chains, per_iteration=preset.per_iteration)
    else:
        options = asdict(preset.start)
        balanced = options.pop("balanced")
        fitted = CoarseGaussian.fit(shapes.voxels.to(place.device), seed=place.seed, **options)
        starts, prior = Fresh(fitted, preset.num_chains), fitted.balanced() if balanced else fitted
    run = Run.begin(net, starts, preset.settings, seed=place.seed)
    return alone(preset, shapes, run, prior, lambda records: near(records[-1].synthesized, shapes))


def completion(preset: Conditional, shapes: ShapeSet, place: Workplace) -> Lesson:
    """Sections 6.2 and 6.3: shapes whose voxels, or whose detail, is missing, by Algorithms 4 and 5.

    Where the preset has a `first`, the model of all categories is there.
    """
    settings = replace(preset.settings, batch_size=min(preset.settings.batch_size, len(shapes)))
    random = torch.Generator().manual_seed(place.seed)
    net = DescriptorNet(preset.architecture, weight_std=preset.weight_std, generator=random).to(place.device)
    if preset.first is not None:
        whole = place.model(preset.experiment, ALL)
        net.load_state_dict(whole.net.state_dict())
        shapes = replace(shapes, mean=whole.mean)  # what its weights know as the level of an empty voxel
    run = Run.begin(net, preset.starts, settings, seed=place.seed)
    return alone(replace(preset, settings=settings), shapes, run)


def multigrid(preset: MultiGrid, shapes: ShapeSet, place: Workplace) -> Lesson:
    """Section 6.6: a descriptor a grid, by Algorithm 2; samples climb from the histogram of one voxel up."""
    random, sizes = torch.Generator().manual_seed(place.seed), [grid.resolution for grid in preset.grids]
    nets = [DescriptorNet(a, weight_std=preset.weight_std, generator=random).to(place.device) for a in preset.grids]
    runs = begin_grids(nets, preset.settings, seed=place.seed)

    def records(checkpoint: Path | None) -> Iterator[Records]:
        return learn_grids(runs, shapes.centred, preset.settings, checkpoint=checkpoint, save_every=SAVE_EVERY)

    def model() -> Pretrained:
        models: list[Pretrained] = []
        for run, chain, size in zip(runs, preset.sampling, sizes, strict=True):
            prior = Expanded(models[-1], size) if models else Histogram.fit(shapes.voxels, size)
            models.append(Pretrained.of(run, shapes.mean, prior, chain))
        return models[-1]

    def columns(records: Records) -> dict[str, float]:
        values = {f"value_{size}": round(record.value, 2) for size, record in zip(sizes, records, strict=True)}
        return values | near(records[-1].synthesized, shapes)

    return Lesson(preset, shapes, runs, records, model, columns)


def cooperative(preset: Cooperative, shapes: ShapeSet, place: Workplace) -> Lesson:
    """Section 6.4: a descriptor and the generator that it teaches, by Algorithm 3.

    The curve has the coverage of the training shapes by proposals of the generator alone: where it collapses, this
    falls.
    """
    random = torch.Generator().manual_seed(place.seed)
    net = DescriptorNet(preset.architecture, weight_std=preset.weight_std, generator=random).to(place.device)
    student = GeneratorNet(preset.layout, generator=random).to(place.device)
    teaching = Teaching.begin_with(
        student,
        shapes.mean,
        num_chains=preset.num_chains,
        sigma=preset.sigma,
        learning_rate=preset.learning_rate,
        betas=preset.betas,
    )

    def columns(records: Records) -> dict[str, float]:
        with as_learned(student):
            proposals = teaching.proposals.draw(NUM_PROPOSALS, place.random()).cpu()
        return near(proposals, shapes) | {
            "coverage": coverage(uncentre(proposals, shapes.mean), shapes.voxels),
            "misfit": 0.0 if teaching.loss is None else round(teaching.loss.item(), 2),
        }

    run = Run.begin(net, teaching, preset.settings, seed=place.seed)
    return alone(preset, shapes, run, teaching.proposals, columns)
