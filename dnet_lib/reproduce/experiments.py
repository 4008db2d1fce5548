"""The table of experiments: what each is called, learns, judges, prints, and which options it uses."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dnet_lib.judges import NETS
from dnet_lib.paper import PAPER_TABLES
from dnet_lib.presets import COOPERATIVE, MULTIGRID, RECOVERY, SHIPPED, SUPERRESOLUTION, SYNTHESIS
from dnet_lib.reproduce import budget, classification, completing, judges, judging, lessons, longrun, precision
from dnet_lib.reproduce.drive import Experiment, Single
from dnet_lib.reproduce.workplace import ALL, PLACES, Workplace
from dnet_lib.tables import recovery, rows

CATEGORIES = tuple(PAPER_TABLES["class_error"])
FEW = ("sofa", "toilet", "chair")

SAMPLED = Experiment(
    "section 6.1: learn a category, or all, and sample new shapes",
    SYNTHESIS,
    lessons.synthesis,
    (judging.judge,),
    dict.fromkeys(SYNTHESIS, (*CATEGORIES, ALL)),
    shipped=SHIPPED,
    half=False,
    needs_data=False,
)

PRINTED = {
    "table1": ("Inception score of one model of all categories", (ALL,)),
    "table2": ("class probability of the ten categories", CATEGORIES),
    "table3": ("class error of the ten categories", CATEGORIES),
}

EXPERIMENTS: dict[str, Experiment | Single] = {
    "synthesis": SAMPLED,
    **{
        name: replace(SAMPLED, about=about, categories=dict.fromkeys(SYNTHESIS, which), table=partial(rows, name))
        for name, (about, which) in PRINTED.items()
    },
    "table4": Experiment(
        "section 6.2: recover hidden voxels",
        RECOVERY,
        lessons.completion,
        (completing.recovery,),
        dict.fromkeys(RECOVERY, CATEGORIES),
        prepare=completing.train_denoiser,
        table=recovery,
    ),
    "superresolution": Experiment(
        "section 6.3: recover detail",
        SUPERRESOLUTION,
        lessons.completion,
        (completing.superresolution,),
        {"cpu": FEW, "cpu64": (ALL,), "paper": FEW},
    ),
    "multigrid": Experiment(
        "section 6.6: sample from one voxel up, grid by grid",
        MULTIGRID,
        lessons.multigrid,
        (judging.judge,),
        {"cpu": FEW, "cpu64": ("sofa",), "paper": FEW},
        needs_data=False,
    ),
    "cooperative": Experiment(
        "section 6.4: teach a generator",
        COOPERATIVE,
        lessons.cooperative,
        (judging.judge, judging.reconstruct),
        dict.fromkeys(COOPERATIVE, ("toilet", "sofa", "night_stand")),
        {"night_stand": "gentle"},
        needs_data=False,
    ),
    "judges": Single(
        "the reference classifiers",
        judges.reproduce,
        (*PLACES, "runs", "weights", "name"),
        interrupted="the same command goes on from the last checkpoint",
    ),
    "table5": Single(
        "section 6.5: classify by the features of the model of all categories",
        classification.reproduce,
        (*PLACES, "weights"),
    ),
    "longrun": Single(
        "section 2.5: chains 500 times as long as in training, other temperatures, learning with noise",
        longrun.reproduce,
        (*PLACES, "weights"),
        needs_data=False,
        interrupted="parts that were done have written their results, and the same command begins anew with the first",
    ),
    "budget": Single(
        "Algorithms 1, 2 and 3 over the same time",
        budget.reproduce,
        interrupted="finished runs are kept, and the same command goes on with the next",
    ),
    "precision": Single(
        "the same learning with products in float32 and in bfloat16, three seeds each",
        precision.reproduce,
        (*PLACES, "runs", "iterations"),
        interrupted="the same command goes on from the last checkpoint",
    ),
}

OPTIONS: dict[str, dict[str, Any]] = {
    "category": {"action": "append", "help": "may be repeated; default all there are"},
    "preset": {"help": "default: the one that made the shipped weights"},
    "evaluate": {"action": "store_true", "default": False, "help": "judge trained weights anew, learn nothing"},
    "iterations": {"type": int, "help": "learn for so many"},
    "name": {"action": "append", "choices": list(NETS), "help": "may be repeated; default all there are"},
    "data": {"help": "a dataset's name or a voxel archive (default: modelnet10, or none where none is needed)"},
    "seed": {"type": int, "help": f"of all randomness (default: {Workplace.seed})"},
    "device": {"help": f"cpu, cuda, ... (default: {Workplace.device})"},
    "runs": {"type": Path, "help": f"where unfinished runs keep checkpoints (default: {Workplace.runs})"},
    "weights": {
        "type": Path,
        "help": "where trained weights lie and go (default: weights; to judge, the shipped)",
    },
    "results": {"type": Path, "help": "where results go (default: results)"},
}
