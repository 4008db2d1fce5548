"""What many tests need: seeded random numbers, small networks and shapes, comparisons to the bit, patience."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dnet_lib import Architecture, DescriptorNet
from dnet_lib.pretrained import Chain, Pretrained
from dnet_lib.reproduce.workplace import Workplace


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


TINY = Architecture(16, ((8, 6, 2), (8, 4, 2)))


def small_net(std: float = 0.05, **architecture: Any) -> DescriptorNet:
    """Two layers on 4^3 voxels."""
    chosen = {"layers": ((4, 3, 2), (4, 2, 1)), "activation": "silu"} | architecture
    return DescriptorNet(Architecture(4, **chosen), weight_std=std, generator=seeded())


def small_model(num_steps: int = 4) -> Pretrained:
    """One layer on 8^3 voxels, as a model that recovers."""
    net = DescriptorNet(Architecture(8, ((4, 4, 2),), "silu"), weight_std=0.1, generator=seeded())
    return Pretrained(net, 0.25, None, Chain(num_steps, 0.2), {})


def drawn(n: int, side: int = 4, filled: float = 0.5, seed: int = 8) -> torch.Tensor:
    """Binary shapes of independent voxels."""
    return (torch.rand(n, 1, side, side, side, generator=seeded(seed)) < filled).float()


def as_matrix(operation: Callable[[torch.Tensor], torch.Tensor], side: int) -> torch.Tensor:
    """The matrix of a linear operation on one side^3 grid, from its action on unit vectors."""
    units = torch.eye(side**3, dtype=torch.float64).view(-1, 1, side, side, side)
    return operation(units).flatten(1).T


QUADS = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]


def box(x: float = 1.0, y: float = 1.0, z: float = 1.0, lid: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A box's mesh with a corner at the origin; its last two triangles are the lid."""
    vertices = np.array([(i * x, j * y, k * z) for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    faces = np.array([t for a, b, c, d in QUADS for t in ((a, b, c), (a, c, d))])
    return vertices, faces if lid else faces[:-2]


def off_text(vertices: np.ndarray, faces: np.ndarray, head: str = "OFF\n") -> str:
    """A mesh as an OFF file."""
    points = [" ".join(map(repr, map(float, v))) for v in vertices]
    corners = [f"{len(f)} {' '.join(map(str, f))}" for f in faces]
    return f"{head}{len(vertices)} {len(faces)} 0\n" + "\n".join([*points, *corners]) + "\n"


def at(folder: Path, **changes: Any) -> Workplace:
    """A workplace on the embedded shapes that leaves everything below one folder."""
    places = {name: folder / name for name in ("runs", "weights", "results")}
    return Workplace(**{"data": "furniture", **places, **changes})


def until(true: Callable[[], bool], seconds: float = 120) -> bool:
    """Wait for a condition; False where it does not come true in time."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def is_gone(pid: int) -> bool:
    """Whether a process has ended, its parent having noticed or not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except ProcessLookupError:  # gone while it was read
        return True
    except FileNotFoundError:  # gone, or a system without /proc
        return Path("/proc/self").exists()
