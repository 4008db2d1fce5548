"""The drivers of the experiments: learn and publish a model of a category, and judge one anew."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dnet_lib.checkpoints import save_model
from dnet_lib.checks import check_whole
from dnet_lib.data import ShapeSet
from dnet_lib.errors import CheckpointError
from dnet_lib.files import atomic_write, check_folders
from dnet_lib.presets import Conditional, Preset, shortened
from dnet_lib.reproduce.judging import kept
from dnet_lib.reproduce.lessons import Lesson
from dnet_lib.reproduce.workplace import ALL, PLACES, Facts, Workplace, source
from dnet_lib.tables import Table, text

NUM_POINTS = 100  #: Points of a learning curve
LEARNING = ("runs", "iterations")  #: Options that only learning uses, not --evaluate


@dataclass(frozen=True)
class Single:
    """An experiment that is one run, not one a category."""

    about: str
    reproduce: Callable[..., dict[str, Facts]]  #: Of a `Workplace` and of its own options: results files by name
    options: tuple[str, ...] = PLACES
    needs_data: bool = True
    interrupted: str = "the same command begins anew"

    def run(self, place: Workplace, **own: Any) -> Iterator[str]:
        """Reproduce; lines about what was found."""
        check_folders(place.results)
        yield from (told(name, facts) for name, facts in self.reproduce(place, **own).items())


@dataclass(frozen=True)
class Experiment:
    """An experiment that learns a model of each category and judges it."""

    about: str
    presets: Mapping[str, Preset]  #: By name; the first one is what is used where nothing else is said
    begin: Callable[[Any, ShapeSet, Workplace], Lesson]
    judges: Sequence[Callable[..., Facts]]  #: What is measured of a model: entries of its results file
    categories: Mapping[str, Sequence[str]]  #: What is learned by each preset where nothing else is said
    shipped: Mapping[str, str] = field(default_factory=dict)
    """The preset that made a category's weights, where it is not the first."""
    prepare: Callable[[Any, Workplace], None] | None = None  #: What is made once, before all categories are learned
    table: Callable[..., Table] | None = None  #: Printed at the end
    half: bool = True  #: Whether weights are published in half precision
    needs_data: bool = True  #: Whether a model cannot be judged without shapes
    options: tuple[str, ...] = ("category", "preset", "evaluate", *PLACES, *LEARNING, "weights")
    interrupted: str = "the same command goes on from the last checkpoint"

    def run(
        self,
        place: Workplace,
        *,
        evaluate: bool,
        category: Sequence[str] = (),
        preset: str | None = None,
        iterations: int | None = None,
    ) -> Iterator[str]:
        """Learn and judge category by category, or judge only; lines about what was found."""
        first = next(iter(self.presets))
        names = category or self.categories[preset or first]
        if self.table and (others := set(names) - set(self.categories[preset or first])):
            raise ValueError(f"{', '.join(sorted(others))} has no row in this table: leave --category out")
        chosen = {name: self.presets[preset or self.shipped.get(name, first)] for name in names}
        if iterations is not None:
            check_whole(iterations, "--iterations", 1)
            chosen = {name: shortened(own, iterations) for name, own in chosen.items()}
        check_folders(place.results, *(() if evaluate else (place.runs, place.weights)))
        for name, own in chosen.items():  # what cannot be had is named before anything is learned
            if evaluate and not (path := place.file(own.experiment, holder(own, name))).exists():
                raise CheckpointError(f"there are no weights at {path}")
            if not evaluate:
                place.shapes(name, "train", own.architecture.resolution)
        if self.prepare and not evaluate and not category:
            self.prepare(chosen[names[0]], place)
        for name, own in chosen.items():
            yield told(name, DRIVERS[evaluate](self, own, name, place))
        if self.table:
            yield text(*self.table(own.experiment, results=place.results))


def told(name: str, facts: Facts) -> str:
    """A line about a results file."""
    return f"{name} " + ", ".join(f"{metric} {value:.4g}" for metric, value in facts["metrics"].items())


