"""The frozen-weight path beside its peers: pytest tests/benchmarks --benchmark-only (`make benchmarks`).

Every test times all ways in turn, round by round, on the same shapes; the set-up of the frozen weights is counted into
each step, a K-th of it. The ways are

    before          this library as it was before bfloat16 (`BEFORE`), from the repository's history, in its own process
    plain           `fast=False`; also under torch.autocast (bfloat16), with channels last, and compiled
    torchebm        installed by the extra [benchmarks]; without it its column is missing
    ours, bfloat16  what `sample` does by itself, and with precision="bfloat16"
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from calls import LEARNING, STEP_SIZE, chain, gradient, lesson, module, network, shapes
from torch import nn

import dnet_lib
from dnet_lib import DescriptorNet
from dnet_lib.energy import energy_and_gradient
from dnet_lib.fast import FrozenNet, has_bfloat16
from dnet_lib.fast.convolutions import Separable

K = 20
UNSEEN = {  # neither the paper's network nor a preset of this library
    "one layer, 32^3": ("own", 32, [(64, 9, 2)]),
    "three layers, 24^3, SiLU": ("own", 24, [(48, 7, 2), (64, 5, 2), (32, 3, 1)], "silu"),
    "stride 1, 16^3": ("own", 16, [(16, 5, 1), (32, 5, 1)]),
    "large kernel, odd grid": ("own", 29, [(32, 13, 4), (64, 4, 2)]),
}
CPU = torch.device("cpu")


class Wrapped(nn.Module):
    """A network that is no `DescriptorNet` any more, to be sampled plainly."""

    def __init__(self, net: nn.Module, how: Callable[[nn.Module], nn.Module] = lambda net: net):
        super().__init__()
        self.net = how(net)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.net(y)


def peers(net: DescriptorNet, y: torch.Tensor, steps: int) -> dict[str, Callable[[], object]]:
    """The same chain by other libraries and by other ways to call PyTorch."""
    options = {"num_steps": steps, "step_size": STEP_SIZE}
    last = Wrapped(net, lambda net: net.to(memory_format=torch.channels_last_3d))
    calls = {"plain, channels last": lambda: dnet_lib.sample(y, last, **options)}

    def autocast():
        with torch.autocast("cpu", torch.bfloat16):
            return dnet_lib.sample(y, net, fast=False, **options)

    if has_bfloat16(CPU):
        calls["plain, autocast"] = autocast
    with contextlib.suppress(Exception):  # a compiler may be missing
        compiled = Wrapped(net, torch.compile)
        dnet_lib.sample(y, compiled, num_steps=1, step_size=STEP_SIZE)
        calls["plain, compiled"] = lambda: dnet_lib.sample(y, compiled, **options)
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
        calls["torchebm"] = lambda: sampler.sample(y, n_steps=steps)
    return calls


def ways(net: tuple, chains: int, before, *, slow: bool = False, all_peers: bool = True) -> tuple[dict, dict]:
    """The same chain by every way; how many steps each call makes."""
    few = 1 if slow else K // 4
    calls: dict[str, Callable[[], object]] = {"plain": chain(net, chains, few, fast=False)}
    if before is not None:
        calls["before"] = before("chain", net, chains, K)
    if all_peers:
        calls |= peers(network(*net), shapes(net[1], chains), few)
    calls["ours"] = chain(net, chains, K)
    if has_bfloat16(CPU):
        calls["bfloat16"] = chain(net, chains, K, precision="bfloat16")
    return calls, {name: K if name in ("before", "ours", "bfloat16") else few for name in calls}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("kind", "side", "chains"),
    [("compact", 16, 32), ("compact", 32, 16), ("compact", 64, 4), ("paper", 16, 25), ("paper", 32, 25)],
)
def test_networks_that_ship_and_the_papers(compare, threads, before, kind, side, chains, count):
    threads(count)
    slow = kind == "paper"
    calls, per = ways((kind, side), chains, before, slow=slow)
    if kind == "paper":  # plain PyTorch under autocast takes ten seconds a step there
        calls.pop("plain, autocast", None)
    compare({"name": f"{kind} {side}^3", "chains": chains}, calls, rounds=3, per=per)


@pytest.mark.parametrize(("side", "chains"), [(16, 32), (32, 16), (64, 4)])
def test_one_energy_and_gradient(compare, threads, before, side, chains):
    """What a step is made of, without its noise and its share of the set-up."""
    threads(1)
    net, y = ("compact", side), shapes(side, chains)
    plain = network(*net).requires_grad_(False)

    def autocast():
        with torch.autocast("cpu", torch.bfloat16):
            return energy_and_gradient(y, plain)

    calls: dict[str, Callable[[], object]] = {"plain": lambda: energy_and_gradient(y, plain)}
    calls |= {"plain, autocast": autocast} if has_bfloat16(CPU) else {}
    calls |= {"before": before("gradient", net, chains)} if before is not None else {}
    calls |= {"ours": gradient(net, chains)}
    calls |= {"bfloat16": gradient(net, chains, precision="bfloat16")} if has_bfloat16(CPU) else {}
    compare({"name": f"compact {side}^3, one gradient", "chains": chains}, calls, rounds=15)


def test_the_papers_network_on_a_large_grid(compare, threads, before):
    threads(2)
    calls, per = ways(("paper", 64), 4, before, slow=True, all_peers=False)
    compare({"name": "paper 64^3", "chains": 4}, calls, rounds=2, per=per)


@pytest.mark.parametrize("chains", [1, 5, 25, 100, 1000])
def test_the_cost_of_a_chain_does_not_grow(compare, threads, chains):
    threads(2)
    steps = 4 if chains > 25 else K
    calls = {"ours": chain(("paper", 32), chains, steps)}
    if chains < 25:
        calls["plain"] = chain(("paper", 32), chains, 2, fast=False)
    rounds, per = 1 if chains > 25 else 3, {"ours": steps, "plain": 2}
    compare({"name": "paper 32^3, by chains", "chains": chains}, calls, rounds=rounds, per=per)


@pytest.mark.parametrize("name", UNSEEN)
def test_networks_not_tuned_for(compare, threads, before, name):
    threads(1)
    calls, per = ways(UNSEEN[name], 8, before, all_peers=False)
    compare({"name": name, "chains": 8}, calls, rounds=3, per=per)


def test_a_users_own_module(compare, threads, before):
    """It takes the plain path, then as now."""
    threads(1)
    calls = {} if before is None else {"before": before("module", 32, K)}
    calls["ours"] = module(32, K)
    compare({"name": "a module of one's own, 16^3", "chains": 32}, calls, rounds=5, per=dict.fromkeys(calls, K))


@pytest.mark.parametrize("name", LEARNING)
def test_learning_iterations(compare, threads, before, name):
    """Plainly, before, and now: the paper's takes half a minute plainly."""
    threads(1)
    calls = {"plain": lesson(name, fast=False)} if name != "the paper's" else {}
    calls |= {"before": before("lesson", name)} if before is not None else {}
    calls |= {"ours": lesson(name)}
    calls |= {"bfloat16": lesson(name, precision="bfloat16")} if has_bfloat16(CPU) else {}
    compare({"name": f"learning: {name}", "chains": LEARNING[name][2]}, calls, rounds=3)


