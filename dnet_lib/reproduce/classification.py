"""Section 6.5 and Table 5: classify by the features of one model of all categories, with all and with few labels."""

import time
from typing import Any

import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from tqdm.auto import tqdm

from dnet_lib.data import ShapeSet
from dnet_lib.energy import DescriptorNet
from dnet_lib.features import POOLS, STRENGTHS, choose, features, labelled, logistic_regression
from dnet_lib.paper import PAPER_TABLES
from dnet_lib.reproduce.workplace import ALL, Facts, Workplace, source
from dnet_lib.voxels import down_scale

SHARES = (0.01, 0.05, 0.10, 0.25, 1.0)  #: Parts of the labels that the classifiers see
DRAWS = 3  #: Random draws of the labelled shapes, where they are few


def descriptions(net: DescriptorNet, shapes: ShapeSet, mean: float) -> dict[str, Tensor]:
    """Three descriptions of shapes: features of the trained and of an untrained network, and pooled raw voxels.

    The untrained network has the same architecture, fresh N(0, 0.001^2) weights and seed 0.
    """
    untrained = DescriptorNet(net.architecture, generator=torch.Generator().manual_seed(0)).to(net.device)
    y = (shapes.voxels - mean).to(net.device)
    return {
        "trained": features(net, y).cpu(),
        "untrained": features(untrained, y).cpu(),
        "voxels": down_scale(shapes.voxels, 2).flatten(1),
    }


def picture(x: Tensor, x_test: Tensor, test: ShapeSet) -> dict[str, list[Any]]:
    """Test shapes in the space of three principal components of the standardised training features, to two decimals."""
    project = make_pipeline(StandardScaler(), PCA(3, random_state=0)).fit(x.numpy())
    coordinates = project.transform(x_test.numpy()).astype(float).round(2)
    return {"points": coordinates.tolist(), "labels": test.labels.tolist(), "categories": list(test.categories)}


def reproduce(place: Workplace) -> dict[str, Facts]:
    """Classify by the features of synthesis/all; writes classification/all.json. Choices see training shapes only."""
    began, seed = time.perf_counter(), place.seed
    model = place.model("synthesis", ALL)
    train, test = (place.shapes(ALL, split, model.net.resolution) for split in ("train", "test"))
    x, x_test = (descriptions(model.net, shapes, model.mean) for shapes in (train, test))
    labels, truth = train.labels.numpy(), test.labels.numpy()
    few: dict[str, dict[str, list[float]]] = {name: {} for name in x}
    metrics: dict[str, float] = {}
    cross_validation: dict[str, Facts] = {}
    wrong: dict[str, NDArray[Any]] = {}
    strength = 0.0
    tasks = [(name, share, draw) for name in x for share in SHARES for draw in range(1 if share == 1 else DRAWS)]
    for name, share, draw in (bar := tqdm(tasks, unit="classifier")):
        bar.set_postfix(features=name, labels=f"{share:.0%}")
        rows = labelled(labels, share, draw)
        choice = choose(x[name][rows], labels[rows], seed=seed)
        few[name].setdefault(f"{share:g}", []).append(choice.classifier.score(x_test[name].numpy(), truth))
        if share == 1:
            wrong[name] = confusion_matrix(
                truth, choice.classifier.predict(x_test[name].numpy()), labels=range(len(test.categories))
            )
            strength = choice.strength if name == "trained" else strength
            cross_validation[name] = {
                "strength": choice.strength,
                "scores": {f"{k:g}": v for k, v in choice.scores.items()},
            }
    metrics["accuracy"] = few["trained"]["1"][0]
    one = logistic_regression(strength, one_versus_rest=True, seed=seed).fit(x["trained"].numpy(), labels)
    metrics["accuracy_one_versus_rest"] = one.score(x_test["trained"].numpy(), truth)
    metrics["accuracy_untrained"], metrics["accuracy_voxels"] = few["untrained"]["1"][0], few["voxels"]["1"][0]
    facts = {
        "metrics": metrics,
        "paper": {"accuracy": PAPER_TABLES["accuracy"]["ours"]},
        "preset": {"pools": POOLS, "strengths": STRENGTHS, "shares": SHARES, "draws": DRAWS},
        "num_features": {name: part.shape[1] for name, part in x.items()},
        "few_labels": few,
        "cross_validation": cross_validation,
        "confusion": {name: matrix.tolist() for name, matrix in wrong.items()},
        "picture": picture(x["trained"], x_test["trained"], test),
        "picture_untrained": picture(x["untrained"], x_test["untrained"], test),
        "dataset": source(train, num_train=len(train), num_test=len(test)),
        **place.made(time.perf_counter() - began),
    }
    return {ALL: place.save("classification", ALL, facts)}
