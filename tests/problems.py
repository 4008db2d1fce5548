"""What many tests need: seeded random numbers, small networks and shapes, comparisons to the bit."""

from typing import Any

import torch
from torch import nn


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def equal(a: Any, b: Any) -> bool:
    """Bit-equality of nested states, the clock aside."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a if k != "seconds")
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def told(record: Any) -> tuple:
    """A record's numbers and shapes, the clock aside."""
    return (*record._replace(seconds=0.0, synthesized=torch.empty(0))[:-1], record.synthesized.tolist())


def ring(count: int = 200, seed: int = 0, radius: float = 2.0, width: float = 0.2) -> torch.Tensor:
    """Points (count, 2) near a circle."""
    angle = 2 * torch.pi * torch.rand(count, generator=seeded(seed))
    points = radius * torch.stack([angle.cos(), angle.sin()], 1)
    return points + width * torch.randn(count, 2, generator=seeded(seed + 1))


def three_layers(inputs: int = 2, width: int = 32, outputs: int = 1) -> nn.Sequential:
    """A stranger's network: an energy of points where it has one output."""
    torch.manual_seed(0)
    hidden = nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
    last = [nn.Flatten(0)] if outputs == 1 else []
    return nn.Sequential(*hidden, nn.Linear(width, outputs), *last)


class Signal(nn.Module):
    """A stranger's energy of signals (N, 1, side): one convolution, its mean, and a Gaussian reference."""

    def __init__(self, resolution: int = 64):
        super().__init__()
        torch.manual_seed(1)
        self.resolution = resolution
        self.filters, self.weigh = nn.Conv1d(1, 8, 5, padding=2), nn.Linear(8, 1)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return 2 * y.square().sum((1, 2)) - self.weigh(self.filters(y).relu().mean(2)).squeeze(1)


def signals(count: int = 60, side: int = 64) -> torch.Tensor:
    """Binary signals (count, 1, side), centred."""
    return (torch.rand(count, 1, side, generator=seeded(2)) < 0.3).float() - 0.3
