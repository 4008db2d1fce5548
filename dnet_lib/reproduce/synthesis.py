"""Section 6.1: learn one category, or all together, by Algorithm 1; sample from scratch; let the judges speak."""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnet_lib.checkpoints import (
    RESULTS,
    WEIGHTS,
    CheckpointError,
    Pretrained,
    load_model,
    load_results,
    save_model,
    save_results,
)
from dnet_lib.classify import RESOLUTION, load_judge
from dnet_lib.data import ShapeSet, load_shapes
from dnet_lib.energy import DescriptorNet
from dnet_lib.learning import Run
from dnet_lib.metrics import (
    class_error,
    class_probability,
    coverage,
    inception_score,
    minimum_matching_distance,
    nearest,
    one_nn_accuracy,
)
from dnet_lib.presets import PAPER_TABLES, Cooperative, MultiGrid, Synthesis
from dnet_lib.reproduce.record import JUDGES, packed, provenance, source
from dnet_lib.reproduce.training import follow, point
from dnet_lib.starts import CoarseGaussian, Persistent, noise
from dnet_lib.voxels import threshold, uncentre

ALL = "all"
"""Stands for a category: one model of all of them."""
NUM_SAMPLES = {ALL: 1000}
"""Samples that are judged; 100 where nothing else is said."""
NUM_SPLITS = 10
"""Of the samples, for the spread of an Inception score."""
Sampled = Synthesis | MultiGrid | Cooperative
"""Experiments whose models sample new shapes from scratch."""
Trained = tuple[Pretrained, float, dict[str, list]]
"""A model, the seconds it took, and its learning curve."""
Also = Callable[[Pretrained, ShapeSet, ShapeSet], dict[str, Any]]
"""What else is measured of a model, with training and test shapes: entries of its results file."""
NUM_KEPT = 24
"""Persistent chains kept in the results, which no weights can draw again: base64 of their packed bits."""


def train(
    preset: Synthesis, shapes: ShapeSet, *, seed: int, checkpoint: Path, device: str = "cpu"
) -> tuple[Pretrained, Run, dict[str, list]]:
    """Learn from shapes, with a progress bar; resumes from `checkpoint`. Returns model, run and learning curve."""
    generator = torch.Generator().manual_seed(seed)
    net = DescriptorNet(preset.architecture, generator=generator).to(device)
    coarse = None
    if preset.start is None:
        r = preset.architecture.resolution
        starts: Persistent | CoarseGaussian = Persistent(noise(preset.num_chains, r, generator=generator).to(device))
    else:
        options = asdict(preset.start)
        balanced = options.pop("balanced")
        fitted = CoarseGaussian.fit(shapes.voxels.to(device), num_chains=preset.num_chains, seed=seed, **options)
        starts, coarse = fitted, fitted.balanced() if balanced else fitted
    run = Run.begin(net, starts, preset.settings, seed=seed)
    curve = follow(run, shapes, preset.settings, checkpoint, point)
    model = Pretrained(run.kept.eval().requires_grad_(False), shapes.mean, coarse, preset.sampling, {})
    return model, run, curve


def judged(samples: Tensor, category: str) -> dict[str, float]:
    """What both judges say of samples (occupancy) of a category, or of all. Needs no data.

    The first judge's numbers have plain names, the second's end in `_views`. They are silent of a category or a
    resolution they do not know.
    """
    metrics: dict[str, float] = {}
    if samples.shape[-1] != RESOLUTION:
        return metrics
    for name, ending in JUDGES.items():
        judge = load_judge(name)
        if category == ALL:
            score = inception_score(judge.probabilities(samples), splits=NUM_SPLITS)
            metrics |= {f"inception_score{ending}": score.mean, f"inception_score_std{ending}": score.std}
        elif category in judge.categories:
            probabilities, label = judge.probabilities(samples), judge.categories.index(category)
            metrics[f"class_probability{ending}"] = class_probability(probabilities, label)
            metrics[f"class_error{ending}"] = class_error(probabilities, label)
    return metrics


