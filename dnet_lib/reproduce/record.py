"""What results files have in common: the machine that made them, shapes as text."""

import base64
import platform

import numpy as np
import torch
from torch import Tensor

from dnet_lib import __version__
from dnet_lib.data import ShapeSet

JUDGES = {"voxnet": "", "views": "_views"}
"""The judges, and what ends the names of their numbers in results."""


def provenance(*, seed: int, seconds: float, device: str) -> dict:
    """What made a result, and how long it took."""
    return {
        "seed": seed,
        "seconds": seconds,
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads, {device}",
        "versions": {"dnet_lib": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def source(shapes: ShapeSet, **about: object) -> dict:
    """Which data a result belongs to."""
    return {"name": shapes.dataset, "sha256": shapes.sha256, **about}


def packed(binary: Tensor) -> str:
    """Binary shapes (N, 1, R, R, R) as base64 of their packed bits."""
    return base64.b64encode(np.packbits(binary.numpy().astype(bool)).tobytes()).decode()
