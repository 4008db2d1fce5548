"""Every metric against a case counted by hand, its limits, its invariances, and scipy or a slow loop."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import drawn, seeded
from scipy.spatial.distance import cdist
from scipy.stats import entropy

from dnet_lib import (
    ShapeError,
    class_error,
    class_probability,
    corrupt,
    coverage,
    distances,
    inception_score,
    intersection_over_union,
    load_shapes,
    minimum_matching_distance,
    nearest,
    one_nn_accuracy,
    recovery_error,
)
from dnet_lib.paper import PAPER_TABLES


def shapes(*filled: tuple[int, ...]) -> torch.Tensor:
    """2^3 grids with the listed voxels at 0.9 and the others at 0.2."""
    y = torch.full((len(filled), 8), 0.2)
    for row, voxels in zip(y, filled, strict=True):
        row[list(voxels)] = 0.9
    return y.view(-1, 1, 2, 2, 2)


def table(rows: int, categories: int, seed: int, sharpness: float = 3.0) -> torch.Tensor:
    return (sharpness * torch.randn(rows, categories, generator=seeded(seed), dtype=torch.float64)).softmax(1)


# -- what a judge says -------------------------------------------------------------------------------------------------


def test_inception_score_by_hand():
    sure = torch.eye(10).repeat(20, 1)
    assert inception_score(sure) == pytest.approx((10, 0)), "a sure judge and all categories alike: the maximum"
    assert inception_score(torch.full((40, 10), 0.1)) == pytest.approx((1, 0)), "a judge that knows nothing"
    assert inception_score(sure[:1].repeat(40, 1)) == pytest.approx((1, 0)), "one category only"
    assert inception_score(torch.eye(4).repeat(5, 1), splits=1) == pytest.approx((4, 0))
    three_to_one = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]])  # p(c) = (3/4, 1/4): exp of its entropy
    expected = (4 / 3) ** 0.75 * 4**0.25
    assert inception_score(three_to_one, splits=1).mean == pytest.approx(expected)
    unsure = torch.tensor([[0.8, 0.2], [0.2, 0.8]])  # KL from (1/2, 1/2): log 2 - H(0.8)
    expected = 2 * 0.8**0.8 * 0.2**0.2
    assert inception_score(unsure, splits=1).mean == pytest.approx(expected)


def test_inception_score_of_splits():
    """Two splits of 2 and of 1: mean 1.5, standard deviation 0.5."""
    p = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0]])
    assert inception_score(p, splits=2) == pytest.approx((1.5, 0.5))
    sorted_rows = torch.eye(10).repeat_interleave(100, 0)
    with pytest.warns(UserWarning, match="look sorted by category.*give a generator"):
        assert inception_score(sorted_rows).mean == pytest.approx(1), "each split holds one category"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inception_score(sorted_rows[torch.randperm(1000, generator=seeded())])
        inception_score(sorted_rows, splits=1)
    shuffled = inception_score(sorted_rows, generator=seeded())
    assert 9 < shuffled.mean < 10 and 0 < shuffled.std < 1
    assert shuffled == inception_score(sorted_rows, generator=seeded()), "the same generator, the same score"


@given(n=st.integers(2, 60), c=st.integers(1, 12), splits=st.integers(1, 8), seed=st.integers(0, 99))
def test_inception_score_by_scipy(n, c, splits, seed):
    p = table(n, c, seed)
    if splits > 1 and n < 2 * splits:
        return
    parts = [p.numpy()[n * k // splits : n * (k + 1) // splits] for k in range(splits)]
    expected = [math.exp(np.mean([entropy(row, part.mean(0)) for row in part])) for part in parts]
    score = inception_score(p, splits=splits)
    assert score.mean == pytest.approx(np.mean(expected)) and score.std == pytest.approx(np.std(expected), abs=1e-9)
    assert 1 - 1e-9 <= score.mean <= min(c, math.ceil(n / splits)) + 1e-9


@given(n=st.integers(1, 30), c=st.integers(2, 8), seed=st.integers(0, 99))
def test_inception_score_does_not_see_order_names_or_copies(n, c, seed):
    p = table(n, c, seed)
    score = inception_score(p, splits=1).mean
    assert inception_score(p[torch.randperm(n, generator=seeded(seed))], splits=1).mean == pytest.approx(score)
    assert inception_score(p.roll(1, dims=1), splits=1).mean == pytest.approx(score)
    assert inception_score(p.repeat(3, 1), splits=1).mean == pytest.approx(score)
    assert inception_score(p.float(), splits=1).mean == pytest.approx(score, rel=1e-5)


def test_class_probability_and_error_by_hand():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.4, 0.2, 0.4]])
    assert class_probability(p, 0) == pytest.approx(0.4) and class_error(p, 0) == pytest.approx(1 / 3)
    assert class_probability(p, 1) == pytest.approx(1 / 3) and class_error(p, 1) == pytest.approx(2 / 3)
    assert class_error(p, 2) == pytest.approx(2 / 3), "a tie for the top counts as right"
    each = torch.tensor([0, 1, 2])
    assert class_probability(p, each) == pytest.approx((0.7 + 0.6 + 0.4) / 3) and class_error(p, each) == 0
    assert class_probability(p, torch.tensor(1)) == class_probability(p, 1), "a label of no axes is one label"
    assert class_probability(torch.eye(3), each) == 1 and class_error(torch.eye(3), each.flip(0)) == 2 / 3


@given(n=st.integers(1, 20), c=st.integers(1, 8), seed=st.integers(0, 99))
def test_class_probabilities_of_all_labels_add_up(n, c, seed):
    p = table(n, c, seed)
    assert sum(class_probability(p, label) for label in range(c)) == pytest.approx(1)
    assert sum(1 - class_error(p, label) for label in range(c)) == pytest.approx(1), "one category wins each row"
    labels = torch.randint(c, (n,), generator=seeded(seed))
    assert class_error(p, labels) == pytest.approx((p.argmax(1) != labels).double().mean().item())


@pytest.mark.parametrize(
    "judged",
    [inception_score, lambda p: class_probability(p, 0), lambda p: class_error(p, 0)],
    ids=["is", "p", "error"],
)
@pytest.mark.parametrize(
    ("p", "message"),
    [
        (torch.ones(10), r"\(N, C\).*\(10,\)"),
        ([[1.0]], "list"),
        (torch.ones(20, 1, dtype=torch.long), "int64"),
        (torch.zeros(0, 10), r"empty: \(0, 10\)"),
        (torch.zeros(20, 0), r"empty: \(20, 0\)"),
        (torch.full((20, 10), math.nan), "NaN"),
        (torch.tensor([[1.5, -0.5]] * 20), r"none negative.*-0.5 the least.*softmax"),
        (torch.full((20, 10), 0.2), r"sum to one, not 2: give logits\.softmax"),
        (torch.full((20, 2), 0.499), "sum to one, not 0.998"),
    ],
)
def test_rows_that_are_no_probabilities_are_named(judged, p, message):
    with pytest.raises(ShapeError, match=message):
        judged(p)


def test_too_few_shapes_for_the_splits():
    with pytest.raises(ShapeError, match=r"19 shapes.*10 splits.*splits=1"):
        inception_score(torch.full((19, 2), 0.5))
    with pytest.raises(ShapeError, match=r"number of splits.*not 0"):
        inception_score(torch.full((19, 2), 0.5), splits=0)
    assert inception_score(torch.full((1, 2), 0.5), splits=1) == (1, 0)


@pytest.mark.parametrize("judged", [class_probability, class_error])
@pytest.mark.parametrize(
    ("label", "message"),
    [
        (3, "label 3 is outside: there are 3 categories"),
        (-1, "label -1 is outside"),
        (torch.tensor([0, 3]), "label 3"),
        (torch.tensor([0, 1, 2]), r"2 whole numbers.*\(3,\)"),
        (torch.tensor([0.0, 1.0]), "float32"),
        (torch.tensor([True, False]), "bool"),
    ],
)
def test_labels_of_the_wrong_kind_are_named(judged, label, message):
    with pytest.raises(ShapeError, match=message):
        judged(torch.full((2, 3), 1 / 3), label)


# -- recovery ----------------------------------------------------------------------------------------------------------


def test_recovery_error_by_hand():
    truth, recovered = torch.zeros(2, 1, 2, 2, 2), torch.zeros(2, 1, 2, 2, 2)
    hidden = torch.zeros(2, 1, 2, 2, 2, dtype=torch.bool)
    hidden[:, 0, 0] = True  # 8 voxels of 16
    recovered[0, 0, 0, 0, 0], recovered[1, 0, 0, 0, 0] = 1, 0.5
    recovered[:, 0, 1] = 7  # visible voxels do not count
    assert recovery_error(recovered, truth, hidden) == pytest.approx(1.5 / 8)
    assert recovery_error(truth, truth, hidden) == 0
    assert recovery_error(truth + 1, truth, hidden) == recovery_error(truth, truth + 1, hidden) == 1


@given(share=st.floats(0.05, 1), seed=st.integers(0, 99))
def test_recovery_error_of_guesses(share, seed):
    """Visible voxels never matter; on binary shapes it is the share of hidden voxels that are wrong."""
    truth = drawn(3, seed=seed)
    visible, hidden = corrupt(truth, share, generator=seeded(seed))
    guess = drawn(3, seed=seed + 100)
    error = recovery_error(torch.where(hidden, guess, visible), truth, hidden)
    assert error == pytest.approx((guess != truth)[hidden].double().mean().item())
    assert error == recovery_error(guess, truth, hidden)
    assert recovery_error(1 - guess, truth, hidden) == pytest.approx(1 - error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(2, 1, 2, 2, 2)}, "mask.*float32.*bool"),
        ({"hidden": None}, "NoneType"),
        ({"hidden": torch.ones(1, 1, 2, 2, 2, dtype=torch.bool)}, r"\(2, 1, 2, 2, 2\).*not.*\(1, 1, 2, 2, 2\)"),
        ({"hidden": torch.zeros(2, 1, 2, 2, 2, dtype=torch.bool)}, "hides no voxel"),
        ({"recovered": torch.zeros(1, 1, 2, 2, 2)}, "1 recovered shapes.*2 true"),
        ({"recovered": torch.zeros(2, 1, 4, 4, 4)}, r"recovered.*2\^3 voxels, not 4\^3"),
        ({"recovered": torch.full((2, 1, 2, 2, 2), math.nan)}, "recovered.*NaN"),
        ({"truth": torch.full((2, 1, 2, 2, 2), math.nan)}, "true.*NaN"),
        ({"truth": torch.zeros(2, 8)}, r"true.*\(2, 8\)"),
    ],
)
def test_recoveries_of_the_wrong_kind_are_named(change, message):
    good = {"recovered": torch.zeros(2, 1, 2, 2, 2), "truth": torch.zeros(2, 1, 2, 2, 2)}
    with pytest.raises(ShapeError, match=message):
        recovery_error(**(good | {"hidden": torch.ones(2, 1, 2, 2, 2, dtype=torch.bool)} | change))


# -- distances and neighbours ------------------------------------------------------------------------------------------


def test_distances_by_hand():
    a, b = shapes((0, 1), (), (0, 1, 2, 3)), shapes((1, 2), ())
    assert distances(a, b).tolist() == [[2, 2], [2, 0], [2, 4]]
    iou = [[1 - 1 / 3, 1], [1, 0], [0.5, 1]]
    assert distances(a, b, measure="iou").tolist() == [pytest.approx(row) for row in iou]
    assert distances(a + 0.4, b + 0.4).tolist() == [[0, 0]] * 3, "everything is full"


@given(n=st.integers(1, 6), m=st.integers(1, 6), side=st.integers(1, 5), seed=st.integers(0, 99))
def test_distances_by_scipy(n, m, side, seed):
    a, b = drawn(n, seed=seed, side=side), drawn(m, seed=seed + 100, side=side, filled=0.2)
    flat = [y.flatten(1).numpy().astype(bool) for y in (a, b)]
    for measure, expected in (("voxels", cdist(*flat, "hamming") * side**3), ("iou", cdist(*flat, "jaccard"))):
        np.testing.assert_allclose(distances(a, b, measure=measure), expected, atol=1e-6)
        assert torch.equal(distances(a, b, measure=measure), distances(b, a, measure=measure).T)
        assert distances(a, a, measure=measure).diagonal().abs().max() == 0
    assert torch.equal(distances(a, b), distances(1 - a, 1 - b)), "emptiness is as good as fullness"
    assert torch.equal(distances(a.double(), b.half()), distances(a, b)), "whatever the precision"


@pytest.mark.parametrize("measure", ["voxels", "iou"])
def test_distances_obey_the_triangle(measure):
    d = distances(y := drawn(30, seed=1, side=3), y, measure=measure).double()
    assert (d[:, None, :] <= d[:, :, None] + d[None, :, :] + 1e-6).all()


def test_nearest_by_hand():
    references = shapes((0, 1, 2), (5,), ())
    found = nearest(shapes((0, 1), (5, 6, 7), (4, 5), (0, 1, 2)), references)
    assert found.distance.tolist() == [1, 2, 1, 0] and found.row.tolist() == [0, 1, 1, 0]
    assert nearest(references + 0.4, references + 0.4).distance.tolist() == [0, 0, 0]
    assert nearest(shapes(range(8)) - 0.45, references - 0.45).distance.tolist() == [0]
    big = shapes((0, 1, 2, 3, 4), (5,))  # by voxels the small one is nearer, by IoU the one that overlaps
    assert nearest(shapes((0, 1)), big).row.item() == 0 and nearest(shapes((0,)), big).row.item() == 1
    assert nearest(shapes((0,)), big, measure="iou") == (pytest.approx(0.8), 0)


@given(n=st.integers(1, 6), m=st.integers(1, 6), side=st.integers(1, 5), seed=st.integers(0, 99))
def test_nearest_counts_differing_voxels(n, m, side, seed):
    a = torch.rand(n, 1, side, side, side, generator=seeded(seed))
    b = torch.rand(m, 1, side, side, side, generator=seeded(seed + 100))
    differing = np.array([[((x > 0.5) != (y > 0.5)).sum().item() for y in b] for x in a])
    found = nearest(a, b)
    assert found.distance.tolist() == differing.min(1).tolist()
    assert [differing[i, j] for i, j in enumerate(found.row.tolist())] == differing.min(1).tolist()


def test_nearest_is_exact_on_large_grids():
    a = torch.zeros(1, 1, 64, 64, 64)
    b = torch.ones(2, 1, 64, 64, 64)
    b[1, 0, 0, 0, 0] = 0
    assert nearest(a, b).distance.item() == 64**3 - 1 and nearest(b[:1], a).distance.item() == 64**3


# -- two samples compared ----------------------------------------------------------------------------------------------


def test_coverage_by_hand():
    references = shapes((0,), (1,), (2,), (3, 4, 5))
    assert coverage(references, references) == 1
    assert coverage(shapes((0,), (0, 7), (3, 4)), references) == 0.5
    assert coverage(shapes((2,)), references) == 0.25
    apart = shapes((0, 1, 2, 3, 4), (5,))
    assert coverage(shapes((0,)), apart) == coverage(shapes((0,)), apart, measure="iou") == 0.5
    alike = shapes((0,)).repeat(8, 1, 1, 1, 1)
    assert coverage(alike, alike) == 1, "equal references share their samples"
    assert coverage(alike[:2], alike) == pytest.approx(2 / 8), "and two samples cannot cover more than two"
    tied = shapes((0, 1), (2, 3), (4, 5, 6, 7))  # the first two are as far from (0, 2)
    assert coverage(shapes((0, 2)), tied) == pytest.approx(1 / 3)
    assert coverage(shapes((0, 2), (0, 1), (0, 1)), tied) == pytest.approx(1 / 2), "one reference whole, one half"


def test_minimum_matching_distance_by_hand():
    references = shapes((0,), (1,), (2,), (3, 4, 5))
    assert minimum_matching_distance(references, references) == 0
    assert minimum_matching_distance(shapes((0,)), references) == (0 + 2 + 2 + 4) / 4
    assert minimum_matching_distance(shapes((0,), (3, 4)), references) == (0 + 2 + 2 + 1) / 4
    assert minimum_matching_distance(shapes((0,), (3, 4)), references, measure="iou") == pytest.approx(7 / 12)


@given(n=st.integers(1, 8), m=st.integers(1, 8), more=st.integers(1, 5), seed=st.integers(0, 99))
def test_more_samples_never_hurt(n, m, more, seed):
    references, samples = drawn(m, 3, seed=seed), drawn(n, 3, seed=seed + 100)
    extra = drawn(more, 3, seed=seed + 200)
    for measure in ("voxels", "iou"):
        everything = torch.cat([samples, extra])
        lower = minimum_matching_distance(everything, references, measure=measure)
        assert lower <= minimum_matching_distance(samples, references, measure=measure)
        covered = coverage(samples, references, measure=measure)
        assert coverage(everything, references, measure=measure) >= covered - 1e-12
        expected = distances(samples, references, measure=measure).amin(0).double().mean().item()
        assert minimum_matching_distance(samples, references, measure=measure) == pytest.approx(expected)
        assert 1 / m - 1e-12 <= covered <= min(n, m) / m + 1e-12


def test_one_nn_accuracy_by_hand():
    apart = shapes((0,), (0, 1)), shapes((4, 5, 6), (4, 5, 6, 7))
    assert one_nn_accuracy(*apart) == 1, "two clusters are told apart"
    assert one_nn_accuracy(apart[0], apart[0]) == 0, "copies: the nearest other shape is one's double"
    mixed = shapes((), (0, 1, 2, 3, 4, 5)), shapes((0,), (0, 1, 2, 3, 4, 5, 6))
    assert one_nn_accuracy(*mixed) == 0
    tied = shapes((), (0,)), shapes((1,), (2,))  # () is at 1 of all, the others at 1 of it alone
    assert one_nn_accuracy(*tied) == pytest.approx((1 / 3 + 1 + 0 + 0) / 4)


def slow_one_nn(a: np.ndarray, b: np.ndarray) -> float:
    """One shape after the other, ties by their share."""
    both, side = np.concatenate([a, b]), [0] * len(a) + [1] * len(b)
    right = 0.0
    for i, shape in enumerate(both):
        to = {j: int((shape != other).sum()) for j, other in enumerate(both) if j != i}
        winners = [j for j, d in to.items() if d == min(to.values())]
        right += sum(side[j] == side[i] for j in winners) / len(winners)
    return right / len(both)


@given(n=st.integers(2, 10), shift=st.floats(0, 0.4), seed=st.integers(0, 99))
def test_one_nn_accuracy_by_a_slow_loop(n, shift, seed):
    a, b = drawn(n, seed=seed, side=2), drawn(n, seed=seed + 100, side=2, filled=0.5 + shift)
    accuracy = one_nn_accuracy(a, b)
    assert accuracy == pytest.approx(slow_one_nn(a.flatten(1).numpy(), b.flatten(1).numpy()))
    assert one_nn_accuracy(b, a) == pytest.approx(accuracy) and one_nn_accuracy(a.flip(0), b) == pytest.approx(accuracy)


@pytest.mark.parametrize("measure", ["voxels", "iou"])
def test_one_nn_accuracy_of_laws(measure):
    """One law: (n - 1) / (2n - 1) on average; its deviation at n = 100 is 0.041 (measured over 200 pairs)."""
    values = [one_nn_accuracy(drawn(100, seed=s), drawn(100, seed=s + 1000), measure=measure) for s in range(30)]
    assert np.mean(values) == pytest.approx(99 / 199, abs=5 * 0.05 / math.sqrt(30))
    assert np.std(values) < 0.06
    left, right = drawn(100, seed=0, side=8), drawn(100, seed=1, side=8)
    left[:, :, 4:], right[:, :, :4] = 0, 0
    assert one_nn_accuracy(left, right, measure=measure) == 1
    memorised = drawn(100, seed=0)
    assert one_nn_accuracy(memorised[torch.randperm(100, generator=seeded())], memorised, measure=measure) == 0
    collapsed = drawn(1, seed=5).repeat(100, 1, 1, 1, 1)
    assert one_nn_accuracy(collapsed, memorised, measure=measure) > 0.7, "one shape over and over is told apart"


TWO_BATCHES = [nearest, coverage, distances, minimum_matching_distance, one_nn_accuracy]


@pytest.mark.parametrize("compare", TWO_BATCHES)
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(2, 1, 2, 2, 2) / 0, torch.zeros(2, 1, 2, 2, 2), "NaN"),
        (torch.zeros(2, 1, 2, 2, 2), torch.zeros(2, 1, 2, 2, 2) / 0, "NaN"),
        (torch.zeros(2, 1, 4, 4, 4), torch.zeros(2, 1, 2, 2, 2), r"\^3 voxels, not"),
        (torch.zeros(2, 1, 2, 2, 2), torch.zeros(0, 1, 2, 2, 2), "empty"),
        (torch.zeros(0, 1, 2, 2, 2), torch.zeros(2, 1, 2, 2, 2), "empty"),
        (torch.zeros(2, 8), torch.zeros(2, 1, 2, 2, 2), r"\(2, 8\)"),
        (torch.zeros(2, 1, 2, 2, 2, dtype=torch.bool), torch.zeros(2, 1, 2, 2, 2), "bool.*float"),
    ],
)
def test_shapes_of_the_wrong_kind_are_named(compare, a, b, message):
    with pytest.raises(ShapeError, match=message):
        compare(a, b)


@pytest.mark.parametrize("compare", TWO_BATCHES)
def test_unknown_measures_are_named(compare):
    with pytest.raises(ValueError, match="unknown measure 'chamfer': choose from voxels, iou"):
        compare(shapes((0,), ()), shapes((1,), ()), measure="chamfer")


@pytest.mark.parametrize(("n", "m"), [(3, 2), (2, 3), (1, 1)])
def test_one_nn_accuracy_needs_equal_numbers(n, m):
    with pytest.raises(ShapeError, match=rf"{n} samples and {m} references: take as many of each"):
        one_nn_accuracy(drawn(n, seed=0), drawn(m, seed=1))


# -- the paper's numbers -----------------------------------------------------------------------------------------------


def test_the_papers_tables_have_no_typing_slips():
    """The printed averages are the means of the rows, but for one: Table 3's first column prints 0.0968."""
    for table in ("class_probability", "class_error"):
        rows, printed = PAPER_TABLES[table], PAPER_TABLES[f"{table}_average"]
        assert tuple(rows) == load_shapes("furniture").categories
        for method, average in printed.items():
            mean = np.mean([row[method] for row in rows.values()])
            if (table, method) != ("class_error", "ours"):
                assert mean == pytest.approx(average, abs=6e-5), (table, method)
    assert np.mean([row["ours"] for row in PAPER_TABLES["class_error"].values()]) == pytest.approx(0.06712)
    assert len(PAPER_TABLES["accuracy"]) == 13 and len(PAPER_TABLES["inception_score"]) == 6


COMPARISONS = (distances, nearest, coverage, minimum_matching_distance, one_nn_accuracy, intersection_over_union)


@pytest.mark.parametrize("compare", COMPARISONS, ids=lambda f: f.__name__)
def test_voxels_above_the_level_count_as_full(compare):
    """At a level as after a threshold there; at another level the same shapes are others."""
    a, b = torch.rand(2, 12, 1, 2, 2, 2, generator=seeded(3))
    for level in (0.1, 0.5, 0.9):
        cut = compare((a > level).float(), (b > level).float())
        np.testing.assert_array_equal(compare(a, b, level=level), cut)
    np.testing.assert_array_equal(compare(a, b), compare(a, b, level=0.5))
    assert not np.array_equal(compare(a, b, level=0.1), compare(a, b))


def test_intersection_over_union_of_pairs():
    a, b = shapes((0, 1, 2), (), (4,)), shapes((1, 2, 3, 4), (), (5,))
    assert intersection_over_union(a, b).tolist() == pytest.approx([2 / 5, 1.0, 0.0])
    torch.testing.assert_close(1 - intersection_over_union(a, b), distances(a, b, measure="iou").diagonal())
    with pytest.raises(ShapeError, match="pair them"):
        intersection_over_union(a[:2], b)
