"""Other people's voxel files, read as they are: `.npz`, 3D ShapeNets' `.mat`, `.binvox` and `.npy`."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray
from tqdm import tqdm

from . import archive as ar
from .archive import CATEGORIES, MAX_RESOLUTION, Archive, ArchiveError, StoredArray

SUFFIXES = {"arrays": ".npz", "shapenets": ".mat", "binvox": ".binvox", "npy": ".npy", "archive": ".npz"}
BLOCK = 1 << 24  # values read at a time

_CATEGORY = re.compile(f"({'|'.join(CATEGORIES)})(?![a-z])", re.IGNORECASE)
_TURN = re.compile(r"(?P<shape>.+_\d+)_(?P<turn>[1-9]|1[0-2])")
_ROLES = {
    "voxels": r"x|voxels?|data|grids?|instances?|features|shapes",
    "labels": r"y|labels?|targets?|classes|category|categories",
    "names": r"names?|ids?",
    "split": r"splits?",
}


@dataclass(frozen=True)
class Found:
    """One shape in somebody's file: `values` (R, R, R) in the file's own axes, and what the file says about it."""

    name: str
    values: NDArray[Any]
    category: str | None
    split: str | None
    axes: str = "yxz"


def import_shapes(
    paths: Sequence[str | PathLike[str]],
    *,
    layout: str = "auto",
    axes: str | None = None,
    category: str | None = None,
    split: str = "train",
    turns: str = "first",
    resolution: int | None = None,
    name: str | None = None,
) -> tuple[Archive, list[str], list[str]]:
    """Read voxel files and folders of them, and bring their axes to (y, x, z), the last one up.

    A value above 0.5 is an occupied voxel.

    Args:
        paths: files, or folders that are searched for the layout's files.
        layout: "auto" (by the ending and the content), or one of `SUFFIXES`.
        axes: what the stored axes are, in their order, such as "xzy"; "-" before a letter reverses it.
            By default what each layout's own readers say, checked against the official grids of the same shapes.
        category, split: for files that do not say; `category` also overrules labels.
        turns: of the twelve turns of a shape in a 3D ShapeNets tree, the "first" or "all".
        resolution: pad with empty voxels (or cut empty ones off) to this many voxels a side.
        name: of the dataset; by default the first path's, without a resolution at its end.

    Returns:
        The shapes; a line for each shape or file that could not be read; and notes on what was found.

    Raises:
        ArchiveError: if nothing could be read, or the shapes differ in resolution and none is asked for.
        ValueError: for axes that are not a permutation of x, y and z.
    """
    if axes is not None and sorted(axes.replace("-", "")) != ["x", "y", "z"]:
        raise ValueError(f"--axes {axes!r}: give the letters x, y and z once each, in the file's order, such as xzy")
    sources = [Path(path) for path in paths]
    where, files = ", ".join(map(str, sources)), _files(sources, layout)
    problems, rows, notes, numbers, sizes = [], [], Counter[str](), Counter[str](), Counter[int]()
    if turns == "first":
        every, files = files, _first_turns(files)
        notes["more files are other turns of these shapes: --turns all takes them"] = len(every) - len(files)

    def shapes() -> Iterator[tuple[str, Found]]:
        for file in files:
            try:
                kind = _layout(file) if layout == "auto" else layout
                for shape in READERS[kind](file):
                    yield kind, shape
            except (ArchiveError, OSError) as error:
                problems.append(str(error))

    for kind, shape in tqdm(shapes(), unit=" shapes", desc="import", disable=None, leave=False):
        kept, part, order = category or shape.category, shape.split or split, axes or shape.axes
        numbers[group := f"{kept or 'shape'}_{part}"] += 1
        title = shape.name or f"{group}_{numbers[group]:04d}"
        try:
            if kept not in CATEGORIES:
                raise ArchiveError(f"{title}: none of the ten categories in its labels or path; give --category")
            if part not in ("train", "test"):
                raise ArchiveError(f"{title}: its split is {part!r}, not train or test")
            grid, binary = _occupied(title, shape.values, order)
            grid = _fit(title, grid, resolution or len(grid))
        except ArchiveError as error:
            problems.append(str(error))
            continue
        sizes[len(grid)] += 1
        notes[f"shapes of the layout '{kind}', axes {order}"] += 1
        notes["have values other than 0 and 1: above 0.5 is occupied"] += not binary
        turned = _TURN.fullmatch(title) if kind == "shapenets" and turns == "first" else None
        rows.append((ar.pack(grid[None])[0], CATEGORIES.index(kept), part, turned["shape"] if turned else title))
    if not rows:
        reason = f"; the first of {len(problems)} problems: {problems[0]}" if problems else ""
        raise ArchiveError(f"{where}: no shapes could be read{reason}")
    if len(sizes) > 1:
        have = ", ".join(f"{count} of {size}^3" for size, count in sorted(sizes.items()))
        raise ArchiveError(f"{where}: the shapes differ in size: {have}; choose with --resolution")
    packed, labels, splits, names = map(np.array, zip(*rows, strict=True))
    (side,) = sizes
    occupied = np.argwhere(ar.unpack(np.bitwise_or.reduce(packed, axis=0)[None], side)[0])
    manifest = {
        "dataset": name or re.sub(r"_\d+$", "", sources[0].resolve().stem),
        "resolution": side,
        "source": ", ".join(path.resolve().name for path in sources),
        "sha256": ar.sha256_of(files[0]) if len(files) == 1 else _digest(files),
        "fill_rule": "as imported",
        "padding": int(min(occupied.min(), side - 1 - occupied.max())) if len(occupied) else 0,
        "problems": len(problems),
    }
    archive = Archive(packed, labels, splits, names, manifest)
    return archive, problems, [f"{count} {note}" for note, count in notes.items() if count]


def _files(paths: Sequence[Path], layout: str) -> list[Path]:
    """The files that are meant: those named, and those of the layout inside the folders named."""
    suffixes = set(SUFFIXES.values()) if layout == "auto" else {SUFFIXES[layout]}
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(f for f in path.rglob("[!.]*") if f.suffix.lower() in suffixes and f.is_file())
            if not inside:
                raise ArchiveError(f"{path}: holds no {' '.join(sorted(suffixes))} files")
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
    return files


def _first_turns(files: Sequence[Path]) -> list[Path]:
    """Of the files of one 3D ShapeNets shape, the one of its first turn."""
    first: dict[Any, tuple[int, Path]] = {}
    for file in files:
        match = _TURN.fullmatch(file.stem) if file.suffix.lower() == ".mat" else None
        key, turn = ((file.parent, match["shape"]), int(match["turn"])) if match else (file, 0)
        first[key] = min(first.get(key, (turn, file)), (turn, file))
    return [file for _, file in first.values()]


def _layout(file: Path) -> str:
    kinds = [kind for kind, suffix in SUFFIXES.items() if suffix == file.suffix.lower()]
    if not kinds:
        raise ArchiveError(f"{file}: not a {' '.join(sorted(set(SUFFIXES.values())))} file")
    if file.suffix.lower() == ".npz":
        try:
            with ar.open_npz(file) as arrays:
                return "archive" if set(ar.KEYS) <= arrays.keys() else "arrays"
        except ArchiveError:
            return "arrays"  # whose reader will say what is wrong
    return kinds[0]


def _digest(files: Sequence[Path]) -> str:
    """sha256 of the list of the files' own sha256 and names."""
    return hashlib.sha256("".join(f"{ar.sha256_of(f)}  {f.name}\n" for f in files).encode()).hexdigest()


