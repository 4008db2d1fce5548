"""Priors: what the chains of a trained model are drawn from when shapes are sampled from scratch.

A prior draws first shapes, `draw(num_samples, generator)`, and packs itself for a file: tensors, and what JSON can say.
"""

import math
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from dnet_lib.checks import check_batch, check_real, check_whole
from dnet_lib.errors import ShapeError
from dnet_lib.files import Packed
from dnet_lib.langevin import Generators, white_noise
from dnet_lib.voxels import brief, down_scale, up_scale


@runtime_checkable
class Prior(Protocol):
    """The interface of every prior."""

    def draw(self, num_samples: int, generator: Generators = None) -> Tensor:
        """First shapes, centred (N, 1, R, R, R)."""
        ...


@dataclass(frozen=True, eq=False)
class Histogram:
    """Constant shapes whose level is drawn from a histogram of 1x1x1 versions: the model p(0) of section 4.2."""

    edges: Tensor  #: Ascending occupancy levels, (B + 1,)
    counts: Tensor  #: Shapes in each bin, (B,)
    resolution: int
    centre: float  #: Scalar voxel mean of the training shapes, subtracted from the draws

    __repr__ = brief

    @classmethod
    def fit(cls, occupancy: Tensor, resolution: int, *, bins: int = 30) -> Self:
        """The histogram of the mean occupancies of shapes (N, 1, R, R, R), for chains on a grid of `resolution`."""
        check_batch(occupancy)
        check_whole(bins, "bins", 1)
        check_whole(resolution, "resolution", 1)
        levels = occupancy.flatten(1).double().mean(1).cpu()
        counts, edges = torch.histogram(levels, bins)
        return cls(edges.to(occupancy), counts.to(occupancy), resolution, float(levels.mean()))

    def draw(self, num_samples: int, generator: Generators = None) -> Tensor:
        """First shapes, centred (N, 1, R, R, R): a bin by its count, a level evenly within it."""
        u, v = torch.special.ndtr(
            white_noise(self.edges.new_empty(check_whole(num_samples, "the number of samples"), 2), generator)
        ).unbind(1)
        total = self.counts.cumsum(0)
        bin = torch.searchsorted(total, u * total[-1], right=True).clamp(max=len(total) - 1)
        level = torch.lerp(self.edges[bin], self.edges[bin + 1], v)
        return (level - self.centre).view(-1, 1, 1, 1, 1).expand(-1, 1, *(self.resolution,) * 3).contiguous()

    def pack(self, half: bool = False) -> Packed:
        """Tensors and numbers for a file."""
        return {"edges": self.edges, "counts": self.counts}, {"resolution": self.resolution, "centre": self.centre}

    @classmethod
    def unpack(cls, tensors: dict[str, Tensor], about: dict[str, Any]) -> Self:
        """`pack` undone."""
        return cls(tensors["edges"], tensors["counts"], **about)


@dataclass(frozen=True, eq=False)
class CoarseGaussian:
    """Up-scaled draws of a Gaussian, or a mixture of some, fitted to low-resolution shapes: the simplest coarse model.

    The coarse occupancy is mean + x A. One Gaussian: x ~ N(0, T I), so that the mode is the training mean and the
    covariance T A^T A. A mixture: x ~ N(m_k, T L_k L_k^T) with probability w_k, for shapes that fall into groups;
    nobody says which shape belongs to which. Where section 4.2 starts from a histogram of one voxel, this prior knows
    the rough outlines of the training shapes and leaves every detail to the descriptor.
    """

    mean: Tensor  #: Mean occupancy of the coarse training shapes, (1, r, r, r)
    factor: Tensor
    """A, (rank, r^3): the leading principal axes, each as long as the data's standard deviation along it."""
    scale: int  #: From the coarse grid to the descriptor's
    centre: float  #: Scalar voxel mean of the descriptor's training shapes, subtracted from the draws
    temperature: float = 1.0  #: T below 1 draws nearer to the mean
    mixture: tuple[Tensor, Tensor, Tensor] | None = None
    """w (K,), m (K, rank) and L (K, rank, rank), lower triangular; None for one Gaussian."""

    __repr__ = brief

    def __post_init__(self) -> None:
        check_real(self.temperature, "temperature")

    @classmethod
    def fit(
        cls, occupancy: Tensor, scale: int, *, rank: int, temperature: float = 1.0, components: int = 1, seed: int = 0
    ) -> Self:
        """Mean and `rank` leading principal axes of training shapes (N, 1, R, R, R) down-scaled by `scale`.

        Any other batch (N, ...) that `down_scale` takes will do, signals or points. With several `components` a mixture
        of as many Gaussians is fitted in these axes by expectation-maximization.
        """
        seed = check_whole(seed, "seed")
        check_batch(occupancy)
        blocks = down_scale(occupancy, scale)
        coarse = blocks.flatten(1)
        if isinstance(rank, bool) or not isinstance(rank, Integral) or not 0 < rank < len(coarse):
            raise ShapeError(f"{len(coarse)} shapes span at most {len(coarse) - 1} principal axes, not {rank!r}")
        if isinstance(components, bool) or not isinstance(components, Integral) or not 0 < components <= len(coarse):
            raise ShapeError(f"{len(coarse)} shapes cannot fall into {components!r} groups")
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
        mean, centre = mean.view(blocks.shape[1:]), float(occupancy.double().mean())
        return cls(mean, factor.contiguous(), scale, centre, temperature, mixture)

    def balanced(self) -> Self:
        """The same groups, each drawn equally often: rare kinds of shapes become as frequent as common ones."""
        if self.mixture is None:
            return self
        weights, means, factors = self.mixture
        return replace(self, mixture=(torch.full_like(weights, 1 / len(weights)), means, factors))

    def draw(self, num_samples: int, generator: Generators = None) -> Tensor:
        """First shapes on the descriptor's grid, centred (N, 1, R, R, R)."""
        noise = white_noise(
            self.mean.new_empty(check_whole(num_samples, "the number of samples"), len(self.factor)), generator
        )
        x = math.sqrt(self.temperature) * noise
        if self.mixture is not None:
            weights, means, factors = self.mixture
            u = torch.special.ndtr(white_noise(self.mean.new_empty(num_samples, 1), generator))
            part = torch.searchsorted(weights.cumsum(0), u.squeeze(1)).clamp(max=len(weights) - 1)
            x = means[part] + torch.einsum("nij,nj->ni", factors[part], x)
        return up_scale(self.mean + (x @ self.factor).view(-1, *self.mean.shape), self.scale) - self.centre

    def pack(self, half: bool = False) -> Packed:
        """Tensors and numbers for a file."""
        tensors = {"mean": self.mean, "factor": self.factor}
        tensors |= {f"mixture.{i}": part for i, part in enumerate(self.mixture or ())}
        about = {"scale": self.scale, "centre": self.centre, "temperature": self.temperature}
        return tensors, about | {"shape": list(self.mean.shape)}

    @classmethod
    def unpack(cls, tensors: dict[str, Tensor], about: dict[str, Any]) -> Self:
        """`pack` undone."""
        mixture = None
        if "mixture.0" in tensors:
            mixture = tensors["mixture.0"], tensors["mixture.1"], tensors["mixture.2"]
        side = round(tensors["mean"].numel() ** (1 / 3))  # of older files, which know cubes only
        mean = tensors["mean"].view(about.get("shape", (1, side, side, side)))
        known = {name: about[name] for name in ("scale", "centre", "temperature")}
        return cls(mean, tensors["factor"], mixture=mixture, **known)
