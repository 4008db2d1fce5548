"""What the sampler costs beside a plain loop, and what space-to-depth gains: pytest tests/benchmarks --benchmark-only.

Each group times both ways on the same shapes in one run: the ratios hardly depend on the machine.
"""

import pytest
import torch
import torch.nn.functional as F

from dnet_lib import DescriptorNet, sample
from dnet_lib.energy import SameConv3d

STEPS, STEP_SIZE = 2, 0.05
NETS = {
    "compact 16": (DescriptorNet.compact, 16, 16),
    "compact 32": (DescriptorNet.compact, 32, 4),
    "paper 32": (DescriptorNet.paper, 32, 1),
}


def plain_loop(y: torch.Tensor, net: DescriptorNet, generator: torch.Generator) -> torch.Tensor:
    """Eq. (7) as anyone would write it first."""
    for _ in range(STEPS):
        y = y.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(net.energy(y).sum(), y)
        noise = torch.randn(y.shape, generator=generator)
        y = (y - STEP_SIZE / 2 * gradient + STEP_SIZE**0.5 * noise).detach()
    return y


def ours(y: torch.Tensor, net: DescriptorNet, generator: torch.Generator) -> torch.Tensor:
    return sample(y, net, num_steps=STEPS, step_size=STEP_SIZE, generator=generator)


@pytest.mark.parametrize("way", [plain_loop, ours])
@pytest.mark.parametrize("name", NETS)
def test_langevin(benchmark, name, way):
    make, side, chains = NETS[name]
    benchmark.group = f"{STEPS} Langevin steps, {name}, {chains} chains"
    net, y = make(side), torch.randn(chains, 1, side, side, side)
    out = benchmark.pedantic(way, (y, net, torch.Generator()), rounds=3, warmup_rounds=1)
    assert torch.isfinite(out).all()


class Direct(SameConv3d):
    """The same sums by one strided convolution."""

    def forward(self, h):
        return F.conv3d(F.pad(h, (self.before, self.after) * 3), self.weight, self.bias, self.stride)


@pytest.mark.parametrize("way", [Direct, SameConv3d])
@pytest.mark.parametrize(("side", "kernel", "stride", "channels"), [(32, 6, 2, 48), (32, 8, 4, 96), (32, 16, 3, 200)])
def test_gradient_of_the_first_layer(benchmark, side, kernel, stride, channels, way):
    benchmark.group = f"slope of {channels} filters {kernel}^3 stride {stride} on {side}^3"
    layer = way(1, channels, kernel, stride, side)
    torch.nn.init.normal_(layer.weight)
    y = torch.randn(2, 1, side, side, side, requires_grad=True)
    benchmark.pedantic(lambda: torch.autograd.grad(layer(y).sum(), y), rounds=3, warmup_rounds=1)
