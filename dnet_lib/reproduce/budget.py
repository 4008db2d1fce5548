"""Does it pay? Algorithms 1, 2 and 3 with the same descriptor at the finest grid, over the same time of one core."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dnet_lib.data import ShapeSet
from dnet_lib.energy import DescriptorNet
from dnet_lib.learning import Run, Settings, learn
from dnet_lib.multigrid import learn_grids
from dnet_lib.presets import GRIDS, TEACHING, Cooperative, MultiGrid, changed
from dnet_lib.reproduce import cooperative
from dnet_lib.reproduce import multigrid as grids
from dnet_lib.reproduce.judging import compared, judged
from dnet_lib.reproduce.workplace import Facts, Workplace, source
from dnet_lib.starts import Persistent, noise
from dnet_lib.voxels import uncentre

EXPERIMENT = "budget"
MINUTES = 10.0  #: Of one core's time, for one run
NUM_MOMENTS = 8
NUM_SAMPLES = 64
NUM_SEEDS = 3
WANTED = ("class_probability", "class_probability_views", "coverage", "minimum_matching_distance", "ratio")

Draw = Callable[[], Tensor]  #: New samples of a model that is still learning, occupancy
Race = tuple[Iterator[Any], Draw]


def constant(settings: Settings) -> Settings:
    """Without an end: half of the first learning rate, which does not fall."""
    rate = settings.learning_rate
    return replace(settings, num_iterations=10**6, learning_rate=(rate(0) if callable(rate) else rate) / 2)


def multigrid(preset: MultiGrid, shapes: ShapeSet, seed: int) -> Race:
    """All grids at once; samples from the histogram of one voxel up."""
    runs = grids.begin(preset, seed)

    def draw() -> Tensor:
        return grids.pyramid(preset, runs, shapes).sample(NUM_SAMPLES, generator=torch.Generator().manual_seed(seed))

    return learn_grids(runs, shapes.centred, preset.settings), draw


def plain(preset: MultiGrid, shapes: ShapeSet, seed: int) -> Race:
    """The finest grid alone, by persistent chains begun as noise, which are its samples (Algorithm 1)."""
    generator, settings = torch.Generator().manual_seed(seed), preset.settings[-1]
    net = DescriptorNet(preset.architecture, weight_std=preset.weight_std, generator=generator)
    first = noise(NUM_SAMPLES, preset.architecture.resolution, generator=generator)
    starts = Persistent(first, per_iteration=settings.batch_size)
    return learn(Run.begin(net, starts, settings, seed=seed), shapes.centred, settings), lambda: uncentre(
        starts.chains, shapes.mean
    )


def teaching(preset: Cooperative, shapes: ShapeSet, seed: int) -> Race:
    """A generator is taught; samples are its proposals, revised by its teacher's chain."""
    run, lesson = cooperative.begin(preset, shapes, seed)

    def draw() -> Tensor:
        model = cooperative.taught(preset, run, lesson, shapes)
        return model.sample(NUM_SAMPLES, generator=torch.Generator().manual_seed(seed))

    return learn(run, shapes.centred, preset.settings), draw


METHODS: dict[str, tuple[Callable[..., Race], Any]] = {
    "multigrid": (multigrid, GRIDS),
    "plain": (plain, GRIDS),
    "teaching": (teaching, TEACHING),
}
"""How each begins, and its preset."""


def trace(method: str, seed: int, train: ShapeSet, test: ShapeSet, *, minutes: float) -> Facts:
    """One run: what samples are worth after each share of the time. Judging is not counted."""
    enter, preset = METHODS[method]
    loop, draw = enter(changed(preset, "constant", constant), train, seed)
    columns: dict[str, list[float]] = {name: [] for name in ("minutes", *WANTED)}
    spent, iterations, mark = 0.0, 0, time.process_time()
    with tqdm(total=NUM_MOMENTS, unit="moment", desc=f"{method} {seed}") as bar:
        for _ in loop:
            iterations += 1
            spent += time.process_time() - mark
            if spent >= 60 * minutes * (bar.n + 1) / NUM_MOMENTS:
                samples = draw().clamp(0, 1)
                facts = judged(samples, train.categories[int(train.labels[0])]) | compared(samples, train, test)
                columns["minutes"].append(round(spent / 60, 2))
                for name in WANTED:
                    columns[name].append(round(facts[name], 4))
                bar.update()
                if bar.n == NUM_MOMENTS:
                    break
            mark = time.process_time()
    return {"method": method, "seed": seed, "iterations": iterations, **columns}


def reproduce(place: Workplace, *, category: str = "sofa", minutes: float = MINUTES) -> Facts:
    """All methods and seeds, on one thread; the results file grows with each run, and finished runs are kept."""
    torch.set_num_threads(1)
    resolution = GRIDS.architecture.resolution
    train, test = (place.shapes(category, split, resolution) for split in ("train", "test"))
    path = place.results / EXPERIMENT / f"{category}.json"
    facts: Facts = {"runs": [], "metrics": {}, "paper": {}}
    facts |= place.known(EXPERIMENT, category) if path.exists() else {}
    done = {(run["method"], run["seed"]) for run in facts["runs"]}
    seeds = range(place.seed, place.seed + NUM_SEEDS)
    for method, seed in ((method, seed) for seed in seeds for method in METHODS):
        if (method, seed) not in done:
            facts["runs"].append(trace(method, seed, train, test, minutes=minutes))
            facts |= place.made(60 * minutes * len(facts["runs"]))
            facts["preset"] = {
                name: asdict(changed(preset, "constant", constant)) for name, (_, preset) in METHODS.items()
            }
            facts["dataset"] = source(train, category=category, num_train=len(train))
            for name in WANTED:
                for which in METHODS:
                    ends = [run[name][-1] for run in facts["runs"] if run["method"] == which]
                    if ends:
                        facts["metrics"][f"{name}_{which}"] = sum(ends) / len(ends)
            place.save(EXPERIMENT, category, facts)
    return facts
