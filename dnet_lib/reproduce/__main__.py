"""Command line: python -m dnet_lib.reproduce synthesis --category toilet --data modelnet10."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from dnet_lib.checkpoints import RESULTS, WEIGHTS, CheckpointError
from dnet_lib.classify import NETS
from dnet_lib.data import DataError
from dnet_lib.langevin import DivergedError
from dnet_lib.presets import (
    COOPERATIVE,
    MULTIGRID,
    PAPER_TABLES,
    RECOVERY,
    SHIPPED,
    SUPERRESOLUTION,
    SYNTHESIS,
    Preset,
    shortened,
)
from dnet_lib.reproduce import (
    budget,
    classification,
    conditional,
    cooperative,
    judges,
    longrun,
    multigrid,
    recovery,
    superresolution,
    synthesis,
    tables,
)
from dnet_lib.starts import LowResolution

CATEGORIES = (*PAPER_TABLES["class_error"], synthesis.ALL)

ITERATIONS: dict[str, Any] = {"type": int, "help": "learn for so many; a short run wants --weights and --results apart"}


def choose(preset: Preset, num_iterations: int | None) -> Preset:
    """A preset, made shorter or longer where the command line says so."""
    return preset if num_iterations is None else shortened(preset, num_iterations)


def parse() -> argparse.Namespace:
    """The command line: one experiment and its options."""
    parser = argparse.ArgumentParser(prog="python -m dnet_lib.reproduce", description=__doc__)
    commands = parser.add_subparsers(dest="experiment", required=True)

    def command(name: str, about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about)
        added.add_argument("--seed", type=int, default=0)
        added.add_argument("--device", default="cpu")
        added.add_argument("--runs", type=Path, default=Path("runs"), help="where unfinished runs keep checkpoints")
        added.add_argument("--weights", type=Path, default=WEIGHTS, help="where trained weights lie and go")
        added.add_argument("--results", type=Path, default=RESULTS, help="where results lie and go")
        added.add_argument("--data", help="a dataset's name or the path of a voxel archive; default modelnet10")
        return added

    for name, about in (
        ("synthesis", "section 6.1: learn a category, or all, and sample new shapes"),
        ("table1", "Inception score of one model of all categories"),
        ("table2", "class probability of the ten categories"),
        ("table3", "class error of the ten categories"),
    ):
        added = command(name, about)
        added.add_argument("--category", action="append", help="may be repeated; default all there are")
        added.add_argument("--preset", choices=sorted(SYNTHESIS), help="default: the one that made the shipped weights")
        added.add_argument(
            "--evaluate",
            action="store_true",
            help="sample the shipped weights and judge anew; needs data only if given",
        )
        added.add_argument("--iterations", **ITERATIONS)
    for name, about, presets in (
        ("table4", "section 6.2: recover hidden voxels", RECOVERY),
        ("superresolution", "section 6.3: recover detail", SUPERRESOLUTION),
        ("multigrid", "section 6.6: sample from one voxel up, grid by grid", MULTIGRID),
        ("cooperative", "section 6.4: teach a generator", COOPERATIVE),
    ):
        added = command(name, about)
        added.add_argument("--category", action="append", help="may be repeated; default all there are")
        added.add_argument("--preset", choices=list(presets), default=next(iter(presets)))
        added.add_argument("--evaluate", action="store_true", help="judge the shipped weights anew on the test shapes")
        added.add_argument("--iterations", **ITERATIONS)
    command("judges", "the reference classifiers").add_argument("--name", action="append", choices=list(NETS))
    command("table5", "section 6.5: classify by the features of the model of all categories")
    command("longrun", "section 2.5: chains 500 times as long as in training, other temperatures, learning with noise")
    command("budget", "Algorithms 1, 2 and 3 over the same time")
    return parser.parse_args()


def synthesise(options: dict, table: str) -> None:
    """Train or evaluate the models of a table, one after the other, and print the table."""
    chosen, wanted, evaluate = options.pop("category"), options.pop("preset"), options.pop("evaluate")
    iterations = options.pop("iterations")
    default = {"synthesis": CATEGORIES, "table1": CATEGORIES[-1:]}.get(table, CATEGORIES[:-1])
    for category in chosen or default:
        preset = choose(SYNTHESIS[wanted or SHIPPED.get(category, "cpu")], iterations)
        if evaluate:
            facts = synthesis.evaluate(preset, category, **{k: v for k, v in options.items() if k != "runs"})
        else:
            facts = synthesis.reproduce(preset, category, **options | {"data": options["data"] or "modelnet10"})
        print(category, ", ".join(f"{name} {value:.4g}" for name, value in facts["metrics"].items()))
    if table != "synthesis":
        print(tables.text(*tables.rows(table, results=options["results"])))


def complete(options: dict, experiment: str) -> None:
    """Train or evaluate models that complete shapes, one after the other, and print the table."""
    chosen, wanted, evaluate = options.pop("category"), options.pop("preset"), options.pop("evaluate")
    options["data"] = options["data"] or "modelnet10"
    preset = choose((RECOVERY if experiment == "table4" else SUPERRESOLUTION)[wanted], options.pop("iterations"))
    judge: conditional.Judge
    if isinstance(preset.starts, LowResolution):
        categories = chosen or superresolution.CATEGORIES[wanted]
        judge = partial(superresolution.judge, scale=preset.starts.scale)
    else:
        categories = chosen or CATEGORIES[:-1]
        judge = partial(recovery.judge, preset=preset, weights=options["weights"])
        if not evaluate and not chosen and (preset.first is not None or preset.shared):
            recovery.train_denoiser(preset, **{k: v for k, v in options.items() if k != "results"})
    for category in categories:
        if evaluate:
            facts = conditional.evaluate(preset, category, judge, **{k: v for k, v in options.items() if k != "runs"})
        else:
            facts = conditional.reproduce(preset, category, judge, **options)
        print(category, ", ".join(f"{name} {value:.4g}" for name, value in facts["metrics"].items()))
    if experiment == "table4":
        print(tables.text(*tables.recovery(preset.experiment, results=options["results"])))


def generate(options: dict, experiment: str) -> None:
    """Train or evaluate models that sample new shapes from a coarser grid or a generator, one after the other."""
    chosen, wanted, evaluate = options.pop("category"), options.pop("preset"), options.pop("evaluate")
    room: Any = multigrid if experiment == "multigrid" else cooperative
    preset: Any = MULTIGRID[wanted] if experiment == "multigrid" else COOPERATIVE[wanted]
    preset = choose(preset, options.pop("iterations"))
    options["also"] = cooperative.reconstructed if experiment == "cooperative" else None
    for category in chosen or room.CATEGORIES[wanted]:
        if evaluate:
            facts = synthesis.evaluate(preset, category, **{k: v for k, v in options.items() if k != "runs"})
        else:
            facts = synthesis.make(preset, category, room.train, **options | {"data": options["data"] or "modelnet10"})
        print(category, ", ".join(f"{name} {value:.4g}" for name, value in facts["metrics"].items()))


def run(options: dict) -> None:
    """One experiment."""
    experiment = options.pop("experiment")
    if experiment == "judges":
        options["data"] = options["data"] or "modelnet10"
        for name in options.pop("name") or NETS:
            print(name, judges.reproduce(name, **options)["metrics"])
    elif experiment == "table5":
        options["data"] = options["data"] or "modelnet10"
        print(classification.reproduce(**{k: v for k, v in options.items() if k != "runs"})["metrics"])
    elif experiment == "longrun":
        longrun.reproduce(**{k: options[k] for k in ("seed", "data", "device", "results")})
    elif experiment in ("table4", "superresolution"):
        complete(options, experiment)
    elif experiment == "budget":
        options["data"] = options["data"] or "modelnet10"
        print(budget.reproduce(**{k: options[k] for k in ("data", "device", "results")})["metrics"])
    elif experiment in ("multigrid", "cooperative"):
        generate(options, experiment)
    else:
        synthesise(options, experiment)


def main() -> None:
    """Parse, run, and turn known failures into one line."""
    try:
        run(vars(parse()))
    except (CheckpointError, DataError, DivergedError, OSError, ValueError) as error:
        sys.exit(f"reproduce: {error}")
    except KeyboardInterrupt:
        sys.exit("reproduce: interrupted; the same command goes on from the last checkpoint")


if __name__ == "__main__":
    main()
