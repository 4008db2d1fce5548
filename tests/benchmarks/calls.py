"""What is timed: a function for each kind of work that returns it as a call without arguments.

The library as it was before is timed in a process of its own (what this library's memory does for later calls would
help it): `python calls.py` takes such calls by name and makes them, one by one, with the `dnet_lib` that it finds.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

import dnet_lib
from dnet_lib import Architecture, DescriptorNet, Run, presets, starts
from dnet_lib.energy import COMPACT_LAYERS
from dnet_lib.fast import FrozenNet

STEP_SIZE = 0.01
LEARNING = {  # a preset, its learning, and how many chains
    "synthesis": (presets.CPU.architecture, presets.CPU.settings, 16),
    "all categories": (presets.MIXED.architecture, presets.MIXED.settings, 20),
    "recovery": (
        next(iter(presets.RECOVERY.values())).architecture,
        next(iter(presets.RECOVERY.values())).settings,
        16,
    ),
    "multi-grid, 8^3": (Architecture(8, COMPACT_LAYERS[8]), presets.GRIDS.settings[1], 16),
    "multi-grid, 16^3": (Architecture(16, COMPACT_LAYERS[16]), presets.GRIDS.settings[2], 16),
    "the paper's": (presets.AUTHORS.architecture, presets.AUTHORS.settings, 25),
}


def shapes(side: int, chains: int) -> torch.Tensor:
    return 0.5 * torch.randn(chains, 1, *[side] * 3)


def network(kind: str, side: int, layers: list | None = None, activation: str = "relu") -> DescriptorNet:
    """`compact`, `paper` or one's `own`."""
    if kind == "own":
        return DescriptorNet(Architecture(side, tuple(map(tuple, layers or ())), activation))
    return getattr(DescriptorNet, kind)(side)


def chain(net: list, chains: int, steps: int, **options: Any) -> Callable[[], object]:
    """Steps of `sample`."""
    made, y = network(*net), shapes(net[1], chains)
    return lambda: dnet_lib.sample(y, made, num_steps=steps, step_size=STEP_SIZE, **options)


def gradient(net: list, chains: int, **options: Any) -> Callable[[], object]:
    """One energy and its gradient, frozen."""
    frozen, y = FrozenNet(network(*net), num_chains=chains, **options), shapes(net[1], chains)
    return lambda: frozen.energy_and_gradient(y)


def module(chains: int, steps: int) -> Callable[[], object]:
    """Steps with a user's own module, which takes the plain path."""
    net = nn.Sequential(nn.Conv3d(1, 32, 4, 2, 1), nn.ReLU(), nn.Conv3d(32, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(1))
    energy, y = nn.Sequential(net, nn.Linear(32 * 64, 1), nn.Flatten(0)), shapes(16, chains)
    return lambda: dnet_lib.sample(y, energy, num_steps=steps, step_size=STEP_SIZE)


def lesson(name: str, **options: Any) -> Callable[[], object]:
    """An iteration of learning: a preset's network, batch and chains, eq. (8), Adam, the average, and the starts."""
    architecture, settings, chains = LEARNING[name]
    settings, side = replace(settings, num_iterations=10**6, **options), architecture.resolution
    data = (torch.rand(64, 1, *[side] * 3) < 0.2).float() - 0.2
    run = Run.begin(DescriptorNet(architecture), starts.Persistent(starts.noise(chains, side)), settings)
    records = dnet_lib.learn(run, data, settings, save_every=10**6)
    next(records)  # what is done once a run
    return lambda: next(records)


if __name__ == "__main__":
    made: list[Callable[[], object]] = []
    for line in sys.stdin:
        if line.strip():
            name, threads, arguments, options = json.loads(line)
            torch.set_num_threads(threads)
            made = [globals()[name](*arguments, **options)]
        else:
            made[0]()
        print(flush=True)
