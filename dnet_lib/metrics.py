"""How good are samples? Measures on a judge's class probabilities, and measures on the voxels themselves.

No number here means much alone: compare each with that of as many real test shapes under the same judge.
"""

import math
import warnings
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from dnet_lib.checks import check_batch, check_generator, check_mask, check_shapes, check_whole
from dnet_lib.errors import ShapeError
from dnet_lib.voxels import threshold

Measure = Literal["voxels", "iou"]


class Score(NamedTuple):
    """A score and its spread."""

    mean: float  #: Mean over the splits
    std: float  #: Standard deviation over the splits (divided by their number); 0 for one split


class Neighbours(NamedTuple):
    """The nearest reference shape of each query."""

    distance: Tensor  #: Distance to it, (N,): by default the number of differing voxels
    row: Tensor  #: Row of the nearest reference shape, (N,)


def inception_score(probabilities: Tensor, *, splits: int = 10, generator: torch.Generator | None = None) -> Score:
    """Inception score of a sample under a judge, with its spread (section 6.1, Table 1; Salimans et al., 2016).

        IS = exp(mean over Y of KL(p(c|Y) || p(c))),    p(c) = mean over Y of p(c|Y)

    High where the judge is sure of each shape and the shapes are of many categories: 1 <= IS <= C, so 10 at most for a
    ten-way judge. 1 means that the judge sees no difference between the shapes. It says nothing of variety within a
    category, and a memoriser scores as well as its training shapes do.

    probabilities  p(c | shape) of a judge, (N, C)
    splits         the score is computed on each of so many equal runs of rows. A split of n rows cannot exceed n, and
                   the fewer rows, the lower the score: compare scores of equal numbers of rows and splits
    generator      shuffles the rows first, which rows sorted by category need; None takes them in the order they have,
                   and warns where neighbours are too much alike for chance

    Raises `ShapeError` where rows are no probabilities or a split would have fewer than two rows.
    """
    p = _check_probabilities(probabilities)
    check_whole(splits, "the number of splits", 1, error=ShapeError)
    if splits > 1 and len(p) < 2 * splits:
        raise ShapeError(f"{len(p)} shapes cannot be cut into {splits} splits of at least two: take more, or splits=1")
    check_generator(generator)
    if generator is not None:
        p = p[torch.randperm(len(p), generator=generator, device=generator.device).to(p.device)]
    elif splits > 1 and _look_sorted(p.argmax(1)):
        warnings.warn(
            "these rows look sorted by category, so each split sees few of them and scores too low: give a generator, "
            "which shuffles them, or splits=1",
            stacklevel=2,
        )
    scores = []
    for part in p.tensor_split([len(p) * k // splits for k in range(1, splits)]):
        divergence = torch.xlogy(part, part) - torch.xlogy(part, part.mean(0))
        scores.append(divergence.sum(1).mean().exp())
    values = torch.stack(scores)
    return Score(values.mean().item(), values.std(correction=0).item())


def _look_sorted(labels: Tensor) -> bool:
    """Whether neighbours differ so seldom that chance is no explanation (2.5 standard deviations)."""
    shares = labels.unique(return_counts=True)[1].double() / len(labels)
    differ = 1 - shares.square().sum().item()
    expected, found = (len(labels) - 1) * differ, int((labels[1:] != labels[:-1]).sum())
    return bool(found < expected - 2.5 * math.sqrt(2 * expected * (1 - differ) + 1))


def class_probability(probabilities: Tensor, label: int | Tensor) -> float:
    """Mean probability p(label | Y) that a judge gives to the intended category, in [0, 1] (section 6.1, Table 2).

    probabilities (N, C); label one category, or (N,) one for each shape. One perfect shape N times over scores best.
    """
    return _intended(probabilities, label)[1].mean().item()


def class_error(probabilities: Tensor, label: int | Tensor) -> float:
    """Share of shapes for which the intended category is not the most probable one, in [0, 1] (section 6.1, Table 3).

    probabilities (N, C); label one category, or (N,) one for each shape. A category that shares the top probability
    counts as right, as the paper words it.
    """
    p, intended = _intended(probabilities, label)
    return (intended < p.amax(1)).double().mean().item()


def recovery_error(recovered: Tensor, truth: Tensor, hidden: Tensor) -> float:
    """Mean |recovered - truth| over the hidden voxels of all shapes (section 6.2, Table 4).

    Occupancy (N, 1, R, R, R), used as given: threshold binary recoveries first, then this is the share of hidden
    voxels that are wrong. `hidden` is a boolean mask of the same shape, True where a voxel was hidden.
    """
    _check_two(recovered, truth, "recovered", "true", paired=True)
    check_mask(hidden, truth)
    if not bool(hidden.any()):
        raise ShapeError("`hidden` hides no voxel: there is nothing to recover")
    return (recovered - truth).abs()[hidden].double().mean().item()


def intersection_over_union(a: Tensor, b: Tensor, *, level: float = 0.5) -> Tensor:
    """|A and B| / |A or B| of pairs of shapes, (N,) in [0, 1]; two empty shapes agree: 1.

    Occupancy (N, 1, R, R, R) twice; voxels above `level` count as full, here and below.
    """
    _check_two(a, b, paired=True)
    full_a, full_b = (threshold(y, level).flatten(1).bool() for y in (a, b))
    union = (full_a | full_b).sum(1)
    return torch.where(union > 0, (full_a & full_b).sum(1) / union.clamp(min=1), 1.0)


def distances(a: Tensor, b: Tensor, *, measure: Measure = "voxels", level: float = 0.5) -> Tensor:
    """Distances of all pairs of two batches of shapes, (N, M), by one matrix product.

    a, b     occupancy (N, 1, R, R, R) and (M, 1, R, R, R)
    measure  "voxels": number of differing voxels, the squared l2 distance of binary shapes (section 6.1, Fig. 2).
             "iou": 1 - intersection / union, in [0, 1], so relative to the sizes; two empty shapes are at 0
    level    voxels above it count as full
    """
    if measure not in get_args(Measure):
        raise ValueError(f"unknown measure {measure!r}: choose from {', '.join(get_args(Measure))}")
    _check_two(a, b)
    a, b = (threshold(y, level).flatten(1).float() for y in (a, b))
    both, full = a @ b.T, a.sum(1)[:, None] + b.sum(1)
    if measure == "voxels":
        return full - 2 * both
    union = full - both
    return torch.where(union > 0, 1 - both / union.clamp(min=1), 0)


def nearest(shapes: Tensor, references: Tensor, *, measure: Measure = "voxels", level: float = 0.5) -> Neighbours:
    """For each shape the nearest reference (section 6.1, Fig. 2), in the `distances` of the same arguments."""
    return Neighbours(*distances(shapes, references, measure=measure, level=level).min(dim=1))


def coverage(samples: Tensor, references: Tensor, *, measure: Measure = "voxels", level: float = 0.5) -> float:
    """Share of the references that are the nearest one of at least one sample, in (0, 1] (Achlioptas et al., 2018).

    Low where modes are missing; blind to the quality of samples. References at equal distance share their sample, and
    none counts for more than one. With fewer samples than references it cannot reach 1: compare it with the coverage
    of as many real shapes.
    """
    apart = distances(samples, references, measure=measure, level=level)
    closest = (apart == apart.amin(1, keepdim=True)).double()
    return (closest / closest.sum(1, keepdim=True)).sum(0).clamp(max=1).sum().item() / len(references)


def minimum_matching_distance(
    samples: Tensor, references: Tensor, *, measure: Measure = "voxels", level: float = 0.5
) -> float:
    """Mean over the references of the distance to the nearest sample, in units of `measure` (Achlioptas et al., 2018).

    0 where every reference is among the samples. Samples that are nobody's nearest do not count, however bad; more
    samples can only lower it.
    """
    return nearest(references, samples, measure=measure, level=level).distance.double().mean().item()


def one_nn_accuracy(samples: Tensor, references: Tensor, *, measure: Measure = "voxels", level: float = 0.5) -> float:
    """Can a classifier tell samples from references? Leave-one-out accuracy of the nearest neighbour, in [0, 1].

    Each shape of both batches is given to the batch of its nearest other shape; shapes at equal distance share the
    vote. Samples of the references' own law give (n - 1) / (2 n - 1), about 0.5, on average; 1 means that the two are
    told apart, towards 0 that samples are copies of the references. Lopez-Paz and Oquab, 2017; for shapes Yang et
    al., 2019.

    Occupancy (n, 1, R, R, R) twice, n >= 2: with unequal numbers 0.5 would not mean "alike", so they raise
    `ShapeError`.
    """
    n = len(samples)
    _check_two(samples, references)
    if n != len(references) or n < 2:
        raise ShapeError(
            f"{n} samples and {len(references)} references: take as many of each, at least 2 (samples[:n], "
            "references[:n])"
        )
    both = torch.cat([samples, references])
    between = distances(both, both, measure=measure, level=level).fill_diagonal_(torch.inf)
    closest = between == between.amin(1, keepdim=True)
    own = torch.cat([closest[:n, :n].sum(1), closest[n:, n:].sum(1)])
    return (own / closest.sum(1)).double().mean().item()


def _check_two(a: Tensor, b: Tensor, first: str = "given", second: str = "reference", *, paired: bool = False) -> None:
    """Raise `ShapeError` unless two batches of shapes lie on one grid, and can be paired where they are to be."""
    check_shapes(b, name=f"the {second} shapes")
    check_shapes(a, name=f"the {first} shapes", resolution=b.shape[-1])
    if paired and len(a) != len(b):
        raise ShapeError(f"{len(a)} {first} shapes cannot be compared with {len(b)} {second} ones: pair them")


def _check_probabilities(p: Tensor) -> Tensor:
    """Rows of probabilities in double precision, each summing to exactly one, or `ShapeError`."""
    p = check_batch(p, name="probabilities (N, C)").double()
    if p.ndim != 2 or bool((p < 0).any()):
        found = f"{tuple(p.shape)}, {p.min():.3g} the least"
        raise ShapeError(f"probabilities must be (N, C), none negative, not {found}: give logits.softmax(1)")
    sums = p.sum(1)
    worst = sums[(sums - 1).abs().argmax()].item()
    if abs(worst - 1) > 1e-3:
        raise ShapeError(f"rows of probabilities must sum to one, not {worst:.3g}: give logits.softmax(1)")
    return p / sums[:, None]


def _intended(probabilities: Tensor, label: int | Tensor) -> tuple[Tensor, Tensor]:
    """Checked rows of probabilities, (N, C), and of each row the one of its label, (N,), or `ShapeError`."""
    p, labels = _check_probabilities(probabilities), torch.as_tensor(label)
    whole = not labels.is_floating_point() and labels.dtype != torch.bool
    if not whole or labels.shape not in ((), p.shape[:1]):
        found = f"{labels.dtype} {tuple(labels.shape)}"
        raise ShapeError(f"labels must be {len(p)} whole numbers, one a shape, or a single one, not {found}")
    wrong = labels[(labels < 0) | (labels >= p.shape[1])]
    if len(wrong):
        raise ShapeError(f"label {wrong[0]} is outside: there are {p.shape[1]} categories, 0 first")
    return p, p.gather(1, labels.to(p.device).long().expand(len(p))[:, None])[:, 0]
