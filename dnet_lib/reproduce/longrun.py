"""Section 2.5 at length: what a trained model's chains do when they run far longer than in training."""

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from dnet_lib.checkpoints import RESULTS, load_pretrained, save_results
from dnet_lib.energy import Energy
from dnet_lib.langevin import DivergedError, langevin
from dnet_lib.metrics import distances
from dnet_lib.reproduce.record import hardware, packed, versions
from dnet_lib.voxels import threshold, uncentre

NUM_POINTS = 40
"""Points of a chain's curves, evenly spaced on a logarithmic axis."""


def follow(
    y: Tensor,
    energy: Energy,
    *,
    mean: float,
    num_steps: int,
    trained: int,
    step_size: float,
    temperature: float,
    generator: torch.Generator,
) -> dict:
    """Run chains from y (centred, N >= 2), with a progress bar; in training they ran `trained` steps.

    The curves have a row for each noted `step`. In a row is one number a chain: its energy, slope |dE/dY|, share of
    full voxels, share of voxels between 0.1 and 0.9, and number of voxels that differ from its own shape after
    `trained` steps; `apart` is the mean number of voxels in which two chains differ. `shapes` are the thresholded
    shapes of the steps in `kept`: 0, `trained`, the powers of ten from 100, and the last.
    """
    if not 0 < trained <= num_steps:
        raise ValueError(f"chains of {num_steps} steps cannot be compared with those of {trained} in training")
    kept = sorted(step for step in {0, trained, num_steps, *(10**k for k in range(2, 9))} if step <= num_steps)
    noted = sorted({*kept, *(round(step) for step in np.geomspace(1, num_steps, NUM_POINTS))})
    curves: dict[str, list] = {name: [] for name in ("energy", "slope", "full", "unsure", "apart")}
    shapes, pairs = {}, torch.ones(len(y), len(y), dtype=torch.bool).triu(1)
    chain = langevin(y, energy, step_size=step_size, temperature=temperature, generator=generator)
    for step in tqdm(range(num_steps + 1), unit="step", desc=f"temperature {temperature:g}"):
        following, seen = next(chain)  # what a step sees is of the shapes it leaves from
        if step in noted:
            if not bool(torch.isfinite(y).all()):
                raise DivergedError(f"chains at temperature {temperature:g} did not stay finite until step {step}")
            occupancy = uncentre(y, mean).cpu()
            shapes[step] = threshold(occupancy)
            curves["energy"].append(rounded(seen.energy, 1))
            curves["slope"].append(rounded(seen.gradient_norm, 2))
            curves["full"].append(rounded(shapes[step].flatten(1).mean(1), 5))
            curves["unsure"].append(rounded(((occupancy > 0.1) & (occupancy < 0.9)).flatten(1).float().mean(1), 5))
            curves["apart"].append(round(distances(occupancy, occupancy)[pairs].mean().item(), 1))
        y = following
    curves["moved"] = [rounded((shape != shapes[trained]).flatten(1).sum(1), 0) for shape in shapes.values()]
    return {"step": noted, **curves, "kept": kept, "shapes": packed(torch.cat([shapes[step] for step in kept]))}


def rounded(values: Tensor, digits: int) -> list[float]:
    """Numbers as a results file has them."""
    return [round(value, digits) for value in values.tolist()]


def longrun(
    name: str = "synthesis/toilet",
    *,
    num_chains: int = 4,
    num_steps: int = 10_000,
    temperatures: tuple[float, ...] = (0.0, 0.01, 1.0),
    seed: int = 0,
    results: Path = RESULTS,
    device: str = "cpu",
) -> dict:
    """Run a shipped model's chains for long at several temperatures; writes temperature/longrun.json.

    All temperatures begin at the same starts. No data is needed: the model is only sampled. About 15 minutes on one
    core by default; an interrupted run leaves nothing.
    """
    model, began = load_pretrained(name, device=device), time.perf_counter()
    runs = {}
    for temperature in temperatures:
        generator = torch.Generator(device).manual_seed(seed)
        runs[f"{temperature:g}"] = follow(
            model.starts(num_chains, generator=generator),
            model.net,
            mean=model.mean,
            num_steps=num_steps,
            trained=model.settings.num_steps,
            step_size=model.settings.step_size,
            temperature=temperature,
            generator=generator,
        )
    facts = {
        "model": name,
        "resolution": model.net.architecture.resolution,
        "step_size": model.settings.step_size,
        "trained": {"steps": model.settings.num_steps, "temperature": model.settings.temperature},
        "runs": runs,
        "metrics": {},
        "paper": {},
        "dataset": model.card["dataset"],
        "seed": seed,
        "seconds": time.perf_counter() - began,
        "hardware": hardware(device),
        "versions": versions(),
    }
    save_results("temperature", "longrun", facts, folder=results)
    return facts
