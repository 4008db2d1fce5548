"""Shapes to learn from: reads voxel archives, the embedded procedural furniture and a locally made ModelNet10."""

import errno
import hashlib
import json
import os
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dnet_lib.errors import DataError
from dnet_lib.voxels import centre, coarsen, pad

CATEGORIES = ("bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet")
VERSION = 1  #: Of voxel archives, the newest that is read
EMBEDDED = Path(__file__).parent / "shapes" / "furniture_32.npz"
KINDS = {"voxels": (2, "u"), "labels": (1, "iu"), "split": (1, "U"), "names": (1, "U"), "categories": (1, "U")}
"""The arrays of a voxel archive beside its manifest: the number of axes and the kinds of dtype."""
MANIFEST = ("dataset", "resolution", "source", "sha256", "fill_rule", "padding", "version")


@dataclass(frozen=True, eq=False)
class ShapeSet(Dataset[tuple[Tensor, Tensor]]):
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

    Raises `DataError` for an unknown name, category, split or resolution, and for an archive that cannot be read.
    """
    if type(resolution) is not int or resolution < 1:
        raise DataError(f"a resolution must be a whole number of voxels, at least 1, not {resolution!r}")
    archive = _read(_locate(name, resolution))
    if split not in ("train", "test"):
        raise DataError(f"unknown split {split!r}: choose 'train' or 'test'")
    if category is not None and category not in CATEGORIES:
        raise DataError(f"unknown category {category!r}: choose from {', '.join(CATEGORIES)}")
    chosen = category is None or archive["labels"] == CATEGORIES.index(category)
    rows = {part: np.flatnonzero(chosen & (archive["split"] == part)) for part in ("train", split)}
    if not len(rows[split]):
        raise DataError(f"{name} holds no {split} shapes" + (f" of category {category}" if category else ""))
    parts = {part: _unpack(archive, own) for part, own in rows.items() if len(own)}
    parts = {part: _fit(voxels, resolution) for part, voxels in parts.items()}
    voxels, own = parts[split], rows[split]
    return ShapeSet(
        voxels=voxels,
        labels=torch.from_numpy(archive["labels"][own].astype(np.int64)),
        categories=CATEGORIES,
        names=tuple(archive["names"][own].tolist()),
        mean=float(parts.get("train", voxels).double().mean()),
        dataset=archive["manifest"]["dataset"],
        sha256=archive["sha256"],
    )


def _locate(name: str | Path, resolution: int) -> Path:
    made = cache_folder() / f"modelnet10_{resolution}.npz"
    path = {"furniture": EMBEDDED, "modelnet10": made}.get(str(name), Path(name).expanduser())
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if path == made:
            raise DataError(
                f"ModelNet10 at {resolution}^3 is not on this machine ({path}). Its models are free for research use; "
                f"make it once with: dnet-data modelnet10 --resolution {resolution} (or, from a copy of your own: "
                f"dnet-data import FILE --name modelnet10 --resolution {resolution})"
            ) from None
        imported = cache_folder() / f"{Path(name).name}_{resolution}.npz"
        known = "choose 'furniture', 'modelnet10' or the path of a voxel archive"
        known += f", such as {imported}" * imported.exists()
        raise DataError(f"unknown dataset {name!r}: {known}") from None
    except (OSError, ValueError):
        pass  # `_read` says what it is
    return path


def _read(path: Path) -> dict[str, Any]:
    """The arrays of a voxel archive, checked, with its manifest parsed and the sha256 of its packed voxels."""
    try:
        if not stat.S_ISREG(mode := path.stat().st_mode):
            raise DataError(f"it is a {'folder' if stat.S_ISDIR(mode) else 'device or a pipe'}, not a voxel archive")
        with np.load(path, allow_pickle=False) as file:
            archive: dict[str, Any] = {key: file[key] for key in (*KINDS, "manifest") if key in file.files}
        _check(archive)
    except (DataError, MemoryError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # a damaged archive fails in any way it likes
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # the last: a place outside the file
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        raise DataError(
            f"{path} is not a readable voxel archive ({error}): make it again with dnet-data, or from voxels of your "
            "own with `dnet-data import`"
        ) from error
    return archive


def _check(archive: dict[str, Any]) -> None:
    """Parse the manifest; raise an error for arrays that are missing, or not what `data_prep` writes."""
    if missing := {*KINDS, "manifest"} - set(archive):
        raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    for key, (ndim, kinds) in KINDS.items():
        if archive[key].ndim != ndim or archive[key].dtype.kind not in kinds:
            raise ValueError(f"`{key}` is {archive[key].dtype} {archive[key].shape}")
    voxels, labels, manifest = archive["voxels"], archive["labels"], json.loads(str(archive["manifest"]))
    if missing := set(MANIFEST) - set(manifest):
        raise ValueError(f"its manifest lacks {', '.join(sorted(missing))}")
    side, version, dataset = manifest["resolution"], manifest["version"], manifest["dataset"]
    if type(version) is not int or version > VERSION:
        raise DataError(f"it has version {version!r}, this program reads {VERSION}: update the project")
    if type(side) is not int or not 1 <= side <= 512 or not isinstance(dataset, str):
        raise ValueError(f"its manifest claims resolution {side!r} and dataset {dataset!r}")
    if voxels.dtype != np.uint8 or voxels.shape[1] != -(-(side**3) // 8):
        raise ValueError(f"{side}^3 shapes cannot be packed as {voxels.dtype} {voxels.shape}")
    if not 0 < len(labels) == len(archive["split"]) == len(archive["names"]) == len(voxels):
        raise ValueError("it is empty, or its arrays differ in length")
    if tuple(archive["categories"].tolist()) != CATEGORIES:
        raise ValueError(f"its categories are not {', '.join(CATEGORIES)}")
    if not 0 <= labels.min() <= labels.max() < len(CATEGORIES):
        raise ValueError("a label has no category")
    if other := set(archive["split"].tolist()) - {"train", "test"}:
        raise ValueError(f"its split has {sorted(other)[:3]}, not only 'train' and 'test'")
    digest = hashlib.sha256(voxels.tobytes()).hexdigest()
    if manifest.get("voxels_sha256", digest) != digest:
        raise ValueError("its shapes are not those its manifest names")
    archive |= {"manifest": manifest, "sha256": digest}


def _unpack(archive: dict[str, Any], rows: NDArray[np.intp]) -> Tensor:
    side = archive["manifest"]["resolution"]
    bits = np.unpackbits(archive["voxels"][rows], axis=1, count=side**3)
    return torch.from_numpy(bits).view(-1, 1, side, side, side).float()


def _fit(voxels: Tensor, resolution: int) -> Tensor:
    side = voxels.shape[-1]
    if side > resolution and side % resolution == 0:
        return coarsen(voxels, side // resolution)
    border, odd = divmod(resolution - side, 2)
    fitted = pad(voxels, border)  # or cut, where it is negative
    if odd or fitted.count_nonzero() < voxels.count_nonzero():
        raise DataError(
            f"a {side}^3 archive cannot give {resolution}^3 shapes: make one that can, with --resolution of `dnet-data "
            "shapes`, `modelnet10` or `import`"
        )
    return fitted
