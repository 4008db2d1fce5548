"""How good are samples? Plain measures on thresholded voxels."""

from typing import NamedTuple

from torch import Tensor

from dnet_lib.voxels import check_shapes, threshold


class Neighbours(NamedTuple):
    """The nearest reference shape of each query."""

    distance: Tensor
    """Number of differing voxels, (N,)."""
    row: Tensor
    """Row of the nearest reference shape, (N,)."""


def nearest(shapes: Tensor, references: Tensor, *, level: float = 0.5) -> Neighbours:
    """For each shape the reference that differs in the fewest voxels, both thresholded (section 6.1, Fig. 2).

    Occupancy (N, 1, R, R, R) and (M, 1, R, R, R). For binary shapes the squared voxel L2 distance is this count.
    """
    check_shapes(references, name="the reference shapes")
    check_shapes(shapes, resolution=references.shape[-1])
    a, b = threshold(shapes, level).flatten(1), threshold(references, level).flatten(1)
    counts = a.sum(1)[:, None] + b.sum(1)[None] - 2 * a @ b.T
    return Neighbours(*counts.min(dim=1))


def coverage(samples: Tensor, references: Tensor, *, level: float = 0.5) -> float:
    """Share of the references that are the nearest one of at least one sample, in [0, 1].

    With fewer samples than references it cannot reach 1: compare it with the coverage of as many real shapes.
    """
    return nearest(samples, references, level=level).row.unique().numel() / len(references)
