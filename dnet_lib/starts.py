"""Where chains start in learning: all that distinguishes the paper's algorithms before their first Langevin step.

A start answers two calls of the learning loop: `begin(observed, index, generator)` gives the chains' first shapes and
what they must keep (a projection or None); `learn(revised)` hears where the chains ended. What a start remembers
between iterations lives in `state_dict()`, tensors and plain numbers that `load_state_dict` takes back: a killed run
resumes. Shapes are centred grids (N, 1, R, R, R), or items of any other form (N, ...).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from dnet_lib.checks import check_batch, check_generator, check_kind, check_real, check_whole
from dnet_lib.errors import ShapeError
from dnet_lib.files import check_device
from dnet_lib.langevin import white_noise
from dnet_lib.priors import Prior
from dnet_lib.projections import Projection, hidden_voxels, missing_detail
from dnet_lib.resuming import fingerprint
from dnet_lib.voxels import brief, check_scale, corrupt, down_scale, fill_hidden, per_item, resample, up_scale

Begun = tuple[Tensor, Projection | None]  #: First shapes of the chains, and what they must keep


class Starts(Protocol):
    """The interface of every start; a class of your own that names it as its base needs `begin` alone."""

    def begin(self, observed: Tensor, index: Tensor, generator: torch.Generator | None) -> Begun:
        """First shapes of the chains, centred (M, 1, R, R, R), for a batch `observed` at rows `index` of the data."""
        raise NotImplementedError

    def learn(self, revised: Tensor) -> None:
        """Hear the chains' last shapes."""
        return

    def about(self) -> dict[str, Any]:
        """What a checkpoint belongs to: of a dataclass, the fields that are plain numbers."""
        found: dict[str, Any] = {}
        kinds: dict[str, Any] = {field.name: field.type for field in fields(self)} if is_dataclass(self) else {}
        for name, kind in kinds.items():
            value = getattr(self, name)
            value = value.item() if isinstance(value, np.generic) else value
            if isinstance(value, (int, float, str)):
                found[name] = float(value) if kind is float else value
        return found

    def state_dict(self) -> dict[str, Any]:
        """What must be kept to resume."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict()` gave."""
        return


