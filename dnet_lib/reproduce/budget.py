"""Does it pay? Algorithms 1, 2 and 3 with the same descriptor at the finest grid, over the same time of one core."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from tqdm.auto import tqdm

from dnet_lib.learning import Settings
from dnet_lib.presets import FINEST, GRIDS, TEACHING, changed
from dnet_lib.processes import num_processes
from dnet_lib.reproduce.judging import verdict
from dnet_lib.reproduce.lessons import Lesson, cooperative, multigrid, synthesis
from dnet_lib.reproduce.workplace import Facts, Sets, Workplace, source

EXPERIMENT = "budget"
MINUTES = 10.0  #: Of one core's time, for one run
NUM_MOMENTS = 8
NUM_SAMPLES = 64
NUM_SEEDS = 3
WANTED = ("class_probability", "class_probability_views", "coverage", "minimum_matching_distance", "ratio")


def constant(settings: Settings) -> Settings:
    """Without an end: half of the first learning rate, which does not fall."""
    rate = settings.learning_rate
    return replace(settings, num_iterations=10**6, learning_rate=(rate(0) if callable(rate) else rate) / 2)


METHODS: dict[str, tuple[Callable[..., Lesson], Any]] = {
    "multigrid": (multigrid, GRIDS),
    "plain": (synthesis, FINEST),
    "teaching": (cooperative, TEACHING),
}
"""How each begins, and its preset."""


def trace(method: str, lesson: Lesson, category: str, sets: Sets, place: Workplace, minutes: float) -> Facts:
    """One run: what samples are worth after each share of the time. Judging is not counted."""
    columns: dict[str, list[float]] = {name: [] for name in ("minutes", *WANTED)}
    spent, iterations, mark = 0.0, 0, time.process_time()
    with tqdm(total=NUM_MOMENTS, unit="moment", desc=f"{method} {place.seed}") as bar:
        for _ in lesson.records(None):
            iterations += 1
            spent += time.process_time() - mark
            if spent >= 60 * minutes * (bar.n + 1) / NUM_MOMENTS:
                chains = lesson.chains
                samples = lesson.model().sample(NUM_SAMPLES, generator=place.random()) if chains is None else chains
                found = verdict(samples.clamp(0, 1), category, sets) | {"minutes": spent / 60}
                for name, column in columns.items():
                    column.append(round(found[name], 2 if name == "minutes" else 4))
                bar.update()
                if bar.n == NUM_MOMENTS:
                    break
            mark = time.process_time()
    return {"method": method, "seed": place.seed, "iterations": iterations, **columns}


def reproduce(place: Workplace, *, category: str = "sofa", minutes: float = MINUTES) -> dict[str, Facts]:
    """All methods and seeds, on one thread; the results file grows with each run, and finished runs are kept."""
    if num_processes() > 1:
        raise ValueError("this compares algorithms by the time of one core: start it without torchrun")
    torch.set_num_threads(1)
    sets = place.splits(category, GRIDS.architecture.resolution)
    presets = {name: changed(preset, "constant", constant) for name, (_, preset) in METHODS.items()}
    about: Facts = {
        "preset": json.loads(json.dumps({name: asdict(preset) for name, preset in presets.items()}, default=repr)),
        "dataset": source(sets[0], category=category, num_train=len(sets[0])),
        "minutes": minutes,
    }
    facts = place.begun(EXPERIMENT, category, about)
    done = {(run["method"], run["seed"]) for run in facts["runs"]}
    seeds = range(place.seed, place.seed + NUM_SEEDS)
    for method, seed in [(name, seed) for seed in seeds for name in METHODS if (name, seed) not in done]:
        here, (begin, _) = replace(place, seed=seed), METHODS[method]
        facts["runs"].append(trace(method, begin(presets[method], sets[0], here), category, sets, here, minutes))
        facts |= place.made(60 * minutes * len(facts["runs"]))
        for name in WANTED:
            for which in METHODS:
                ends = [run[name][-1] for run in facts["runs"] if run["method"] == which]
                if ends:
                    facts["metrics"][f"{name}_{which}"] = sum(ends) / len(ends)
        place.save(EXPERIMENT, category, facts)
    return {category: facts}
