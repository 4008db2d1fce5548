"""The table of experiments: what each is called, learns, judges, prints, and which options it uses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dnet_lib.judges import NETS
from dnet_lib.paper import PAPER_TABLES
from dnet_lib.presets import COOPERATIVE, MULTIGRID, RECOVERY, SHIPPED, SUPERRESOLUTION, SYNTHESIS, Preset
from dnet_lib.reproduce import (
    budget,
    classification,
    completion,
    cooperative,
    judges,
    judging,
    longrun,
    multigrid,
    recovery,
    superresolution,
    synthesis,
)
from dnet_lib.reproduce.drive import Experiment
from dnet_lib.reproduce.workplace import ALL, Facts, Workplace
from dnet_lib.tables import recovery as errors
from dnet_lib.tables import rows, text

CATEGORIES = tuple(PAPER_TABLES["class_error"])
FEW = ("sofa", "toilet", "chair")
PLACES = ("data", "seed", "device", "results")  #: Options of all: fields of a `Workplace`
LEARNING = ("runs", "iterations")  #: Options that only learning uses, not --evaluate


@dataclass(frozen=True)
class Single:
    """An experiment that is one run, not one a category."""

    about: str
    run: Callable[..., Facts | dict[str, Facts]]  #: Of a `Workplace`, and of the options that are not its fields
    options: tuple[str, ...] = PLACES
    data: str | None = "modelnet10"  #: What is taken where no data are named


def _sampled(about: str, categories: tuple[str, ...], table: str | None = None) -> Experiment:
    """Section 6.1, for some categories and with one of the tables 1 to 3."""

    def printed(preset: Preset, place: Workplace) -> str:
        return text(*rows(str(table), results=place.results))

    return Experiment(
        about,
        SYNTHESIS,
        synthesis.learn,
        judging.judge,
        lambda preset: categories,
        shipped=SHIPPED,
        table=printed if table else None,
        half=False,
        needs_data=False,
    )


def _table4(preset: Preset, place: Workplace) -> str:
    """Table 4."""
    return text(*errors(preset.experiment, results=place.results))


EXPERIMENTS: dict[str, Experiment | Single] = {
    "synthesis": _sampled("section 6.1: learn a category, or all, and sample new shapes", (*CATEGORIES, ALL)),
    "table1": _sampled("Inception score of one model of all categories", (ALL,), "table1"),
    "table2": _sampled("class probability of the ten categories", CATEGORIES, "table2"),
    "table3": _sampled("class error of the ten categories", CATEGORIES, "table3"),
    "table4": Experiment(
        "section 6.2: recover hidden voxels",
        RECOVERY,
        completion.learn,
        recovery.judge,
        lambda preset: CATEGORIES,
        prepare=recovery.train_denoiser,
        table=_table4,
    ),
    "superresolution": Experiment(
        "section 6.3: recover detail",
        SUPERRESOLUTION,
        completion.learn,
        superresolution.judge,
        lambda preset: (ALL,) if preset == "cpu64" else FEW,
    ),
    "multigrid": Experiment(
        "section 6.6: sample from one voxel up, grid by grid",
        MULTIGRID,
        multigrid.learn,
        judging.judge,
        lambda preset: ("sofa",) if preset == "cpu64" else FEW,
        needs_data=False,
    ),
    "cooperative": Experiment(
        "section 6.4: teach a generator",
        COOPERATIVE,
        cooperative.learn,
        cooperative.judge,
        {"cpu": ("toilet", "sofa"), "gentle": ("night_stand",), "paper": ("toilet", "sofa", "night_stand")}.__getitem__,
        needs_data=False,
    ),
    "judges": Single("the reference classifiers", judges.reproduce, (*PLACES, "runs", "weights", "name")),
    "table5": Single(
        "section 6.5: classify by the features of the model of all categories",
        classification.reproduce,
        (*PLACES, "weights"),
    ),
    "longrun": Single(
        "section 2.5: chains 500 times as long as in training, other temperatures, learning with noise",
        longrun.reproduce,
        (*PLACES, "weights"),
        data=None,
    ),
    "budget": Single("Algorithms 1, 2 and 3 over the same time", budget.reproduce),
}

OPTIONS: dict[str, dict[str, Any]] = {
    "category": {"action": "append", "help": "may be repeated; default all there are"},
    "preset": {"help": "default: the one that made the shipped weights"},
    "evaluate": {"action": "store_true", "help": "judge trained weights anew, into a results folder of your own"},
    "iterations": {"type": int, "help": "learn for so many; a short run wants --weights and --results apart"},
    "name": {"action": "append", "choices": list(NETS), "help": "may be repeated; default all there are"},
    "data": {"help": "a dataset's name or the path of a voxel archive"},
    "seed": {"type": int, "help": "of all randomness"},
    "device": {"help": "cpu, cuda, ..."},
    "runs": {"help": "where unfinished runs keep checkpoints"},
    "weights": {"help": "where trained weights lie and go"},
    "results": {"help": "where results go"},
}


def options(experiment: Experiment | Single) -> tuple[str, ...]:
    """The options that an experiment uses."""
    if isinstance(experiment, Single):
        return experiment.options
    return "category", "preset", "evaluate", *PLACES, *LEARNING, "weights"