def _from_path(file: Path) -> tuple[str | None, str | None]:
    """Category and split, from the nearest folder that names one, else from the file's own name.

    The folder goes first: the official release keeps one chair as `chair/30/train/night_stand_000000112_1.mat`.
    """
    folders = [part.lower() for part in reversed(file.resolve().parts[:-1])]
    category = next((part for part in folders if part in CATEGORIES), None) or _from_name(file.stem)
    return category, next((part for part in folders if part in ("train", "test")), None)


def _from_name(name: str) -> str | None:
    match = _CATEGORY.match(name)
    return match[1].lower() if match else None


def _occupied(name: str, values: NDArray[Any], axes: str) -> tuple[NDArray[np.bool_], bool]:
    """Which voxels are occupied, axes brought to (y, x, z); and whether the values were zeros and ones only."""
    if values.dtype.kind not in "biuf":
        raise ArchiveError(f"{name}: its voxels are {values.dtype}, not numbers")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ArchiveError(f"{name}: has voxels that are not finite numbers (NaN or infinite)")
    letters = axes.replace("-", "")
    values = values[tuple(slice(None, None, -1 if f"-{axis}" in axes else 1) for axis in letters)]
    grid = values > 0.5
    return np.ascontiguousarray(grid.transpose([letters.index(axis) for axis in "yxz"])), bool((grid == values).all())