PEAK = """
import torch
from dnet_lib import DescriptorNet, sample, Run, Settings, learn
from dnet_lib.starts import Persistent, noise
net, y = DescriptorNet.paper(), torch.rand(20, 1, 32, 32, 32) - 0.5
settings = Settings(1, num_steps=4, step_size=0.01, batch_size=20, {options})
list(learn(Run.begin(net, Persistent(noise(25, 32)), settings), y, settings))
print(next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_memory_and_limits(benchmark, threads, limits):
    """Peak memory of learning in a fresh process; what this machine multiplies and moves a second, at most."""
    threads(2)
    options = {"plain": "fast=False", "ours": "", "bfloat16": 'precision="bfloat16"'}
    for name, given in options.items() if Path("/proc/self/status").exists() else ():
        code = PEAK.format(options=given)
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        limits[f"peak megabytes, {name}"] = float(out.stdout)
    a, big, into = torch.randn(2048, 2048), torch.randn(2**26), torch.empty(2**26)
    half = a.bfloat16()
    for name, call, amount in (
        ("GEMM GFLOP/s", lambda: a @ a, 2 * 2048**3 / 1e9),
        ("GEMM GFLOP/s, bfloat16", lambda: half @ half, 2 * 2048**3 / 1e9),
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
    y = shapes(32, 25)
    frozen.energy_and_gradient(y)
    layers = [layer.g for layer in frozen.layers]
    direct = sum(4 * g.in_channels * g.kernel**3 * g.channels * g.out**3 for g in layers)
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
