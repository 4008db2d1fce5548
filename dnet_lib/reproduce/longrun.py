"""Section 2.5 at length: long chains, chains at other temperatures, and learning with and without noise.

Of the three parts only one can use data, for a single number; the others sample shipped models or learn from the
embedded furniture. Each writes one file into results/temperature when it is done; an interrupted part leaves nothing.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from dnet_lib.data import load_shapes
from dnet_lib.energy import Architecture, DescriptorNet, Energy
from dnet_lib.errors import DivergedError
from dnet_lib.judges import load_judge
from dnet_lib.langevin import langevin, sample
from dnet_lib.learning import Run, Settings, learn
from dnet_lib.metrics import class_probability, distances, nearest
from dnet_lib.pretrained import Chain
from dnet_lib.reproduce.workplace import Facts, Workplace, packed, source
from dnet_lib.schedules import Decay
from dnet_lib.starts import Persistent, noise
from dnet_lib.voxels import threshold, uncentre

NUM_POINTS = 40  #: Points of a chain's curves, evenly spaced on a logarithmic axis
EXPERIMENT = "temperature"
MODEL = "synthesis", "toilet"


def follow(y: Tensor, energy: Energy, mean: float, chain: Chain, num_steps: int, generator: torch.Generator) -> Facts:
    """Run chains from y (centred, N >= 2) for `num_steps`, with a progress bar; in training they ran as `chain` says.

    The curves have a row for each noted `step`. In a row is one number a chain: its energy, slope |dE/dY|, share of
    full voxels, share of voxels between 0.1 and 0.9, and number of voxels that differ from its own shape at the end
    of `chain`; `apart` is the mean number of voxels in which two chains differ. `shapes` are the thresholded shapes of
    the steps in `kept`: 0, those of `chain`, the powers of ten from 100, and the last.
    """
    trained, temperature = chain.num_steps, chain.temperature
    if not 0 < trained <= num_steps:
        raise ValueError(f"chains of {num_steps} steps cannot be compared with those of {trained} in training")
    kept = sorted(step for step in {0, trained, num_steps, *(10**k for k in range(2, 9))} if step <= num_steps)
    noted = sorted({*kept, *(round(step) for step in np.geomspace(1, num_steps, NUM_POINTS))})
    curves: dict[str, list[Any]] = {name: [] for name in ("energy", "slope", "full", "unsure", "apart")}
    shapes = {}
    steps = langevin(y, energy, step_size=chain.step_size, temperature=temperature, generator=generator)
    for step in tqdm(range(num_steps + 1), unit="step", desc=f"temperature {temperature:g}"):
        following, seen = next(steps)  # what a step sees is of the shapes it leaves from
        if step in noted:
            if not bool(torch.isfinite(y).all()):
                raise DivergedError(f"chains at temperature {temperature:g} did not stay finite until step {step}")
            occupancy = uncentre(y, mean).cpu()
            shapes[step] = threshold(occupancy)
            curves["energy"].append(rounded(seen.energy, 1))
            curves["slope"].append(rounded(seen.gradient_norm, 2))
            curves["full"].append(rounded(shapes[step].flatten(1).mean(1), 5))
            curves["unsure"].append(rounded(((occupancy > 0.1) & (occupancy < 0.9)).flatten(1).float().mean(1), 5))
            curves["apart"].append(round(apart(occupancy), 1))
        y = following
    curves["moved"] = [rounded((shape != shapes[trained]).flatten(1).sum(1), 0) for shape in shapes.values()]
    return {"step": noted, **curves, "kept": kept, "shapes": packed(torch.cat([shapes[step] for step in kept]))}


def apart(occupancy: Tensor) -> float:
    """Mean number of voxels in which two of the shapes differ, thresholded."""
    pairs = torch.ones(len(occupancy), len(occupancy), dtype=torch.bool).triu(1)
    return distances(occupancy, occupancy)[pairs].mean().item()


def rounded(values: Tensor, digits: int) -> list[float]:
    """Numbers as a results file has them."""
    return [round(value, digits) for value in values.tolist()]


def written(name: str, facts: Facts, began: float, place: Workplace) -> Facts:
    """Write one of the results files."""
    made = place.made(time.perf_counter() - began)
    return place.save(EXPERIMENT, name, {"paper": {}, "metrics": {}} | facts | made)


def longrun(
    place: Workplace, *, num_chains: int = 4, num_steps: int = 10_000, temperatures: tuple[float, ...] = (0.0, 1.0)
) -> Facts:
    """The model's chains, run for long at several temperatures from the same starts: longrun.json.

    About 10 minutes on one core by default.
    """
    began, model, runs = time.perf_counter(), place.model(*MODEL), {}
    for temperature in temperatures:
        random, chain = place.random(), replace(model.settings, temperature=temperature)
        starts = model.starts(num_chains, generator=random)
        runs[f"{temperature:g}"] = follow(starts, model.net, model.mean, chain, num_steps, random)
    facts = {
        "preset": {"num_chains": num_chains, "num_steps": num_steps, "temperatures": temperatures},
        "model": "/".join(MODEL),
        "resolution": model.net.resolution,
        "step_size": model.settings.step_size,
        "trained": model.settings.num_steps,
        "runs": runs,
        "dataset": model.card["dataset"],
    }
    return written("longrun", facts, began, place)


def annealed(first: float, num_steps: int) -> Callable[[int], float]:
    """A temperature that falls in a straight line to 0 over the first 70 % of a chain's steps."""
    return lambda step: first * max(0.0, 1 - step / (0.7 * num_steps))


