"""Where an experiment works: its data, its chance, its device, and the folders that it reads and writes."""

import base64
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnet_lib import __version__
from dnet_lib.checkpoints import RESULTS, WEIGHTS, load_model, load_results, save_results
from dnet_lib.data import ShapeSet, load_shapes
from dnet_lib.errors import CheckpointError, DataError
from dnet_lib.pretrained import Pretrained
from dnet_lib.processes import num_processes

ALL = "all"  #: Stands for a category: one model of all of them
PLACES = ("data", "seed", "device", "results")  #: Fields of a `Workplace` that are options of every experiment
Facts = dict[str, Any]  #: A results file, or entries of one
Sets = tuple[ShapeSet, ShapeSet]  #: Training and test shapes


@dataclass(frozen=True)
class Workplace:
    """What every experiment is given."""

    data: str | None = None
    """A dataset's name or the path of a voxel archive; None where nothing is compared with data."""
    seed: int = 0
    device: str = "cpu"
    runs: Path = Path("runs")  #: Where unfinished runs keep checkpoints
    weights: Path = WEIGHTS  #: Where trained weights lie and go
    results: Path = RESULTS  #: Where results go

    def shapes(self, category: str, split: str, resolution: int) -> ShapeSet:
        """Shapes of one category, or of all."""
        if self.data is None:
            raise DataError("this needs shapes: name a dataset or a voxel archive with --data")
        return load_shapes(self.data, None if category == ALL else category, split, resolution)

    def splits(self, category: str, resolution: int) -> Sets:
        """Training and test shapes of one category, or of all."""
        return self.shapes(category, "train", resolution), self.shapes(category, "test", resolution)

    def random(self, offset: int = 0) -> torch.Generator:
        """Random numbers of the seed, on the device."""
        return torch.Generator(self.device).manual_seed(self.seed + offset)

    def checkpoint(self, *words: str) -> Path:
        """The checkpoint of a run."""
        return self.runs / f"{'_'.join(words)}_{self.seed}.pt"

    def file(self, experiment: str, category: str) -> Path:
        """The weights of a category."""
        return self.weights / experiment / f"{category}.safetensors"

    def model(self, experiment: str, category: str) -> Pretrained:
        """The trained model of a category."""
        return load_model(self.file(experiment, category), device=self.device)

    def known(self, experiment: str, category: str) -> Facts:
        """The results of a category so far: this workplace's, else for shipped weights the shipped ones, else none."""
        for folder in (self.results, *([RESULTS] if self.weights == WEIGHTS else [])):
            if (folder / experiment / f"{category}.json").exists():
                return load_results(experiment, folder=folder)[category]
        return {}

    def begun(self, experiment: str, category: str, about: Facts) -> Facts:
        """Results that grow run by run: those so far, which must be `about` the same; else none yet."""
        path = self.results / experiment / f"{category}.json"
        known = self.known(experiment, category) if path.exists() else {}
        if others := [name for name, value in about.items() if known.get(name, value) != value]:
            raise CheckpointError(
                f"{path} holds runs of another {' and '.join(others)}: name another folder for results"
            )
        return {"runs": [], "metrics": {}, "paper": {}} | known | about

    def save(self, experiment: str, category: str, facts: Facts) -> Facts:
        """Write a results file; returns what it holds."""
        save_results(experiment, category, facts, folder=self.results)
        return facts

    def made(self, seconds: float) -> Facts:
        """What made a result, and how long it took."""
        return {
            "seed": self.seed,
            "seconds": seconds,
            "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads, {self.device}"
            + f", {num_processes()} processes" * (num_processes() > 1),
            "versions": {"dnet_lib": __version__, "torch": torch.__version__, "python": platform.python_version()},
        }


def source(shapes: ShapeSet, **about: object) -> Facts:
    """Which data a result belongs to."""
    return {"name": shapes.dataset, "sha256": shapes.sha256, **about}


def packed(binary: Tensor) -> str:
    """Binary shapes (N, 1, R, R, R) as base64 of their packed bits."""
    return base64.b64encode(np.packbits(binary.numpy().astype(bool)).tobytes()).decode()
