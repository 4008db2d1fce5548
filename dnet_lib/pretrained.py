"""The model that users hold: a descriptor with its prior and its chain, wherever it came from."""

import copy
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from dnet_lib.checks import check_occupancy, check_real, check_whole
from dnet_lib.energy import Architecture, DescriptorNet
from dnet_lib.errors import ShapeError
from dnet_lib.fast import freeze
from dnet_lib.files import Packed, beneath, check_device, weights, with_weights
from dnet_lib.generator import Proposals
from dnet_lib.langevin import Generators, langevin, sample, white_noise
from dnet_lib.learning import Run
from dnet_lib.priors import CoarseGaussian, Histogram, Prior
from dnet_lib.projections import Projection, hidden_voxels, missing_detail
from dnet_lib.voxels import centre, fill_hidden, resample, uncentre, up_scale

PRIORS: dict[str, Any] = {"start": CoarseGaussian, "histogram": Histogram, "generator": Proposals}
"""Priors that files hold, by the names they have there."""


@dataclass(frozen=True)
class Chain:
    """How a trained model is sampled: from scratch, or from the incomplete shapes it learned to complete."""

    num_steps: int
    step_size: float
    temperature: float = 0.0

    def __post_init__(self) -> None:
        check_whole(self.num_steps, "num_steps")
        check_real(self.step_size, "step_size", above=True)
        check_real(self.temperature, "temperature")


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A trained model: the descriptor, what its chains are drawn from, how they run, and a card (data, preset, ...).

    It can be used wherever an energy is: calling it is E(Y; theta) of shapes centred by `mean`.
    """

    net: DescriptorNet
    mean: float  #: Scalar voxel mean of the training shapes: occupancy = centred + mean
    prior: Prior | None  #: What the chains' first shapes are drawn from; None for white noise N(0, 1)
    settings: Chain
    card: dict[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", check_real(self.mean, "mean, a number,", -math.inf))

    @classmethod
    def of(cls, run: Run, mean: float, prior: Prior | None, settings: Chain) -> Self:
        """The model of a learning run: a copy of what it keeps and of a prior, for reading only; without a card."""
        net, prior = copy.deepcopy((run.kept, prior))
        if not isinstance(net, DescriptorNet):
            raise TypeError(f"a Pretrained holds a DescriptorNet, not a {type(net).__name__}")
        if isinstance(prior, Proposals):
            prior.net.eval().requires_grad_(False)
        return cls(net.eval().requires_grad_(False), mean, prior, settings, {})

    def score(self, y: Tensor) -> Tensor:
        """f(Y; theta), (N,)."""
        return self.net.score(y)

    def energy(self, y: Tensor) -> Tensor:
        """E(Y; theta), (N,)."""
        return self.net.energy(y)

    __call__ = energy

    def __repr__(self) -> str:
        drawn = "white noise" if self.prior is None else type(self.prior).__name__
        size = f"{self.net.resolution}^3 voxels, {sum(p.numel() for p in self.net.parameters()):,} weights"
        return (
            f"Pretrained({type(self.net).__name__} of {size}; chains from {drawn}, {self.settings}; on {self.device})"
        )

    @property
    def device(self) -> torch.device:
        """Where its tensors lie."""
        return self.net.device

    def to(self, device: torch.device | str) -> Self:
        """A copy of the model, on another device or the same."""
        moved: Self = _moved(self, check_device(device))
        return moved

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The walls of the energy's uniform reference, if it has one: the sampler asks for them."""
        return self.net.bounds

    @property
    def grids(self) -> "list[Pretrained]":
        """The models of a multi-grid, coarse to fine, this one last; of any other model only itself."""
        return [*(self.prior.below.grids if isinstance(self.prior, Expanded) else ()), self]

    def starts(self, num_samples: int, *, generator: Generators = None) -> Tensor:
        """First shapes of new chains, centred (N, 1, R, R, R)."""
        num_samples = check_whole(num_samples, "the number of samples", 1)
        if self.prior is not None:
            return self.prior.draw(num_samples, generator)
        r, weight = self.net.resolution, self.net.dense.weight
        return white_noise(weight.new_empty(num_samples, 1, r, r, r), generator)

    def chain(self, num_samples: int, *, generator: Generators = None) -> Iterator[Tensor]:
        """A chain from scratch: yields occupancy (N, 1, R, R, R), first the start, then after each Langevin step.

        A multi-grid's chain begins on the coarsest grid; the shapes grow on the way.
        """
        if isinstance(self.prior, Expanded):
            y = torch.empty(0)
            for y in self.prior.below.chain(num_samples, generator=generator):
                yield y
            y = self.prior.expand(y)
        else:
            y = self.starts(num_samples, generator=generator)
        yield uncentre(y, self.mean)
        energy = freeze(self.net, y, num_steps=self.settings.num_steps)
        steps = langevin(y, energy, **asdict(self.settings), generator=generator)
        yield from (uncentre(y, self.mean) for y, _ in steps)

    def sample(self, num_samples: int, *, generator: Generators = None, **options: Any) -> Tensor:
        """New shapes: occupancy (N, 1, R, R, R), about in [0, 1]; threshold at 0.5 for binary ones.

        `options`, here and below, are `progress`, `fast` and `precision`, as in `dnet_lib.sample`.
        """
        return self._revise(self.starts(num_samples, generator=generator), None, generator, **options)

    def _revise(
        self,
        y: Tensor,
        projection: Projection | None,
        generator: Generators,
        *,
        progress: bool | str = False,
        fast: bool | None = None,
        precision: str = "float32",
    ) -> Tensor:
        """Occupancy at the end of the model's chain from centred shapes, which keeps what `projection` removes."""
        how: dict[str, Any] = {"progress": progress, "fast": fast, "precision": precision}
        y = sample(y, self.net, **asdict(self.settings), projection=projection, generator=generator, **how)
        return uncentre(y, self.mean)

    def recover(self, occupancy: Tensor, hidden: Tensor, *, generator: Generators = None, **options: Any) -> Tensor:
        """Shapes whose hidden voxels a chain has filled in; the visible ones stay as they are (Algorithm 4).

        Occupancy (N, 1, R, R, R) and a boolean mask of the same shape, True where a voxel is hidden (and not read).
        The result is about in [0, 1]; threshold at 0.5 for binary shapes.
        """
        resolution = self.net.resolution
        y = check_occupancy(fill_hidden(occupancy, hidden), name="the visible voxels", resolution=resolution)
        y = self._revise(centre(y, self.mean), hidden_voxels(hidden), generator, **options)
        return torch.where(hidden, y, occupancy)

    def revise(self, occupancy: Tensor, *, generator: Generators = None, **options: Any) -> Tensor:
        """Shapes at the end of the model's chain from given ones (N, 1, R, R, R), occupancy; all voxels may move."""
        check_occupancy(occupancy, resolution=self.net.resolution)
        return self._revise(centre(occupancy, self.mean), None, generator, **options)

    def super_resolve(self, coarse: Tensor, *, generator: Generators = None, **options: Any) -> Tensor:
        """Shapes (N, 1, R, R, R) whose block means are `coarse` (N, 1, R/d, R/d, R/d), occupancy (Algorithm 5)."""
        resolution = self.net.resolution
        check_occupancy(coarse, name="the low-resolution shapes")
        if resolution % coarse.shape[-1]:
            raise ShapeError(f"{coarse.shape[-1]}^3 shapes cannot be expanded to this model's {resolution}^3")
        scale = resolution // coarse.shape[-1]
        return self._revise(centre(up_scale(coarse, scale), self.mean), missing_detail(scale), generator, **options)

    def pack(self, half: bool = False) -> Packed:
        """The model as named tensors and what JSON can say; `half` puts the networks' weights in half precision."""
        tensors = {f"net.{name}": t for name, t in weights(self.net, half=half).items()}
        about = {"architecture": asdict(self.net.architecture), "mean": self.mean, "chain": asdict(self.settings)}
        about["start"] = None
        prior: Any = self.prior
        if isinstance(prior, Expanded):
            below, about["below"] = prior.below.pack(half)
            tensors |= {f"below.{name}": t for name, t in below.items()}
        elif prior is not None:
            kinds = [kind for kind, known in PRIORS.items() if type(prior) is known]
            if not kinds:
                raise TypeError(f"chains that start from a {type(prior).__name__} cannot be written")
            own, about[kinds[0]] = prior.pack(half)
            tensors |= {f"start.{name}": t for name, t in own.items()}
        return tensors, about

    @classmethod
    def unpack(cls, tensors: dict[str, Tensor], about: dict[str, Any], card: dict[str, Any]) -> Self:
        """`pack` undone."""
        described = about["architecture"]
        described = described | {
            "layers": tuple(tuple(layer) for layer in described["layers"]),
            "bounds": described["bounds"] and tuple(described["bounds"]),
        }
        with torch.device("meta"):  # nothing is allocated before the weights are known to fit
            net = DescriptorNet(Architecture(**described))
        with_weights(net, beneath("net.", tensors))
        prior: Prior | None = None
        if "below" in about:
            prior = Expanded(cls.unpack(beneath("below.", tensors), about["below"], card), net.resolution)
        for kind, known in PRIORS.items():
            if about.get(kind):
                prior = known.unpack(beneath("start.", tensors), about[kind])
        return cls(net, about["mean"], prior, Chain(**about["chain"]), card)


@dataclass(frozen=True, eq=False)
class Expanded:
    """A prior: the up-scaled samples of the next coarser grid's model (Algorithm 2)."""

    below: Pretrained
    resolution: int

    def draw(self, num_samples: int, generator: Generators = None) -> Tensor:
        """First shapes, centred (N, 1, R, R, R)."""
        return self.expand(self.below.sample(num_samples, generator=generator))

    def expand(self, occupancy: Tensor) -> Tensor:
        """Occupancy of the coarser grid, centred on this one."""
        return centre(resample(occupancy, self.resolution), self.below.mean)


def _moved(thing: Any, device: torch.device | str) -> Any:
    """A copy of a thing with all its tensors and networks on a device."""
    if isinstance(thing, Tensor):
        return thing.to(device, copy=True)
    if isinstance(thing, nn.Module):
        return copy.deepcopy(thing).to(device)
    if type(thing) is tuple:
        return tuple(_moved(part, device) for part in thing)
    if is_dataclass(thing) and not isinstance(thing, type):
        own = {field.name: _moved(getattr(thing, field.name), device) for field in fields(thing) if field.init}
        return replace(thing, **own)
    return copy.deepcopy(thing)
