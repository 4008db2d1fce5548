"""Command line: python -m dnet_lib.reproduce synthesis --category toilet --data modelnet10."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from dnet_lib.errors import DnetError
from dnet_lib.reproduce.drive import LEARNING, Experiment
from dnet_lib.reproduce.experiments import EXPERIMENTS, OPTIONS
from dnet_lib.reproduce.workplace import Workplace


def parse() -> dict[str, Any]:
    """The command line: one experiment and the options given of those that it uses."""
    parser = argparse.ArgumentParser(prog="python -m dnet_lib.reproduce", description=__doc__)
    commands = parser.add_subparsers(dest="experiment", required=True)
    for name, experiment in EXPERIMENTS.items():
        command = commands.add_parser(name, help=experiment.about, description=experiment.about, allow_abbrev=False)
        for option in experiment.options:
            about = {"default": argparse.SUPPRESS} | OPTIONS[option]
            if option == "preset" and isinstance(experiment, Experiment):
                about["choices"] = list(experiment.presets)
            command.add_argument(f"--{option}", **about)
    given = vars(parser.parse_args())
    unused = [option for option in LEARNING if given.get("judge_only") and option in given]
    if unused:
        parser.error(f"--{unused[0]} belongs to learning, and --evaluate learns nothing")
    return given


def run(given: dict[str, Any]) -> None:
    """One experiment."""
    experiment = EXPERIMENTS[given.pop("experiment")]
    where: dict[str, Any] = {"data": "modelnet10"} if experiment.needs_data or given.get("judge_only") is False else {}
    where |= {"results": Path("results")} if given.get("judge_only") else {}
    where |= {field.name: given.pop(field.name) for field in fields(Workplace) if field.name in given}
    for line in experiment.run(Workplace(**where), **given):
        print(line)


def main() -> None:
    """Parse, run, and turn known failures into one line."""
    try:
        run(parse())
    except (DnetError, OSError, ValueError) as error:
        sys.exit(f"reproduce: {error}")
    except KeyboardInterrupt:
        sys.exit("reproduce: interrupted; the same command goes on from the last checkpoint")


if __name__ == "__main__":
    main()