def ladder(place: Workplace, *, num_samples: int = 32, num_alike: int = 8, num_seeds: int = 3) -> Facts:
    """The model sampled at many temperatures, as many steps as in training, with several seeds: ladder.json.

    For each temperature (or annealing to 0) and seed: energy, share of full voxels, share between 0.1 and 0.9, mean
    distance of two samples, of `num_alike` samples from one start, number of different samples, mean probability of the
    category by the judge, and, where the place has data, the distance to the nearest of them in units of a
    test shape's. About 5 minutes on one core.
    """
    began, model, judge = time.perf_counter(), place.model(*MODEL), load_judge(device=place.device)
    chain, label = model.settings, judge.categories.index(MODEL[1])
    schedules: dict[str, float | Callable[[int], float]] = {f"{t:g}": t for t in (0.0, 5e-5, 0.001, 0.01, 0.1, 1.0)}
    schedules |= {f"{t:g} to 0": annealed(t, chain.num_steps) for t in (0.1, 1.0)}
    known, unit = None, 1.0
    if place.data is not None:
        known, test = (shapes.voxels for shapes in place.splits(MODEL[1], model.net.resolution))
        unit = nearest(test, known).distance.mean().item()
    rows: dict[str, dict[str, list[float]]] = {which: defaultdict(list) for which in schedules}
    for which, seed in tqdm([(which, seed) for which in schedules for seed in range(num_seeds)], unit="sampling"):
        random = place.random(seed)
        y = model.starts(num_samples, generator=random)
        y = torch.cat([y, y[:1].repeat(num_alike, 1, 1, 1, 1)])
        options: dict[str, Any] = {"num_steps": chain.num_steps, "step_size": chain.step_size, "generator": random}
        y = sample(y, model.net, temperature=schedules[which], **options)
        made, alike = uncentre(y, model.mean).split([num_samples, num_alike])
        row = {
            "energy": model.energy(y[:num_samples]).mean().item(),
            "class_probability": class_probability(judge.probabilities(made), label),
            "full": threshold(made).mean().item(),
            "unsure": ((made > 0.1) & (made < 0.9)).float().mean().item(),
            "apart": apart(made),
            "apart_from_one_start": apart(alike),
            "different": len(threshold(made).flatten(1).unique(dim=0)),
        }
        if known is not None:
            near = nearest(made.cpu(), known)
            row |= {"nearest": near.distance.mean().item() / unit, "distinct_nearest": near.row.unique().numel()}
        for name, value in row.items():
            rows[which][name].append(value)
    preset = {"num_samples": num_samples, "num_alike": num_alike, "num_seeds": num_seeds}
    about = {"preset": preset, "model": "/".join(MODEL), "judge": judge.name, "dataset": model.card["dataset"]}
    return written("ladder", about | {"rows": rows}, began, place)


