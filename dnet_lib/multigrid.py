"""Sampling from coarse to fine: each grid's chain starts at the up-scaled samples of the grid below (section 4.2)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dnet_lib.energy import DescriptorNet
from dnet_lib.langevin import langevin
from dnet_lib.starts import UpScaled, noise
from dnet_lib.voxels import uncentre


@dataclass(frozen=True)
class Grid:
    """One grid's model and the chain that samples it."""

    net: DescriptorNet
    mean: float
    """Scalar voxel mean of this grid's training shapes: occupancy = centred + mean."""
    num_steps: int
    step_size: float
    temperature: float = 0.0
    start_std: float = 1.0
    """Standard deviation of the white noise that begins the coarsest chain, or is added to up-scaled starts."""


def grid_chain(
    grids: Sequence[Grid], num_samples: int, *, generator: torch.Generator | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Sample from scratch, coarse to fine: yields (grid number, occupancy (N, 1, R, R, R)) after each Langevin step.

    The coarsest chain begins as white noise. Occupancy may lie slightly outside [0, 1].
    """
    device = next(grids[0].net.parameters()).device
    y = None
    for number, grid in enumerate(grids):
        resolution = grid.net.architecture.resolution
        if y is None:
            y = noise(num_samples, resolution, std=grid.start_std, generator=generator, device=device)
        else:
            scale, shift = resolution // y.shape[-1], grids[number - 1].mean - grid.mean
            y = UpScaled(y, num_samples, scale, shift, grid.start_std).raise_rows(slice(None), generator)
        steps = langevin(
            y,
            grid.net,
            num_steps=grid.num_steps,
            step_size=grid.step_size,
            temperature=grid.temperature,
            generator=generator,
        )
        for y, _ in steps:
            yield number, uncentre(y, grid.mean)


def sample_grids(
    grids: Sequence[Grid], num_samples: int, *, generator: torch.Generator | None = None, progress: bool = False
) -> Tensor:
    """The last shapes of `grid_chain`: occupancy on the finest grid, (N, 1, R, R, R)."""
    total = sum(grid.num_steps for grid in grids)
    chain = grid_chain(grids, num_samples, generator=generator)
    for _, occupancy in tqdm(chain, total=total, desc="coarse to fine", unit="step", disable=not progress):  # noqa: B007
        pass
    return occupancy