def compared(samples: Tensor, train: ShapeSet, test: ShapeSet) -> dict[str, float]:
    """Samples (occupancy) beside training and test shapes; what as many training shapes reach stands beside it."""
    near, near_test = nearest(samples, train.voxels), nearest(test.voxels, train.voxels)
    count = min(len(samples), len(test))
    real = train.voxels[:: max(1, len(train) // count)][:count]
    metrics = {
        "num_samples": len(samples),
        "mean_nearest": near.distance.mean().item(),
        "mean_nearest_test": near_test.distance.mean().item(),
        "ratio": (near.distance.mean() / near_test.distance.mean()).item(),
        "distinct_nearest": near.row.unique().numel(),
        "distinct_nearest_test": near_test.row[:count].unique().numel(),
        "occupancy": threshold(samples).mean().item(),
        "occupancy_train": train.voxels.mean().item(),
        "unsure_voxels": ((samples > 0.1) & (samples < 0.9)).float().mean().item(),
    }
    for whose, shapes in (("", samples[:count]), ("_by_train", real)):
        metrics |= {
            f"coverage{whose}": coverage(shapes, test.voxels, measure="iou"),
            f"minimum_matching_distance{whose}": minimum_matching_distance(shapes, test.voxels, measure="iou"),
            f"one_nn_accuracy{whose}": one_nn_accuracy(shapes, test.voxels[:count], measure="iou"),
        }
    return metrics


def in_the_paper(category: str) -> dict[str, float]:
    """The paper's own numbers of a category, or of all."""
    if category == ALL:
        return {"inception_score": PAPER_TABLES["inception_score"]["ours"][0]}
    metrics = ("class_probability", "class_error")
    return {m: PAPER_TABLES[m][category]["ours"] for m in metrics if category in PAPER_TABLES[m]}


def shapes_of(data: str, category: str, split: str, resolution: int) -> ShapeSet:
    """Shapes of one category, or of all."""
    return load_shapes(data, None if category == ALL else category, split, resolution)


def draw(model: Pretrained, category: str, *, seed: int) -> Tensor:
    """The samples that are judged: occupancy, from scratch."""
    random = torch.Generator(model.net.dense.weight.device).manual_seed(seed + 1)
    return model.sample(NUM_SAMPLES.get(category, 100), generator=random, progress=f"sampling {category}").cpu()


def evaluate(
    preset: Sampled,
    category: str,
    *,
    data: str | None = None,
    seed: int = 0,
    weights: Path = WEIGHTS,
    results: Path = RESULTS,
    device: str = "cpu",
    also: Also | None = None,
) -> dict:
    """Sample a trained model anew, judge the samples, and renew its results file.

    Without `data` only the judges speak; with it the comparisons with training and test shapes are made again too, and
    `also` adds its own. The chains' starts, before the first step, are judged as well: the rest is the descriptor's.
    """
    model = load_model(weights / preset.experiment / f"{category}.safetensors", device=device)
    known = load_results(preset.experiment, folder=results)
    if category not in known:
        raise CheckpointError(f"no results of {category} in {results / preset.experiment}: train it without --evaluate")
    facts = known[category] | {"paper": in_the_paper(category)}
    if data is not None:
        facts["metrics"] = {}
    began = time.perf_counter()
    samples = draw(model, category, seed=seed)
    facts["metrics"]["seconds_sampling"] = time.perf_counter() - began
    facts["metrics"] |= judged(samples, category)
    random, began = torch.Generator(device).manual_seed(seed + 1), time.perf_counter()
    start = uncentre(model.starts(len(samples), generator=random), model.mean).cpu()
    facts["start"] = {"seconds_sampling": time.perf_counter() - began} | judged(start, category)
    if data is not None:
        resolution = preset.architecture.resolution
        sets = [shapes_of(data, category, split, resolution) for split in ("train", "test")]
        facts["metrics"] |= compared(samples, *sets)
        facts["start"] |= compared(start, *sets)
        facts |= also(model, *sets) if also else {}
    save_results(preset.experiment, category, facts, folder=results)
    return facts


def reproduce(
    preset: Synthesis,
    category: str,
    *,
    data: str,
    seed: int,
    runs: Path,
    weights: Path = WEIGHTS,
    results: Path = RESULTS,
    device: str = "cpu",
) -> dict:
    """Train, sample, judge; writes <category>.safetensors and <category>.json into the experiment's folders.

    Where chains start anew at each iteration, new ones are judged; persistent ones (Algorithm 1) themselves.
    """
    shapes = shapes_of(data, category, "train", preset.architecture.resolution)
    checkpoint = runs / f"{preset.experiment}_{preset.name}_{category}_{seed}.pt"
    model, run, curve = train(preset, shapes, seed=seed, checkpoint=checkpoint, device=device)
    facts = record(preset, category, shapes, curve, seed=seed, seconds=run.seconds, device=device)
    save_model(weights / preset.experiment / f"{category}.safetensors", replace(model, card=card(facts)))
    if not isinstance(run.starts, Persistent):
        save_results(preset.experiment, category, facts, folder=results)
        return evaluate(preset, category, data=data, seed=seed, weights=weights, results=results, device=device)
    samples = uncentre(run.starts.chains, shapes.mean).cpu()
    test = shapes_of(data, category, "test", preset.architecture.resolution)
    facts["metrics"] = judged(samples, category) | compared(samples, shapes, test)
    facts["samples"] = packed(threshold(samples[:NUM_KEPT]))
    save_results(preset.experiment, category, facts, folder=results)
    return facts


def make(
    preset: Sampled,
    category: str,
    train: Callable[..., Trained],
    *,
    data: str,
    seed: int,
    runs: Path,
    weights: Path = WEIGHTS,
    results: Path = RESULTS,
    device: str = "cpu",
    also: Also | None = None,
) -> dict:
    """Train by `train`, sample, judge; writes <category>.safetensors (half precision) and <category>.json."""
    shapes = shapes_of(data, category, "train", preset.architecture.resolution)
    checkpoint = runs / f"{preset.experiment}_{preset.name}_{category}_{seed}.pt"
    model, seconds, curve = train(preset, shapes, seed=seed, checkpoint=checkpoint, device=device)
    facts = record(preset, category, shapes, curve, seed=seed, seconds=seconds, device=device)
    save_model(weights / preset.experiment / f"{category}.safetensors", replace(model, card=card(facts)), half=True)
    save_results(preset.experiment, category, facts, folder=results)
    places: dict[str, Any] = {"weights": weights, "results": results, "device": device}
    return evaluate(preset, category, data=data, seed=seed, also=also, **places)


def record(preset: Sampled, category: str, shapes: ShapeSet, curve: dict[str, list], **made: Any) -> dict:
    """The results file of a model just trained, before it is judged; `made` are those of `provenance`."""
    return {
        "metrics": {},
        "paper": in_the_paper(category),
        "preset": asdict(preset),
        "dataset": source(shapes, category=category, num_train=len(shapes)),
        **provenance(**made),
        "curve": curve,
    }


def card(facts: dict) -> dict:
    """What a file of weights says of itself."""
    return {k: facts[k] for k in ("preset", "dataset", "seed", "versions")}
