"""Section 6.5 and Table 5: classify by the features of one model of all categories, with all and with few labels."""

import time
from typing import Any

import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from dnet_lib.data import ShapeSet
from dnet_lib.energy import DescriptorNet
from dnet_lib.features import POOLS, STRENGTHS, Chosen, choose, features, labelled, logistic_regression
from dnet_lib.paper import PAPER_TABLES
from dnet_lib.pretrained import Pretrained
from dnet_lib.reproduce.workplace import ALL, Facts, Workplace, source
from dnet_lib.voxels import centre, down_scale

SHARES = (0.01, 0.05, 0.10, 0.25, 1.0)  #: Parts of the labels that the classifiers see
DRAWS = 3  #: Random draws of the labelled shapes, where they are few


def descriptions(model: Pretrained, shapes: ShapeSet) -> dict[str, NDArray[Any]]:
    """Three descriptions of shapes: features of the trained and of an untrained network, and pooled raw voxels.

    The untrained network has the same architecture, fresh N(0, 0.001^2) weights and seed 0.
    """
    untrained = DescriptorNet(model.net.architecture, generator=torch.Generator().manual_seed(0)).to(model.device)
    y = centre(shapes.voxels, model.mean).to(model.device)
    return {
        "trained": features(model.net, y).cpu().numpy(),
        "untrained": features(untrained, y).cpu().numpy(),
        "voxels": down_scale(shapes.voxels, 2).flatten(1).numpy(),
    }


def picture(x: NDArray[Any], x_test: NDArray[Any], test: ShapeSet) -> dict[str, list[Any]]:
    """Test shapes in the space of three principal components of the standardised training features, to two decimals."""
    coordinates = make_pipeline(StandardScaler(), PCA(3, random_state=0)).fit(x).transform(x_test)
    points = coordinates.astype(float).round(2).tolist()
    return {"points": points, "labels": test.labels.tolist(), "categories": list(test.categories)}


def reproduce(place: Workplace) -> dict[str, Facts]:
    """Classify by the features of synthesis/all; writes classification/all.json. Choices see training shapes only."""
    began, model = time.perf_counter(), place.model("synthesis", ALL)
    train, test = place.splits(ALL, model.net.resolution)
    labels, truth = train.labels.numpy(), test.labels.numpy()
    x, x_test = (descriptions(model, shapes) for shapes in (train, test))
    few: dict[str, dict[str, list[float]]] = {name: {} for name in x}
    chosen: dict[str, Chosen] = {}
    tasks = [(name, share, draw) for name in x for share in SHARES for draw in range(1 if share == 1 else DRAWS)]
    for name, share, draw in (bar := tqdm(tasks, unit="classifier")):
        bar.set_postfix(features=name, labels=f"{share:.0%}")
        rows = labelled(labels, share, draw)
        chosen[name] = choose(x[name][rows], labels[rows], seed=place.seed)  # the last one knows all labels
        few[name].setdefault(f"{share:g}", []).append(chosen[name].classifier.score(x_test[name], truth))
    answers = {name: best.classifier.predict(x_test[name]) for name, best in chosen.items()}
    one = logistic_regression(chosen["trained"].strength, one_versus_rest=True, seed=place.seed)
    facts = {
        "metrics": {
            "accuracy": few["trained"]["1"][0],
            "accuracy_one_versus_rest": one.fit(x["trained"], labels).score(x_test["trained"], truth),
            "accuracy_untrained": few["untrained"]["1"][0],
            "accuracy_voxels": few["voxels"]["1"][0],
        },
        "paper": {"accuracy": PAPER_TABLES["accuracy"]["ours"]},
        "preset": {"pools": POOLS, "strengths": STRENGTHS, "shares": SHARES, "draws": DRAWS},
        "num_features": {name: part.shape[1] for name, part in x.items()},
        "few_labels": few,
        "cross_validation": {
            name: {"strength": best.strength, "scores": {f"{k:g}": v for k, v in best.scores.items()}}
            for name, best in chosen.items()
        },
        "confusion": {
            name: confusion_matrix(truth, answer, labels=range(len(test.categories))).tolist()
            for name, answer in answers.items()
        },
        "picture": picture(x["trained"], x_test["trained"], test),
        "picture_untrained": picture(x["untrained"], x_test["untrained"], test),
        "dataset": source(train, num_train=len(train), num_test=len(test)),
        **place.made(time.perf_counter() - began),
    }
    return {ALL: place.save("classification", ALL, facts)}