def _fit(name: str, grid: NDArray[np.bool_], resolution: int) -> NDArray[np.bool_]:
    """Pad with empty voxels, or cut empty ones off, evenly, to `resolution` voxels a side."""
    change = resolution - len(grid)
    low = abs(change) // 2
    if change >= 0:
        return np.pad(grid, (low, change - low))
    inner = grid[(slice(low, low + resolution),) * 3]
    if np.count_nonzero(inner) < np.count_nonzero(grid):
        raise ArchiveError(f"{name}: its {len(grid)}^3 voxels do not fit into {resolution}^3")
    return inner


def _cubes(array: StoredArray) -> tuple[int, int]:
    """Number of shapes and voxels a side: of (N, R, R, R) with or without a channel, (N, R^3) or (R, R, R)."""
    shape = array.shape
    if len(shape) == 5 and 1 in (shape[1], shape[-1]):
        shape = shape[:1] + (shape[2:] if shape[1] == 1 else shape[1:-1])
    if len(shape) == 3:
        shape = (1, *shape)
    side = shape[-1] if len(shape) == 4 else round(shape[-1] ** (1 / 3)) if len(shape) == 2 else 0
    if shape[1:] not in ((side, side, side), (side**3,)) or not 1 <= side <= MAX_RESOLUTION:
        raise ArchiveError(f"{array.name}: its shape {array.shape} is not (N, R, R, R) with R at most {MAX_RESOLUTION}")
    if array.dtype.kind not in "biuf":
        raise ArchiveError(f"{array.name}: its voxels are {array.dtype}, not numbers")
    return shape[0], side