def noise(
    num_chains: int,
    resolution: int | Sequence[int],
    *,
    std: float = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """White noise N(0, std^2), the usual first shapes of chains that know nothing.

    resolution  R for grids (num_chains, 1, R, R, R), or the form of one item: (2,) for points (num_chains, 2)
    """
    form = tuple(resolution) if isinstance(resolution, Sequence) else (1, resolution, resolution, resolution)
    std, device = check_real(std, "std"), check_device(device)
    check_generator(generator)
    for number in (num_chains, *form):
        check_whole(number, "the number of chains, and each side,", 1)
    return std * torch.randn(num_chains, *form, generator=generator, device=device)


@dataclass(frozen=True)
class Noise(Starts):
    """Fresh white noise at every iteration (short-run, non-persistent chains)."""

    num_chains: int
    std: float = 1.0

    def __post_init__(self) -> None:
        check_whole(self.num_chains, "num_chains", 1)
        check_real(self.std, "std")

    def begin(self, observed: Tensor, index: Tensor, generator: torch.Generator | None) -> Begun:
        like = observed.new_empty(self.num_chains, *observed.shape[1:])
        return self.std * white_noise(like, generator), None


@dataclass(frozen=True, eq=False)
class Fresh(Starts):
    """New draws of a prior at every iteration, such as a `CoarseGaussian`."""

    prior: Prior
    num_chains: int

    def __post_init__(self) -> None:
        check_whole(self.num_chains, "num_chains", 1)
        check_kind(self.prior, Prior, "prior must draw shapes", "such as a CoarseGaussian; Noise starts from noise")

    def begin(self, observed: Tensor, index: Tensor, generator: torch.Generator | None) -> Begun:
        return self.prior.draw(self.num_chains, generator), None

    def about(self) -> dict[str, Any]:
        tensors, numbers = self.prior.pack() if hasattr(self.prior, "pack") else ({}, {})
        return super().about() | {"prior": f"{type(self.prior).__name__} {fingerprint(*tensors.values())} {numbers}"}


@dataclass(frozen=True)
class Data(Starts):
    """The observed shapes themselves: contrastive divergence (section 4.1)."""

    def begin(self, observed: Tensor, index: Tensor, generator: torch.Generator | None) -> Begun:
        return observed.clone(), None


class _Remembered(Starts):
    """Chains that go on where they stopped; the rows `_slots` are those of the iteration under way."""

    chains: Tensor
    _slots: Tensor

    __repr__ = brief

    def __post_init__(self) -> None:
        with torch.inference_mode(False):
            self.chains = check_batch(self.chains, name="the chains").detach().clone()

    def learn(self, revised: Tensor) -> None:
        self.chains[self._slots] = revised

    def state_dict(self) -> dict[str, Any]:
        return {"chains": self.chains}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        chains = state["chains"]
        if chains.shape != self.chains.shape:
            raise ShapeError(f"its chains are {tuple(chains.shape)}, and these are {tuple(self.chains.shape)}")
        self.chains = chains.to(self.chains, copy=True)


@dataclass(eq=False, repr=False)
class Persistent(_Remembered):
    """Chains that go on where they stopped: Algorithm 1.

    `chains` (M, 1, R, R, R) are all chains (copied). Each iteration revises `per_iteration` of them, in a fresh random
    order (all by default); with probability `renew` a chain starts again from N(0, std^2) noise.
    """

    chains: Tensor
    per_iteration: int | None = None
    renew: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real(self.renew, "renew, a probability,", high=1)
        check_real(self.std, "std")
        if self.per_iteration is not None:
            check_whole(self.per_iteration, "per_iteration", 1)
            if self.per_iteration > len(self.chains):
                raise ShapeError(f"per_iteration is {self.per_iteration}, but there are only {len(self.chains)} chains")

    def begin(self, observed: Tensor, index: Tensor, generator: torch.Generator | None) -> Begun:
        count = self.per_iteration or len(self.chains)
        order = torch.randperm(len(self.chains), generator=generator, device=self.chains.device)
        self._slots = order[:count]
        y = self.chains[self._slots]
        if self.renew:
            again = torch.rand(count, generator=generator, device=y.device) < self.renew
            y = torch.where(per_item(again, y), self.std * white_noise(y, generator), y)
        return y, None


@dataclass(eq=False, repr=False)
class PersistentData(_Remembered):
    """One chain for each training shape, begun at that shape: persistent contrastive divergence (section 4.1).

    `chains` begins as (a copy of) the centred training shapes, in their order.
    """

    chains: Tensor

    def begin(self, observed: Tensor, index: Tensor, generator: torch.Generator | None) -> Begun:
        self._slots = index
        return self.chains[index], None


@dataclass(frozen=True)
class Corrupted(Starts):
    """The observed shapes with a share of their voxels hidden, which alone may move: recovery, Algorithm 4.

    Masks are fresh at every iteration. Hidden voxels start at the mean of the visible ones of the same shape.
    """

    share: float  #: Of the voxels, hidden at random

    def __post_init__(self) -> None:
        check_real(self.share, "the share of hidden voxels", high=1)

    def begin(self, observed: Tensor, index: Tensor, generator: torch.Generator | None) -> Begun:
        _, hidden = corrupt(observed, self.share, generator=generator)
        return fill_hidden(observed, hidden), hidden_voxels(hidden)


@dataclass(frozen=True)
class LowResolution(Starts):
    """The observed shapes' low-resolution versions, up-scaled; only missing detail may move: Algorithm 5."""

    scale: int

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def begin(self, observed: Tensor, index: Tensor, generator: torch.Generator | None) -> Begun:
        return up_scale(down_scale(observed, self.scale), self.scale), missing_detail(self.scale)


@dataclass(eq=False)
class Coarser(Starts):
    """Up-scaled samples of the next coarser grid: Algorithm 2. The coarsest grid starts from the observed 1x1x1 means.

    All grids have the same scalar voxel mean, so that centred shapes stay centred when they are handed up.
    """

    resolution: int
    below: Self | None = None
    """The starts of the next coarser grid, which hear its samples first; None on the coarsest."""
    revised: Tensor | None = None  #: This grid's samples of the iteration under way

    __repr__ = brief

    def __post_init__(self) -> None:
        check_whole(self.resolution, "resolution", 1)

    def begin(self, observed: Tensor, index: Tensor, generator: torch.Generator | None) -> Begun:
        if self.below is None:
            return resample(resample(observed, 1), self.resolution), None
        if self.below.revised is None:
            raise ShapeError(f"the grid below {self.resolution}^3 has no samples yet: it must go first")
        return resample(self.below.revised, self.resolution), None

    def learn(self, revised: Tensor) -> None:
        self.revised = revised
