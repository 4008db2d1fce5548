"""Where chains start: all that distinguishes the paper's algorithms before their first Langevin step.

A start answers two calls of the learning loop: `begin(observed, index, generator)` gives the chains' first shapes and
what they must keep (a projection or None); `learn(revised)` hears where the chains ended. What a start remembers
between iterations lives in `state()`, a dict of tensors that `restore(state)` takes back, so that a killed run resumes.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dnet_lib.projections import Projection
from dnet_lib.voxels import up_scale


class Starts(Protocol):
    """The interface of every start."""

    def begin(
        self, observed: Tensor, index: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Projection | None]:
        """First shapes of the chains, centred (M, 1, R, R, R), for a batch `observed` at rows `index` of the data."""

    def learn(self, revised: Tensor) -> None:
        """Hear the chains' last shapes."""

    def state(self) -> dict[str, Tensor]:
        """What must be kept to resume."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what `state()` gave."""


class _Stateless:
    def learn(self, revised: Tensor) -> None:
        pass

    def state(self) -> dict[str, Tensor]:
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        pass


def noise(
    num_chains: int,
    resolution: int,
    *,
    std: float = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """White noise N(0, std^2), (num_chains, 1, R, R, R): the usual first shapes of chains that know nothing."""
    return std * torch.randn(num_chains, 1, resolution, resolution, resolution, generator=generator, device=device)


@dataclass(frozen=True)
class Noise(_Stateless):
    """Fresh white noise at every iteration (short-run, non-persistent chains)."""

    num_chains: int
    std: float = 1.0

    def begin(self, observed, index, generator):
        shape = (self.num_chains, *observed.shape[1:])
        fresh = torch.randn(shape, generator=generator, device=observed.device, dtype=observed.dtype)
        return self.std * fresh, None


@dataclass(frozen=True)
class Data(_Stateless):
    """The observed shapes themselves: contrastive divergence (section 4.1)."""

    def begin(self, observed, index, generator):
        return observed.clone(), None


@dataclass
class Persistent:
    """Chains that go on where they stopped: Algorithm 1.

    `chains` (M, 1, R, R, R) are all chains. Each iteration revises `per_iteration` of them, taken in a fresh random
    order (all by default); with probability `renew` a chain starts again from N(0, std^2) noise.
    """

    chains: Tensor
    per_iteration: int | None = None
    renew: float = 0.0
    std: float = 1.0

    def begin(self, observed, index, generator):
        count = min(self.per_iteration or len(self.chains), len(self.chains))
        order = torch.randperm(len(self.chains), generator=generator, device=self.chains.device)
        self._slots = order[:count]
        y = self.chains[self._slots]
        if self.renew:
            again = torch.rand(count, generator=generator, device=y.device) < self.renew
            fresh = self.std * torch.randn(y.shape, generator=generator, device=y.device, dtype=y.dtype)
            y = torch.where(again.view(-1, 1, 1, 1, 1), fresh, y)
        return y, None

    def learn(self, revised):
        self.chains[self._slots] = revised

    def state(self):
        return {"chains": self.chains}

    def restore(self, state):
        self.chains = state["chains"].to(self.chains)


@dataclass
class PersistentData(Persistent):
    """One chain for each training shape, begun at that shape: persistent contrastive divergence (section 4.1).

    `chains` begins as a copy of the centred training shapes, in their order.
    """

    def begin(self, observed, index, generator):
        self._slots = index
        return self.chains[index], None


@dataclass(frozen=True)
class UpScaled(_Stateless):
    """Up-scaled samples of a coarser grid's model (section 4.2), drawn at random from a pool.

    `pool` holds centred coarse samples (M, 1, R/scale, ...); `shift` is added after up-scaling, where the two grids'
    data were centred by different means. Blocks of equal voxels are a thin set: noise of standard deviation `std`
    spreads the starts around it.
    """

    pool: Tensor
    num_chains: int
    scale: int = 2
    shift: float = 0.0
    std: float = 0.0

    def begin(self, observed, index, generator):
        rows = torch.randint(len(self.pool), (self.num_chains,), generator=generator, device=self.pool.device)
        return self.raise_rows(rows, generator), None

    def raise_rows(self, rows: Tensor | slice, generator: torch.Generator | None) -> Tensor:
        """The chosen coarse samples on the finer grid, centred there."""
        y = up_scale(self.pool[rows], self.scale) + self.shift
        if self.std:
            y = y + self.std * torch.randn(y.shape, generator=generator, device=y.device, dtype=y.dtype)
        return y
