"""What is measured of models that sample new shapes: the judges' verdicts, and comparisons with training and test."""

import time
from typing import Any

import torch
from torch import Tensor

import dnet_lib.metrics as measure
from dnet_lib.generator import Proposals, infer, latents
from dnet_lib.judges import RESOLUTION, load_judge
from dnet_lib.metrics import nearest
from dnet_lib.paper import PAPER_TABLES
from dnet_lib.presets import Preset
from dnet_lib.pretrained import Pretrained
from dnet_lib.reproduce.workplace import ALL, Facts, Sets, Workplace, packed
from dnet_lib.tables import JUDGES
from dnet_lib.voxels import threshold, uncentre

NUM_KEPT = 24  #: Persistent chains kept in the results: base64 of their packed bits
NUM_RECONSTRUCTED = 32  #: Test shapes that a generator makes again
NUM_GUESSES = 600  #: Proposals of which the nearest one is where the search for a shape's Z begins
INFERENCE: dict[str, Any] = {"sigma": 0.5, "num_steps": 200, "step_size": 0.003, "temperature": 0.0}
"""How Z is found; chosen on training shapes."""


def judge(preset: Preset, category: str, model: Pretrained, place: Workplace, sets: Sets | None) -> Facts:
    """Sample a model, and judge the samples and the chains' first shapes: the rest is the descriptor's.

    Without data only the judges speak.
    """
    num_samples = 1000 if category == ALL else 100
    began = time.perf_counter()
    samples = model.sample(num_samples, generator=place.random(1), progress=f"sampling {category}").cpu()
    sampled = time.perf_counter()
    start = uncentre(model.starts(num_samples, generator=place.random(1)), model.mean).cpu()
    started = time.perf_counter()
    return {
        "paper": in_the_paper(category),
        "metrics": {"seconds_sampling": sampled - began} | verdict(samples, category, sets),
        "start": {"seconds_sampling": started - sampled} | verdict(start, category, sets),
    }


def kept(chains: Tensor, category: str, sets: Sets) -> Facts:
    """Of persistent chains, occupancy: their verdict, and some of them."""
    metrics = verdict(chains, category, sets)
    return {"paper": in_the_paper(category), "metrics": metrics, "samples": packed(threshold(chains[:NUM_KEPT]))}


def verdict(samples: Tensor, category: str, sets: Sets | None) -> dict[str, float]:
    """Samples, occupancy, of a category or of all, before the judges and, where there are data, beside them.

    The first judge's numbers have plain names, the second's end in `_views`. They are silent of a category or a
    resolution they do not know. Beside what samples reach stands what as many training shapes do.
    """
    metrics: dict[str, float] = {}
    for name, ending in JUDGES.items():
        judge = load_judge(name)
        if samples.shape[-1] == RESOLUTION and category == ALL:
            score = measure.inception_score(judge.probabilities(samples))
            metrics |= {f"inception_score{ending}": score.mean, f"inception_score_std{ending}": score.std}
        elif samples.shape[-1] == RESOLUTION and category in judge.categories:
            probabilities, label = judge.probabilities(samples), judge.categories.index(category)
            metrics[f"class_probability{ending}"] = measure.class_probability(probabilities, label)
            metrics[f"class_error{ending}"] = measure.class_error(probabilities, label)
    if sets is None:
        return metrics
    train, test = (shapes.voxels for shapes in sets)
    near, near_test, count = nearest(samples, train), nearest(test, train), min(len(samples), len(test))
    metrics |= {
        "num_samples": len(samples),
        "mean_nearest": near.distance.mean().item(),
        "mean_nearest_test": near_test.distance.mean().item(),
        "ratio": (near.distance.mean() / near_test.distance.mean()).item(),
        "distinct_nearest": near.row.unique().numel(),
        "distinct_nearest_test": near_test.row[:count].unique().numel(),
        "occupancy": threshold(samples).mean().item(),
        "occupancy_train": train.mean().item(),
        "unsure_voxels": ((samples > 0.1) & (samples < 0.9)).float().mean().item(),
    }
    for whose, shapes in (("", samples[:count]), ("_by_train", train[:: max(1, len(train) // count)][:count])):
        metrics[f"coverage{whose}"] = measure.coverage(shapes, test, measure="iou")
        metrics[f"minimum_matching_distance{whose}"] = measure.minimum_matching_distance(shapes, test, measure="iou")
        metrics[f"one_nn_accuracy{whose}"] = measure.one_nn_accuracy(shapes, test[:count], measure="iou")
    return metrics


def in_the_paper(category: str) -> dict[str, float]:
    """The paper's own numbers of a category, or of all."""
    if category == ALL:
        return {"inception_score": PAPER_TABLES["inception_score"]["ours"][0]}
    metrics = ("class_probability", "class_error")
    return {m: PAPER_TABLES[m][category]["ours"] for m in metrics if category in PAPER_TABLES[m]}


def reconstruct(preset: Preset, category: str, model: Pretrained, place: Workplace, sets: Sets | None) -> Facts:
    """Test shapes that a generator makes again at a likely Z, beside the nearest proposals and training shapes."""
    if sets is None:
        return {}
    if not isinstance(model.prior, Proposals):
        raise TypeError(f"a model whose chains start from {model.prior} has no generator")
    net, device, train, truth = model.prior.net, model.device, sets[0].voxels, sets[1].voxels[:NUM_RECONSTRUCTED]
    z = latents(net, NUM_GUESSES, torch.Generator(device).manual_seed(0))
    with torch.no_grad():
        guesses = torch.cat([net(some).cpu() for some in z.split(NUM_RECONSTRUCTED)])
    best = nearest(truth, guesses).row
    found = infer(net, truth.to(device), z[best.to(device)], progress="inferring Z", **INFERENCE)
    with torch.no_grad():
        again = net(found).cpu()
    known = train[nearest(truth, train).row]
    facts: Facts = {"num_shapes": len(truth), "num_guesses": NUM_GUESSES, "inference": INFERENCE}
    for name, guess in (("", again), ("_guess", guesses[best]), ("_nearest", known)):
        facts[f"iou{name}"] = measure.intersection_over_union(guess, truth).mean().item()
        facts[f"voxel_error{name}"] = (threshold(guess) - truth).abs().mean().item()
    return {"reconstruction": facts}
