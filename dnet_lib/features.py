"""Feature maps of an energy model as a description of a shape (section 6.5), and linear classifiers on top."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from dnet_lib.checks import check_whole
from dnet_lib.energy import DescriptorNet
from dnet_lib.errors import ShapeError

POOLS = (4, 2)
"""Max-pooling of the first and the second feature maps in section 6.5; 8,100 numbers for the paper's network."""
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  #: Inverse regularisation strengths C that cross-validation chooses from


@torch.no_grad()
def features(net: DescriptorNet, y: Tensor, *, pools: Sequence[int] = POOLS, batch_size: int = 64) -> Tensor:
    """Max-pooled feature maps h(1), h(2), ... of centred shapes, concatenated: (N, 1, R, R, R) -> (N, D).

    `pools[l]` is the side of the pooling windows on the maps of layer l; where they do not divide the grid, the last
    window of a side is smaller. Section 6.5.
    """
    if not 0 < len(pools) <= len(net.convolutions):
        raise ShapeError(f"this network has {len(net.convolutions)} layers of feature maps, not {len(pools)}")
    batches = []
    for batch in y.split(batch_size):
        maps = zip(net.hidden(batch), pools, strict=False)
        batches.append(torch.cat([F.max_pool3d(h, k, ceil_mode=True).flatten(1) for h, k in maps], dim=1))
    return torch.cat(batches)


def logistic_regression(strength: float = 1e-2, *, one_versus_rest: bool = False, seed: int = 0) -> Pipeline:
    """A linear classifier of feature vectors: multinomial logistic regression, or one binary one a category.

    Columns are standardised first. `strength` is scikit-learn's C: small values regularise strongly. The pipeline has
    `fit`, `predict`, `predict_proba` and `score`.
    """
    linear = LogisticRegression(C=strength, max_iter=200, tol=1e-3, random_state=check_whole(seed, "seed"))
    return make_pipeline(StandardScaler(), OneVsRestClassifier(linear) if one_versus_rest else linear)


def labelled(labels: Tensor | np.ndarray, share: float, draw: int) -> np.ndarray:
    """Rows of the shapes whose label is known: a random share of each category, two at least.

    labels (N,); `draw` numbers the random draws.
    """
    random, rows = np.random.default_rng([draw, round(1000 * share)]), []
    for label in np.unique(labels):
        own = np.flatnonzero(np.asarray(labels) == label)
        rows.append(random.permutation(own)[: max(2, round(share * len(own)))])
    return np.sort(np.concatenate(rows))


class Chosen(NamedTuple):
    """A classifier fitted on all rows with the strength that cross-validation chose."""

    classifier: Pipeline
    strength: float
    scores: dict[float, float]  #: Mean accuracy on the folds left out, for each strength tried


def choose(
    x: Tensor | np.ndarray,
    labels: Tensor | np.ndarray,
    *,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 3,
    one_versus_rest: bool = False,
    seed: int = 0,
) -> Chosen:
    """Choose the regularisation by cross-validation on these (training) rows alone, then fit on all of them.

    x (N, D), labels (N,). A category with fewer rows than `folds` lowers the number of folds, to two at least.
    """
    x, labels = np.asarray(x), np.asarray(labels)
    fewest = int(np.unique(labels, return_counts=True)[1].min())
    splitter = StratifiedKFold(max(2, min(folds, fewest)), shuffle=True, random_state=seed)
    model = logistic_regression(one_versus_rest=one_versus_rest, seed=seed)
    (strength,) = (name for name in model.get_params() if name.endswith("__C"))
    search = GridSearchCV(model, {strength: list(strengths)}, cv=splitter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the accuracy of 200 iterations is what is compared
        warnings.filterwarnings("ignore", message="The least populated class")
        search.fit(x, labels)
    scores = dict(zip(strengths, search.cv_results_["mean_test_score"].tolist(), strict=True))
    return Chosen(search.best_estimator_, search.best_params_[strength], scores)
