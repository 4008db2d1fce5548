"""Section 6.4: a descriptor learns a category and teaches a generator, Algorithm 3; both are judged."""

import copy
from typing import Any

import torch

from dnet_lib.cooperative import Teaching
from dnet_lib.data import ShapeSet
from dnet_lib.energy import DescriptorNet, device_of
from dnet_lib.generator import GeneratorNet, Proposals, as_learned, infer, latents
from dnet_lib.learning import Record, Run
from dnet_lib.metrics import coverage, intersection_over_union, nearest
from dnet_lib.presets import Cooperative
from dnet_lib.pretrained import Pretrained
from dnet_lib.reproduce import judging
from dnet_lib.reproduce.drive import Trained
from dnet_lib.reproduce.training import follow, point
from dnet_lib.reproduce.workplace import Facts, Workplace
from dnet_lib.voxels import threshold, uncentre

NUM_PROPOSALS = 64  #: For the learning curve
NUM_RECONSTRUCTED = 32  #: Test shapes
INFERENCE: dict[str, Any] = {"sigma": 0.5, "num_steps": 200, "step_size": 0.003, "temperature": 0.0}
"""How Z is found for them; chosen on training shapes."""
NUM_GUESSES = 600  #: Proposals of which the nearest one is where the search for a shape's Z begins


def begin(preset: Cooperative, shapes: ShapeSet, seed: int, device: str = "cpu") -> tuple[Run, Teaching]:
    """Teacher and student before the first lesson."""
    random = torch.Generator().manual_seed(seed)
    net = DescriptorNet(preset.architecture, weight_std=preset.weight_std, generator=random).to(device)
    student = GeneratorNet(preset.layout, generator=random).to(device)
    teaching = Teaching.begin_with(
        student,
        shapes.mean,
        num_chains=preset.num_chains,
        sigma=preset.sigma,
        learning_rate=preset.learning_rate,
        betas=preset.betas,
    )
    return Run.begin(net, teaching, preset.settings, seed=seed), teaching


def taught(preset: Cooperative, run: Run, teaching: Teaching, shapes: ShapeSet) -> Pretrained:
    """The descriptor's model, whose chains start from the generator; it stays as the run goes on."""
    proposals = copy.deepcopy(teaching.proposals)
    proposals.net.eval().requires_grad_(False)
    return Pretrained.of(run, shapes.mean, proposals, preset.sampling)


def learn(preset: Cooperative, category: str, place: Workplace) -> Trained:
    """Learn both, with a progress bar; resumes from a checkpoint.

    The curve has the coverage of the training shapes by proposals of the generator alone: where it collapses, this
    falls.
    """
    shapes = place.shapes(category, "train", preset.architecture.resolution)
    run, teaching = begin(preset, shapes, place.seed, place.device)

    def watched(record: Record, shapes: ShapeSet) -> dict[str, float]:
        with as_learned(teaching.proposals.net):
            proposals = teaching.proposals.draw(NUM_PROPOSALS, place.random()).cpu()
        facts = point(record._replace(synthesized=proposals), shapes)
        misfit = 0.0 if teaching.loss is None else teaching.loss.item()
        return facts | {
            "coverage": coverage(uncentre(proposals, shapes.mean), shapes.voxels),
            "misfit": round(misfit, 2),
        }

    checkpoint = place.checkpoint(preset.experiment, preset.name, category)
    curve = follow(run, shapes, preset.settings, checkpoint, watched)
    return Trained(taught(preset, run, teaching, shapes), shapes, run.seconds, curve)


def judge(preset: Cooperative, category: str, model: Pretrained, place: Workplace) -> Facts:
    """As every model that samples; with data, test shapes are made again by the generator too."""
    facts = judging.judge(preset, category, model, place)
    if place.data is not None:
        train, test = (place.shapes(category, split, preset.architecture.resolution) for split in ("train", "test"))
        facts |= {"reconstruction": reconstructed(model, train, test)}
    return facts


def reconstructed(model: Pretrained, train: ShapeSet, test: ShapeSet) -> Facts:
    """Test shapes that a generator makes again at a likely Z, beside the nearest proposals and training shapes."""
    if not isinstance(model.prior, Proposals):
        raise TypeError(f"a model whose chains start from {model.prior} has no generator")
    net, truth = model.prior.net, test.voxels[:NUM_RECONSTRUCTED]
    device = device_of(net)
    z = latents(net, NUM_GUESSES, torch.Generator(device).manual_seed(0))
    with torch.no_grad():
        guesses = torch.cat([net(some).cpu() for some in z.split(NUM_RECONSTRUCTED)])
    best = nearest(truth, guesses).row
    found = infer(net, truth.to(device), z[best.to(device)], progress="inferring Z", **INFERENCE)
    with torch.no_grad():
        again = net(found).cpu()
    near = train.voxels[nearest(truth, train.voxels).row]
    facts: Facts = {"num_shapes": len(truth), "num_guesses": NUM_GUESSES, "inference": INFERENCE}
    for name, guess in (("", again), ("_guess", guesses[best]), ("_nearest", near)):
        facts[f"iou{name}"] = intersection_over_union(guess, truth).mean().item()
        facts[f"voxel_error{name}"] = (threshold(guess) - truth).abs().mean().item()
    return facts
