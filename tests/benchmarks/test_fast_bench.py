"""The frozen-weight path beside plain PyTorch and torchebm: pytest tests/benchmarks --benchmark-only.

Every test times all ways in turn on the same shapes; the set-up of the frozen weights is counted into each step, a K-th
of it. torchebm is installed with the extra [benchmarks]; without it its column is missing.
"""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from dnet_lib import Architecture, DescriptorNet, Run, Settings, learn, sample
from dnet_lib.fast import FrozenNet
from dnet_lib.fast.convolutions import Separable
from dnet_lib.starts import Persistent, noise

K = 20
STEP_SIZE = 0.01
UNSEEN = {  # neither the paper's network nor a preset of this library
    "one layer, 32^3": Architecture(32, ((64, 9, 2),)),
    "three layers, 24^3, SiLU": Architecture(24, ((48, 7, 2), (64, 5, 2), (32, 3, 1)), activation="silu"),
    "stride 1, 16^3": Architecture(16, ((16, 5, 1), (32, 5, 1))),
    "large kernel, odd grid": Architecture(29, ((32, 13, 4), (64, 4, 2))),
}


def ways(net: DescriptorNet, y: torch.Tensor, steps: dict[str, int]) -> dict:
    """The same chain by each library; `steps` says how many steps each is given (its time is divided by them)."""

    def run(fast):
        name = "ours" if fast is None else "plain"
        return lambda: sample(y, net, num_steps=steps[name], step_size=STEP_SIZE, fast=fast)

    calls = {"plain": run(False), "ours": run(None)}
    with contextlib.suppress(ImportError):
        from torchebm.core import BaseModel
        from torchebm.samplers import LangevinDynamics

        class Model(BaseModel):
            def __init__(self):
                super().__init__()
                self.net = net

            def forward(self, x):
                return self.net.energy(x)

        sampler = LangevinDynamics(Model(), step_size=STEP_SIZE / 2)
        calls["torchebm"] = lambda: sampler.sample(y, n_steps=steps["torchebm"])
    return {name: call for name, call in calls.items() if steps.get(name)}


def shapes(net: DescriptorNet, chains: int) -> torch.Tensor:
    return 0.5 * torch.randn(chains, 1, *[net.architecture.resolution] * 3)


@pytest.mark.parametrize("count", [2, 1])
def test_the_papers_network(compare, threads, count):
    threads(count)
    steps = {"plain": 1, "torchebm": 1, "ours": K}
    net = DescriptorNet.paper()
    compare({"name": "paper 32^3", "chains": 25}, ways(net, shapes(net, 25), steps), rounds=3, per=steps)


@pytest.mark.parametrize("chains", [1, 5, 25, 100, 1000])
def test_the_cost_of_a_chain_does_not_grow(compare, threads, chains):
    threads(2)
    steps = {"ours": 4 if chains > 25 else K} | ({"plain": 2} if chains < 25 else {})
    net = DescriptorNet.paper()
    rounds = 1 if chains > 25 else 3
    compare(
        {"name": "paper 32^3, by chains", "chains": chains},
        ways(net, shapes(net, chains), steps),
        rounds=rounds,
        per=steps,
    )


@pytest.mark.parametrize(
    ("name", "make", "side", "chains"),
    [
        ("compact 16^3", DescriptorNet.compact, 16, 32),
        ("compact 32^3", DescriptorNet.compact, 32, 16),
        ("paper 16^3", DescriptorNet.paper, 16, 25),
        ("paper 64^3", DescriptorNet.paper, 64, 4),
    ],
)
def test_presets_and_grids(compare, threads, name, make, side, chains):
    threads(2)
    steps = {"plain": 1, "torchebm": 1, "ours": 4} if side > 32 else {"plain": 5, "torchebm": 5, "ours": K}
    net = make(side)
    compare({"name": name, "chains": chains}, ways(net, shapes(net, chains), steps), rounds=3, per=steps)


@pytest.mark.parametrize("count", [2, 1])
@pytest.mark.parametrize("name", UNSEEN)
def test_networks_not_tuned_for(compare, threads, name, count):
    threads(count)
    steps = {"plain": 5, "torchebm": 5, "ours": K}
    net = DescriptorNet(UNSEEN[name])
    compare({"name": name, "chains": 8}, ways(net, shapes(net, 8), steps), rounds=5, per=steps)


def test_a_learning_iteration(compare, threads):
    """Algorithm 1 on the paper's network and batch: K steps of 25 chains, then one Adam step on 20 + 25 shapes."""
    threads(2)
    observed = shapes(DescriptorNet.paper(), 20)

    def iterations(fast):
        net = DescriptorNet.paper()
        settings = Settings(10**6, num_steps=K, step_size=STEP_SIZE, batch_size=20, fast=fast)
        run = Run.begin(net, Persistent(noise(25, 32)), settings)
        records = learn(run, observed, settings, save_every=10**6)
        next(records)  # what is done once a run
        return lambda: next(records)

    calls = {"plain": iterations(False), "ours": iterations(None)}
    compare({"name": "a learning iteration", "chains": 25}, calls, rounds=1)


PEAK = """
import torch
from dnet_lib import DescriptorNet, sample, Run, Settings, learn
from dnet_lib.starts import Persistent, noise
net, y = DescriptorNet.paper(), torch.randn(20, 1, 32, 32, 32)
settings = Settings(1, num_steps=4, step_size=0.01, batch_size=20, fast={fast})
list(learn(Run.begin(net, Persistent(noise(25, 32)), settings), y, settings))
print(next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_memory_and_limits(benchmark, threads, limits):
    """Peak memory of learning in a fresh process; what this machine multiplies and moves a second, at most."""
    threads(2)
    for name, fast in (("plain", False), ("ours", None)) if Path("/proc/self/status").exists() else ():
        out = subprocess.run([sys.executable, "-c", PEAK.format(fast=fast)], capture_output=True, text=True, check=True)
        limits[f"peak megabytes, {name}"] = float(out.stdout)
    a, big, into = torch.randn(2048, 2048), torch.randn(2**26), torch.empty(2**26)
    for name, call, amount in (
        ("GEMM GFLOP/s", lambda: a @ a, 2 * 2048**3 / 1e9),
        ("copied and read GB/s", lambda: into.copy_(big), 2 * 4 * 2**26 / 1e9),
    ):
        call()
        times = []
        for _ in range(5):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        limits[name] = amount / min(times)
    frozen = FrozenNet(DescriptorNet.paper(), num_chains=25)
    y = shapes(frozen.net, 25)
    frozen.energy_and_gradient(y)
    direct = sum(
        4 * layer.g.in_channels * layer.g.kernel**3 * layer.g.channels * layer.g.out**3 for layer in frozen.layers
    )
    counted = moved = 0
    for layer in frozen.layers:
        assert isinstance(layer, Separable)
        counted += 4 * layer.num_weights * layer.c * 25
        moved += 8 * layer.num_weights
        for matrix, source, target, _ in layer.analysis + layer.synthesis:
            counted += 4 * len(matrix) * source.numel()
            moved += 8 * (source.numel() + target.numel())
    limits |= {
        "GFLOP a step, direct": 25 * direct / 1e9,
        "GFLOP a step, ours": counted / 1e9,
        "GB a step, ours": moved / 1e9,
    }
    benchmark.pedantic(lambda: frozen.energy_and_gradient(y), rounds=3)
