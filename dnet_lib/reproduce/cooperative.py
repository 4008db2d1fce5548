"""Section 6.4: a descriptor learns a category and teaches a generator, Algorithm 3; both are judged."""

import copy
from pathlib import Path
from typing import Any

import torch

from dnet_lib.checkpoints import Pretrained
from dnet_lib.cooperative import Teaching
from dnet_lib.data import ShapeSet
from dnet_lib.energy import DescriptorNet
from dnet_lib.generator import GeneratorNet, Proposals, as_learned, infer, latents
from dnet_lib.learning import Record, Run
from dnet_lib.metrics import coverage, intersection_over_union, nearest
from dnet_lib.presets import Cooperative
from dnet_lib.reproduce.synthesis import Trained
from dnet_lib.reproduce.training import follow, point
from dnet_lib.voxels import threshold, uncentre

CATEGORIES = {"cpu": ("toilet", "sofa"), "gentle": ("night_stand",), "paper": ("toilet", "sofa", "night_stand")}
"""Of each preset: what is learned where nothing else is said."""
NUM_PROPOSALS = 64
"""For the learning curve."""
NUM_RECONSTRUCTED = 32
"""Test shapes."""
INFERENCE: dict[str, Any] = {"sigma": 0.5, "num_steps": 200, "step_size": 0.003, "temperature": 0.0}
"""How Z is found for them; chosen on training shapes."""
NUM_GUESSES = 600
"""Proposals of which the nearest one is where the search for a shape's Z begins."""


def begin(preset: Cooperative, shapes: ShapeSet, *, seed: int, device: str = "cpu") -> tuple[Run, Teaching]:
    """Teacher and student before the first lesson."""
    random = torch.Generator().manual_seed(seed)
    net = DescriptorNet(preset.architecture, weight_std=preset.weight_std, generator=random).to(device)
    student = GeneratorNet(preset.layout, generator=random).to(device)
    options: dict[str, Any] = {
        "num_chains": preset.num_chains,
        "sigma": preset.sigma,
        "learning_rate": preset.learning_rate,
        "betas": preset.betas,
    }
    teaching = Teaching.begin_with(student, shapes.mean, **options)
    return Run.begin(net, teaching, preset.settings, seed=seed), teaching


def taught(preset: Cooperative, run: Run, teaching: Teaching, shapes: ShapeSet) -> Pretrained:
    """The descriptor's model, whose chains start from the generator; it stays as the run goes on."""
    proposals, net = copy.deepcopy(teaching.proposals), copy.deepcopy(run.kept)
    for part in (proposals.net, net):
        part.eval().requires_grad_(False)
    return Pretrained(net, shapes.mean, proposals, preset.sampling, {})


def train(preset: Cooperative, shapes: ShapeSet, *, seed: int, checkpoint: Path, device: str = "cpu") -> Trained:
    """Learn both, with a progress bar; resumes from `checkpoint`. Returns model, seconds and learning curve.

    The curve has the coverage of the training shapes by proposals of the generator alone: where it collapses, this
    falls.
    """
    run, teaching = begin(preset, shapes, seed=seed, device=device)

    def watched(record: Record, shapes: ShapeSet) -> dict[str, float]:
        with as_learned(teaching.proposals.net):
            proposals = teaching.proposals.draw(NUM_PROPOSALS, torch.Generator(device).manual_seed(seed)).cpu()
        facts = point(record._replace(synthesized=proposals), shapes)
        misfit = 0.0 if teaching.loss is None else teaching.loss.item()
        return facts | {
            "coverage": coverage(uncentre(proposals, shapes.mean), shapes.voxels),
            "misfit": round(misfit, 2),
        }

    curve = follow(run, shapes, preset.settings, checkpoint, watched)
    return taught(preset, run, teaching, shapes), run.seconds, curve


def reconstructed(model: Pretrained, train: ShapeSet, test: ShapeSet) -> dict[str, Any]:
    """Test shapes that a generator makes again at a likely Z, beside the nearest proposals and training shapes."""
    if not isinstance(model.start, Proposals):
        raise TypeError(f"a model whose chains start from {model.start} has no generator")
    net, truth = model.start.net, test.voxels[:NUM_RECONSTRUCTED]
    device = net.dense.weight.device
    z = latents(net, NUM_GUESSES, torch.Generator(device).manual_seed(0))
    with torch.no_grad():
        guesses = torch.cat([net(some).cpu() for some in z.split(NUM_RECONSTRUCTED)])
    best = nearest(truth, guesses).row
    found = infer(net, truth.to(device), z[best.to(device)], progress="inferring Z", **INFERENCE)
    with torch.no_grad():
        again = net(found).cpu()
    near = train.voxels[nearest(truth, train.voxels).row]
    facts: dict[str, Any] = {"num_shapes": len(truth), "num_guesses": NUM_GUESSES, "inference": INFERENCE}
    for name, guess in (("", again), ("_guess", guesses[best]), ("_nearest", near)):
        facts[f"iou{name}"] = intersection_over_union(guess, truth).mean().item()
        facts[f"voxel_error{name}"] = (threshold(guess) - truth).abs().mean().item()
    return {"reconstruction": facts}
