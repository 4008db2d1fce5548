"""Trained models and results on disk: safetensors with a card, and the weights that ship with the library."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dnet_lib.energy import Architecture, DescriptorNet
from dnet_lib.files import atomic_write
from dnet_lib.multigrid import Grid, sample_grids

WEIGHTS = Path(__file__).parent / "weights"
RESULTS = Path(__file__).parent / "results"


class CheckpointError(ValueError):
    """A file of weights or results that is missing, broken or of another kind; the message names the way out."""


@dataclass(frozen=True)
class Pretrained:
    """A trained model: one descriptor a grid, coarse to fine, and its card (data, preset, metrics, seed, versions).

    It can be used wherever an energy is: calling it is the finest grid's E(Y; theta).
    """

    grids: tuple[Grid, ...]
    card: dict

    @property
    def net(self) -> DescriptorNet:
        """The finest grid's descriptor; it takes shapes centred by `mean`."""
        return self.grids[-1].net

    @property
    def mean(self) -> float:
        """Scalar voxel mean of the finest grid's training shapes: occupancy = centred + mean."""
        return self.grids[-1].mean

    def score(self, y: Tensor) -> Tensor:
        """f(Y; theta) of the finest grid, (N,)."""
        return self.net.score(y)

    def energy(self, y: Tensor) -> Tensor:
        """E(Y; theta) of the finest grid, (N,)."""
        return self.net.energy(y)

    __call__ = energy

    def sample(self, num_samples: int, *, generator: torch.Generator | None = None, progress: bool = False) -> Tensor:
        """New shapes from noise: occupancy (N, 1, R, R, R), about [0, 1]; threshold at 0.5 for binary ones."""
        return sample_grids(self.grids, num_samples, generator=generator, progress=progress)


def save_model(path: str | Path, grids: Sequence[Grid], card: dict) -> None:
    """Write grids and card as one safetensors file, beside and renamed. The card must be JSON."""
    tensors = {
        f"{number}.{name}": tensor.detach().cpu().contiguous()
        for number, grid in enumerate(grids)
        for name, tensor in grid.net.state_dict().items()
    }
    chains = [
        {**{k: v for k, v in vars(grid).items() if k != "net"}, "architecture": asdict(grid.net.architecture)}
        for grid in grids
    ]
    metadata = {"format": "dnet_lib 1", "grids": json.dumps(chains), "card": json.dumps(card)}
    with atomic_write(path) as part:
        save_file(tensors, part, metadata=metadata)


def load_model(path: str | Path, *, device: torch.device | str = "cpu") -> Pretrained:
    """Read a file of `save_model`. Raises `CheckpointError` naming a file that is missing, truncated or foreign."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != "dnet_lib 1":
                raise CheckpointError(f"{path} is a safetensors file, but not one of dnet_lib's models")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        grids = []
        for number, chain in enumerate(json.loads(metadata["grids"])):
            described = chain.pop("architecture")
            described["layers"] = tuple(tuple(layer) for layer in described["layers"])
            described["bounds"] = described["bounds"] and tuple(described["bounds"])
            net = DescriptorNet(Architecture(**described), device=device).eval().requires_grad_(False)
            prefix = f"{number}."
            net.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
            grids.append(Grid(net=net, **chain))
        return Pretrained(tuple(grids), json.loads(metadata["card"]))
    except FileNotFoundError as error:
        raise CheckpointError(f"there are no weights at {path}") from error
    except (SafetensorError, OSError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is broken or truncated ({error}): fetch or train it again") from error


def load_pretrained(name: str, *, device: torch.device | str = "cpu") -> Pretrained:
    """A model that ships with the library, such as "synthesis/toilet"; `CheckpointError` lists the names there are."""
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file() or not path.resolve().is_relative_to(WEIGHTS.resolve()):
        known = sorted(p.relative_to(WEIGHTS).with_suffix("").as_posix() for p in WEIGHTS.rglob("*.safetensors"))
        raise CheckpointError(f"no pretrained model {name!r}: choose from {', '.join(known) or '(none is installed)'}")
    return load_model(path, device=device)


def save_results(experiment: str, name: str, results: dict, *, folder: Path = RESULTS) -> Path:
    """Write one results file, folder/experiment/name.json; returns its path."""
    path = folder / experiment / f"{name}.json"
    with atomic_write(path) as part:
        part.write_text(json.dumps(results, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return path


def load_results(experiment: str, *, folder: Path = RESULTS) -> dict[str, dict]:
    """All results of an experiment ("synthesis", "recovery", ...), keyed by category or "all"."""
    files = sorted((folder / experiment).glob("*.json"))
    if not files:
        known = sorted(p.name for p in folder.glob("*") if p.is_dir())
        raise CheckpointError(f"no results of {experiment!r}: choose from {', '.join(known) or '(none yet)'}")
    return {path.stem: json.loads(path.read_text()) for path in files}
