"""Where chains start: all that distinguishes the paper's algorithms before their first Langevin step.

A start answers two calls of the learning loop: `begin(observed, index, generator)` gives the chains' first shapes and
what they must keep (a projection or None); `learn(revised)` hears where the chains ended. What a start remembers
between iterations lives in `state()`, tensors and plain numbers that `restore(state)` takes back: a killed run resumes.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from dnet_lib.langevin import Generators, white_noise
from dnet_lib.projections import Projection, hidden_voxels, missing_detail
from dnet_lib.voxels import ShapeError, check_scale, corrupt, down_scale, fill_hidden, resample, up_scale


class Starts(Protocol):
    """The interface of every start."""

    def begin(
        self, observed: Tensor, index: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Projection | None]:
        """First shapes of the chains, centred (M, 1, R, R, R), for a batch `observed` at rows `index` of the data."""

    def learn(self, revised: Tensor) -> None:
        """Hear the chains' last shapes."""

    def state(self) -> dict[str, Any]:
        """What must be kept to resume."""

    def restore(self, state: dict[str, Any]) -> None:
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
        like = observed.new_empty(self.num_chains, *observed.shape[1:])
        return self.std * white_noise(like, generator), None


@dataclass(frozen=True)
class Data(_Stateless):
    """The observed shapes themselves: contrastive divergence (section 4.1)."""

    def begin(self, observed, index, generator):
        return observed.clone(), None


class _Remembered:
    """Chains that go on where they stopped; the rows `_slots` are those of the iteration under way."""

    chains: Tensor
    _slots: Tensor

    def __post_init__(self) -> None:
        self.chains = self.chains.clone()

    def learn(self, revised):
        self.chains[self._slots] = revised

    def state(self):
        return {"chains": self.chains}

    def restore(self, state):
        self.chains = state["chains"].to(self.chains)


@dataclass(eq=False)
class Persistent(_Remembered):
    """Chains that go on where they stopped: Algorithm 1.

    `chains` (M, 1, R, R, R) are all chains (copied). Each iteration revises `per_iteration` of them, in a fresh random
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
            y = torch.where(again.view(-1, 1, 1, 1, 1), self.std * white_noise(y, generator), y)
        return y, None


@dataclass(eq=False)
class PersistentData(_Remembered):
    """One chain for each training shape, begun at that shape: persistent contrastive divergence (section 4.1).

    `chains` begins as (a copy of) the centred training shapes, in their order.
    """

    chains: Tensor

    def begin(self, observed, index, generator):
        self._slots = index
        return self.chains[index], None


@dataclass(frozen=True)
class Corrupted(_Stateless):
    """The observed shapes with a share of their voxels hidden, which alone may move: recovery, Algorithm 4.

    Masks are fresh at every iteration. Hidden voxels start at the mean of the visible ones of the same shape.
    """

    share: float
    """Of the voxels, hidden at random."""

    def begin(self, observed, index, generator):
        _, hidden = corrupt(observed, self.share, generator=generator)
        return fill_hidden(observed, hidden), hidden_voxels(hidden)


@dataclass(frozen=True)
class LowResolution(_Stateless):
    """The observed shapes' low-resolution versions, up-scaled; only missing detail may move: Algorithm 5."""

    scale: int

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def begin(self, observed, index, generator):
        return up_scale(down_scale(observed, self.scale), self.scale), missing_detail(self.scale)


@dataclass(eq=False)
class Coarser(_Stateless):
    """Up-scaled samples of the next coarser grid: Algorithm 2. The coarsest grid starts from the observed 1x1x1 means.

    All grids have the same scalar voxel mean, so that centred shapes stay centred when they are handed up.
    """

    resolution: int
    below: Self | None = None
    """The starts of the next coarser grid, which hear its samples first; None on the coarsest."""
    revised: Tensor | None = None
    """This grid's samples of the iteration under way."""

    def begin(self, observed, index, generator):
        if self.below is None:
            return resample(resample(observed, 1), self.resolution), None
        if self.below.revised is None:
            raise ShapeError(f"the grid below {self.resolution}^3 has no samples yet: it must go first")
        return resample(self.below.revised, self.resolution), None

    def learn(self, revised):
        self.revised = revised


