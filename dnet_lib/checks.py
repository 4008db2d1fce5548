"""What arguments must be: numbers, batches, grids. What is not is refused in one sentence that says what would do."""

import math
from collections.abc import Callable, Iterable, Sequence
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
        least = "positive and " if above and low == 0 else f"{'above' if above else 'at least'} {low:g} and "
        most = "finite" if math.isinf(high) else f"at most {high:g}"
        raise error(f"{name} must be {least * (low > -math.inf)}{most}, not {value!r}")
    return number


def check_kind(value: Any, kind: Any, rule: str, way: str, *, error: type[ValueError] = ValueError) -> None:
    """Raise an `error` that says the `rule` and the `way` out, unless `value` is of a `kind`."""
    if not isinstance(value, kind):
        raise error(f"{rule}, not {found(value)}: {way}")


def check_learns(net: Any, given: Iterable[Any]) -> None:
    """Raise ValueError unless there is something to learn among a network's `given` weights, or groups of them."""
    if not any(getattr(weights, "requires_grad", True) for weights in given):
        raise ValueError(
            f"this {type(net).__name__} has no weights to learn: none requires a gradient. A pretrained network is for "
            "reading only until net.train().requires_grad_()"
        )


def check_tensor(y: Any) -> None:
    """Raise `ShapeError` unless `y` is a tensor."""
    check_kind(y, Tensor, "shapes must be a tensor", "convert with torch.as_tensor", error=ShapeError)


def check_generator(generator: Any, *, several: bool = False) -> None:
    """Raise ValueError unless `generator` is a torch.Generator, None or, where `several` may be, some of them."""
    for own in generator if several and isinstance(generator, Sequence) else [generator]:
        way = f"give torch.Generator().manual_seed({own if type(own) is int else 0})"
        check_kind(own, torch.Generator | None, "generator must be a torch.Generator", way)


def check_pair(pair: Any, rule: str, good: Callable[[Any, Any], bool]) -> tuple[float, float]:
    """`pair`, two numbers that are `good` together, as floats; else a ValueError that says the `rule`."""
    with suppress(TypeError, ValueError, RuntimeError):
        first, second = pair
        if good(first, second):
            return float(first), float(second)
    raise ValueError(f"{rule}, not {pair!r}")


def check_betas(betas: Any) -> tuple[float, float]:
    """Adam's two decays as floats; else ValueError."""
    return check_pair(betas, "betas, two decays, must lie in [0, 1)", lambda a, b: 0 <= a < 1 and 0 <= b < 1)


def check_bounds(bounds: Any) -> Any:
    """The `bounds` of an energy, None or (low, high); else ValueError."""
    if bounds is not None:
        check_pair(bounds, "bounds must be (low, high) with low < high", lambda low, high: -math.inf <= low < high)
    return bounds


def sides(y: Tensor) -> tuple[int, ...]:
    """Lengths of the grid's axes: those after the first two, of points (N, D) the D coordinates."""
    return tuple(y.shape[2:] or y.shape[1:])


def found(value: Any) -> str:
    """What was given, in few words."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _check_floats(y: Any, name: str, form: str) -> None:
    """Raise `ShapeError`, with the conversion that helps, unless `y` is a tensor of floats."""
    if isinstance(y, Tensor) and y.is_floating_point():
        return
    way = ": convert with .float()" if isinstance(y, Tensor) else ""
    if isinstance(y, (np.ndarray, list, tuple)):
        way = ": convert with torch.as_tensor(..., dtype=torch.float32)"
    elif hasattr(y, "centred"):
        way = ": give its .centred (to learn) or its .voxels (to compare)"
    raise ShapeError(f"{name} must be a float tensor {form}, not {found(y)}{way}")


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
    if low < -1e-3 and bool((y == low).float().mean() > 0.1):  # which no chain's slack makes of empty voxels
        raise ShapeError(f"{name} must be occupancy, from 0 to 1: these are centred, from {low:g}; give their .voxels")
    return y


def check_mask(hidden: Any, like: Tensor, *, name: str = "`hidden`") -> Tensor:
    """Return `hidden` if it is a boolean mask of the form of `like`, else raise `ShapeError`."""
    check_tensor(like)
    if not isinstance(hidden, Tensor) or hidden.dtype != torch.bool or hidden.shape != like.shape:
        way = found(hidden) + ": use .bool()" * (isinstance(hidden, Tensor) and hidden.shape == like.shape)
        raise ShapeError(f"{name} must be a boolean mask {tuple(like.shape)}, True where hidden, not {way}")
    return hidden
