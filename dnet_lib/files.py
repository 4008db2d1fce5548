"""Files that are whole or absent, and tensors in them: write beside, then rename."""

import glob
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dnet_lib.checks import check_kind
from dnet_lib.errors import CheckpointError
from dnet_lib.processes import first, meet

STALE = 600  #: Seconds after which nobody is writing a part any more
Net = TypeVar("Net", bound=nn.Module)
Packed = tuple[dict[str, Tensor], dict[str, Any]]
"""A thing as named tensors and what JSON can say of it: what its `pack` gives and its `unpack` takes."""


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A path to write to that becomes `path` when the block ends well, and vanishes when it does not.

    A link is followed: what it points to is replaced. What a killed process left is swept up after ten minutes. Of
    processes that work as one the first writes, once all are here, and nobody goes on before it has. Raises OSError
    naming `path` when the disk refuses (full, read-only); the old file, if any, is untouched.
    """
    meet()
    with _replacing(path) if first() else nullcontext(Path(os.devnull)) as part:
        yield part
    meet()


@contextmanager
def _replacing(path: str | Path) -> Iterator[Path]:
    path = Path(os.path.realpath(path))
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise OSError(error.errno, f"could not write {path}: {error.strerror}; what was there is unchanged") from error
    finally:
        left = re.compile(rf"\.{re.escape(path.name)}\.\d+-\d+\.part")
        for old in (part, *path.parent.glob(f".{glob.escape(path.name)}.*.part")):
            with suppress(OSError):
                if old == part or (left.fullmatch(old.name) and time.time() - old.stat().st_mtime > STALE):
                    old.unlink()


def check_folders(*folders: Path) -> None:
    """See, before hours are spent, that folders can be written; raises OSError naming one that cannot."""
    for folder in folders:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            raise OSError(error.errno, f"cannot write into {folder}: {error.strerror}") from error


def check_device(device: torch.device | str | None) -> torch.device:
    """Return the device if tensors can lie there, else raise ValueError."""
    try:
        return torch.empty(0, device=device).device
    except (AssertionError, RuntimeError, NotImplementedError, TypeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(f"there is no device {str(device)!r} here ({reason}): device='cpu' is always there") from error


def write_tensors(path: str | Path, kind: str, tensors: dict[str, Tensor], **about: Any) -> None:
    """Write one safetensors file of a `kind`; `about` is what its metadata say, as JSON, name by name."""
    metadata = {"format": kind} | {name: json.dumps(value) for name, value in about.items()}
    with atomic_write(path) as part:
        part.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata))


@contextmanager
def read_tensors(path: str | Path, kind: str, *, device: torch.device | str = "cpu") -> Iterator[Packed]:
    """Tensors and metadata of a file of `write_tensors`, of the same `kind`.

    What fails inside the block is blamed on the file: it raises `CheckpointError` naming a missing, truncated or
    foreign file.
    """
    check_kind(path, str | os.PathLike, "a file is named by a path", "such as 'model.safetensors'")
    where = check_device(device)
    if where.type == "meta":
        raise ValueError(
            "a file's numbers cannot lie on the device 'meta', which holds none: read on 'cpu', then .to('meta')"
        )
    try:
        with Path(path).open("rb") as opened:  # what the system has against it, in its own words
            if opened.read(2) == b"PK":
                raise CheckpointError(
                    f"{path} is a file of torch.save and no model: if it is the checkpoint of a run, give it to `learn`"
                )
        with torch.inference_mode(False), safe_open(path, framework="pt", device=str(where)) as file:
            metadata = file.metadata() or {}
            if metadata.pop("format", None) != kind:
                found = (file.metadata() or {}).get("format", "tensors of another program")
                raise CheckpointError(f"{path} is a safetensors file, but not one of {kind!r}: it holds {found}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with torch.inference_mode(False):  # what is made of them may need gradients later
            yield tensors, {name: json.loads(text) for name, text in metadata.items()}
    except FileNotFoundError as error:
        raise CheckpointError(f"there are no weights at {path}") from error
    except (CheckpointError, OSError):
        raise
    except (SafetensorError, KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is broken or truncated ({error}): fetch or train it again") from error


def beneath(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def weights(net: nn.Module, *, half: bool = False) -> dict[str, Tensor]:
    """A network's tensors by name, in half precision where asked and where that holds them."""
    kept = net.state_dict()
    halves = {name: t.half() for name, t in kept.items() if half and t.is_floating_point()}
    return kept | {name: t for name, t in halves.items() if torch.equal(t.isfinite(), kept[name].isfinite())}


def with_weights(net: Net, tensors: dict[str, Tensor]) -> Net:
    """A network (on the meta device, say) with given weights, float32 where they are half, for reading only."""
    tensors = {name: t.float() if t.dtype == torch.half else t for name, t in tensors.items()}
    net.load_state_dict(tensors, assign=True)
    return net.eval().requires_grad_(False)
