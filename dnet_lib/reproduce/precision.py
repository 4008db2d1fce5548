"""Does rounding cost quality? The same learning runs with products in float32 and in bfloat16, seed by seed."""

import json
import statistics
from dataclasses import asdict, replace

from tqdm.auto import tqdm

from dnet_lib.errors import CheckpointError
from dnet_lib.learning import Record, Settings
from dnet_lib.presets import CPU, Synthesis, changed, shortened
from dnet_lib.reproduce.judging import verdict
from dnet_lib.reproduce.lessons import synthesis
from dnet_lib.reproduce.workplace import Facts, Sets, Workplace, source

EXPERIMENT = "precision"
CATEGORIES = ("sofa", "chair")
PRECISIONS = ("float32", "bfloat16")
NUM_SEEDS = 3
NUM_SAMPLES = 100
LAST = 20  #: Iterations at the end over which the energy gap is averaged
WANTED = ("class_probability", "class_probability_views", "coverage", "one_nn_accuracy", "ratio", "energy_gap")


def taking(precision: str) -> Synthesis:
    """The compact preset, its products of a precision."""

    def change(settings: Settings) -> Settings:
        return replace(settings, precision=precision)

    preset: Synthesis = changed(CPU, precision, change)
    return preset


def one(preset: Synthesis, category: str, sets: Sets, place: Workplace) -> Facts:
    """One run, resumed from its checkpoint: what its samples are worth, drawn in float32, and how long it took."""
    lesson, precision = synthesis(preset, sets[0], place), preset.settings.precision
    gaps, total = list[float](), preset.settings.num_iterations
    with tqdm(total=total, unit="iteration", desc=f"{category} {precision} {place.seed}") as bar:
        for records in lesson.records(place.checkpoint(EXPERIMENT, preset.name, category)):
            record: Record = records[-1]
            gaps = [*gaps[-LAST + 1 :], record.energy_gap]
            bar.update(record.iteration - bar.n)
    samples = lesson.model().sample(NUM_SAMPLES, generator=place.random(1)).cpu()
    found = verdict(samples, category, sets) | {"energy_gap": statistics.mean(gaps)}
    return {
        "precision": precision,
        "seed": place.seed,
        "minutes": round(lesson.seconds / 60, 2),
        **{name: round(found[name], 4) for name in WANTED},
    }


def reproduce(place: Workplace, *, iterations: int | None = None) -> dict[str, Facts]:
    """Sofas and chairs, three seeds each, in both precisions; the results file grows with each run."""
    every = {}
    for category in CATEGORIES:
        presets = [taking(precision) for precision in PRECISIONS]
        presets = [shortened(preset, iterations) for preset in presets] if iterations else presets
        sets = place.splits(category, CPU.architecture.resolution)
        facts: Facts = {"runs": [], "metrics": {}, "paper": {}}
        about: Facts = {
            "preset": json.loads(json.dumps(asdict(presets[0]), default=repr)),
            "dataset": source(sets[0], category=category, num_train=len(sets[0])),
        }
        if (path := place.results / EXPERIMENT / f"{category}.json").exists():
            facts |= place.known(EXPERIMENT, category)
            if others := [name for name, value in about.items() if facts.get(name, value) != value]:
                raise CheckpointError(f"{path} holds runs of another {' and '.join(others)}: name another folder")
        done = {(run["precision"], run["seed"]) for run in facts["runs"]}
        for seed in range(place.seed, place.seed + NUM_SEEDS):
            for preset in presets:
                if (preset.settings.precision, seed) in done:
                    continue
                facts["runs"].append(one(preset, category, sets, replace(place, seed=seed)))
                facts |= place.made(60 * sum(run["minutes"] for run in facts["runs"])) | about
                facts["metrics"] = {
                    f"{name}_{precision}": statistics.mean(found)
                    for name in ("minutes", *WANTED)
                    for precision in PRECISIONS
                    if (found := [run[name] for run in facts["runs"] if run["precision"] == precision])
                }
                place.save(EXPERIMENT, category, facts)
        every[category] = facts
    return every
