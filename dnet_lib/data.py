"""Shapes to learn from: reads voxel archives, the embedded procedural furniture and a locally made ModelNet10."""

import hashlib
import json
import os
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
from numpy.typing import NDArray
from torch import Tensor

from dnet_lib.errors import DataError
from dnet_lib.voxels import centre, coarsen, pad

EMBEDDED = Path(__file__).parent / "shapes" / "furniture_32.npz"
KINDS = {"voxels": (2, "u"), "labels": (1, "iu"), "split": (1, "U"), "names": (1, "U"), "categories": (1, "U")}
KEYS = (*KINDS, "manifest")
"""The arrays of a voxel archive; of all but the manifest the number of axes and the kinds of dtype."""


@dataclass(frozen=True, eq=False)
class ShapeSet:
    """Shapes of one split.

    `voxels` are occupancy, (N, 1, R, R, R) float32 of zeros and ones; `labels` (N,) index `categories`; `names` are the
    shapes' own; `mean` is the scalar voxel mean of the *training* split of the same choice (of the test split where
    there is no training shape), subtracted in `centred`.
    """

    voxels: Tensor
    labels: Tensor
    categories: tuple[str, ...]
    names: tuple[str, ...]
    mean: float
    dataset: str
    sha256: str  #: sha256 of the archive's packed voxels: which data a result belongs to

    def __len__(self) -> int:
        return len(self.voxels)

    def __getitem__(self, index: int | slice | Tensor) -> tuple[Tensor, Tensor]:
        """Occupancy (1, R, R, R) and label of a shape, as a `torch.utils.data.DataLoader` asks for them; or of some."""
        return self.voxels[index], self.labels[index]

    def __repr__(self) -> str:
        sizes = f"{len(self)} shapes of {self.voxels.shape[-1]}^3 voxels, {len(self.labels.unique())} categories"
        return f"ShapeSet({self.dataset!r}: {sizes}, mean {self.mean:.4f})"

    @cached_property
    def centred(self) -> Tensor:
        """The voxels minus `mean`: what the energy model sees."""
        return centre(self.voxels, self.mean)


def cache_folder() -> Path:
    """Where archives made by `dnet-data` lie: the environment variable DNET_CACHE, else the user's cache folder."""
    return Path(os.environ.get("DNET_CACHE") or platformdirs.user_cache_dir("dnet"))


def load_shapes(name: str | Path, category: str | None = None, split: str = "train", resolution: int = 32) -> ShapeSet:
    """Shapes of a dataset as a `ShapeSet` of occupancy tensors.

    name        "furniture" (embedded, procedural), "modelnet10" (made once by `dnet-data modelnet10`), or the path of
                a voxel archive
    category    one of the archive's categories, or None for all
    split       "train" or "test"
    resolution  voxels a side. A larger grid loses an empty border or is cut into blocks (`coarsen`), a smaller one is
                padded with empty voxels

    Raises `DataError` for an unknown name, category, split or resolution, or a broken archive.
    """
    if type(resolution) is not int or resolution < 1:
        raise DataError(f"a resolution must be a whole number of voxels, at least 1, not {resolution!r}")
    archive = _read(_locate(name, resolution))
    if split not in ("train", "test"):
        raise DataError(f"unknown split {split!r}: choose 'train' or 'test'")
    categories = tuple(str(c) for c in archive["categories"])
    if category is not None and category not in categories:
        raise DataError(f"unknown category {category!r}: choose from {', '.join(categories)}")
    chosen = np.ones(len(archive["labels"]), dtype=bool)
    if category is not None:
        chosen = archive["labels"] == categories.index(category)
    parts = {}
    for part in {"train", split}:
        rows = np.flatnonzero(chosen & (archive["split"] == part))
        parts[part] = rows, _fit(_unpack(archive, rows), resolution) if len(rows) else None
    rows, voxels = parts[split]
    if voxels is None:
        raise DataError(f"{name} holds no {split} shapes" + (f" of category {category}" if category else ""))
    reference = voxels if parts["train"][1] is None else parts["train"][1]
    return ShapeSet(
        voxels=voxels,
        labels=torch.from_numpy(archive["labels"][rows].astype(np.int64)),
        categories=categories,
        names=tuple(str(n) for n in archive["names"][rows]),
        mean=float(reference.double().mean()),
        dataset=archive["manifest"]["dataset"],
        sha256=archive["sha256"],
    )


