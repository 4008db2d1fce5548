"""Trained models and results on disk: safetensors with a card, and the weights that ship with the library."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dnet_lib.energy import Architecture, DescriptorNet
from dnet_lib.fast import freeze
from dnet_lib.files import atomic_write
from dnet_lib.generator import GeneratorNet, Layout, Proposals
from dnet_lib.langevin import Generators, langevin, sample, white_noise
from dnet_lib.projections import Projection, hidden_voxels, missing_detail
from dnet_lib.starts import CoarseGaussian, Draws, Histogram
from dnet_lib.voxels import ShapeError, centre, check_shapes, fill_hidden, resample, uncentre, up_scale

WEIGHTS = Path(__file__).parent / "weights"
RESULTS = Path(__file__).parent / "results"
Net = TypeVar("Net", bound=torch.nn.Module)
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
    start: Draws | None
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

    @property
    def grids(self) -> "list[Pretrained]":
        """The models of a multi-grid, coarse to fine, this one last; of any other model only itself."""
        return [*(self.start.below.grids if isinstance(self.start, Expanded) else ()), self]

    def starts(self, num_samples: int, *, generator: Generators = None) -> Tensor:
        """First shapes of new chains, centred (N, 1, R, R, R)."""
        if self.start is not None:
            return self.start.draw(num_samples, generator)
        r, weight = self.net.architecture.resolution, self.net.dense.weight
        return white_noise(weight.new_empty(num_samples, 1, r, r, r), generator)

    def chain(self, num_samples: int, *, generator: Generators = None) -> Iterator[Tensor]:
        """A chain from scratch: yields occupancy (N, 1, R, R, R), first the start, then after each Langevin step.

        A multi-grid's chain begins on the coarsest grid; the shapes grow on the way.
        """
        if isinstance(self.start, Expanded):
            y = torch.empty(0)
            for y in self.start.below.chain(num_samples, generator=generator):
                yield y
            y = self.start.expand(y)
        else:
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


@dataclass(frozen=True, eq=False)
class Expanded:
    """Chains start from the up-scaled samples of the next coarser grid's model (Algorithm 2)."""

    below: Pretrained
    resolution: int

    def draw(self, num_samples: int, generator: Generators = None) -> Tensor:
        """Starts, centred (N, 1, R, R, R)."""
        return self.expand(self.below.sample(num_samples, generator=generator))

    def expand(self, occupancy: Tensor) -> Tensor:
        """Occupancy of the coarser grid, centred on this one."""
        return centre(resample(occupancy, self.resolution), self.below.mean)


def save_model(path: str | Path, model: Pretrained, *, half: bool = False) -> None:
    """Write a model as one safetensors file, beside and renamed. Its card must be JSON.

    `half` stores the networks' weights in half precision; they are read back as float32.
    """
    tensors, about = _pack(model, half)
    write_tensors(path, tensors, {"format": FORMAT, "model": json.dumps(about), "card": json.dumps(model.card)})


def _pack(model: Pretrained, half: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A model as named tensors and what JSON can say; a multi-grid's coarser models lie inside, under "below."."""
    start = model.start
    tensors = _state("net.", model.net, half)
    about: dict[str, Any] = {
        "architecture": asdict(model.net.architecture),
        "mean": model.mean,
        "chain": asdict(model.settings),
        "start": None,
    }
    if isinstance(start, CoarseGaussian):
        tensors |= {"start.mean": start.mean, "start.factor": start.factor}
        tensors |= {f"start.mixture.{i}": part for i, part in enumerate(start.mixture or ())}
        about["start"] = {k: v for k, v in vars(start).items() if k not in ("mean", "factor", "mixture")}
    elif isinstance(start, Histogram):
        tensors |= {"start.edges": start.edges, "start.counts": start.counts}
        about["histogram"] = {"resolution": start.resolution, "centre": start.centre}
    elif isinstance(start, Proposals):
        tensors |= _state("start.", start.net, half)
        about["generator"] = {"layout": asdict(start.net.layout), "centre": start.centre, "sigma": start.sigma}
    elif isinstance(start, Expanded):
        below, about["below"] = _pack(start.below, half)
        tensors |= {f"below.{name}": tensor for name, tensor in below.items()}
    elif start is not None:
        raise TypeError(f"chains that start from a {type(start).__name__} cannot be written")
    return tensors, about


def _state(prefix: str, net: torch.nn.Module, half: bool) -> dict[str, Tensor]:
    state = {f"{prefix}{name}": tensor for name, tensor in net.state_dict().items()}
    return {name: t.half() if half and t.is_floating_point() else t for name, t in state.items()}


def _unpack(tensors: dict[str, Tensor], about: dict[str, Any], card: dict[str, Any]) -> Pretrained:
    """`_pack` undone."""
    described = about["architecture"]
    described["layers"] = tuple(tuple(layer) for layer in described["layers"])
    described["bounds"] = described["bounds"] and tuple(described["bounds"])
    with torch.device("meta"):  # nothing is allocated before the weights are known to fit
        net = DescriptorNet(Architecture(**described))
    _fill(net, "net.", tensors)
    start: Draws | None = None
    if about["start"]:
        mixture = None
        if "start.mixture.0" in tensors:
            mixture = tensors["start.mixture.0"], tensors["start.mixture.1"], tensors["start.mixture.2"]
        start = CoarseGaussian(tensors["start.mean"], tensors["start.factor"], mixture=mixture, **about["start"])
    elif "histogram" in about:
        start = Histogram(tensors["start.edges"], tensors["start.counts"], **about["histogram"])
    elif "generator" in about:
        layout: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in about["generator"].pop("layout").items()
        }
        with torch.device("meta"):
            proposer = GeneratorNet(Layout(**layout))
        start = Proposals(_fill(proposer, "start.", tensors), **about["generator"])
    elif "below" in about:
        below = {name.removeprefix("below."): t for name, t in tensors.items() if name.startswith("below.")}
        start = Expanded(_unpack(below, about["below"], card), net.architecture.resolution)
    return Pretrained(net, about["mean"], start, Chain(**about["chain"]), card)


def _fill(net: Net, prefix: str, tensors: dict[str, Tensor]) -> Net:
    """Give a network on the meta device the weights under a prefix, as float32, for reading only."""
    weights = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    weights = {name: t.float() if t.dtype == torch.half else t for name, t in weights.items()}
    net.load_state_dict(weights, assign=True)
    return net.eval().requires_grad_(False)


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
        return _unpack(tensors, json.loads(metadata["model"]), json.loads(metadata["card"]))


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