class Draws(Protocol):
    """Where the chains of a trained model start when shapes are sampled from scratch."""

    def draw(self, num_samples: int, generator: Generators = None) -> Tensor:
        """First shapes, centred (N, 1, R, R, R)."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """Constant shapes whose level is drawn from a histogram of 1x1x1 versions: the model p(0) of section 4.2."""

    edges: Tensor
    """Ascending occupancy levels, (B + 1,)."""
    counts: Tensor
    """Shapes in each bin, (B,)."""
    resolution: int
    centre: float
    """Scalar voxel mean of the training shapes, subtracted from the starts."""

    @classmethod
    def fit(cls, occupancy: Tensor, resolution: int, *, bins: int = 30) -> Self:
        """The histogram of the mean occupancies of shapes (N, 1, R, R, R), for chains on a grid of `resolution`."""
        levels = occupancy.flatten(1).double().mean(1).cpu()
        counts, edges = torch.histogram(levels, bins)
        return cls(edges.to(occupancy), counts.to(occupancy), resolution, float(levels.mean()))

    def draw(self, num_samples: int, generator: Generators = None) -> Tensor:
        """Starts, centred (N, 1, R, R, R): a bin by its count, a level evenly within it."""
        u, v = torch.special.ndtr(white_noise(self.edges.new_empty(num_samples, 2), generator)).unbind(1)
        total = self.counts.cumsum(0)
        bin = torch.searchsorted(total, u * total[-1], right=True).clamp(max=len(total) - 1)
        level = torch.lerp(self.edges[bin], self.edges[bin + 1], v)
        return (level - self.centre).view(-1, 1, 1, 1, 1).expand(-1, 1, *(self.resolution,) * 3).contiguous()


@dataclass(frozen=True, eq=False)
class CoarseGaussian(_Stateless):
    """Up-scaled draws of a Gaussian, or a mixture of some, fitted to low-resolution shapes: the simplest coarse model.

    The coarse occupancy is mean + x A. One Gaussian: x ~ N(0, T I), so that the mode is the training mean and the
    covariance T A^T A. A mixture: x ~ N(m_k, T L_k L_k^T) with probability w_k, for shapes that fall into groups;
    nobody says which shape belongs to which. Where section 4.2 starts from a histogram of one voxel, this start knows
    the rough outlines of the training shapes and leaves every detail to the descriptor.
    """

    mean: Tensor
    """Mean occupancy of the coarse training shapes, (r^3,)."""
    factor: Tensor
    """A, (rank, r^3): the leading principal axes, each as long as the data's standard deviation along it."""
    num_chains: int
    scale: int
    """From the coarse grid to the descriptor's."""
    centre: float
    """Scalar voxel mean of the descriptor's training shapes, subtracted from the starts."""
    temperature: float = 1.0
    """T below 1 draws nearer to the mean."""
    mixture: tuple[Tensor, Tensor, Tensor] | None = None
    """w (K,), m (K, rank) and L (K, rank, rank), lower triangular; None for one Gaussian."""

    @classmethod
    def fit(
        cls,
        occupancy: Tensor,
        scale: int,
        *,
        rank: int,
        num_chains: int,
        temperature: float = 1.0,
        components: int = 1,
        seed: int = 0,
    ) -> Self:
        """Mean and `rank` leading principal axes of training shapes (N, 1, R, R, R) down-scaled by `scale`.

        With several `components` a mixture of as many Gaussians is fitted in these axes by expectation-maximization.
        """
        coarse = down_scale(occupancy, scale).flatten(1)
        if not 0 < rank < len(coarse):
            raise ShapeError(f"{len(coarse)} shapes span at most {len(coarse) - 1} principal axes, not {rank}")
        if not 0 < components <= len(coarse):
            raise ShapeError(f"{len(coarse)} shapes cannot fall into {components} groups")
        mean = coarse.mean(0)
        left, lengths, axes = torch.linalg.svd(coarse - mean, full_matrices=False)
        factor = lengths[:rank, None] * axes[:rank] / math.sqrt(len(coarse) - 1)
        mixture = None
        if components > 1:
            from sklearn.mixture import GaussianMixture  # seconds to import: only where it is needed

            x = (left[:, :rank] * math.sqrt(len(coarse) - 1)).double().cpu().numpy()
            fitted = GaussianMixture(components, reg_covar=1e-3, random_state=seed).fit(x)
            parts = fitted.weights_, fitted.means_, np.linalg.cholesky(fitted.covariances_)
            weights, means, factors = (torch.from_numpy(part).to(mean) for part in parts)
            mixture = weights, means, factors
        centre = float(occupancy.double().mean())
        return cls(mean, factor.contiguous(), num_chains, scale, centre, temperature, mixture)

    def balanced(self) -> Self:
        """The same groups, each drawn equally often: rare kinds of shapes become as frequent as common ones."""
        if self.mixture is None:
            return self
        weights, means, factors = self.mixture
        return replace(self, mixture=(torch.full_like(weights, 1 / len(weights)), means, factors))

    def begin(self, observed, index, generator):
        return self.draw(self.num_chains, generator), None

    def draw(self, num_samples: int, generator: Generators = None) -> Tensor:
        """Starts on the descriptor's grid, centred (N, 1, R, R, R)."""
        x = math.sqrt(self.temperature) * white_noise(self.mean.new_empty(num_samples, len(self.factor)), generator)
        if self.mixture is not None:
            weights, means, factors = self.mixture
            u = torch.special.ndtr(white_noise(self.mean.new_empty(num_samples, 1), generator))
            part = torch.searchsorted(weights.cumsum(0), u.squeeze(1)).clamp(max=len(weights) - 1)
            x = means[part] + torch.einsum("nij,nj->ni", factors[part], x)
        side = round(len(self.mean) ** (1 / 3))
        coarse = self.mean + x @ self.factor
        return up_scale(coarse.view(-1, 1, side, side, side), self.scale) - self.centre
