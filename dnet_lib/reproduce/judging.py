"""What is measured of models that sample new shapes: the judges' verdicts, and comparisons with training and test."""

import time

from torch import Tensor

from dnet_lib.data import ShapeSet
from dnet_lib.judges import RESOLUTION, load_judge
from dnet_lib.metrics import (
    class_error,
    class_probability,
    coverage,
    inception_score,
    minimum_matching_distance,
    nearest,
    one_nn_accuracy,
)
from dnet_lib.paper import PAPER_TABLES
from dnet_lib.presets import Preset
from dnet_lib.pretrained import Pretrained
from dnet_lib.reproduce.workplace import ALL, Facts, Workplace
from dnet_lib.tables import JUDGES
from dnet_lib.voxels import threshold, uncentre

NUM_SAMPLES = {ALL: 1000}  #: Samples that are judged; 100 where nothing else is said
NUM_SPLITS = 10  #: Of the samples, for the spread of an Inception score


def judge(preset: Preset, category: str, model: Pretrained, place: Workplace) -> Facts:
    """Sample a model, and judge the samples and the chains' first shapes: the rest is the descriptor's.

    Without data only the judges speak.
    """
    began = time.perf_counter()
    num_samples = NUM_SAMPLES.get(category, 100)
    samples = model.sample(num_samples, generator=place.random(1), progress=f"sampling {category}").cpu()
    seconds, began = time.perf_counter() - began, time.perf_counter()
    start = uncentre(model.starts(num_samples, generator=place.random(1)), model.mean).cpu()
    facts: Facts = {
        "paper": in_the_paper(category),
        "metrics": {"seconds_sampling": seconds} | judged(samples, category),
        "start": {"seconds_sampling": time.perf_counter() - began} | judged(start, category),
    }
    if place.data is not None:
        train, test = (place.shapes(category, split, preset.architecture.resolution) for split in ("train", "test"))
        facts["metrics"] |= compared(samples, train, test)
        facts["start"] |= compared(start, train, test)
    return facts


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
