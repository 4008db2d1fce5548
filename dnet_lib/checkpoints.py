"""Trained models and results on disk: safetensors with a card, and what ships with the library."""

import json
from pathlib import Path
from typing import Any

import torch

from dnet_lib.errors import CheckpointError
from dnet_lib.files import atomic_write, read_tensors, write_tensors
from dnet_lib.pretrained import Pretrained

WEIGHTS = Path(__file__).parent / "weights"
RESULTS = Path(__file__).parent / "results"
FORMAT = "dnet_lib 1"


def save_model(path: str | Path, model: Pretrained, *, half: bool = False) -> None:
    """Write a model as one safetensors file, beside and renamed. Its card must be JSON.

    `half` stores the networks' weights in half precision; they are read back as float32. A tensor with
    weights beyond its range, 65504, stays as it is.
    """
    if not isinstance(model, Pretrained):
        raise TypeError(
            f"save_model(path, model) writes a Pretrained, not a {type(model).__name__}: make one of a run with "
            "Pretrained.of; torch.save(net.state_dict(), path) keeps any network"
        )
    tensors, about = model.pack(half)
    write_tensors(path, FORMAT, tensors, model=about, card=model.card)


def load_model(path: str | Path, *, device: torch.device | str = "cpu") -> Pretrained:
    """Read a file of `save_model`. Raises `CheckpointError` naming a file that is missing, truncated or foreign."""
    with read_tensors(path, FORMAT, device=device) as (tensors, about):
        return Pretrained.unpack(tensors, about["model"], about["card"])


def load_pretrained(name: str, *, device: torch.device | str = "cpu") -> Pretrained:
    """A model that ships with the library, such as "synthesis/toilet"; `CheckpointError` lists the names there are."""
    return load_model(shipped(name), device=device)


def shipped(name: str) -> Path:
    """The file of weights that ship with the library; `CheckpointError` lists the names there are."""
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file() or not path.resolve().is_relative_to(WEIGHTS.resolve()):
        known = sorted(p.relative_to(WEIGHTS).with_suffix("").as_posix() for p in WEIGHTS.rglob("*.safetensors"))
        others = ("judges/", "baselines/")
        known = [own for own in known if own.startswith(others) == str(name).startswith(others)]
        raise CheckpointError(f"no pretrained model {name!r}: choose from {', '.join(known) or '(none is installed)'}")
    return path


def save_results(experiment: str, name: str, results: dict[str, Any], *, folder: Path = RESULTS) -> Path:
    """Write one results file, folder/experiment/name.json; returns its path."""
    path = folder / experiment / f"{name}.json"
    with atomic_write(path) as part:
        part.write_text(json.dumps(results, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return path


def load_results(experiment: str, *, folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """All results of an experiment ("synthesis", "recovery", ...), keyed by category or "all"."""
    files = sorted((folder / experiment).glob("*.json"))
    if not files:
        known = sorted(p.name for p in folder.glob("*") if p.is_dir())
        raise CheckpointError(f"no results of {experiment!r}: choose from {', '.join(known) or '(none yet)'}")
    results = {}
    for path in files:
        try:
            results[path.stem] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} is broken ({error}): fetch it or run it again") from error
    return results