VARIANTS = {"without noise": (0.0, 0.0), "with noise": (0.05, 0.0), "with noise, chains renewed": (0.05, 0.05)}
"""Temperature of `contrast`, and the share of its chains that start again from noise at each iteration."""


def contrast(place: Workplace, *, num_iterations: int = 400, num_steps: int = 10_000, num_chains: int = 24) -> Facts:
    """The same small model learned with noise and without, then sampled for long: contrast.json.

    Algorithm 1 on the embedded toilets at 16^3 with persistent chains, by the `VARIANTS`. Kept of each are a learning
    curve, eight of its chains run on at its own temperature (`follow`), all of them after 200 steps without noise
    (`cooled`), and eight new chains from noise after 2,000 steps and 200 without noise (`fresh`). About 10 minutes on
    one core.
    """
    began, runs = time.perf_counter(), {}
    shapes, test = (load_shapes("furniture", "toilet", split, resolution=16) for split in ("train", "test"))
    unit = nearest(test.voxels, shapes.voxels).distance.mean().item()
    for which, (temperature, renew) in VARIANTS.items():
        random, chain = place.random(), Chain(20, 0.02, temperature)
        like: dict[str, Any] = {"std": 0.5, "generator": random, "device": place.device}
        net = DescriptorNet(Architecture(16, ((64, 8, 4), (96, 3, 1))), generator=random, device=place.device)
        starts = Persistent(noise(num_chains, 16, **like), renew=renew, std=0.5)
        rate = Decay(1e-3, 2e-5, over=num_iterations)
        settings = Settings(num_iterations, **asdict(chain), batch_size=24, learning_rate=rate, data_noise=0.1)
        learning = learn(Run.begin(net, starts, settings, seed=place.seed), shapes.centred, settings)
        curve: dict[str, list[float]] = defaultdict(list)
        for record in tqdm(learning, total=num_iterations, unit="iteration", desc=f"learning {which}"):
            if record.iteration % max(1, num_iterations // 40) == 0:
                made = uncentre(record.synthesized.cpu(), shapes.mean)
                near = nearest(made, shapes.voxels)
                curve["iteration"].append(record.iteration)
                curve["energy_gap"].append(round(record.energy_gap, 4))
                curve["apart"].append(round(apart(made), 1))
                curve["nearest"].append(round(near.distance.mean().item() / unit, 3))
                curve["distinct_nearest"].append(near.row.unique().numel())
        options: dict[str, Any] = {"step_size": chain.step_size, "generator": random}
        fresh = noise(min(8, num_chains), 16, **like)
        fresh = sample(fresh, net, num_steps=num_steps // 5, temperature=temperature, progress="new chains", **options)
        ends = [sample(y, net, num_steps=200, temperature=0.0, **options) for y in (starts.chains, fresh)]
        cooled, arrived = (packed(threshold(uncentre(y, shapes.mean)).cpu()) for y in ends)
        runs[which] = {
            "temperature": temperature,
            "renew": renew,
            "curve": curve,
            "cooled": cooled,
            "fresh": arrived,
            **follow(starts.chains[:8], net, shapes.mean, chain, num_steps, random),
        }
    preset = {"num_iterations": num_iterations, "num_steps": num_steps, "num_chains": num_chains}
    about = {"preset": preset, "resolution": 16, "dataset": source(shapes, category="toilet", num_train=len(shapes))}
    return written("contrast", about | {"runs": runs}, began, place)


def reproduce(place: Workplace) -> dict[str, Facts]:
    """All three parts."""
    return {part.__name__: part(place) for part in (longrun, ladder, contrast)}
