"""Section 6.4: a descriptor learns a category and teaches a generator, Algorithm 3; both are judged."""

import time
from pathlib import Path
from typing import Any

import torch

from dnet_lib.checkpoints import RESULTS, WEIGHTS, Pretrained, load_model, save_results
from dnet_lib.cooperative import Teaching
from dnet_lib.data import ShapeSet
from dnet_lib.energy import DescriptorNet
from dnet_lib.generator import GeneratorNet, Proposals, infer
from dnet_lib.learning import Record, Run
from dnet_lib.metrics import coverage, intersection_over_union, nearest
from dnet_lib.presets import Cooperative
from dnet_lib.reproduce import synthesis
from dnet_lib.reproduce.synthesis import publish, record, shapes_of
from dnet_lib.reproduce.training import follow, point
from dnet_lib.voxels import threshold, uncentre

CATEGORIES = ("toilet", "sofa", "night_stand")
"""What is learned where nothing else is said."""
NUM_PROPOSALS = 64
"""For the learning curve."""
NUM_RECONSTRUCTED = 32
"""Test shapes."""
INFERENCE: dict[str, Any] = {"sigma": 1.0, "num_steps": 150, "step_size": 0.03, "temperature": 0.0}
"""How Z is found for them."""


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


def evaluate(
    preset: Cooperative,
    category: str,
    *,
    data: str | None = None,
    seed: int = 0,
    weights: Path = WEIGHTS,
    results: Path = RESULTS,
    device: str = "cpu",
) -> dict:
    """As `synthesis.evaluate`; also times the generator alone and, with data, reconstructs unseen test shapes."""
    options: dict[str, Any] = {"weights": weights, "results": results, "device": device}
    facts = synthesis.evaluate(preset, category, data=data, seed=seed, **options)
    model = load_model(weights / preset.experiment / f"{category}.safetensors", device=device)
    began = time.perf_counter()
    model.starts(synthesis.NUM_SAMPLES.get(category, 100), generator=torch.Generator(device).manual_seed(seed))
    facts["metrics"]["seconds_proposing"] = time.perf_counter() - began
    if data is not None:
        sets = [shapes_of(data, category, split, preset.architecture.resolution) for split in ("train", "test")]
        facts["reconstruction"] = reconstructed(model, *sets)
    save_results(preset.experiment, category, facts, folder=results)
    return facts


def reconstructed(model: Pretrained, train: ShapeSet, test: ShapeSet) -> dict[str, Any]:
    """Test shapes that a generator makes again at the most probable Z, beside their nearest training shapes."""
    if not isinstance(model.start, Proposals):
        raise TypeError(f"a model whose chains start from {model.start} has no generator")
    net, truth = model.start.net, test.voxels[:NUM_RECONSTRUCTED]
    z = torch.zeros(len(truth), net.layout.latent, device=net.dense.weight.device)
    z = infer(net, truth.to(z.device), z, progress="inferring Z", **INFERENCE)
    with torch.no_grad():
        again = net(z).cpu()
    near = train.voxels[nearest(truth, train.voxels).row]
    return {
        **{
            f"iou{name}": intersection_over_union(y, truth).mean().item()
            for name, y in (("", again), ("_nearest", near))
        },
        **{f"voxel_error{n}": (threshold(y) - truth).abs().mean().item() for n, y in (("", again), ("_nearest", near))},
        "num_shapes": len(truth),
        "inference": INFERENCE,
    }


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
    publish(preset, category, model, facts, weights=weights, results=results)
    return evaluate(preset, category, data=data, seed=seed, weights=weights, results=results, device=device)
