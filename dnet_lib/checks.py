"""What arguments must be: numbers, batches, grids. What is not is refused in one sentence that says what would do."""

import math
from contextlib import suppress
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnet_lib.errors import ShapeError


def check_whole(value: Any, name: str, least: int = 0, *, error: type[ValueError] = ValueError) -> int:
    """`value`, a whole number of at least `least` (NumPy's too), as an int; else an `error`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise error(f"{name} must be a whole number, at least {least}, not {value!r}")
    return int(value)


def check_real(
    value: Any,
    name: str,
    low: float = 0.0,
    high: float = math.inf,
    *,
    above: bool = False,
    error: type[ValueError] = ValueError,
) -> float:
    """`value`, a finite number from `low` (or above it) to `high`, as a float; else an `error`."""
    number = math.nan
    with suppress(TypeError, ValueError, RuntimeError):
        number = math.nan if isinstance(value, str) else float(value)
    if not (low < number if above else low <= number) or not number <= high or math.isinf(number):
        least = "positive" if above and low == 0 else f"{'above' if above else 'at least'} {low:g}"
        most = "finite" if math.isinf(high) else f"at most {high:g}"
        raise error(f"{name} must be {least} and {most}, not {value!r}")
    return number


def sides(y: Tensor) -> tuple[int, ...]:
    """Lengths of the grid's axes: those after the first two, of points (N, D) the D coordinates."""
    return tuple(y.shape[2:] or y.shape[1:])


def _check_floats(y: Any, name: str, form: str) -> None:
    """Raise `ShapeError`, with the conversion that helps, unless `y` is a tensor of floats."""
    if isinstance(y, Tensor) and y.is_floating_point():
        return
    if isinstance(y, (np.ndarray, list, tuple)):
        found, way = type(y).__name__, ": convert with torch.as_tensor(..., dtype=torch.float32)"
    elif hasattr(y, "centred"):
        found, way = type(y).__name__, ": give its .centred (to learn) or its .voxels (to compare)"
    else:
        found = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        way = ": convert with .float()" if isinstance(y, Tensor) else ""
    raise ShapeError(f"{name} must be a float tensor {form}, not {found}{way}")


def check_batch(y: Tensor, *, name: str = "data", resolution: int | None = None) -> Tensor:
    """Return `y` if it is a batch (N, ...) of finite floats, else raise `ShapeError`.

    With `resolution` every axis of its grid must have so many entries.
    """
    _check_floats(y, name, "(N, ...)")
    if y.ndim < 2:
        raise ShapeError(
            f"{name} must be a batch (N, ...), not {tuple(y.shape)}: numbers on a line are (N, 1), y[:, None]"
        )
    if y.numel() == 0:
        raise ShapeError(f"{name} is empty: {tuple(y.shape)}")
    if resolution is not None and any(side != resolution for side in sides(y)):
        wanted, found = (f"{side}^{len(sides(y))}" for side in (resolution, y.shape[-1]))
        raise ShapeError(f"{name} must be {wanted} voxels, not {found}: {tuple(y.shape)}")
    if not bool(torch.isfinite(y).all()):
        raise ShapeError(f"{name} contains NaN or infinite values")
    return y


def check_shapes(y: Tensor, *, name: str = "shapes", resolution: int | None = None) -> Tensor:
    """Return `y` if it is a batch of cubic grids (N, 1, R, R, R) of finite floats, else raise `ShapeError`."""
    _check_floats(y, name, "(N, 1, R, R, R)")
    if y.ndim != 5 or y.shape[1] != 1 or not y.shape[2] == y.shape[3] == y.shape[4]:
        raise ShapeError(f"{name} must have shape (N, 1, R, R, R), not {tuple(y.shape)}")
    return check_batch(y, name=name, resolution=resolution)


def check_occupancy(y: Tensor, *, name: str = "shapes", resolution: int | None = None) -> Tensor:
    """Return `y` if it is a batch of grids that can be occupancy, chains' slack included, else raise `ShapeError`."""
    low, high = (float(value) for value in check_shapes(y, name=name, resolution=resolution).aminmax())
    if low < -1 or high > 2:
        raise ShapeError(f"{name} must be occupancy, from 0 to 1, not {low:g} to {high:g}: divide by the largest value")
    return y


def check_mask(hidden: Any, like: Tensor, *, name: str = "`hidden`") -> Tensor:
    """Return `hidden` if it is a boolean mask of the form of `like`, else raise `ShapeError`."""
    if not isinstance(hidden, Tensor) or hidden.dtype != torch.bool or hidden.shape != like.shape:
        found = f"{hidden.dtype} {tuple(hidden.shape)}" if isinstance(hidden, Tensor) else type(hidden).__name__
        way = ": use .bool()" if isinstance(hidden, Tensor) and hidden.shape == like.shape else ""
        raise ShapeError(f"{name} must be a boolean mask {tuple(like.shape)}, True where hidden, not {found}{way}")
    return hidden
