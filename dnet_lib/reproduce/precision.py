"""Does rounding cost quality? The same learning runs with products in float32 and in bfloat16, seed by seed."""

import json
import statistics
from dataclasses import asdict, replace

import torch

from dnet_lib.learning import Settings
from dnet_lib.presets import CPU, Synthesis, changed, shortened
from dnet_lib.reproduce.drive import follow
from dnet_lib.reproduce.judging import verdict
from dnet_lib.reproduce.lessons import synthesis
from dnet_lib.reproduce.workplace import Facts, Sets, Workplace, source
from dnet_lib.voxels import centre

EXPERIMENT = "precision"
CATEGORIES = ("sofa", "chair")
PRECISIONS = ("float32", "bfloat16")
NUM_SEEDS = 3
NUM_SAMPLES = 100
WANTED = ("class_probability", "class_probability_views", "coverage", "one_nn_accuracy", "ratio", "energy_gap")


def taking(precision: str) -> Synthesis:
    """The compact preset, its products of a precision."""

    def change(settings: Settings) -> Settings:
        return replace(settings, precision=precision)

    preset: Synthesis = changed(CPU, precision, change)
    return preset


def one(preset: Synthesis, category: str, sets: Sets, place: Workplace) -> Facts:
    """One run, resumed from its checkpoint: what its model is worth, asked in float32, and how long it took."""
    lesson = synthesis(preset, sets[0], place)
    follow(lesson, place.checkpoint(EXPERIMENT, preset.name, category))
    model = lesson.model()
    samples = model.sample(NUM_SAMPLES, generator=place.random(1))
    with torch.no_grad():
        chosen, known = (
            torch.cat([model.energy(centre(some, model.mean)) for some in shapes.to(model.device).split(32)]).mean()
            for shapes in (samples, sets[0].voxels[:NUM_SAMPLES])
        )
    found = verdict(samples.cpu(), category, sets)
    found["energy_gap"] = float(chosen - known) / preset.architecture.resolution**3
    return {
        "precision": preset.settings.precision,
        "seed": place.seed,
        "minutes": round(lesson.seconds / 60, 2),
        **{name: round(found[name], 4) for name in WANTED},
    }


def reproduce(place: Workplace, *, iterations: int | None = None) -> dict[str, Facts]:
    """Sofas and chairs, three seeds each, in both precisions; the results file grows with each run."""
    every = {}
    presets = [taking(precision) for precision in PRECISIONS]
    presets = [shortened(preset, iterations) for preset in presets] if iterations else presets
    for category in CATEGORIES:
        sets = place.splits(category, CPU.architecture.resolution)
        about: Facts = {
            "preset": json.loads(json.dumps(asdict(presets[0]), default=repr)),
            "dataset": source(sets[0], category=category, num_train=len(sets[0])),
        }
        facts = place.begun(EXPERIMENT, category, about)
        done = {(run["precision"], run["seed"]) for run in facts["runs"]}
        seeds = range(place.seed, place.seed + NUM_SEEDS)
        for seed, preset in [(s, p) for s in seeds for p in presets if (p.settings.precision, s) not in done]:
            facts["runs"].append(one(preset, category, sets, replace(place, seed=seed)))
            facts |= place.made(60 * sum(run["minutes"] for run in facts["runs"]))
            facts["metrics"] = {
                f"{name}_{precision}": statistics.mean(found)
                for name in ("minutes", *WANTED)
                for precision in PRECISIONS
                if (found := [run[name] for run in facts["runs"] if run["precision"] == precision])
            }
            place.save(EXPERIMENT, category, facts)
        every[category] = facts
    return every
