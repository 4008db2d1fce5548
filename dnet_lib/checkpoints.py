"""Trained models and results on disk: safetensors with a card, and the weights that ship with the library."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dnet_lib.energy import Architecture, DescriptorNet
from dnet_lib.fast import freeze
from dnet_lib.files import atomic_write
from dnet_lib.langevin import Generators, langevin, sample, white_noise
from dnet_lib.projections import Projection, hidden_voxels, missing_detail
from dnet_lib.starts import CoarseGaussian
from dnet_lib.voxels import ShapeError, centre, check_shapes, fill_hidden, uncentre, up_scale

WEIGHTS = Path(__file__).parent / "weights"
RESULTS = Path(__file__).parent / "results"
FORMAT = "dnet_lib 1"


class CheckpointError(ValueError):
    """A file of weights or results that is missing, broken or of another kind; the message names the way out."""


@dataclass(frozen=True)
class Chain:
    """How a trained model is sampled: from scratch, or from the incomplete shapes it learned to complete."""

    num_steps: int
    step_size: float
    temperature: float = 0.0


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A trained model: the descriptor, where its chains start, how they run, and a card (data, preset, metrics, ...).

    It can be used wherever an energy is: calling it is E(Y; theta) of shapes centred by `mean`.
    """

    net: DescriptorNet
    mean: float
    """Scalar voxel mean of the training shapes: occupancy = centred + mean."""
    start: CoarseGaussian | None
    """Where chains start; None for white noise N(0, 1)."""
    settings: Chain
    card: dict[str, Any]

    def score(self, y: Tensor) -> Tensor:
        """f(Y; theta), (N,)."""
        return self.net.score(y)

    def energy(self, y: Tensor) -> Tensor:
        """E(Y; theta), (N,)."""
        return self.net.energy(y)

    __call__ = energy

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The walls of the energy's uniform reference, if it has one: the sampler asks for them."""
        return self.net.bounds

    def starts(self, num_samples: int, *, generator: Generators = None) -> Tensor:
        """First shapes of new chains, centred (N, 1, R, R, R)."""
        if self.start is not None:
            return self.start.draw(num_samples, generator)
        r, weight = self.net.architecture.resolution, self.net.dense.weight
        return white_noise(weight.new_empty(num_samples, 1, r, r, r), generator)

    def chain(self, num_samples: int, *, generator: Generators = None) -> Iterator[Tensor]:
        """A chain from scratch: yields occupancy (N, 1, R, R, R), first the start, then after each Langevin step."""
        y = self.starts(num_samples, generator=generator)
        yield uncentre(y, self.mean)
        energy = freeze(self.net, y, num_steps=self.settings.num_steps)
        steps = langevin(y, energy, **asdict(self.settings), generator=generator)
        yield from (uncentre(y, self.mean) for y, _ in steps)

    def sample(self, num_samples: int, *, generator: Generators = None, progress: bool | str = False) -> Tensor:
        """New shapes: occupancy (N, 1, R, R, R), about in [0, 1]; threshold at 0.5 for binary ones."""
        return self._revise(self.starts(num_samples, generator=generator), None, generator, progress)

    def _revise(self, y: Tensor, projection: Projection | None, generator: Generators, progress: bool | str) -> Tensor:
        """Occupancy at the end of the model's chain from centred shapes, which keeps what `projection` removes."""
        options = {**asdict(self.settings), "projection": projection, "generator": generator, "progress": progress}
        return uncentre(sample(y, self.net, **options), self.mean)

    def recover(
        self, occupancy: Tensor, hidden: Tensor, *, generator: Generators = None, progress: bool | str = False
    ) -> Tensor:
        """Shapes whose hidden voxels a chain has filled in; the visible ones stay as they are (Algorithm 4).

        Occupancy (N, 1, R, R, R) and a boolean mask of the same shape, True where a voxel is hidden (and not read).
        The result is about in [0, 1]; threshold at 0.5 for binary shapes.
        """
        resolution = self.net.architecture.resolution
        y = check_shapes(fill_hidden(occupancy, hidden), name="the visible voxels", resolution=resolution)
        y = self._revise(centre(y, self.mean), hidden_voxels(hidden), generator, progress)
        return torch.where(hidden, y, occupancy)

    def revise(self, occupancy: Tensor, *, generator: Generators = None, progress: bool | str = False) -> Tensor:
        """Shapes at the end of the model's chain from given ones (N, 1, R, R, R), occupancy; all voxels may move."""
        check_shapes(occupancy, resolution=self.net.architecture.resolution)
        return self._revise(centre(occupancy, self.mean), None, generator, progress)

    def super_resolve(self, coarse: Tensor, *, generator: Generators = None, progress: bool | str = False) -> Tensor:
        """Shapes (N, 1, R, R, R) whose block means are `coarse` (N, 1, R/d, R/d, R/d), occupancy (Algorithm 5)."""
        resolution = self.net.architecture.resolution
        check_shapes(coarse, name="the low-resolution shapes")
        if resolution % coarse.shape[-1]:
            raise ShapeError(f"{coarse.shape[-1]}^3 shapes cannot be expanded to this model's {resolution}^3")
        scale = resolution // coarse.shape[-1]
        return self._revise(centre(up_scale(coarse, scale), self.mean), missing_detail(scale), generator, progress)


