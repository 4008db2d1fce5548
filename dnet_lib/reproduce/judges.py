"""The reference classifiers of Tables 1 to 3: trained, calibrated on held-out training shapes, tested once."""

from collections.abc import Sequence

import torch
from tqdm.auto import tqdm

from dnet_lib.data import ShapeSet
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
NUM_EPOCHS = {"voxnet": 16, "views": 16}


def per_category(judge: Judge, shapes: ShapeSet) -> dict[str, dict[str, float]]:
    """What a judge says of real shapes, category by category: the yardstick of Tables 2 and 3."""
    probabilities, table = judge.probabilities(shapes.voxels).cpu(), {}
    for label, category in enumerate(shapes.categories):
        rows = probabilities[shapes.labels == label]
        table[category] = {
            "class_probability": class_probability(rows, label),
            "class_error": class_error(rows, label),
        }
    return table


def reproduce(place: Workplace, *, name: Sequence[str] | None = None) -> dict[str, Facts]:
    """Train judges, all by default; each writes judges/<name>.safetensors and judges/<name>.json."""
    place.probe(place.runs, place.weights / "judges", place.results / "judges")
    return {one: train(one, place) for one in name or NETS}


def train(name: str, place: Workplace, *, num_epochs: int | None = None) -> Facts:
    """Train one judge; resumes from a checkpoint. The test split is used once."""
    seed, device = place.seed, place.device
    torch.manual_seed(seed)
    shapes = place.shapes(ALL, "train", RESOLUTION)
    held_out = hold_out(shapes.labels, HELD_OUT, torch.Generator().manual_seed(seed))
    net, num_epochs = NETS[name](len(shapes.categories)).to(device), num_epochs or NUM_EPOCHS[name]
    checkpoint = place.checkpoint("judge", name)
    epochs = fit(net, shapes.voxels, shapes.labels, held_out, num_epochs=num_epochs, seed=seed, checkpoint=checkpoint)
    curve = []
    with tqdm(epochs, total=num_epochs, unit="epoch", desc=name) as bar:
        for epoch in bar:
            curve.append(epoch._asdict())
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
    judge = load_judge(path, device=device)  # as it ships: in half precision
    test = place.shapes(ALL, "test", RESOLUTION)
    probabilities = judge.probabilities(test.voxels).cpu()
    score = inception_score(probabilities, generator=torch.Generator().manual_seed(seed))
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
            "class_probability": class_probability(probabilities, test.labels),
            "class_error": class_error(probabilities, test.labels),
            "inception_score": score.mean,
            "inception_score_std": score.std,
        },
        "real": per_category(judge, test),
        "reliability": reliability(probabilities, test.labels),
    }
    return place.save("judges", name, facts)
