"""Plain operations on voxel grids: scaling, thresholding, centring, corruption.

A batch of shapes is a float tensor of shape (N, 1, R, R, R). *Occupancy* lies in [0, 1]; *centred* shapes have the
training set's scalar voxel mean subtracted. The axes are (y, x, z) of 3D ShapeNets: the last one points up.

What changes the resolution works along the axes after the first two, so on signals (N, C, L) and images too; of points
(N, D) it takes the D coordinates for such an axis.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from dnet_lib.checks import check_generator, check_mask, check_real, check_shapes, check_tensor, check_whole, sides
from dnet_lib.errors import ShapeError

Kind = Literal["half", "cube", "behind"]
KINDS: tuple[Kind, ...] = get_args(Kind)  #: What `hide` can hide beside a random share


def brief(thing: Any) -> str:
    """A dataclass or named tuple in one line: tensors by their form, what has no short text by its kind."""
    names = [field.name for field in fields(thing)] if is_dataclass(thing) else thing._fields

    def said(value: Any) -> str:
        if isinstance(value, Tensor) or type(value) is tuple:
            return str(tuple(value.shape)) if isinstance(value, Tensor) else f"({', '.join(map(said, value))})"
        text = repr(value)
        return type(value).__name__ if "\n" in text or text.startswith("<") else text

    told = (f"{name}={said(getattr(thing, name))}" for name in names if not name.startswith("_"))
    return f"{type(thing).__name__}({', '.join(told)})"


def per_item(values: Tensor, like: Tensor) -> Tensor:
    """One value for each of a batch's items, (N,), in the form (N, 1, ..., 1) that meets the batch `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))


def check_scale(scale: int) -> int:
    """Return `scale` if it is a whole number above 0, else raise `ShapeError`."""
    return check_whole(scale, "a scale", 1, error=ShapeError)


