"""The reference classifiers of Tables 1 to 3: trained, calibrated on held-out training shapes, tested once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dnet_lib.files import check_folders
from dnet_lib.judges import (
    NETS,
    RESOLUTION,
    Judge,
    calibrate,
    fit,
    hold_out,
    load_judge,
    reliability,
    save_judge,
    turned_logits,
)
from dnet_lib.metrics import class_error, class_probability, inception_score
from dnet_lib.reproduce.workplace import ALL, Facts, Workplace, source

HELD_OUT = 0.1  #: Share of the training split on which epochs are watched and the temperature is fitted


def reproduce(place: Workplace, *, name: Sequence[str] | None = None) -> dict[str, Facts]:
    """Train judges, all by default; each writes judges/<name>.safetensors and judges/<name>.json."""
    return {one: train(one, place) for one in name or NETS}


def scores(probabilities: Tensor, label: int | Tensor) -> dict[str, float]:
    """What a judge says of real shapes: the yardstick of Tables 2 and 3."""
    return {
        "class_probability": class_probability(probabilities, label),
        "class_error": class_error(probabilities, label),
    }


def train(name: str, place: Workplace, *, num_epochs: int = 16) -> Facts:
    """Train one judge; resumes from a checkpoint. The test split is used once."""
    check_folders(place.runs, place.weights / "judges", place.results / "judges")
    torch.manual_seed(place.seed)
    shapes, test = place.splits(ALL, RESOLUTION)
    held_out = hold_out(shapes.labels, HELD_OUT, torch.Generator().manual_seed(place.seed))
    net, checkpoint = NETS[name](len(shapes.categories)).to(place.device), place.checkpoint("judge", name)
    options: dict[str, Any] = {"num_epochs": num_epochs, "seed": place.seed, "checkpoint": checkpoint}
    curve = []
    with tqdm(total=num_epochs, unit="epoch", desc=name) as bar:
        for epoch in fit(net, shapes.voxels, shapes.labels, held_out, **options):
            curve.append(epoch._asdict())
            bar.update()
            bar.set_postfix(loss=f"{epoch.loss:.3f}", held_out=f"{epoch.held_out_accuracy:.3f}")
    net = net.eval().requires_grad_(False)
    logits, labels = turned_logits(net, shapes.voxels[held_out]).cpu(), shapes.labels[held_out]
    temperature = calibrate(logits, labels)
    facts: Facts = {
        "paper": {},
        "preset": {"num_epochs": num_epochs, "held_out": HELD_OUT},
        "dataset": source(shapes, num_train=int((~held_out).sum())),
        **place.made(curve[-1]["seconds"]),
    }
    path = place.file("judges", name)
    save_judge(path, Judge(name, net, shapes.categories, temperature, facts))
    judge = load_judge(path, device=place.device)  # as it ships: in half precision
    probabilities = judge.probabilities(test.voxels).cpu()
    score = inception_score(probabilities, generator=torch.Generator().manual_seed(place.seed))
    facts |= {
        "curve": curve,
        "held_out": {
            "accuracy": (logits.argmax(1) == labels).float().mean().item(),
            "reliability": reliability((logits / temperature).softmax(1), labels),
            "reliability_uncalibrated": reliability(logits.softmax(1), labels),
        },
        "temperature": temperature,
        "metrics": {
            "accuracy": (probabilities.argmax(1) == test.labels).float().mean().item(),
            **scores(probabilities, test.labels),
            "inception_score": score.mean,
            "inception_score_std": score.std,
        },
        "real": {
            category: scores(probabilities[test.labels == label], label)
            for label, category in enumerate(test.categories)
        },
        "reliability": reliability(probabilities, test.labels),
    }
    return place.save("judges", name, facts)
