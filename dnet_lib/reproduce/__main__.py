"""Command line: python -m dnet_lib.reproduce synthesis --category toilet --data modelnet10."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from dnet_lib.errors import DnetError
from dnet_lib.presets import shortened
from dnet_lib.reproduce.drive import Experiment, evaluate, train
from dnet_lib.reproduce.experiments import EXPERIMENTS, LEARNING, OPTIONS, options
from dnet_lib.reproduce.workplace import Workplace

FOLDERS = ("runs", "weights", "results")


def parse() -> argparse.Namespace:
    """The command line: one experiment and the options that it uses."""
    parser = argparse.ArgumentParser(prog="python -m dnet_lib.reproduce", description=__doc__)
    commands = parser.add_subparsers(dest="experiment", required=True)
    defaults = {field.name: field.default for field in fields(Workplace)}
    for name, experiment in EXPERIMENTS.items():
        command = commands.add_parser(name, help=experiment.about, description=experiment.about, allow_abbrev=False)
        for option in options(experiment):
            about = dict(OPTIONS[option])
            if option in FOLDERS:
                about["type"] = Path
            if option in defaults:
                about["help"] += f" (default: {'modelnet10' if option == 'data' else defaults[option]})"
            if option == "preset" and isinstance(experiment, Experiment):
                about["choices"] = list(experiment.presets)
            command.add_argument(f"--{option}", **about)
    given = parser.parse_args()
    unused = [f"--{option}" for option in LEARNING if getattr(given, option, None) is not None]
    if getattr(given, "evaluate", False) and unused:
        parser.error(f"{unused[0]} belongs to learning, and --evaluate learns nothing")
    return given


def run(given: dict[str, Any]) -> None:
    """One experiment."""
    experiment = EXPERIMENTS[given.pop("experiment")]
    names = {field.name for field in fields(Workplace)}
    where = {name: value for name, value in given.items() if name in names and value is not None}
    if not isinstance(experiment, Experiment):
        place = Workplace(**{"data": experiment.data} | where)
        place.probe(place.results)
        found = experiment.run(place, **{k: v for k, v in given.items() if k not in names})
        print_metrics(found if "metrics" not in found else {"": found})
        return
    if given["evaluate"]:
        where = {"results": Path("results")} | where
    if experiment.needs_data or not given["evaluate"]:
        where = {"data": "modelnet10"} | where
    place = Workplace(**where)
    name = given["preset"] or next(iter(experiment.presets))
    categories = given["category"] or experiment.categories(name)
    presets = [experiment.preset(category, given["preset"]) for category in categories]
    if given["iterations"] is not None:
        presets = [shortened(preset, given["iterations"]) for preset in presets]
    if experiment.prepare and not given["evaluate"] and not given["category"]:
        experiment.prepare(presets[0], place)
    for category, preset in zip(categories, presets, strict=True):
        print_metrics({category: (evaluate if given["evaluate"] else train)(experiment, preset, category, place)})
    if experiment.table:
        print(experiment.table(preset, place))


def print_metrics(found: dict[str, Any]) -> None:
    """A line for each results file."""
    for name, facts in found.items():
        print(name, ", ".join(f"{metric} {value:.4g}" for metric, value in facts["metrics"].items()))


def main() -> None:
    """Parse, run, and turn known failures into one line."""
    try:
        run(vars(parse()))
    except (DnetError, OSError, ValueError) as error:
        sys.exit(f"reproduce: {error}")
    except KeyboardInterrupt:
        sys.exit("reproduce: interrupted; the same command goes on from the last checkpoint")


if __name__ == "__main__":
    main()
