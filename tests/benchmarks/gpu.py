"""One GPU against itself: every path's error and speed, then a learning iteration; at most twelve minutes.

    python tests/benchmarks/gpu.py                writes dnet_lib/results/performance/gpu.json
    python tests/benchmarks/gpu.py --dry          the same on a CPU and on tiny grids, writes nothing: does it run?

Each part begins only while there is time (`--minutes`). Peers: plain PyTorch, compiled, and torchebm where installed.
"""

import argparse
import contextlib
import copy
import json
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from dnet_lib import Architecture, DescriptorNet, Run, Settings, __version__, learn, sample
from dnet_lib.checkpoints import save_results
from dnet_lib.energy import energy_and_gradient
from dnet_lib.fast import FrozenNet, has_bfloat16
from dnet_lib.fast.frozen import PRECISIONS
from dnet_lib.starts import Persistent, noise

K, STEP_SIZE = 20, 0.01


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(call: Callable[[], Any], device: torch.device, rounds: int = 3) -> float:
    """The least time of a few calls after one that warms up."""
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        call()
        wait(device)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def precisions(device: torch.device) -> list[str]:
    """Those that the device has units for."""
    kinds = ["float32", *["tf32"] * (device.type == "cuda"), *["bfloat16"] * has_bfloat16(device)]
    return [kind for kind in PRECISIONS if kind in kinds]


class Plain(nn.Module):
    """A network that is no `DescriptorNet` any more: plain PyTorch."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.net(y)


def errors(device: torch.device, side: int) -> Iterator[dict[str, Any]]:
    """Of E and of df/dY against float64, smooth and rectified, every precision; float32 with TF32 switched off."""
    torch.backends.cudnn.allow_tf32 = False
    for activation in ("silu", "relu"):
        net = DescriptorNet(Architecture(side, ((32, 4, 2), (64, 4, 2)), activation), weight_std=0.1).to(device)
        y = 0.5 * torch.randn(4, 1, *[side] * 3, device=device)
        e, g = energy_and_gradient(y.double(), copy.deepcopy(net).double())
        decoded, score = y.double() / 0.25 - g, (y.double().square().flatten(1).sum(1) / 0.5 - e)
        for kind in ("plain", *precisions(device)):
            energy = net if kind == "plain" else FrozenNet(net, num_chains=4, precision=kind)
            ours, slope = energy_and_gradient(y, energy)
            found = y.double() / 0.25 - slope.double()
            yield {
                "activation": activation,
                "path": kind,
                "error of df/dY": ((found - decoded).norm() / decoded.norm()).item(),
                "error of E": ((ours.double() - e).abs().max() / score.abs().max()).item(),
            }


def graphed(net: DescriptorNet, y: torch.Tensor, precision: str) -> Callable[[], None]:
    """K steps of eq. (7) as one CUDA graph, which the processor only starts; on a CPU the same steps one by one."""
    frozen, state = FrozenNet(net, num_chains=len(y), num_steps=K, precision=precision), y.clone()

    def steps() -> None:
        for _ in range(K):
            _, slope = frozen.energy_and_gradient(state)
            state.add_(slope, alpha=-STEP_SIZE / 2).add_(torch.randn_like(state), alpha=STEP_SIZE**0.5)

    if y.device.type != "cuda":
        return steps
    apart = torch.cuda.Stream()
    apart.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(apart):  # buffers are laid out, and kernels chosen, before anything is recorded
        steps()
    torch.cuda.current_stream().wait_stream(apart)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        steps()
    replay: Callable[[], None] = graph.replay
    return replay


def speeds(device: torch.device, kind: str, side: int, chains: int) -> dict[str, Any]:
    """Steps a second of one chain of K steps, by every way that fits in memory."""
    net = getattr(DescriptorNet, kind)(side).to(device)
    y = 0.5 * torch.randn(chains, 1, *[side] * 3, device=device)

    def chain(energy: Any, **options: Any) -> Callable[[], Any]:
        return lambda: sample(y, energy, num_steps=K, step_size=STEP_SIZE, **options)

    calls = {"plain": chain(Plain(net))}

    def autocast() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            chain(Plain(net))()

    calls["plain, autocast"] = autocast
    compiled = torch.compile(Plain(net))
    calls["compiled"] = chain(compiled)

    def compiled_autocast() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            chain(compiled)()

    calls["compiled, autocast"] = compiled_autocast
    with contextlib.suppress(ImportError):
        from torchebm.core import BaseModel
        from torchebm.samplers import LangevinDynamics

        class Model(BaseModel):
            def __init__(self) -> None:
                super().__init__()
                self.net = net

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.net(x)

        sampler = LangevinDynamics(Model(), step_size=STEP_SIZE / 2, device=device)
        calls["torchebm"] = lambda: sampler.sample(y, n_steps=K)
    calls |= {f"ours, {kind}": chain(net, fast=True, precision=kind) for kind in precisions(device)}
    made = dict[str, Callable[[], None]]()

    def replay(precision: str) -> None:
        if precision not in made:
            made[precision] = graphed(net, y, precision)
        made[precision]()

    calls |= {f"ours, {kind}, graph": partial(replay, kind) for kind in precisions(device)}
    found: dict[str, Any] = {"network": f"{kind} {side}^3", "chains": chains}
    for name, call in calls.items():
        try:
            found[name] = K / seconds(call, device)
        except Exception as error:  # too large for this card, or no compiler: said, and the others go on
            found[name] = f"{type(error).__name__}: {error}"[:120]
            torch.cuda.empty_cache() if device.type == "cuda" else None
    return found


def learning(device: torch.device, side: int, chains: int) -> dict[str, Any]:
    """Seconds of an iteration of Algorithm 1 with the paper's network."""
    data = (torch.rand(64, 1, *[side] * 3) < 0.2).float() - 0.2
    found: dict[str, Any] = {"network": f"paper {side}^3", "chains": chains}
    ways: dict[str, dict[str, Any]] = {"plain": {"fast": False}}
    ways |= {f"ours, {kind}": {"fast": True, "precision": kind} for kind in precisions(device)}
    for name, options in ways.items():
        settings = Settings(10**6, K, STEP_SIZE, batch_size=20, **options)
        run = Run.begin(
            DescriptorNet.paper(side).to(device), Persistent(noise(chains, side).to(device)), settings, seed=0
        )
        records = learn(run, data, settings)
        found[name] = seconds(lambda records=records: next(records), device)
    return found


