"""What a chain must keep: linear projectors applied to the increment of every Langevin step (sections 3, 6.2, 6.3).

A projection is a function delta -> P delta with P symmetric and P P = P. The sampler adds P delta instead of delta, so
what P removes never changes: the chain samples the distribution conditioned on it.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from dnet_lib.errors import ShapeError
from dnet_lib.voxels import check_scale, down_scale, up_scale

Projection = Callable[[Tensor], Tensor]


def hidden_voxels(hidden: Tensor) -> Projection:
    """Only hidden voxels may move: delta -> hidden * delta (recovery, Algorithm 4).

    `hidden` is boolean, True where a voxel is hidden, of the shapes' size or broadcastable to it.
    """
    if not isinstance(hidden, Tensor) or hidden.dtype.is_floating_point or hidden.dtype.is_complex:
        found = hidden.dtype if isinstance(hidden, Tensor) else type(hidden).__name__
        raise ShapeError(f"`hidden` must be a boolean mask, True where a voxel may move, not {found}")
    return partial(_masked, hidden.bool())


def missing_detail(scale: int) -> Projection:
    """Only detail below the low resolution may move: delta -> (I - C^- C) delta (super-resolution, Algorithm 5).

    C averages blocks of scale^3 voxels (`down_scale`), C^- expands them (`up_scale`).
    """
    return partial(_detail, check_scale(scale))


def _masked(hidden: Tensor, delta: Tensor) -> Tensor:
    sizes = zip(reversed(hidden.shape), reversed(delta.shape), strict=False)
    if hidden.ndim > delta.ndim or any(size not in (1, wanted) for size, wanted in sizes):
        raise ShapeError(
            f"a mask {tuple(hidden.shape)} does not fit chains {tuple(delta.shape)}: give each chain a mask of its own "
            "(repeat chains that several masks share), or all of them one, (1, ...)"
        )
    return delta * hidden.to(delta.device)


def _detail(scale: int, delta: Tensor) -> Tensor:
    return delta - up_scale(down_scale(delta, scale), scale)
