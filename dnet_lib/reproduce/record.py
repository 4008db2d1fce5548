"""What results files have in common: the machine that made them, shapes as text."""

import base64
import platform

import numpy as np
import torch
from torch import Tensor

from dnet_lib import __version__


def hardware(device: str) -> str:
    """Processor, threads and device."""
    return f"{platform.machine()}, {torch.get_num_threads()} threads, {device}"


def versions() -> dict[str, str]:
    """Versions of what computed the numbers."""
    return {"dnet_lib": __version__, "torch": torch.__version__, "python": platform.python_version()}


def packed(binary: Tensor) -> str:
    """Binary shapes (N, 1, R, R, R) as base64 of their packed bits."""
    return base64.b64encode(np.packbits(binary.numpy().astype(bool)).tobytes()).decode()