def main() -> None:
    """All parts, while there is time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="on the CPU, tiny, to see that it runs")
    parser.add_argument("--minutes", type=float, default=12.0, help="no part begins later (default: 12)")
    given = parser.parse_args()
    if not given.dry and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here: --dry runs all parts on the CPU")
    began, device = time.perf_counter(), torch.device("cpu" if given.dry else "cuda")
    sides, counts = ((8,), (2,)) if given.dry else ((32, 64), (16, 128, 1000))
    facts: dict[str, list[dict[str, Any]]] = {"errors": list(errors(device, 8 if given.dry else 32))}
    facts |= {"steps a second": [], "seconds an iteration": []}
    parts = [
        ("steps a second", speeds, (kind, side if not given.dry or kind == "compact" else 16, chains))
        for chains in counts
        for side in sides
        for kind in ("compact", "paper")
    ]
    parts.insert(2, ("seconds an iteration", learning, (16 if given.dry else 32, 2 if given.dry else 25)))
    for name, part, arguments in parts:
        if time.perf_counter() - began > 60 * given.minutes:
            print("no time left for", name, *arguments)
            continue
        facts[name].append(part(device, *arguments))
        print(json.dumps(facts[name][-1]), flush=True)
    for row in facts["errors"]:
        print(json.dumps(row))
    if not given.dry:
        versions = {"dnet_lib": __version__, "torch": torch.__version__, "python": platform.python_version()}
        card = torch.cuda.get_device_name()
        made = {"paper": {}, "preset": {}, "dataset": {}, "seed": 0, "hardware": card, "versions": versions}
        made |= {"metrics": facts, "seconds": time.perf_counter() - began}
        print("written:", save_results("performance", "gpu", made))


if __name__ == "__main__":
    main()