POOLS: tuple[Callable[[Tensor, int], Tensor], ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def down_scale(y: Tensor, scale: int) -> Tensor:
    """The low-resolution version C Y: each block of `scale` entries along each axis becomes its mean.

    (N, 1, R, R, R) -> (N, 1, R/scale, R/scale, R/scale). Section 4.2 and 6.3 of the paper.
    """
    check_tensor(y)
    if any(side % check_scale(scale) for side in sides(y)):
        cells, block = (f"{side}^{len(sides(y))}" for side in (y.shape[-1], scale))
        raise ShapeError(f"a grid of {cells} voxels cannot be cut into blocks of {block}")
    if y.ndim > 5:
        raise ShapeError(f"grids of up to three axes can be down-scaled, not {tuple(y.shape)}")
    return POOLS[y.ndim - 3](y, scale) if y.ndim > 2 else down_scale(y[:, None], scale)[:, 0]


def up_scale(y: Tensor, scale: int) -> Tensor:
    """The pseudo-inverse of `down_scale`: each voxel is expanded into a block of equal ones."""
    check_tensor(y)
    for axis in range(min(2, y.ndim - 1), y.ndim):
        y = y.repeat_interleave(check_scale(scale), dim=axis)
    return y


def space_to_depth(h: Tensor, fold: int) -> Tensor:
    """(N, C, R, R, R) -> (N, C * fold^3, R/fold, R/fold, R/fold): each block's voxels become channels."""
    if fold == 1:
        return h
    n, c, r = h.shape[0], h.shape[1], h.shape[2] // fold
    h = h.reshape(n, c, r, fold, r, fold, r, fold).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return h.reshape(n, c * fold**3, r, r, r)


def depth_to_space(h: Tensor, fold: int) -> Tensor:
    """`space_to_depth` undone."""
    if fold == 1:
        return h
    n, c, r = h.shape[0], h.shape[1] // fold**3, h.shape[2]
    h = h.reshape(n, c, fold, fold, fold, r, r, r).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return h.reshape(n, c, fold * r, fold * r, fold * r)


def resample(y: Tensor, resolution: int) -> Tensor:
    """The same shape on another grid: each new voxel is the mean of the old shape over its own cube.

    (N, 1, R, R, R) -> (N, 1, resolution, resolution, resolution), any two sizes. It keeps the mean of a shape, and is
    `down_scale` or `up_scale` where one size divides the other. Section 4.2 needs it for grids like 4^3 and 6^3.
    """
    check_tensor(y)
    side = y.shape[-1]
    resolution = check_whole(resolution, "a resolution", 1, error=ShapeError)
    if not y.is_floating_point():
        raise ShapeError(f"shapes to resample must be floats, not {y.dtype}: convert with .float()")
    if side % resolution == 0:
        return down_scale(y, side // resolution)
    if resolution % side == 0:
        return up_scale(y, resolution // side)
    old = torch.arange(side, device=y.device, dtype=torch.float64) / side
    new = torch.arange(resolution, device=y.device, dtype=torch.float64)[:, None] / resolution
    overlap = torch.minimum(old + 1 / side, new + 1 / resolution) - torch.maximum(old, new)
    share = (overlap.clamp(min=0) * resolution).to(y.dtype)  # (resolution, side), rows sum to 1
    for axis in range(min(2, y.ndim - 1), y.ndim):
        y = (y.movedim(axis, -1) @ share.T).movedim(-1, axis)
    return y.contiguous()


def coarsen(occupancy: Tensor, scale: int, *, filled: float = 0.25) -> Tensor:
    """A binary shape at a lower resolution: a block is filled when at least the share `filled` of its voxels is.

    A quarter (the default) keeps one-voxel panels and the legs of chairs, which a plain half would lose.
    """
    filled = check_real(filled, "filled, a share,", high=1, error=ShapeError)
    return (down_scale(occupancy, scale) >= filled - 1e-6).to(occupancy.dtype)


def pad(y: Tensor, width: int) -> Tensor:
    """Surround a shape with `width` empty voxels on every side (occupancy)."""
    return F.pad(y, (width,) * 6)


def threshold(occupancy: Tensor, level: float = 0.5) -> Tensor:
    """Binary occupancy: 1 where a voxel exceeds `level` (section 6.1: 0.5), else 0."""
    check_tensor(occupancy)
    return (occupancy > level).to(occupancy.dtype)


def threshold_blocks(values: Tensor, coarse: Tensor) -> Tensor:
    """Binary shapes whose block means are `coarse`: in each block as many voxels are full, those of highest value.

    values  any range, (N, 1, R, R, R); the first of equal ones counts as the higher
    coarse  occupancy (N, 1, R/d, R/d, R/d); a mean that no number of full voxels gives is rounded to the next that does
    """
    side, r = values.shape[-1], coarse.shape[-1]
    if side % r or coarse.shape != (len(values), 1, r, r, r):
        raise ShapeError(f"{tuple(coarse.shape)} are not the block means of shapes {tuple(values.shape)}")
    blocks = space_to_depth(values, side // r)
    rank = blocks.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return depth_to_space((rank < (coarse * blocks.shape[1]).round()).to(values.dtype), side // r)


def centre(occupancy: Tensor, mean: float) -> Tensor:
    """Centred shapes: the training set's scalar voxel mean is subtracted. `uncentre` is the inverse."""
    return occupancy - mean


def uncentre(centred: Tensor, mean: float) -> Tensor:
    """Occupancy of centred shapes; it may lie slightly outside [0, 1] when the shapes were sampled."""
    return centred + mean


def corrupt(
    y: Tensor, share: float, *, fill: float = 0.0, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Hide a random share of the voxels of each shape, or of the entries of each item of a batch (section 6.2).

    Returns the corrupted shapes, hidden voxels set to `fill`, and the boolean mask `hidden`, like y, that is True where
    a voxel is hidden. Exactly round(share * R^3) voxels of each shape are hidden.
    """
    check_tensor(y)
    check_generator(generator)
    share = check_real(share, "the share of hidden voxels", high=1, error=ShapeError)
    order = torch.rand(y.shape[0], y[0].numel(), generator=generator, device=y.device).argsort(dim=1)
    hidden = (order < round(share * y[0].numel())).view(y.shape)
    return torch.where(hidden, torch.full_like(y, fill), y), hidden


def fill_hidden(y: Tensor, hidden: Tensor) -> Tensor:
    """Shapes whose hidden voxels are set to the mean of the same shape's visible ones (0 where none is visible).

    Shapes (N, 1, R, R, R), or any batch (N, ...), of any range; `hidden` boolean, True where a voxel is hidden. Hidden
    voxels are not read, and may hold anything, NaN too.
    """
    check_mask(hidden, y)
    seen = y.masked_fill(hidden, 0)
    count = (~hidden).flatten(1).sum(1).clamp(min=1)
    mean = seen.flatten(1).sum(1) / count
    return torch.where(hidden, per_item(mean, y), seen)


def hide(y: Tensor, kind: Kind, *, generator: torch.Generator | None = None) -> Tensor:
    """A mask (N, 1, R, R, R), True where a voxel of `y` (occupancy) is hidden: a connected part of each shape.

    kind  "half": a plane cuts the grid in two along a random axis, and one side is gone
          "cube": a cube of half the grid's side is gone, at a random place
          "behind": one view along the first axis; what lies behind the first full voxel of a ray is unseen
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: choose from {', '.join(KINDS)}")
    check_generator(generator)
    n, side, device = len(check_shapes(y)), y.shape[-1], y.device
    if kind == "behind":
        full = threshold(y)
        return full.cumsum(2) - full > 0
    places = torch.arange(side, device=device).expand(n, side)
    if kind == "half":
        axis = torch.randint(3, (n, 1), generator=generator, device=device)
        upper = torch.randint(2, (n, 1), generator=generator, device=device).bool()
        inside = torch.where(upper, places >= side // 2, places < side // 2)
        lines = [inside | (axis != k) for k in range(3)]
    else:
        low = torch.randint(side - side // 2 + 1, (3, n, 1), generator=generator, device=device)
        lines = [(places >= low[k]) & (places < low[k] + side // 2) for k in range(3)]
    first, second, third = lines
    return first[:, None, :, None, None] & second[:, None, None, :, None] & third[:, None, None, None, :]


def flip(occupancy: Tensor, share: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Binary shapes of which a random share of the voxels is flipped: full ones empty, empty ones full."""
    _, flipped = corrupt(occupancy, share, generator=generator)
    return torch.where(flipped, 1 - occupancy, occupancy)