def _grids(array: StoredArray) -> Iterator[NDArray[Any]]:
    """Its shapes (R, R, R), one after the other, without holding them all."""
    _, side = _cubes(array)
    for block in array.blocks(max(1, BLOCK // side**3)) if len(array.shape) > 3 else [array.read(BLOCK * 64)]:
        yield from block.reshape(-1, side, side, side)


def read_arrays(file: Path) -> Iterator[Found]:
    """An `.npz` of `X_train`, `y_train`, `X_test`, `y_test` (x, y, z), or of `voxels` with `names` (y, x, z)."""
    with ar.open_npz(file) as arrays:
        parts: dict[tuple[str, str], StoredArray] = {}
        for key, array in arrays.items():
            for role, words in _ROLES.items():
                if match := re.fullmatch(rf"(train|test)?[_-]?(?:{words})[_-]?(train|test)?", key, re.IGNORECASE):
                    parts[role, (match[1] or match[2] or "").lower()] = array
        grids = {split: array for (role, split), array in parts.items() if role == "voxels"}
        if not grids:
            raise ArchiveError(f"{file}: no X_train, X_test or voxels among its arrays ({', '.join(arrays) or 'none'})")
        for split, array in sorted(grids.items(), reverse=True):  # train, then test
            count, _ = _cubes(array)
            said: dict[str, list[Any]] = {"labels": [None], "names": [""], "split": [split or None]}
            said = {role: nothing * count for role, nothing in said.items()}
            for role in said:
                if (role, split) in parts:
                    values = parts[role, split].read()
                    said[role] = _categories(parts[role, split].name, values) if role == "labels" else _texts(values)
                if len(said[role]) != count:
                    raise ArchiveError(f"{array.name}: {count} shapes, but {len(said[role])} {role}")
            axes = "xyz" if split or array.name.lower().endswith(": x") else "yxz"
            for grid, label, name, part in zip(_grids(array), *said.values(), strict=True):
                yield Found(name, grid, label or _from_name(name), part, axes)


def _texts(values: NDArray[Any]) -> list[str]:
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    return [str(value) for value in values.ravel()]


def _categories(name: str, labels: NDArray[Any]) -> list[str]:
    """Labels as category names: from names, numbers 0 to 9 in alphabetical order, or one-hot rows."""
    if labels.dtype.kind in "US":
        return [label.strip().lower().replace(" ", "_") for label in _texts(labels)]
    if labels.ndim == 2 and labels.shape[1] == len(CATEGORIES):
        if not ((labels == 0) | (labels == 1)).all() or not (labels.sum(1) == 1).all():
            raise ArchiveError(f"{name}: its rows of ten are not one-hot")
        labels = labels.argmax(1)
    labels = labels.reshape(-1) if labels.ndim < 2 or labels.shape[1:] == (1,) else labels
    if labels.ndim != 1 or labels.dtype.kind not in "biuf" or not np.isin(labels, range(len(CATEGORIES))).all():
        what = f"from {labels.min()} to {labels.max()}" if labels.dtype.kind in "biuf" and labels.size else labels.dtype
        raise ArchiveError(
            f"{name}: its labels {labels.shape} are {what}, "
            f"not numbers 0 to 9 ({' '.join(CATEGORIES)}), one-hot rows or names"
        )
    return [CATEGORIES[int(label)] for label in labels]


def read_mat(file: Path) -> Iterator[Found]:
    """A `.mat` file of 3D ShapeNets, `volumetric_data/<category>/30/<split>/<name>_<turn>.mat`: key `instance`."""
    with ar.naming(file):
        try:
            shapes = {key: shape for key, shape, _ in scipy.io.whosmat(file) if len(shape) == 3}
            key = "instance" if "instance" in shapes else next(iter(shapes), None)
            if key is None or len(set(shapes[key])) > 1 or not 1 <= shapes[key][0] <= MAX_RESOLUTION:
                raise ArchiveError(f"{file}: no cubic array 'instance' in it (found {shapes or 'no 3-D array'})")
            values = scipy.io.loadmat(file, variable_names=[key])[key]
        except scipy.io.matlab.MatReadError as error:
            raise ArchiveError(f"{file}: not a readable .mat file ({error})") from error
    yield Found(file.stem, values, *_from_path(file))


def read_binvox(file: Path) -> Iterator[Found]:
    """A `.binvox` file: run lengths of voxels, indexed (x, z, y) of the mesh, y running fastest."""
    with ar.naming(file):
        data = file.read_bytes()
        head, mark, body = data.partition(b"\ndata")
        size = re.search(rb"^dim\s+(\d{1,9})\s+(\d{1,9})\s+(\d{1,9})\s*$", head, re.MULTILINE)
        if not head.startswith(b"#binvox") or not mark or not size:
            raise ArchiveError(f"{file}: not a binvox file: no header with '#binvox', 'dim' and 'data'")
        side = int(size[1])
        if {int(size[2]), int(size[3])} != {side} or not 1 <= side <= MAX_RESOLUTION:
            dims = b" x ".join(size.groups()).decode()
            raise ArchiveError(f"{file}: its grid of {dims} is not cubic with at most {MAX_RESOLUTION} voxels a side")
        runs = np.frombuffer(body.removeprefix(b"\r").removeprefix(b"\n"), np.uint8)
        total = int(runs[1::2].sum(dtype=np.int64))
        if len(runs) % 2 or total != side**3:
            raise ArchiveError(f"{file}: truncated or damaged: {total:,} of {side**3:,} voxels are there")
        if runs[::2].max() > 1:
            raise ArchiveError(f"{file}: damaged: a voxel has the value {runs[::2].max()}")
        values = np.repeat(runs[::2], runs[1::2]).reshape(side, side, side)
    yield Found(file.stem, values, *_from_path(file), axes="xzy")


def read_npy(file: Path) -> Iterator[Found]:
    """A plain `.npy`: one shape (R, R, R) or many (N, R, R, R), of the category and split its path names."""
    category, split = _from_path(file)
    with ar.naming(file):
        array = ar.stored_array(str(file), lambda: file.open("rb"), file.stat().st_size)
        count, _ = _cubes(array)
        for i, values in enumerate(_grids(array)):
            yield Found(file.stem if count == 1 else f"{file.stem}_{i + 1:04d}", values, category, split)


def read_voxel_archive(file: Path) -> Iterator[Found]:
    """A voxel archive of this project."""
    archive = ar.read_archive(file)
    for i, (label, split, name) in enumerate(zip(archive.labels, archive.split, archive.names, strict=True)):
        yield Found(str(name), archive.grids([i])[0], CATEGORIES[label], str(split))


READERS = {
    "arrays": read_arrays,
    "shapenets": read_mat,
    "binvox": read_binvox,
    "npy": read_npy,
    "archive": read_voxel_archive,
}
