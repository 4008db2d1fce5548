"""The energy of a shape: the 3D DescriptorNet and analytic energies whose moments are known.

The model is p(Y; theta) = exp(f(Y; theta)) p0(Y) / Z(theta), eq. (1). With p0 Gaussian white noise of deviation s

    E(Y; theta) = |Y|^2 / (2 s^2) - f(Y; theta),    p(Y; theta) = exp(-E(Y; theta)) / Z(theta),    eq. (3)

and with a uniform p0 on a bounded range E = -f inside the range and infinity outside. `f` is called the *score*, `E`
the *energy*; low energy means high probability. Temperature belongs to the sampler: p_T is proportional to exp(-E / T).
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnet_lib.checks import (
    check_batch,
    check_bounds,
    check_generator,
    check_kind,
    check_real,
    check_tensor,
    check_whole,
)
from dnet_lib.errors import ShapeError
from dnet_lib.files import check_device
from dnet_lib.voxels import space_to_depth

Energy = Callable[[Tensor], Tensor]  #: Any function from a batch (N, ...) to its N energies

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "silu": F.silu}


class SameConv3d(nn.Module):
    """A strided 3-D convolution with SAME padding: R voxels become ceil(R / stride), the padding's odd voxel last.

    A single-channel input whose stride divides the kernel is first rearranged, each stride^3 block into channels (space
    to depth). The sums are the same; the gradient with respect to the input is several times faster on CPUs.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, resolution: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.stride, self.resolution = stride, resolution
        self.out_resolution = -(-resolution // stride)
        total = max((self.out_resolution - 1) * stride + kernel - resolution, 0)
        self.before, self.after = total // 2, total - total // 2

        self.fold = stride if in_channels == 1 and kernel % stride == 0 else 1

    def padded(self, h: Tensor) -> Tensor:
        """The input as the convolution reads it: padded, and folded by `fold`."""
        return space_to_depth(F.pad(h, (self.before, self.after) * 3), self.fold)

    def forward(self, h: Tensor) -> Tensor:
        return F.conv3d(self.padded(h), space_to_depth(self.weight, self.fold), self.bias, self.stride // self.fold)

    def extra_repr(self) -> str:
        out, channels, kernel = self.weight.shape[:3]
        sides = f"{self.resolution}^3 -> {out} x {self.out_resolution}^3"
        return f"{channels} x {sides}, kernel {kernel}^3, stride {self.stride}"


@dataclass(frozen=True)
class Architecture:
    """The settings of a `DescriptorNet`. `layers` holds (channels, kernel, stride) of each convolution, bottom up."""

    resolution: int = 32
    layers: tuple[tuple[int, int, int], ...] = ((200, 16, 3), (100, 6, 2))
    activation: str = "relu"
    s: float | None = 0.5  #: Standard deviation of the Gaussian reference; None for the uniform reference
    bounds: tuple[float, float] | None = None
    """The uniform reference's range of a (centred) voxel; needed exactly when s is None."""

    def __post_init__(self) -> None:
        check_whole(self.resolution, "resolution", 1)
        rows = self.layers if isinstance(self.layers, (tuple, list)) else ()
        if not rows or any(not isinstance(row, (tuple, list)) or len(row) != 3 for row in rows):
            raise ValueError(f"layers must be (channels, kernel, stride), bottom up, not {self.layers}")
        for number in itertools.chain(*self.layers):
            check_whole(number, "a layer's channels, kernel or stride", 1)
        if self.activation not in tuple(ACTIVATIONS):
            raise ValueError(f"unknown activation {self.activation!r}: choose from {sorted(ACTIVATIONS)}")
        if (self.s is None) == (self.bounds is None):
            raise ValueError("give s for the Gaussian reference or bounds for the uniform one, not both or neither")
        if self.s is not None:
            check_real(self.s, "the reference's standard deviation s", above=True)
        if self.bounds is not None and not all(map(math.isfinite, check_bounds(self.bounds))):
            raise ValueError(f"bounds must be finite, (low, high) with low < high, not {self.bounds}")


PAPER_LAYERS = ((200, 16, 3), (100, 6, 2))
COMPACT_LAYERS = {
    8: ((64, 4, 1), (96, 4, 2)),
    16: ((48, 6, 2), (96, 4, 2)),
    24: ((32, 4, 2), (64, 4, 2), (96, 4, 2)),
    32: ((32, 4, 2), (64, 4, 2), (96, 4, 2)),
    64: ((32, 4, 2), (48, 4, 2), (64, 4, 2), (96, 4, 2)),
}


class DescriptorNet(nn.Module):
    """The 3D DescriptorNet: a score f(Y; theta) by a bottom-up 3-D ConvNet, eq. (2), and its energy, eq. (3).

    Convolutions with SAME padding and a rectification after each, then one dense layer over the whole grid. Weights
    begin as N(0, weight_std^2) draws, biases as zeros. Shapes are centred, (N, 1, R, R, R).
    """

    resolution: int  #: R, voxels a side of the shapes
    bounds: tuple[float, float] | None  #: The range outside which the energy is infinite (uniform reference), else None

    def __init__(
        self,
        architecture: Architecture | None = None,
        *,
        weight_std: float = 0.001,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.architecture = a = architecture or Architecture()
        if not isinstance(a, Architecture):
            way = f": try DescriptorNet.compact({a!r})" if isinstance(a, int) else ""
            raise ValueError(f"a DescriptorNet takes an Architecture, not {a!r}{way}")
        check_generator(generator)
        weight_std = check_real(weight_std, "weight_std")
        self.resolution, self.bounds = a.resolution, a.bounds
        sizes = [1] + [channels for channels, _, _ in a.layers]
        resolution, layers = a.resolution, []
        for channels, (out, kernel, stride) in zip(sizes, a.layers, strict=False):
            layers.append(SameConv3d(channels, out, kernel, stride, resolution))
            resolution = layers[-1].out_resolution
        self.layers = nn.ModuleList(layers)
        self.dense = nn.utils.skip_init(nn.Linear, sizes[-1] * resolution**3, 1, device=torch.get_default_device())
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.zero_() if name.endswith("bias") else parameter.normal_(0, weight_std, generator=generator)
        self.to(check_device(device), dtype)

    @classmethod
    def paper(cls, resolution: int = 32, **options: Any) -> Self:
        """The network of section 6.1: 200 filters 16^3 stride 3, 100 filters 6^3 stride 2, dense; s = 0.5.

        At 32^3 it has 5,161,101 weights.
        """
        return cls(Architecture(resolution, PAPER_LAYERS), **options)

    @classmethod
    def compact(cls, resolution: int = 32, **options: Any) -> Self:
        """A network of under 0.7 million weights for a laptop's CPU, at 8^3, 16^3, 24^3, 32^3 or 64^3."""
        if resolution not in tuple(COMPACT_LAYERS):
            raise ValueError(
                f"compact networks exist at {sorted(COMPACT_LAYERS)}, not {resolution}: give an Architecture"
            )
        return cls(Architecture(resolution, COMPACT_LAYERS[resolution]), **options)

    @property
    def convolutions(self) -> list[SameConv3d]:
        """The convolutions, bottom up."""
        return [layer for layer in self.layers if isinstance(layer, SameConv3d)]

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        device: torch.device = self.dense.weight.device
        return device

    def extra_repr(self) -> str:
        a = self.architecture
        reference = f"Gaussian, s = {a.s}" if a.s is not None else f"uniform on {a.bounds}"
        count = sum(p.numel() for p in self.parameters())
        return f"{a.resolution}^3 voxels, {count:,} weights, {a.activation}, reference {reference}"

    def hidden(self, y: Tensor) -> list[Tensor]:
        """The rectified feature maps h(1), ..., h(L) of centred shapes, eq. (2)."""
        r = self.resolution
        if not isinstance(y, Tensor) or y.ndim != 5 or tuple(y.shape[1:]) != (1, r, r, r):
            found = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ShapeError(f"this network takes shapes (N, 1, {r}, {r}, {r}), not {found}")
        if y.dtype != self.dense.weight.dtype:
            raise ShapeError(
                f"this network is {self.dense.weight.dtype}, the shapes are {y.dtype}: convert one of them"
            )
        rectify, maps = ACTIVATIONS[self.architecture.activation], [y]
        for layer in self.layers:
            maps.append(rectify(layer(maps[-1])))
        return maps[1:]

    def score(self, y: Tensor) -> Tensor:
        """f(Y; theta) of eq. (2): (N, 1, R, R, R), centred -> (N,)."""
        f: Tensor = self.dense(self.hidden(y)[-1].flatten(1))
        return f.squeeze(1)

    def reference(self, y: Tensor) -> Tensor:
        """The reference's share of the energy: |Y|^2 / (2 s^2), or 0 inside the bounds and infinity outside, (N,)."""
        if self.architecture.s is not None:
            return y.square().flatten(1).sum(1) / (2 * self.architecture.s**2)
        low, high = self.bounds or (-math.inf, math.inf)
        slack = 1e-6 * (high - low)  # centring and reflecting round
        inside = ((y >= low - slack) & (y <= high + slack)).flatten(1).all(1)
        return torch.where(inside, y.new_zeros(()), math.inf)

    def energy(self, y: Tensor) -> Tensor:
        """E(Y; theta) of eq. (3): (N, 1, R, R, R), centred -> (N,)."""
        score = self.score(y)  # which says what is no batch
        return self.reference(y) - score

    forward = energy


def device_of(net: nn.Module) -> torch.device:
    """Where a network lies: its own `device`, or that of its first tensor."""
    own: torch.device | None = getattr(net, "device", None)
    return own or next((tensor.device for tensor in (*net.parameters(), *net.buffers())), torch.device("cpu"))


def check_energies(e: Tensor, y: Tensor) -> Tensor:
    """Return what an energy gave for a batch (N, ...) if it is (N,), else raise `ShapeError`."""
    if not isinstance(e, Tensor) or e.shape != y.shape[:1]:
        found = tuple(e.shape) if isinstance(e, Tensor) else type(e).__name__
        raise ShapeError(f"an energy must map {tuple(y.shape)} to ({y.shape[0]},), but this one returned {found}")
    return e


def energy_and_gradient(y: Tensor, energy: Energy) -> tuple[Tensor, Tensor]:
    """E(Y) (N,) and dE/dY (like y) of a batch; no graph and no gradient of the weights is kept.

    An energy that knows its own gradient says so with a method of this name. Raises `ShapeError` when `energy` does not
    map the batch (N, ...) to (N,).
    """
    own: Callable[[Tensor], tuple[Tensor, Tensor]] | None = getattr(energy, "energy_and_gradient", None)
    if own is not None:
        return own(y)
    with gradients(y) as y:
        e = check_energies(energy(y), y)
        if not e.requires_grad:
            raise ShapeError("this energy does not depend on the shapes through PyTorch: no gradient can be taken")
        (gradient,) = torch.autograd.grad(e.sum(), y)
    return e.detach(), gradient


@contextmanager
def gradients(y: Tensor) -> Iterator[Tensor]:
    """A copy or view of `y` with respect to which gradients can be taken, in `no_grad` and `inference_mode`, too."""
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield (y.clone() if y.is_inference() else y.detach()).requires_grad_(True)
    except RuntimeError as error:
        if "nference tensor" not in str(error):
            raise
        raise ShapeError(
            "this energy has tensors made in torch.inference_mode, where PyTorch keeps nothing for gradients: make or "
            "load it outside; chains may run inside"
        ) from error


def hopfield_residual(y: Tensor, net: DescriptorNet) -> Tensor:
    """Y / s^2 - df/dY, zero exactly at the local energy minima of eq. (3): the Hopfield auto-encoder, eq. (4).

    `y` centred (N, 1, R, R, R); the residual has its shape. For the uniform reference the first term is absent.
    """
    check_tensor(y)
    check_kind(net, DescriptorNet, "net must be a DescriptorNet", "a Pretrained holds one, its .net")
    with gradients(y) as shapes:
        (decoded,) = torch.autograd.grad(net.score(shapes).sum(), shapes)
    s = net.architecture.s
    return (y.detach() / s**2 if s is not None else 0) - decoded


@dataclass(frozen=True, eq=False)
class GaussianEnergy:
    """E(y) = sum (y - mean)^2 / (2 variance): independent Gaussian voxels or coordinates, up to log Z."""

    mean: float | Tensor = 0.0
    variance: float | Tensor = 1.0

    def __post_init__(self) -> None:
        mean, variance = torch.as_tensor(self.mean), torch.as_tensor(self.variance)
        if not bool((variance > 0).all() & variance.isfinite().all()):
            raise ValueError(f"a variance must be positive, not {self.variance}")
        if not bool(mean.isfinite().all()):
            raise ValueError(f"a mean must be finite, not {self.mean}")

    def __call__(self, y: Tensor) -> Tensor:
        return ((y - self.mean).square() / (2 * self.variance)).flatten(1).sum(1)


@dataclass(frozen=True, eq=False)
class MixtureEnergy:
    """E(y) = -log sum_k w_k N(y; m_k, std^2 I), normalised: Z = 1. Points y are (N, D), means (K, D)."""

    means: Tensor
    std: float = 1.0
    weights: Sequence[float] | Tensor | None = None

    def __post_init__(self) -> None:
        check_real(self.std, "std", above=True)
        if check_batch(self.means, name="means").ndim != 2:
            raise ShapeError(f"means must be (K, D), one a row, not {tuple(self.means.shape)}")
        given = torch.ones(len(self.means)) if self.weights is None else torch.as_tensor(self.weights)
        good = given.shape == (len(self.means),) and given.isfinite().all() & (given >= 0).all() & (given.sum() > 0)
        if not good:
            raise ValueError(f"weights must be {len(self.means)} numbers from 0, not all of them 0, not {self.weights}")

    def __call__(self, y: Tensor) -> Tensor:
        means = self.means.to(y)
        given = [1.0] * len(means) if self.weights is None else self.weights
        weights = torch.as_tensor(given, dtype=y.dtype, device=y.device)
        log_weights = (weights / weights.sum()).log()
        distance = (y.flatten(1)[:, None] - means[None]).square().sum(-1)  # (N, K)
        log_normal = -distance / (2 * self.std**2) - means.shape[1] * math.log(self.std * math.sqrt(2 * math.pi))
        return -torch.logsumexp(log_weights + log_normal, dim=1)
