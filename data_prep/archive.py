"""Voxel archives: the one file format that `data_prep` writes and `dnet_lib` reads."""

import errno
import hashlib
import json
import math
import os
import stat
import textwrap
import tokenize
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import platformdirs
from numpy.typing import NDArray

CATEGORIES = ("bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet")
KEYS = ("voxels", "labels", "split", "names", "categories", "manifest")
MANIFEST_KEYS = ("dataset", "resolution", "source", "sha256", "fill_rule", "padding", "version")
VERSION = 1
MAX_RESOLUTION = 512
MAX_VOXELS = 1 << 34  # of one file: 2 GiB once packed, ModelNet10 at 128^3
MAX_TEXT = 1 << 26  # bytes of any other array


class ArchiveError(ValueError):
    """A voxel file that cannot be used; the message is one line that names the file and the way out."""


@dataclass(frozen=True)
class Archive:
    """A set of voxel shapes.

    `packed` (N, ceil(R^3 / 8)) uint8 are the grids, indexed (y, x, z), eight voxels a byte; `labels` (N,) index
    `CATEGORIES`; `split` (N,) is 'train' or 'test'; `names` (N,); `manifest` says where they come from.
    """

    packed: NDArray[np.uint8]
    labels: NDArray[np.integer]
    split: NDArray[np.str_]
    names: NDArray[np.str_]
    manifest: dict[str, Any]

    @property
    def resolution(self) -> int:
        return int(self.manifest["resolution"])

    def grids(self, index: Any = ...) -> NDArray[np.bool_]:
        """Occupied voxels of the chosen shapes: bool (n, R, R, R)."""
        return unpack(self.packed[index], self.resolution)

    def counts(self) -> NDArray[np.int64]:
        """Number of occupied voxels of each shape: (N,)."""
        parts = np.array_split(self.packed, len(self.packed) // 256 + 1)
        return np.concatenate([unpack(part, self.resolution).sum((1, 2, 3), np.int64) for part in parts])


def pack(voxels: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Grids (N, R, R, R) to eight voxels a byte: (N, ceil(R^3 / 8))."""
    return np.packbits(voxels.reshape(len(voxels), math.prod(voxels.shape[1:])), axis=1)


def unpack(packed: NDArray[np.uint8], resolution: int) -> NDArray[np.bool_]:
    """The inverse of `pack`."""
    shape = (len(packed), *[resolution] * 3)
    return np.unpackbits(packed, axis=1, count=resolution**3).view(np.bool_).reshape(shape)


def cache_dir() -> Path:
    """Folder of downloaded and made archives: the environment variable `DNET_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("DNET_CACHE") or platformdirs.user_cache_dir("dnet"))


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Name the file in an error that does not, such as a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file beside `path` that takes its place when the block ends well, and disappears when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with blaming(path), part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_archive(
    path: str | os.PathLike[str],
    voxels: NDArray[Any],
    labels: Sequence[int] | NDArray[np.integer],
    split: Sequence[str] | NDArray[np.str_],
    names: Sequence[str] | NDArray[np.str_],
    manifest: Mapping[str, Any],
) -> Archive:
    """Write a voxel archive, the same bytes for the same shapes; an interrupted write leaves the old file as it was.

    Args:
        path: where to; folders are made.
        voxels: bool (N, R, R, R), indexed (y, x, z); or already packed, uint8 (N, ceil(R^3 / 8)).
        labels, split, names: (N,) each, as in `Archive`.
        manifest: dataset, source, sha256 of the sources, fill_rule, padding, and resolution if `voxels` are packed.

    Raises:
        ArchiveError: if the parts do not fit together.
        OSError: if the file cannot be written.
    """
    voxels = np.asarray(voxels)
    manifest = {"resolution": voxels.shape[-1] if voxels.ndim == 4 else None, "version": VERSION, **manifest}
    packed = pack(voxels.astype(bool, copy=False)) if voxels.ndim == 4 else voxels
    archive = Archive(packed, np.asarray(labels, np.int64), np.asarray(split, str), np.asarray(names, str), manifest)
    manifest["voxels_sha256"] = hashlib.sha256(packed.tobytes()).hexdigest()
    _check(archive, CATEGORIES, str(path))
    with replacing(Path(path)) as file:
        np.savez_compressed(
            file,
            voxels=archive.packed,
            labels=archive.labels,
            split=archive.split,
            names=archive.names,
            categories=np.array(CATEGORIES),
            manifest=np.array(json.dumps(manifest)),
        )
    return archive


def read_archive(path: str | os.PathLike[str]) -> Archive:
    """Read and check a voxel archive.

    Raises:
        ArchiveError: if the file is truncated, damaged, hostile, or not a voxel archive.
        OSError, MemoryError: if there is no such file, or the machine cannot read it.
    """
    with open_npz(path) as arrays:
        if missing := set(KEYS) - arrays.keys():
            raise ArchiveError(
                f"{path}: not a voxel archive: no {', '.join(sorted(missing))}; "
                "for other people's voxel files use `dnet-data import`"
            )
        parts = {key: arrays[key].read(MAX_VOXELS // 8 if key == "voxels" else MAX_TEXT) for key in KEYS}
    try:
        manifest = json.loads(str(parts["manifest"]))
    except (ValueError, RecursionError):
        raise ArchiveError(f"{path}: its manifest is not JSON: make the archive again") from None
    if not isinstance(manifest, dict):
        raise ArchiveError(f"{path}: its manifest is not a JSON object: make the archive again")
    archive = Archive(parts["voxels"], parts["labels"], parts["split"], parts["names"], manifest)
    _check(archive, parts["categories"].tolist(), str(path))
    digest = hashlib.sha256(archive.packed.tobytes()).hexdigest()
    if manifest.get("voxels_sha256", digest) != digest:
        raise ArchiveError(f"{path}: its shapes are not those its manifest names: make the archive again")
    return archive


def _check(archive: Archive, categories: Sequence[str], path: str) -> None:
    """Refuse an archive whose parts do not fit together."""
    n, manifest = len(archive.packed) if archive.packed.ndim else 0, archive.manifest
    resolution = manifest.get("resolution")
    problem = None
    if not n:
        problem = "it holds no shapes"
    elif missing := [key for key in MANIFEST_KEYS if key not in manifest]:
        problem = f"its manifest lacks {', '.join(missing)}"
    elif type(manifest["version"]) is not int or manifest["version"] > VERSION:
        problem = f"it has version {manifest['version']!r}, this program reads {VERSION}: update the project"
    elif type(resolution) is not int or not 1 <= resolution <= MAX_RESOLUTION:
        problem = f"its resolution is {resolution!r}, not a number from 1 to {MAX_RESOLUTION}"
    elif not isinstance(manifest["dataset"], str):
        problem = f"its dataset is {manifest['dataset']!r}, not a name"
    elif n * resolution**3 > MAX_VOXELS:
        problem = f"{n} shapes at {resolution}^3 are too many for one archive: choose a lower resolution or fewer"
    elif archive.packed.dtype != np.uint8 or archive.packed.shape != (n, (resolution**3 + 7) // 8):
        problem = (
            f"its voxels are {archive.packed.dtype} {archive.packed.shape}, "
            f"not uint8 (N, {(resolution**3 + 7) // 8}) for {resolution}^3"
        )
    elif list(categories) != list(CATEGORIES):
        problem = f"its categories are {list(categories)[:10]}, not {' '.join(CATEGORIES)}"
    elif any(part.shape != (n,) for part in (archive.labels, archive.split, archive.names)):
        problem = f"it has {n} shapes, but labels, split or names of another length"
    elif archive.labels.dtype.kind not in "iu" or archive.split.dtype.kind != "U" or archive.names.dtype.kind != "U":
        problem = "its labels are not integers, or its split or names not text"
    elif not 0 <= archive.labels.min() <= archive.labels.max() < len(CATEGORIES):
        problem = f"its labels run from {archive.labels.min()} to {archive.labels.max()}, not within 0 to 9"
    elif other := set(archive.split.tolist()) - {"train", "test"}:
        problem = f"its split has {sorted(other)[:3]}, not only 'train' and 'test'"
    if problem:
        raise ArchiveError(f"{path}: not a good voxel archive: {problem}")


@dataclass(frozen=True)
class StoredArray:
    """An array in an `.npy` or `.npz` file that has not been read yet; its header is known and its size plausible."""

    name: str
    open: Callable[[], IO[bytes]]  # a stream at the first byte after the header
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: Literal["C", "F"]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def blocks(self, rows: int) -> Iterator[NDArray[Any]]:
        """The array, `rows` at a time along its first axis."""
        if self.order == "F":
            yield self.read(MAX_VOXELS // 8)
            return
        with self.open() as stream:
            for start in range(0, self.shape[0], rows):
                yield self._take(stream, (min(rows, self.shape[0] - start), *self.shape[1:]))

    def read(self, limit: int = MAX_TEXT) -> NDArray[Any]:
        """The whole array, unless it is larger than `limit` bytes."""
        if self.nbytes > limit:
            raise ArchiveError(f"{self.name}: claims the shape {self.shape}, more than {limit:,} bytes")
        with self.open() as stream:
            return self._take(stream, self.shape)

    def _take(self, stream: IO[bytes], shape: tuple[int, ...]) -> NDArray[Any]:
        if self.dtype.hasobject:
            raise ArchiveError(f"{self.name}: holds pickled Python objects, never loaded: save it as plain numbers")
        size = math.prod(shape) * self.dtype.itemsize
        data = stream.read(size)
        if len(data) < size:
            raise ArchiveError(f"{self.name}: ends too early: fetch or make it again")
        return np.ndarray(shape, self.dtype, data, order=self.order)


def stored_array(name: str, opener: Callable[[], IO[bytes]], size: int) -> StoredArray:
    """Read the header of an array file of `size` bytes; refuse what cannot be true or safe before it takes memory."""
    with opener() as stream:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        try:
            shape, fortran, dtype = header(stream)
        except (SyntaxError, tokenize.TokenError) as error:
            raise ArchiveError(f"{name}: damaged: its header is not numpy's: fetch or make it again") from error
        skip = stream.tell()

    def at_data() -> IO[bytes]:
        stream = opener()
        stream.read(skip)
        return stream

    array = StoredArray(name, at_data, shape, dtype, "F" if fortran else "C")
    if min(shape, default=0) < 0:
        raise ArchiveError(f"{name}: its header claims the shape {shape}, which no array has: fetch or make it again")
    if math.prod(shape) > MAX_VOXELS:
        way = "split the file, or, where it is not so large, fetch or make it again"
        raise ArchiveError(f"{name}: its header claims the shape {shape}, more than {MAX_VOXELS:,} values: {way}")
    if array.nbytes != size - skip and not dtype.hasobject:
        claim = f"claims {array.nbytes:,} bytes but holds {size - skip:,}"
        raise ArchiveError(f"{name}: its header {claim}: fetch or make it again")
    return array


@contextmanager
def open_npz(path: str | os.PathLike[str]) -> Iterator[dict[str, StoredArray]]:
    """The arrays of an `.npz`, unread; whatever is wrong with the file becomes one `ArchiveError` that names it."""
    with naming(path), zipfile.ZipFile(path) as file:
        arrays = {}
        for info in file.infolist():
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ArchiveError(f"{path}: compressed in a way numpy does not use: save it again")
            key = info.filename.removesuffix(".npy")
            arrays[key] = stored_array(f"{path}: {key}", partial(file.open, info), info.file_size)
        yield arrays


def of_the_machine(error: Exception) -> bool:
    """Whether the machine fails (permission, disk, memory), not what the file holds, such as a place outside it."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in (None, errno.EINVAL))


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever a damaged file makes its reader raise into one `ArchiveError` with the file's name.

    Errors of the machine keep their kind. A device or a pipe is refused before its reader waits for it.
    """
    if not stat.S_ISREG(mode := Path(path).stat().st_mode) and not stat.S_ISDIR(mode):
        raise ArchiveError(f"{path}: is a device or a pipe, not a file")
    try:
        with blaming(Path(path)):
            yield
    except ArchiveError:
        raise
    except MemoryError as error:
        raise MemoryError(f"{path}: not enough memory to read it ({error})") from error
    except Exception as error:
        if of_the_machine(error):
            raise
        reason = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder="...")
        raise ArchiveError(f"{path}: damaged or of another kind ({reason}): fetch or make it again") from error