def train(experiment: Experiment, preset: Preset, category: str, place: Workplace) -> Facts:
    """Learn a category, publish weights and results, and judge them; resumes from its checkpoint.

    One model of all categories, where it comes first or serves them all, is learned only if its weights are not there.
    """
    check_folders(place.runs, place.weights / preset.experiment, place.results / preset.experiment)
    whole = preset.whole if isinstance(preset, Conditional) else None
    steps: list[tuple[Callable[..., Facts], Preset, str]] = [(evaluate, preset, category)]
    if whole is None or ALL not in (category, holder(preset, category)):
        steps.insert(0, (publish, preset, category))
    if whole is not None and not place.file(preset.experiment, ALL).exists():
        steps.insert(0, (publish, whole, ALL))
    for step, own, name in steps:
        facts = step(experiment, own, name, place)
        if facts["metrics"]:  # of chains that no weights can draw again, judged as soon as they have learned
            break
    return facts


def holder(preset: Preset, category: str) -> str:
    """Whose weights serve a category: its own, or those of all."""
    return ALL if isinstance(preset, Conditional) and preset.shared else category


def publish(experiment: Experiment, preset: Preset, category: str, place: Workplace) -> Facts:
    """Learn a model, and write its weights and results: persistent chains are judged here."""
    sets = place.splits(category, preset.architecture.resolution)
    lesson = experiment.begin(preset, sets[0], place)
    curve = follow(lesson, place.checkpoint(preset.experiment, preset.name, category))
    facts: Facts = {
        "metrics": {},
        "paper": {},
        "preset": asdict(lesson.preset),
        "dataset": source(sets[0], category=category, num_train=len(sets[0])),
        "curve": curve,
        **place.made(lesson.seconds),
    }
    if lesson.chains is not None:
        facts |= kept(lesson.chains, category, sets)
    card = {name: facts[name] for name in ("preset", "dataset", "seed", "versions")}
    save_model(place.file(preset.experiment, category), replace(lesson.model(), card=card), half=experiment.half)
    return place.save(preset.experiment, category, facts)


def follow(lesson: Lesson, checkpoint: Path) -> dict[str, list[float]]:
    """Learn to the end, with a progress bar; the learning curve, column by column, lies beside the checkpoint."""
    path, settings = checkpoint.with_suffix(".curve.json"), lesson.preset.settings
    curve: list[dict[str, Any]] = []
    if checkpoint.exists() and path.exists():
        try:
            curve = json.loads(path.read_text())
            if [row["iteration"] for row in curve] != sorted({int(row["iteration"]) for row in curve}):
                raise ValueError("its iterations do not ascend")
        except (ValueError, TypeError, LookupError) as error:
            raise CheckpointError(f"{path} is broken ({error}): delete it, and the curve begins anew") from error
    num_iterations = (settings[-1] if isinstance(settings, tuple) else settings).num_iterations
    with tqdm(total=num_iterations, unit="iteration", desc="learning") as bar:
        for records in lesson.records(checkpoint):
            record = records[-1]
            bar.update(record.iteration - bar.n)
            bar.set_postfix(V=f"{record.value:.0f}", slope=f"{record.gradient_norm:.1f}", refresh=False)
            if record.iteration % max(1, num_iterations // NUM_POINTS) == 0:
                point = {
                    "iteration": record.iteration,
                    "minutes": round(lesson.seconds / 60, 2),
                    "value": round(record.value, 2),
                    "gradient_norm": round(record.gradient_norm, 3),
                    **(lesson.columns(records) if lesson.columns else {}),
                }
                curve = [*(old for old in curve if old["iteration"] < record.iteration), point]
                with atomic_write(path) as part:
                    part.write_text(json.dumps(curve))
    return {key: [row[key] for row in curve] for key in curve[0]} if curve else {}


def evaluate(experiment: Experiment, preset: Preset, category: str, place: Workplace) -> Facts:
    """Judge a trained model anew, with fresh random numbers; renews its results file, and says with what."""
    check_folders(place.results / preset.experiment)
    model = place.model(preset.experiment, holder(preset, category))
    known = {**model.card} | place.known(preset.experiment, category)
    sets = dataset = None
    if place.data is not None or experiment.needs_data:
        sets = place.splits(category, preset.architecture.resolution)
        dataset = source(sets[1], category=category, num_test=len(sets[1]))
    found: Facts = {"judged": {"seed": place.seed, "dataset": dataset}}
    for measured in experiment.judges:
        found |= measured(preset, category, model, place, sets)
    return place.save(preset.experiment, category, known | found)


DRIVERS = {False: train, True: evaluate}  #: By whether nothing is learned
