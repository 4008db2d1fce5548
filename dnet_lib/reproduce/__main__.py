"""Command line: python -m dnet_lib.reproduce synthesis --category toilet --data modelnet10.

Under torchrun its processes work as one: torchrun --nproc-per-node 2 -m dnet_lib.reproduce synthesis --category toilet.
"""

import argparse
import os
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import Any

from dnet_lib.errors import DnetError
from dnet_lib.files import check_device
from dnet_lib.processes import as_one, first
from dnet_lib.reproduce.drive import LEARNING, Experiment, Single
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
    unused = [option for option in LEARNING if given.get("evaluate") and option in given]
    if unused:
        parser.error(f"--{unused[0]} belongs to learning, and --evaluate learns nothing")
    return given


def run(experiment: Experiment | Single, given: dict[str, Any]) -> None:
    """One experiment."""
    where: dict[str, Any] = {"data": "modelnet10"} if experiment.needs_data or given.get("evaluate") is False else {}
    where["results"] = Path("results")
    where |= {"weights": Path("weights")} if "runs" in experiment.options and not given.get("evaluate") else {}
    where |= {field.name: given.pop(field.name) for field in fields(Workplace) if field.name in given}
    place = Workplace(**where)
    with as_one(place.device), ExitStack() as stack:
        if not first():  # all do the same: one is heard
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        if check_device(place.device).type == "meta":
            raise ValueError("the device 'meta' holds no numbers: --device cpu is always there")
        for line in experiment.run(place, **given):
            print(line)


def main() -> None:
    """Parse, run, and turn known failures into one line."""
    given = parse()
    experiment = EXPERIMENTS[given.pop("experiment")]
    kept = "nothing was changed" if given.get("evaluate") else experiment.interrupted
    try:
        run(experiment, given)
    except (DnetError, OSError, ValueError) as error:
        sys.exit(f"reproduce: {error}")
    except KeyboardInterrupt:
        sys.exit(f"reproduce: interrupted; {kept}")


if __name__ == "__main__":
    main()
