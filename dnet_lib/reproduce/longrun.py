"""Section 2.5 at length: long chains, chains at other temperatures, and learning with and without noise.

Of the three parts only one can use data, for a single number; the others sample shipped models or learn from the
embedded furniture. Each writes one file into results/temperature when it is done; an interrupted part leaves nothing.
"""

import time
from collections.abc import Callable
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
from dnet_lib.pretrained import Pretrained
from dnet_lib.reproduce.workplace import Facts, Workplace, packed, source
from dnet_lib.schedules import Decay
from dnet_lib.starts import Persistent, noise
from dnet_lib.voxels import threshold, uncentre

NUM_POINTS = 40  #: Points of a chain's curves, evenly spaced on a logarithmic axis
EXPERIMENT = "temperature"


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
) -> Facts:
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
    curves: dict[str, list[Any]] = {name: [] for name in ("energy", "slope", "full", "unsure", "apart")}
    shapes = {}
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


def written(name: str, began: float, place: Workplace, **about: object) -> Facts:
    """Write one of the results files."""
    return place.save(
        EXPERIMENT, name, {"paper": {}, "metrics": {}, **about, **place.made(time.perf_counter() - began)}
    )


def longrun(
    place: Workplace,
    *,
    name: str = "synthesis/toilet",
    num_chains: int = 4,
    num_steps: int = 10_000,
    temperatures: tuple[float, ...] = (0.0, 1.0),
) -> Facts:
    """A model's chains, run for long at several temperatures from the same starts: longrun.json.

    About 10 minutes on one core by default.
    """
    model, began, runs = place.model(*name.split("/")), time.perf_counter(), {}
    trained, step_size = model.settings.num_steps, model.settings.step_size
    for temperature in temperatures:
        generator = place.random()
        starts = model.starts(num_chains, generator=generator)
        options: dict[str, Any] = {"num_steps": num_steps, "trained": trained, "step_size": step_size}
        options |= {"mean": model.mean, "temperature": temperature, "generator": generator}
        runs[f"{temperature:g}"] = follow(starts, model.net, **options)
    about = {
        "preset": {"num_chains": num_chains, "num_steps": num_steps, "temperatures": temperatures},
        "model": name,
        "resolution": starts.shape[-1],
        "step_size": step_size,
        "trained": trained,
        "runs": runs,
        "dataset": model.card["dataset"],
    }
    return written("longrun", began, place, **about)


def annealed(first: float, num_steps: int) -> Callable[[int], float]:
    """A temperature that falls in a straight line to 0 over the first 70 % of a chain's steps."""
    return lambda step: first * max(0.0, 1 - step / (0.7 * num_steps))


def ladder(
    place: Workplace,
    *,
    name: str = "synthesis/toilet",
    num_samples: int = 32,
    num_alike: int = 8,
    num_seeds: int = 3,
) -> Facts:
    """A model sampled at many temperatures, as many steps as in training, with several seeds: ladder.json.

    For each temperature (or annealing to 0) and seed: energy, share of full voxels, share between 0.1 and 0.9, mean
    distance of two samples, of `num_alike` samples from one start, number of different samples, mean probability of the
    category by the judge, and, where the place has data, the distance to the nearest of them in units of a
    test shape's. About 5 minutes on one core.
    """
    model, judge, began = place.model(*name.split("/")), load_judge(device=place.device), time.perf_counter()
    category, num_steps = name.split("/")[1], model.settings.num_steps
    label, sets = judge.categories.index(category), None
    if place.data is not None:
        train, test = (place.shapes(category, split, model.net.resolution) for split in ("train", "test"))
        sets = train.voxels, nearest(test.voxels, train.voxels).distance.mean().item()
    schedules: dict[str, float | Callable[[int], float]] = {f"{t:g}": t for t in (0.0, 5e-5, 0.001, 0.01, 0.1, 1.0)}
    schedules |= {f"{t:g} to 0": annealed(t, num_steps) for t in (0.1, 1.0)}
    rows: dict[str, list[dict[str, float]]] = {which: [] for which in schedules}
    with tqdm(total=len(schedules) * num_seeds * num_steps * (num_samples + num_alike), unit="chain step") as bar:
        for which, temperature in schedules.items():
            for number in range(num_seeds):
                generator = place.random(number)
                starts = model.starts(num_samples, generator=generator)
                starts = torch.cat([starts, starts[:1].repeat(num_alike, 1, 1, 1, 1)])
                options: dict[str, Any] = {"num_steps": num_steps, "step_size": model.settings.step_size}
                y = sample(starts, model.net, temperature=temperature, generator=generator, **options)
                rows[which].append(measured(y, num_samples, model, sets))
                made = uncentre(y[:num_samples], model.mean)
                rows[which][-1]["class_probability"] = class_probability(judge.probabilities(made), label)
                bar.update(num_steps * len(starts))
    columns = {which: {key: [row[key] for row in several] for key in several[0]} for which, several in rows.items()}
    preset = {"num_samples": num_samples, "num_alike": num_alike, "num_seeds": num_seeds}
    about = {"preset": preset, "model": name, "judge": judge.name, "rows": columns, "dataset": model.card["dataset"]}
    return written("ladder", began, place, **about)


