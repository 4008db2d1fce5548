"""Features of section 6.5, and the linear classifiers on top of them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from problems import seeded

from dnet_lib import DescriptorNet, ShapeError
from dnet_lib.features import choose, features, logistic_regression


def test_the_paper_network_gives_8100_features():
    net = DescriptorNet.paper(generator=seeded(0))
    assert features(net, torch.zeros(1, 1, 32, 32, 32)).shape == (1, 8100)


def test_features_are_the_largest_value_of_each_window():
    net = DescriptorNet.compact(16, generator=seeded(0))
    y = torch.rand(3, 1, 16, 16, 16, generator=seeded(1))
    first, second = net.hidden(y)
    found = features(net, y, batch_size=2)
    c = first.shape[1]
    ours = found[:, : c * 8].view(3, c, 2, 2, 2)
    assert torch.allclose(ours[1, 5, 0, 1, 0], first[1, 5, :4, 4:, :4].max())
    assert torch.allclose(found[:, c * 8 :].view(3, -1, 2, 2, 2), F.max_pool3d(second, 2), atol=1e-7)


def test_too_many_pools_are_refused():
    with pytest.raises(ShapeError, match="2 layers"):
        features(DescriptorNet.compact(16), torch.zeros(1, 1, 16, 16, 16), pools=(4, 2, 1))


def blobs(n: int, seed: int):
    """Three Gaussian clouds in 20 dimensions, of which two tell anything."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    x = random.normal(size=(n, 20))
    x[:, :2] += 3 * np.array([[0, 0], [1, 0], [0, 1]])[labels]
    return x, labels


@pytest.mark.parametrize("one_versus_rest", [False, True])
def test_the_classifiers_reach_the_best_possible_accuracy(one_versus_rest):
    """Bayes's rule for these clouds puts a shape to the nearest mean."""
    x, labels = blobs(3000, 0)
    means = 3 * np.array([[0, 0], [1, 0], [0, 1]])
    unseen, truth = blobs(6000, 1)
    best = (((unseen[:, None, :2] - means) ** 2).sum(-1).argmin(1) == truth).mean()
    model = logistic_regression(1.0, one_versus_rest=one_versus_rest).fit(x, labels)
    assert model.score(unseen, truth) > best - (0.02 if one_versus_rest else 0.01)


def test_cross_validation_prefers_strong_regularisation_where_noise_abounds():
    random = np.random.default_rng(0)
    x, labels = blobs(90, 0)
    x = np.concatenate([x, random.normal(size=(90, 60))], axis=1)
    choice = choose(x, labels, strengths=(1e-2, 1e3))
    assert choice.strength == 1e-2
    assert set(choice.scores) == {1e-2, 1e3}
    assert choice.scores[1e-2] > choice.scores[1e3]


@pytest.mark.parametrize("one_versus_rest", [False, True])
def test_two_labels_a_category_are_enough_to_choose(one_versus_rest):
    x, labels = blobs(6, 0)
    chosen = choose(x, labels, one_versus_rest=one_versus_rest)
    expected = logistic_regression(chosen.strength, one_versus_rest=one_versus_rest).fit(x, labels)
    unseen, _ = blobs(50, 1)
    np.testing.assert_allclose(chosen.classifier.predict_proba(unseen), expected.predict_proba(unseen), atol=1e-6)