def save_model(path: str | Path, model: Pretrained, *, half: bool = False) -> None:
    """Write a model as one safetensors file, beside and renamed. Its card must be JSON.

    `half` stores the network's weights in half precision; they are read back as float32.
    """
    weights = model.net.state_dict()
    tensors = {f"net.{name}": tensor.half() if half else tensor for name, tensor in weights.items()}
    about: dict[str, Any] = {
        "architecture": asdict(model.net.architecture),
        "mean": model.mean,
        "chain": asdict(model.settings),
        "start": None,
    }
    if model.start is not None:
        tensors |= {"start.mean": model.start.mean, "start.factor": model.start.factor}
        tensors |= {f"start.mixture.{i}": part for i, part in enumerate(model.start.mixture or ())}
        about["start"] = {k: v for k, v in vars(model.start).items() if k not in ("mean", "factor", "mixture")}
    write_tensors(path, tensors, {"format": FORMAT, "model": json.dumps(about), "card": json.dumps(model.card)})


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write one safetensors file, beside and renamed; `metadata["format"]` says what `read_tensors` must expect."""
    with atomic_write(path) as part:
        part.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata))


@contextmanager
def read_tensors(
    path: str | Path, kind: str, *, device: torch.device | str = "cpu"
) -> Iterator[tuple[dict[str, Tensor], dict[str, str]]]:
    """Tensors and metadata of a file of `write_tensors`, of format `kind`.

    What fails inside the block is blamed on the file: it raises `CheckpointError` naming a missing, truncated or
    foreign file.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != kind:
                found = metadata.get("format", "tensors of another program")
                raise CheckpointError(f"{path} is a safetensors file, but not one of {kind!r}: it holds {found}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        yield tensors, metadata
    except FileNotFoundError as error:
        raise CheckpointError(f"there are no weights at {path}") from error
    except CheckpointError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is broken or truncated ({error}): fetch or train it again") from error


def load_model(path: str | Path, *, device: torch.device | str = "cpu") -> Pretrained:
    """Read a file of `save_model`. Raises `CheckpointError` naming a file that is missing, truncated or foreign."""
    with read_tensors(path, FORMAT, device=device) as (tensors, metadata):
        about = json.loads(metadata["model"])
        described = about["architecture"]
        described["layers"] = tuple(tuple(layer) for layer in described["layers"])
        described["bounds"] = described["bounds"] and tuple(described["bounds"])
        with torch.device("meta"):  # nothing is allocated before the weights are known to fit
            net = DescriptorNet(Architecture(**described))
        weights = {name.removeprefix("net."): t for name, t in tensors.items() if name.startswith("net.")}
        weights = {name: t.float() if t.dtype == torch.half else t for name, t in weights.items()}
        net.load_state_dict(weights, assign=True)
        start = None
        if about["start"]:
            mixture = None
            if "start.mixture.0" in tensors:
                mixture = tensors["start.mixture.0"], tensors["start.mixture.1"], tensors["start.mixture.2"]
            start = CoarseGaussian(tensors["start.mean"], tensors["start.factor"], mixture=mixture, **about["start"])
        net = net.eval().requires_grad_(False)
        return Pretrained(net, about["mean"], start, Chain(**about["chain"]), json.loads(metadata["card"]))


def load_pretrained(name: str, *, device: torch.device | str = "cpu") -> Pretrained:
    """A model that ships with the library, such as "synthesis/toilet"; `CheckpointError` lists the names there are."""
    return load_model(shipped(name), device=device)


def shipped(name: str) -> Path:
    """The file of weights that ship with the library; `CheckpointError` lists the names there are."""
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file() or not path.resolve().is_relative_to(WEIGHTS.resolve()):
        known = sorted(p.relative_to(WEIGHTS).with_suffix("").as_posix() for p in WEIGHTS.rglob("*.safetensors"))
        raise CheckpointError(f"no pretrained model {name!r}: choose from {', '.join(known) or '(none is installed)'}")
    return path


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
    results = {}
    for path in files:
        try:
            results[path.stem] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} is broken ({error}): fetch it or run it again") from error
    return results