def _locate(name: str | Path, resolution: int) -> Path:
    if str(name) == "furniture":
        return EMBEDDED
    if str(name) == "modelnet10":
        path = cache_folder() / f"modelnet10_{resolution}.npz"
        if not path.exists():
            raise DataError(
                f"ModelNet10 at {resolution}^3 is not on this machine ({path}). Its models are free for research use; "
                f"make it once with: dnet-data modelnet10 --resolution {resolution}"
            )
        return path
    path = Path(name).expanduser()
    if not path.exists():
        raise DataError(f"unknown dataset {name!r}: choose 'furniture', 'modelnet10' or the path of a voxel archive")
    return path


def _read(path: Path) -> dict[str, Any]:
    """The arrays of a voxel archive, checked, with its manifest parsed and its sha256 added."""
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in KEYS if key not in file.files]
            if missing:
                raise DataError(
                    f"{path} is not a voxel archive: it lacks {', '.join(missing)} (see `dnet-data import`)"
                )
            archive: dict[str, Any] = {key: file[key] for key in KEYS}
        archive["manifest"] = json.loads(str(archive["manifest"]))
        side = archive["manifest"]["resolution"]
        dataset = archive["manifest"]["dataset"]
    except DataError:
        raise
    except (
        *(OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, RuntimeError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        raise DataError(f"{path} is not a readable voxel archive ({error}): make it again with dnet-data") from error
    for key, (ndim, kinds) in KINDS.items():
        if archive[key].ndim != ndim or archive[key].dtype.kind not in kinds:
            raise DataError(f"{path} is broken: `{key}` is {archive[key].dtype} {archive[key].shape}")
    voxels, labels, split = archive["voxels"], archive["labels"], archive["split"]
    rows = len(voxels)
    if type(side) is not int or not 1 <= side <= 1024 or not isinstance(dataset, str):
        raise DataError(f"{path} is broken: its manifest claims resolution {side!r} and dataset {dataset!r}")
    if voxels.dtype != np.uint8 or voxels.shape != (rows, -(-(side**3) // 8)):
        raise DataError(f"{path} is broken: {side}^3 shapes cannot be packed as {voxels.dtype} {voxels.shape}")
    if not len(labels) == len(split) == len(archive["names"]) == rows:
        raise DataError(f"{path} is broken: its arrays differ in length")
    if rows and (labels.min() < 0 or labels.max() >= len(archive["categories"])):
        raise DataError(f"{path} is broken: a label has no category")
    archive["sha256"] = hashlib.sha256(voxels.tobytes()).hexdigest()
    return archive


def _unpack(archive: dict[str, Any], rows: NDArray[np.intp]) -> Tensor:
    side = archive["manifest"]["resolution"]
    bits = np.unpackbits(archive["voxels"][rows], axis=1, count=side**3)
    return torch.from_numpy(bits).view(-1, 1, side, side, side).float()


def _fit(voxels: Tensor, resolution: int) -> Tensor:
    side = voxels.shape[-1]
    if side > resolution and side % resolution == 0:
        return coarsen(voxels, side // resolution)
    border = (side - resolution) // 2
    if side > resolution and (side - resolution) % 2 == 0:
        inner = voxels[..., border:-border, border:-border, border:-border]
        if inner.sum() == voxels.sum():
            return inner.contiguous()
    if side <= resolution and (resolution - side) % 2 == 0:
        return pad(voxels, (resolution - side) // 2)
    raise DataError(f"a {side}^3 archive cannot give {resolution}^3 shapes: make one with `dnet-data --resolution`")
