"""Command line: python -m dnet_lib.reproduce synthesis --category toilet --data modelnet10."""

import argparse
import sys
from pathlib import Path

from dnet_lib.checkpoints import RESULTS, WEIGHTS, CheckpointError
from dnet_lib.data import DataError
from dnet_lib.langevin import DivergedError
from dnet_lib.presets import SYNTHESIS
from dnet_lib.reproduce.synthesis import reproduce

CATEGORIES = ("toilet", "chair", "sofa")


def main() -> None:
    """Parse, run, and turn known failures into one line."""
    parser = argparse.ArgumentParser(prog="python -m dnet_lib.reproduce", description=__doc__)
    commands = parser.add_subparsers(dest="experiment", required=True)
    synthesis = commands.add_parser("synthesis", help="section 6.1: learn a category and sample new shapes")
    synthesis.add_argument("--category", action="append", help=f"may be repeated; default {', '.join(CATEGORIES)}")
    synthesis.add_argument("--preset", choices=sorted(SYNTHESIS), default="cpu")
    synthesis.add_argument("--data", default="modelnet10", help="a dataset's name or the path of a voxel archive")
    synthesis.add_argument("--seed", type=int, default=0)
    synthesis.add_argument("--device", default="cpu")
    synthesis.add_argument("--runs", type=Path, default=Path("runs"), help="where unfinished runs keep checkpoints")
    synthesis.add_argument("--weights", type=Path, default=WEIGHTS, help="where trained weights go")
    synthesis.add_argument("--results", type=Path, default=RESULTS, help="where results go")
    arguments = vars(parser.parse_args())
    del arguments["experiment"]
    preset, categories = SYNTHESIS[arguments.pop("preset")], arguments.pop("category") or CATEGORIES
    try:
        for category in categories:
            metrics = reproduce(preset, category, **arguments)["metrics"]
            print(category, ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
    except (CheckpointError, DataError, DivergedError, OSError, ValueError) as error:
        sys.exit(f"reproduce: {error}")
    except KeyboardInterrupt:
        sys.exit("reproduce: interrupted; the same command goes on from the last checkpoint")


if __name__ == "__main__":
    main()
