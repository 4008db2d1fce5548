"""Recovery without learning an energy: three baselines that know a neighbourhood, an average, or one shape.

Each takes shapes (N, 1, R, R, R), occupancy, and a boolean mask `hidden` of their size, True where a voxel is hidden
and not read, and gives binary shapes whose visible voxels are those given.
"""

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from dnet_lib.checks import check_shapes
from dnet_lib.voxels import threshold


@dataclass(frozen=True)
class LocalMean:
    """A hidden voxel is full where a Gaussian-weighted mean of the visible voxels around it exceeds one half."""

    sigma: float = 0.8  #: Standard deviation of the weights, in voxels
    radius: int = 2  #: The neighbourhood is a cube of 2 radius + 1 voxels a side

    @classmethod
    def fit(cls, shapes: Tensor) -> Self:
        """There is nothing to learn."""
        return cls()

    def recover(self, occupancy: Tensor, hidden: Tensor) -> Tensor:
        """Binary shapes; a hidden voxel without a visible one around it is empty."""
        seen = occupancy.masked_fill(hidden, 0)
        offsets = torch.arange(-self.radius, self.radius + 1, device=seen.device, dtype=seen.dtype)
        line = (-offsets.square() / (2 * self.sigma**2)).exp()
        maps = torch.cat([seen, (~hidden).to(seen)], dim=1)
        for axis in (2, 3, 4):
            kernel = line.view([-1 if k == axis else 1 for k in range(5)]).repeat(2, 1, 1, 1, 1)
            around = [self.radius if k == axis else 0 for k in (2, 3, 4)]
            maps = F.conv3d(maps, kernel, padding=around, groups=2)
        mean = maps[:, :1] / maps[:, 1:].clamp(min=torch.finfo(maps.dtype).tiny)
        return torch.where(hidden, threshold(mean), seen)


@dataclass(frozen=True, eq=False)
class TrainingMean:
    """A hidden voxel is full where most training shapes have it full, whatever the visible ones say."""

    mean: Tensor  #: Mean occupancy, (1, 1, R, R, R)

    @classmethod
    def fit(cls, shapes: Tensor) -> Self:
        """From training shapes, occupancy (N, 1, R, R, R)."""
        return cls(check_shapes(shapes, name="the training shapes").mean(0, keepdim=True))

    def recover(self, occupancy: Tensor, hidden: Tensor) -> Tensor:
        """Binary shapes."""
        return torch.where(hidden, threshold(self.mean), occupancy)


@dataclass(frozen=True, eq=False)
class NearestShape:
    """Hidden voxels are copied from the training shape that differs least in the visible ones."""

    shapes: Tensor  #: Binary training shapes, (N, 1, R, R, R)

    @classmethod
    def fit(cls, shapes: Tensor) -> Self:
        """Remember training shapes, occupancy (N, 1, R, R, R)."""
        return cls(threshold(check_shapes(shapes, name="the training shapes")))

    def recover(self, occupancy: Tensor, hidden: Tensor) -> Tensor:
        """Binary shapes. The differing visible voxels of all pairs take one matrix product."""
        seen, visible, known = occupancy.masked_fill(hidden, 0).flatten(1), ~hidden.flatten(1), self.shapes.flatten(1)
        sign = visible.to(seen) - 2 * threshold(seen)  # |a - b| = a + b (1 - 2 a) for a, b in {0, 1}
        row = (sign @ known.T).argmin(1)
        return torch.where(hidden, self.shapes[row], occupancy)
