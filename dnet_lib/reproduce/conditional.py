"""Sections 6.2 and 6.3: learn to complete shapes whose voxels, or whose detail, is missing, by Algorithms 4 and 5."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from dnet_lib.checkpoints import RESULTS, WEIGHTS, Pretrained, load_model, load_results, save_model, save_results
from dnet_lib.data import ShapeSet
from dnet_lib.energy import DescriptorNet
from dnet_lib.learning import Run
from dnet_lib.presets import Conditional
from dnet_lib.reproduce.record import provenance, source
from dnet_lib.reproduce.synthesis import ALL, shapes_of
from dnet_lib.reproduce.training import follow

Judge = Callable[[Pretrained, ShapeSet, ShapeSet, int], dict]
"""What is measured of a model, with training and test shapes and a seed: the entries of its results file."""


def weights_file(preset: Conditional, category: str, weights: Path = WEIGHTS) -> Path:
    """The weights that complete shapes of a category: its own, or those of all."""
    return weights / preset.experiment / f"{ALL if preset.shared else category}.safetensors"


def train(
    preset: Conditional, category: str, *, data: str, seed: int, runs: Path, weights: Path, device: str = "cpu"
) -> tuple[Pretrained, dict]:
    """Learn one category, or all; resumes from a checkpoint in `runs`. Returns the model and what made it.

    Where the preset says so, one model of all categories is learned first, unless `weights` holds it already.
    """
    shapes = shapes_of(data, category, "train", preset.architecture.resolution)
    settings, first = preset.settings, None
    if preset.first is not None and category == ALL:
        settings = preset.first
    elif preset.first is not None:
        path = weights_file(preset, ALL, weights)
        if not path.exists():
            options: dict[str, Any] = {"data": data, "seed": seed, "runs": runs, "weights": weights, "device": device}
            save_model(path, train(preset, ALL, **options)[0], half=True)
        first = load_model(path, device=device)
        shapes = replace(shapes, mean=first.mean)  # what its weights know as the level of an empty voxel
    settings = replace(settings, batch_size=min(settings.batch_size, len(shapes)))
    generator = torch.Generator().manual_seed(seed)
    net = DescriptorNet(preset.architecture, weight_std=preset.weight_std, generator=generator).to(device)
    if first is not None:
        net.load_state_dict(first.net.state_dict())
    run = Run.begin(net, preset.starts, settings, seed=seed)
    curve = follow(run, shapes, settings, runs / f"{preset.experiment}_{preset.name}_{category}_{seed}.pt")
    facts = {
        "preset": asdict(preset) | {"settings": asdict(settings)},
        "dataset": source(shapes, category=category, num_train=len(shapes)),
        **provenance(seed=seed, seconds=run.seconds, device=device),
    }
    return Pretrained(run.kept.eval().requires_grad_(False), shapes.mean, None, preset.sampling, facts), facts | {
        "curve": curve
    }


def evaluate(
    preset: Conditional,
    category: str,
    judge: Judge,
    *,
    data: str,
    seed: int = 0,
    weights: Path = WEIGHTS,
    results: Path = RESULTS,
    device: str = "cpu",
) -> dict:
    """Judge a trained model anew on the test shapes, with fresh random numbers of `seed`; renews its results file."""
    model = load_model(weights_file(preset, category, weights), device=device)
    known = load_results(preset.experiment, folder=results) if (results / preset.experiment).is_dir() else {}
    train, test = (shapes_of(data, category, split, preset.architecture.resolution) for split in ("train", "test"))
    judged = {"seed": seed, "dataset": source(test, category=category, num_test=len(test))}
    facts = model.card | known.get(category, {}) | judge(model, train, test, seed) | {"judged": judged}
    save_results(preset.experiment, category, facts, folder=results)
    return facts


def reproduce(
    preset: Conditional,
    category: str,
    judge: Judge,
    *,
    data: str,
    seed: int,
    runs: Path,
    weights: Path = WEIGHTS,
    results: Path = RESULTS,
    device: str = "cpu",
) -> dict:
    """Train and judge; writes <category>.safetensors and <category>.json into the experiment's folders."""
    path = weights_file(preset, category, weights)
    if not (preset.shared and path.exists()):
        model, facts = train(preset, path.stem, data=data, seed=seed, runs=runs, weights=weights, device=device)
        save_model(path, model, half=True)
        save_results(preset.experiment, path.stem, facts, folder=results)
    options: dict[str, Any] = {"data": data, "seed": seed, "weights": weights, "results": results, "device": device}
    return evaluate(preset, category, judge, **options)
