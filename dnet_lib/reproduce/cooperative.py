"""Section 6.4: a descriptor learns a category and teaches a generator, Algorithm 3; both are judged."""

from pathlib import Path
from typing import Any

import torch

from dnet_lib.checkpoints import RESULTS, WEIGHTS, Pretrained
from dnet_lib.cooperative import Teaching
from dnet_lib.data import ShapeSet
from dnet_lib.energy import DescriptorNet
from dnet_lib.generator import GeneratorNet, Proposals
from dnet_lib.learning import Record, Run
from dnet_lib.metrics import coverage
from dnet_lib.presets import Cooperative
from dnet_lib.reproduce.synthesis import publish, record, shapes_of
from dnet_lib.reproduce.training import follow, point
from dnet_lib.voxels import uncentre

CATEGORIES = ("toilet", "sofa", "night_stand")
"""What is learned where nothing else is said."""
NUM_PROPOSALS = 64
"""For the learning curve."""


def train(
    preset: Cooperative, shapes: ShapeSet, *, seed: int, checkpoint: Path, device: str = "cpu"
) -> tuple[Pretrained, float, dict[str, list]]:
    """Learn both, with a progress bar; resumes from `checkpoint`. Returns model, seconds and learning curve.

    The model's chains start from the generator. The curve has the coverage of the training shapes by proposals of the
    generator alone: where it collapses, this falls.
    """
    random = torch.Generator().manual_seed(seed)
    net = DescriptorNet(preset.architecture, weight_std=preset.weight_std, generator=random).to(device)
    student = GeneratorNet(preset.layout, generator=random).to(device)
    options: dict[str, Any] = {
        "num_chains": preset.num_chains,
        "sigma": preset.sigma,
        "learning_rate": preset.learning_rate,
    }
    teaching = Teaching.begin_with(student, shapes.mean, betas=preset.betas, **options)
    run = Run.begin(net, teaching, preset.settings, seed=seed)

    def watched(taught: Record, shapes: ShapeSet) -> dict[str, float]:
        proposals = draw(teaching.proposals, NUM_PROPOSALS, seed=seed)
        facts = point(taught._replace(synthesized=proposals), shapes)
        misfit = 0.0 if teaching.loss is None else teaching.loss.item()
        return facts | {
            "coverage": coverage(uncentre(proposals, shapes.mean), shapes.voxels),
            "misfit": round(misfit, 2),
        }

    curve = follow(run, shapes, preset.settings, checkpoint, watched)
    for part in (student, kept := run.net if run.averaged is None else run.averaged):
        part.eval().requires_grad_(False)
    return Pretrained(kept, shapes.mean, teaching.proposals, preset.sampling, {}), run.seconds, curve


def draw(proposals: Proposals, num: int, *, seed: int) -> torch.Tensor:
    """Proposals as a trained generator makes them, with batch norm's running statistics; on the CPU."""
    device, learning = proposals.net.dense.weight.device, proposals.net.training
    proposals.net.eval()
    y = proposals.draw(num, torch.Generator(device).manual_seed(seed)).cpu()
    proposals.net.train(learning)
    return y


def reproduce(
    preset: Cooperative,
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
    return publish(preset, category, model, facts, data=data, weights=weights, results=results, device=device)