def measured(y: Tensor, num_samples: int, model: Pretrained, sets: tuple[Tensor, float] | None) -> dict[str, float]:
    """The numbers of `ladder` that need no judge; from y[num_samples] on all chains had one start."""
    energy, y = model.energy(y[:num_samples]).mean().item(), uncentre(y, model.mean).cpu()
    made, binary = y[:num_samples], threshold(y[:num_samples])
    row = {
        "energy": energy,
        "full": binary.mean().item(),
        "unsure": ((made > 0.1) & (made < 0.9)).float().mean().item(),
        "apart": apart(made),
        "apart_from_one_start": apart(y[num_samples:]),
        "different": len(binary.flatten(1).unique(dim=0)),
    }
    if sets is not None:
        near = nearest(made, sets[0])
        row |= {"nearest": near.distance.mean().item() / sets[1], "distinct_nearest": near.row.unique().numel()}
    return row


VARIANTS = {"without noise": (0.0, 0.0), "with noise": (0.05, 0.0), "with noise, chains renewed": (0.05, 0.05)}
"""Temperature of `contrast`, and the share of its chains that start again from noise at each iteration."""


def contrast(place: Workplace, *, num_iterations: int = 400, num_steps: int = 10_000, num_chains: int = 24) -> Facts:
    """The same small model learned with noise and without, then sampled for long: contrast.json.

    Algorithm 1 on the embedded toilets at 16^3 with persistent chains, by the `VARIANTS`. Kept of each are a learning
    curve, eight of its chains run on at its own temperature (`follow`), all of them after 200 steps without noise
    (`cooled`), and eight new chains from noise after 2,000 steps and 200 without noise (`fresh`). About 10 minutes on
    one core.
    """
    shapes, test = (load_shapes("furniture", "toilet", split, resolution=16) for split in ("train", "test"))
    unit, began, runs = nearest(test.voxels, shapes.voxels).distance.mean().item(), time.perf_counter(), {}
    for which, (temperature, renew) in VARIANTS.items():
        generator, device = place.random(), place.device
        net = DescriptorNet(Architecture(16, ((64, 8, 4), (96, 3, 1))), generator=generator, device=device)
        begun = noise(num_chains, 16, std=0.5, generator=generator, device=device)
        starts = Persistent(begun, renew=renew, std=0.5)
        settings = Settings(
            num_iterations,
            num_steps=20,
            step_size=0.02,
            temperature=temperature,
            batch_size=24,
            learning_rate=Decay(1e-3, 2e-5, over=num_iterations),
            data_noise=0.1,
        )
        run, curve = Run.begin(net, starts, settings, seed=place.seed), []
        learning = learn(run, shapes.centred, settings)
        for record in tqdm(learning, total=num_iterations, unit="iteration", desc=f"learning {which}"):
            if record.iteration % max(1, num_iterations // 40) == 0:
                near = nearest(uncentre(record.synthesized.cpu(), shapes.mean), shapes.voxels)
                curve.append(
                    {
                        "iteration": record.iteration,
                        "energy_gap": round(record.energy_gap, 4),
                        "apart": round(apart(uncentre(record.synthesized.cpu(), shapes.mean)), 1),
                        "nearest": round(near.distance.mean().item() / unit, 3),
                        "distinct_nearest": near.row.unique().numel(),
                    }
                )
        options: dict[str, Any] = {"step_size": settings.step_size, "generator": generator}
        fresh = noise(min(8, num_chains), 16, std=0.5, generator=generator, device=device)
        fresh = sample(fresh, net, num_steps=num_steps // 5, temperature=temperature, progress="new chains", **options)
        ends = {
            "cooled": sample(starts.chains, net, num_steps=200, temperature=0.0, **options),
            "fresh": sample(fresh, net, num_steps=200, temperature=0.0, **options),
        }
        runs[which] = {
            "temperature": temperature,
            "renew": renew,
            "curve": {key: [point[key] for point in curve] for key in curve[0]},
            **{end: packed(threshold(uncentre(y, shapes.mean)).cpu()) for end, y in ends.items()},
            **follow(
                starts.chains[:8],
                net,
                mean=shapes.mean,
                num_steps=num_steps,
                trained=settings.num_steps,
                temperature=temperature,
                **options,
            ),
        }
    about = {
        "preset": {"num_iterations": num_iterations, "num_steps": num_steps, "num_chains": num_chains},
        "resolution": 16,
        "runs": runs,
        "dataset": source(shapes, category="toilet", num_train=len(shapes)),
    }
    return written("contrast", began, place, **about)


def reproduce(place: Workplace) -> dict[str, Facts]:
    """All three parts."""
    return {part.__name__: part(place) for part in (longrun, ladder, contrast)}
