"""Other people's voxel files, read as they are: `.npz`, 3D ShapeNets' `.mat`, `.binvox` and `.npy`."""

import hashlib
import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from .shards import Done, Shard, append, entry, head_of, numbers, resume, shard_path

SUFFIXES = {"arrays": ".npz", "shapenets": ".mat", "binvox": ".binvox", "npy": ".npy", "archive": ".npz"}
BLOCK = 1 << 24  # values read at a time

SPLITS = {"train": "train", "training": "train"} | dict.fromkeys(("val", "valid", "validation", "dev"), "")
SPLITS |= {"test": "test", "testing": "test", "": ""}
"""Ours by the words of others, "" for those that we have not."""
OCCUPIED: dict[str, Callable[[NDArray[Any]], Any]] = {
    "above-0.5": lambda values: values > 0.5,
    "above-127": lambda values: values > 127,
    "positive": lambda values: values > 0,
    "negative": lambda values: values < 0,
    "bits": lambda values: np.unpackbits(values.astype(np.uint8)),
    "little-bits": lambda values: np.unpackbits(values.astype(np.uint8), bitorder="little"),
}
"""Which values are occupied voxels; "bits": eight voxels a byte, as `numpy.packbits` packs a shape."""

CUBE = "arrays of four equal sides read as (N, R, R, R): where N is last, numpy.moveaxis(array, -1, 0) brings it first"

_CATEGORY = re.compile(f"({'|'.join(CATEGORIES)})(?![a-z])", re.IGNORECASE)
_TURN = re.compile(r"(?P<shape>.+_\d+)_(?P<turn>[1-9]|1[0-2])")
_NUMBERS = ("double", "single", "logical", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)))
_WORDS = "|".join(filter(None, SPLITS))
_NAMES = re.compile(
    r"(?:(?:labels?|class|classes|category|categories|target)[ _-]?(?:names?|map)|idx_to_class|class_to_idx|classes"
    rf"|categories)(?:[_-]?(?:{_WORDS}))?",
    re.IGNORECASE,
)
_ROLES = {
    role: re.compile(rf"(?:({_WORDS})[_-]?)?(?:{words})(?:[_-]?({_WORDS}))?", re.IGNORECASE)
    for role, words in {
        "voxels": r"x|voxels?|data|grids?|instances?|features|shapes|arr_0",
        "labels": r"y|labels?|targets?|classes|category|categories",
        "names": r"names?|ids?",
        "split": r"splits?",
    }.items()
}


@dataclass(frozen=True)
class Found:
    """One shape in somebody's file: `values` in the file's own axes, or flat, and what the file says about it."""

    name: str
    values: NDArray[Any]
    category: str | None
    split: str | None
    axes: str = "yxz"
    key: str = ""


class UnclearError(ArchiveError):
    """Values that may mean more than one thing."""


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
    occupied: str | None = None,
    keys: Sequence[str] = (),
) -> tuple[Archive, list[str], list[str]]:
    """Read voxel files and folders of them, and bring their axes to (y, x, z), the last one up.

    A value above 0.5 is an occupied voxel, where values are from 0 to 1 or only two, one of them 0. Others are refused
    unless `occupied` says what they mean.

    Args:
        paths: files, or folders that are searched for the layout's files.
        layout: "auto" (by the ending and the content), or one of `SUFFIXES`.
        axes: what the stored axes are, in their order, such as "xzy"; "-" before a letter reverses it.
            By default what each layout's own readers say, checked against the official grids of the same shapes.
        category, split: for files that do not say; `category` also overrules labels, and validation goes into `split`.
        turns: of the twelve turns of a shape in a 3D ShapeNets tree, the "first" or "all".
        resolution: pad with empty voxels (or cut empty ones off) to this many voxels a side.
        name: of the dataset; by default the first path's, without a resolution at its end.
        occupied: which values are occupied voxels, one of `OCCUPIED`.
        keys: arrays of `.npz` and `.mat` files to read, where several could be meant.

    Returns:
        The shapes; a line for each shape or file that could not be read; and notes on what was found and left out.

    Raises:
        ArchiveError: if nothing could be read, or the shapes differ in resolution and none is asked for.
        ValueError: for axes that are not a permutation of x, y and z, or an unknown `occupied`.
    """
    run, files = plan(
        paths,
        layout=layout,
        axes=axes,
        category=category,
        split=split,
        turns=turns,
        resolution=resolution,
        name=name,
        occupied=occupied,
        keys=keys,
    )
    with _bar() as bar:
        return assemble(run, [read_file(file, run["options"], bar) for file in files])


def import_shard(paths: Sequence[str | PathLike[str]], out: Path, shard: Shard, **options: Any) -> Path:
    """The part of `import_shapes` that reads every n-th file, for `merge`; an interrupted one goes on where it was."""
    run, files = plan(paths, **options)
    path = shard_path(out, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file, _bar() as bar:
        done = resume(file, head_of(run | {"out": out.name}, shard))
        for i in numbers(len(files), shard):
            if i not in done:
                events, bits = read_file(files[i], run["options"], bar)
                append(file, entry(i, True, json.dumps(events).encode() + b"\n" + bits))
    return path


def merged(run: Mapping[str, Any], done: Done) -> tuple[Archive, list[str], list[str]]:
    """What `import_shapes` returns, of all shards."""
    parts = (done[i][1].partition(b"\n") for i in sorted(done))
    return assemble(run, [(json.loads(events), bits) for events, _, bits in parts])


def plan(
    paths: Sequence[str | PathLike[str]],
    *,
    name: str | None = None,
    keys: Sequence[str] = (),
    **options: Any,
) -> tuple[dict[str, Any], list[Path]]:
    """All that decides an import but what the files hold, and the files; arguments as those of `import_shapes`."""
    axes, occupied = options["axes"], options["occupied"]
    if axes is not None and sorted(axes.replace("-", "")) != ["x", "y", "z"]:
        raise ValueError(f"--axes {axes!r}: give the letters x, y and z once each, in the file's order, such as xzy")
    if occupied not in (None, *OCCUPIED):
        raise ValueError(f"--occupied {occupied!r}: choose from {', '.join(OCCUPIED)}")
    sources = [Path(path) for path in paths]
    files, problems, notes = _files(sources, options["layout"])
    if options["turns"] == "first":
        every, files = files, _first_turns(files)
        notes["more files are other turns of these shapes: --turns all takes them"] = len(every) - len(files)
    run = {
        "command": "import",
        "where": ", ".join(map(str, sources)),
        "dataset": name or re.sub(r"_\d+$", "", sources[0].resolve().stem),
        "source": ", ".join(path.resolve().name for path in sources),
        "options": options | {"keys": list(keys)},
        "version": ar.VERSION,
        "items": list(map(str, files)),
        "problems": problems,
        "notes": notes,
    }
    return run, files


def read_file(file: Path, asked: Mapping[str, Any], bar: "tqdm[Any]") -> tuple[list[list[Any]], bytes]:
    """What a file holds, in its order and as plain as JSON: notes, problems, shapes; and the good shapes' bits."""
    events, bits = list[list[Any]](), list[bytes]()
    kinds, graded = set[str](), False

    def shapes() -> Iterator[tuple[str, Found]]:
        try:
            kind = _layout(file) if asked["layout"] == "auto" else asked["layout"]
            for shape in READERS[kind](file, asked["keys"], asked["category"]):
                if isinstance(shape, Found):
                    yield kind, shape
                else:
                    events.append(["note", shape])
        except OSError as error:
            events.append(["problem", f"{file}: {error.strerror or error}"])
        except (ArchiveError, MemoryError) as error:
            events.append(["problem", str(error)])

    for kind, shape in shapes():
        bar.update()
        word = (shape.split or "").strip().lower()
        kinds, graded = kinds | {kind}, graded or shape.values.dtype.kind != "b"
        kept, part = asked["category"] or shape.category, SPLITS.get(word, word) or asked["split"]
        order, known = asked["axes"] or shape.axes, [f"{kept or 'shape'}_{part}", shape.name]
        try:
            if kept not in CATEGORIES:
                raise ArchiveError(
                    "none of the ten categories in its labels or path, and archives hold no others: give "
                    "--category, the one of them that all its shapes are to be filed under"
                )
            if part not in ("train", "test"):
                raise ArchiveError(f"its split is {part!r}, not train, test or validation")
            grid, binary = _occupied(shape.values, asked["occupied"])
            grid = _fit(_turned(grid, order), asked["resolution"])
        except UnclearError as error:
            events.append(["unclear", *known, shape.key, ": ".join(filter(None, (str(file), shape.key, str(error))))])
            continue
        except ArchiveError as error:
            events.append(["bad", *known, str(error)])
            continue
        said = f"shapes of the layout '{kind}', axes {order}," + f" from {shape.key}" * bool(shape.key)
        said += f" ('{word}')" * (word not in ("", part)) + f" into {part}"
        one_turn = kind == "shapenets" and asked["turns"] == "first"
        facts = [shape.key, binary, said, len(grid), float(grid.mean()), CATEGORIES.index(kept), part, one_turn]
        events.append(["shape", *known, *facts])
        bits.append(ar.pack(grid[None]).tobytes())
    events.append(["kinds", sorted(kinds), graded])
    if bits:
        events.append(["sha256", ar.sha256_of(file)])
    return events, b"".join(bits)


def assemble(
    run: Mapping[str, Any], parts: Sequence[tuple[list[list[Any]], bytes]]
) -> tuple[Archive, list[str], list[str]]:
    """What `import_shapes` returns, of a plan and what `read_file` found in each of its files."""
    problems, notes = list[str](run["problems"]), Counter[str](run["notes"])
    numbered, rows, unclear = Counter[str](), list[tuple[Any, ...]](), dict[tuple[str, str], str]()
    hashes, kinds, graded = dict[str, str](), set[str](), False
    for file, (events, bits) in zip(run["items"], parts, strict=True):
        at = 0
        for what, *event in events:
            if what == "note":
                notes[event[0]] += 1
            elif what == "problem":
                problems.append(event[0])
            elif what == "sha256":
                hashes[file] = event[0]
            elif what == "kinds":
                kinds, graded = kinds | {*event[0]}, graded or event[1]
            else:
                group, title, *facts = event
                numbered[group] += 1
                title = title or f"{group}_{numbered[group]:04d}"
                if what == "unclear":
                    unclear.setdefault((file, facts[0]), facts[1])
                elif what == "bad":
                    problems.append(f"{title}: {facts[0]}")
                else:
                    key, binary, said, side, full, label, part, one_turn = facts
                    at, begun = at + (side**3 + 7) // 8, at
                    turned = _TURN.fullmatch(title) if one_turn else None
                    row = bits[begun:at], label, part, turned["shape"] if turned else title
                    rows.append(((file, key), binary, said, side, full, row))
    if unclear:
        problems += unclear.values()
        clear = [row for row in rows if row[0] not in unclear and row[1]]
        if alike := len(rows) - len(clear):
            problems.append(f"{alike} more shapes of the same arrays, or whose values are not all 0 and 1")
        rows = clear
    where, occupied = run["where"], run["options"]["occupied"]
    if not rows:
        reason = f"; the first of {len(problems)} problems: {problems[0]}" if problems else ""
        raise ArchiveError(f"{where}: no shapes could be read{reason}")
    origins, binaries, lines, sides, full, kept_rows = zip(*rows, strict=True)
    if len(set(sides)) > 1:
        have = ", ".join(f"{count} of {size}^3" for size, count in sorted(Counter(sides).items()))
        raise ArchiveError(f"{where}: the shapes differ in size: {have}; choose with --resolution")
    notes.update(lines)
    how = (occupied or "above-0.5").replace("-", " ")
    notes[f"have values other than 0 and 1: {how} is occupied"] = binaries.count(False)
    told = [f"{count} {note}" for note, count in notes.items() if count]
    if run["options"]["keys"] and not kinds & {"arrays", "shapenets"}:
        told.append("--key says nothing here: only .npz and .mat files hold arrays by name, and none of them was read")
    if occupied and not graded:
        told.append("--occupied says nothing here: all voxels are stored as full or empty")
    if empty := full.count(0):
        told.append(f"{empty} shapes are kept although none of their voxels is occupied")
    if np.mean(full) > 0.5:
        told.append("more than half of all voxels are occupied: are empty and occupied swapped?")
    grids, labels, splits, names = zip(*kept_rows, strict=True)
    packed = np.frombuffer(b"".join(grids), np.uint8).reshape(len(rows), -1)
    side, read = sides[0], list(dict.fromkeys(file for file, _ in origins))
    used = np.argwhere(ar.unpack(np.bitwise_or.reduce(packed, axis=0)[None], side)[0])
    manifest = {
        "dataset": run["dataset"],
        "resolution": side,
        "source": run["source"],
        "sha256": hashes[read[0]] if len(read) == 1 else _digest(read, hashes),
        "fill_rule": "as imported",
        "padding": int(min(used.min(), side - 1 - used.max())) if len(used) else 0,
        "problems": len(problems),
    }
    return Archive(packed, np.array(labels), np.array(splits), np.array(names), manifest), problems, told


def _files(paths: Sequence[Path], layout: str) -> tuple[list[Path], list[str], Counter[str]]:
    """The files that are meant: those named, and those of the layout inside the folders named; what else there is."""
    suffixes = set(SUFFIXES.values()) if layout == "auto" else {SUFFIXES[layout]}
    files, notes, errors = list[Path](), Counter[str](), list[OSError]()
    for path in paths:
        if path.is_dir():
            inside: list[Path] = []
            for folder, folders, names in os.walk(path, onerror=errors.append):
                inside += [Path(folder, name) for name in names if not name.startswith(".")]
                notes["links to folders left out: name them to read them"] += sum(
                    Path(folder, name).is_symlink() for name in folders
                )
            meant = sorted(file for file in inside if file.suffix.lower() in suffixes)
            if not meant:
                raise errors[0] if errors else ArchiveError(f"{path}: holds no {' '.join(sorted(suffixes))} files")
            files += meant
            others = Counter(file.suffix or "other" for file in inside if file.suffix.lower() not in suffixes)
            notes.update({f"{suffix} files left out": count for suffix, count in others.items()})
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
    once = list({os.path.normpath(file.absolute()): file for file in files}.values())
    notes["files were named again, and are read once"] = len(files) - len(once)
    return once, [f"{error.filename}: {error.strerror}" for error in errors], notes


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


def _digest(files: Sequence[str], hashes: Mapping[str, str]) -> str:
    """sha256 of the list of the files' own sha256 and names."""
    return hashlib.sha256("".join(f"{hashes[f]}  {Path(f).name}\n" for f in files).encode()).hexdigest()


def _bar() -> "tqdm[Any]":
    return tqdm(unit=" shapes", desc="import", disable=None, leave=False)


def _from_path(file: Path) -> tuple[str | None, str | None]:
    """Category and split, from the nearest folder that names one, else from the file's own name.

    The folder goes first: the official release keeps one chair as `chair/30/train/night_stand_000000112_1.mat`.
    """
    given, target = file.parent.resolve(), Path(os.path.realpath(file)).parent  # two places, where the file is a link
    folders = [part.lower() for part in reversed(target.parts + given.parts)]
    category = next((part for part in folders if part in CATEGORIES), None) or _from_name(file.stem)
    return category, next((part for part in folders if part in SPLITS), None)


def _from_name(name: str) -> str | None:
    match = _CATEGORY.match(name)
    return match[1].lower() if match else None


def _occupied(values: NDArray[Any], occupied: str | None) -> tuple[NDArray[np.bool_], bool]:
    """Which voxels are occupied, in the values' own axes; and whether the values were zeros and ones only."""
    if values.dtype.kind not in "biuf":
        raise ArchiveError(f"its voxels are {values.dtype}, not numbers")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ArchiveError("has voxels that are not finite numbers (NaN or infinite)")
    low, high = values.min(), values.max()
    side, flat = _side(values.size), values.ndim == 1
    bytes_ = values.dtype == np.int8 or (0 <= low <= high <= 255 and not np.mod(values, 1).any())
    bits = _side(values.size, 8) if flat and values.dtype.kind != "b" and bytes_ else 0
    words = _words(values.dtype, values.size) if flat else ""
    if occupied is None and values.dtype.kind != "b":
        two = high > 0 and ((values == 0) | (values == high)).all()
        if low < 0 or 0 < high <= 0.5 or (high > 1 and (bits or words or not two)) or (flat and not side):
            raise UnclearError(
                f"its values run from {low:g} to {high:g}: say which are occupied by --occupied "
                + (f"bits (or little-bits: packed bytes of {bits}^3), " if bits else "")
                + ("negative (signed distances, negative inside), " if low < 0 else "above-0.5, above-127, ")
                + "positive"
                + words
            )
    if occupied in ("bits", "little-bits") and values.dtype.kind != "b":
        if not bits:
            raise ArchiveError(f"is no row of bytes (R^3 / 8), as --occupied {occupied} needs{words}")
        return OCCUPIED[occupied](values)[: bits**3].view(np.bool_).reshape(bits, bits, bits), True
    if flat:
        values = values.reshape(side, side, side)
    grid = OCCUPIED[occupied or "above-0.5"](values) if values.dtype.kind != "b" else values
    return grid, bool((grid == values).all())


def _side(size: int, bits: int = 1) -> int:
    """R of a row of R^3 values, `bits` of them in each of its `size` numbers; 0 where there is none."""
    side = round((bits * size) ** (1 / 3))
    return side if -(-(side**3) // bits) == size else 0


def _words(dtype: np.dtype[Any], size: int) -> str:
    """What to do where a row of integers wider than a byte may be of packed bits; "" where it may not."""
    side = _side(size, 8 * dtype.itemsize) if dtype.kind in "iu" and dtype.itemsize > 1 else 0
    return f"; if they are packed bits of {side}^3 in {dtype}, save them as bytes, .view(numpy.uint8)" if side else ""


def _turned(grid: NDArray[np.bool_], axes: str) -> NDArray[np.bool_]:
    """The grid with its axes brought to (y, x, z)."""
    letters = axes.replace("-", "")
    grid = grid[tuple(slice(None, None, -1 if f"-{axis}" in axes else 1) for axis in letters)]
    return np.ascontiguousarray(grid.transpose([letters.index(axis) for axis in "yxz"]))


def _fit(grid: NDArray[np.bool_], resolution: int | None) -> NDArray[np.bool_]:
    """Pad with empty voxels, or cut empty ones off, evenly, to `resolution` voxels a side, by default as it is."""
    size = " x ".join(map(str, grid.shape))
    if resolution is None:
        if len(set(grid.shape)) > 1:
            raise ArchiveError(f"its grid of {size} is not cubic: --resolution {max(grid.shape)} pads it")
        return grid
    inner = grid[tuple(slice(cut := max(0, side - resolution) // 2, cut + resolution) for side in grid.shape)]
    if np.count_nonzero(inner) < np.count_nonzero(grid):
        raise ArchiveError(f"its {size} voxels do not fit into {resolution}^3")
    return np.pad(inner, [((resolution - side) // 2, (resolution - side + 1) // 2) for side in inner.shape])


def _is_grid(shape: Sequence[int]) -> bool:
    """Whether it may be one shape's: three sides, none so short that it is of channels or of packed bits."""
    return len(shape) == 3 and 1 <= max(shape) <= MAX_RESOLUTION and 4 * min(shape) > max(shape)


def _is_cube(array: StoredArray) -> bool:
    """Whether its axes do not tell (N, R, R, R) from (R, R, R, N)."""
    return len(array.shape) == 4 and len({*array.shape}) == 1 < array.shape[0]


def _each(array: StoredArray) -> tuple[int, tuple[int, ...]]:
    """Number of shapes and the shape of one: of (N, R, R, R) with or without a channel, (N, R^3) or (R, R, R).

    One may be a box, or a row of R^3 values or of R^3 / 8 bytes.
    """
    shape = array.shape
    if len(shape) == 5 and 1 in (shape[1], shape[-1]):
        shape = shape[:1] + (shape[2:] if shape[1] == 1 else shape[1:-1])
    elif len(shape) == 4 and shape[0] == shape[1] == shape[2] != shape[3]:
        if shape[3] > 1:
            raise ArchiveError(
                f"{array.name}: its shape {shape} may be (R, R, R, N): numpy.moveaxis brings N to the front"
            )
        shape = shape[:3]
    count, *one = {0: (1,), 3: (1, *shape)}.get(len(shape), shape)
    if array.dtype.kind not in "biuf":
        what = "pickled Python objects" if array.dtype.hasobject else array.dtype
        raise ArchiveError(f"{array.name}: its voxels are {what}, not numbers")
    packed = array.dtype.kind in "iu" and len(one) == 1 and _side(one[0], 8)
    if not (_is_grid(one) or packed or (len(one) == 1 and _side(one[0]))) or max(one) > MAX_RESOLUTION**3:
        raise ArchiveError(
            f"{array.name}: its shape {array.shape} is not (N, R, R, R) with R at most {MAX_RESOLUTION}, "
            "nor (N, R^3), nor (N, R^3 / 8) of packed bits" + (_words(array.dtype, one[0]) if len(one) == 1 else "")
        )
    return count, tuple(one)


def _fits(array: StoredArray) -> bool:
    """Whether shapes are likelier in it than, say, rows of features."""
    try:
        return len(_each(array)[1]) == 3 or array.dtype.kind in "iub"
    except ArchiveError:
        return False


def _grids(array: StoredArray) -> Iterator[NDArray[Any]]:
    """Its shapes, one after the other, without holding them all."""
    count, one = _each(array)
    rows = max(1, BLOCK // math.prod(one))
    for block in array.blocks(rows) if count == array.shape[0] else [array.read(BLOCK * 64)]:
        yield from block.reshape(-1, *one)


def _only(file: Path, names: Sequence[str], good: Callable[[str], bool], keys: Sequence[str]) -> str:
    """The array that is meant: the one asked for, else the only good one."""
    meant = [name for name in names if name in keys] or [name for name in names if good(name)] or names
    if len(meant) > 1:
        way = "give --key one of them" if {*meant} <= {*keys} else "choose with --key"
        raise ArchiveError(f"{file}: {' and '.join(meant)} could each be meant: {way}")
    return meant[0]


def _asked(file: Path, keys: Sequence[str], held: Collection[str]) -> list[str]:
    if missing := [key for key in keys if key not in held]:
        raise ArchiveError(f"{file}: no {', '.join(missing)} among its arrays ({', '.join(held) or 'none'})")
    return list(keys)


def _roles(arrays: Collection[str], keys: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """The arrays by what their names say, role and split; one that was asked for and says nothing holds voxels."""
    parts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key in arrays:
        said = [(role, match) for role, words in _ROLES.items() if (match := words.fullmatch(key))]
        for role, match in said:
            parts[role, (match[1] or match[2] or "").lower()].append(key)
        if not said and key in keys:
            parts["voxels", ""].append(key)
    return parts


def read_arrays(file: Path, keys: Sequence[str] = (), known: str | None = None) -> Iterator[Found | str]:
    """An `.npz` of `X_train`, `y_train`, `X_test`, `y_test` (x, y, z), or of `voxels` with `names` (y, x, z).

    What the `known` category or the order of the shapes can stand for, labels and pickled names, is not needed.
    """
    with ar.open_npz(file) as arrays:
        parts = _roles(arrays, _asked(file, keys, arrays))
        legend, named = _legend(arrays, parts) if not known else ("", CATEGORIES)
        grids = {word: parts["voxels", word] for word in SPLITS if ("voxels", word) in parts}
        if asked := {word: names for word, names in grids.items() if {*names} & {*keys}}:
            grids = asked
        if not grids:
            listed = ", ".join(arrays) or "none"
            raise ArchiveError(f"{file}: no X_train, X_test or voxels among its arrays ({listed}): name one by --key")
        if "" in grids and len(grids) > 1 and not asked:
            every = ", ".join(key for names in grids.values() for key in names)
            raise ArchiveError(f"{file}: some of {every} may hold the same shapes: choose with --key, once for each")
        used = {legend}
        for word, names in grids.items():
            key = _only(file, names, lambda key: _fits(arrays[key]), keys)
            count, _ = _each(arrays[key])
            said: dict[str, list[Any]] = {}
            for role in ("labels", "names", "split"):
                others = parts.get((role, word), [])
                if role == "names":
                    others = [name for name in others if not arrays[name].dtype.hasobject][:1]
                if others and not (role == "labels" and known):
                    other = _only(file, others, lambda key: arrays[key].shape[:1] == (count,), keys)  # noqa: B023
                    values = arrays[other].read()
                    said[role] = _categories(arrays[other].name, values, named) if role == "labels" else _texts(values)
                    if role == "labels" and values.dtype.kind not in "US":
                        words = ", ".join(f"{number} {name}" for number, name in enumerate(named))
                        yield f"arrays of labels read by {legend or 'the alphabet'}: {words}"
                    if len(said[role]) != count:
                        raise ArchiveError(f"{arrays[key].name}: {count} shapes, but {len(said[role])} {role}")
                    used.add(other)
            used.add(key)
            mute = not word and (count == 1 or not ("names" in said or ("labels", "") in parts))  # then the path speaks
            category, part = _from_path(file) if mute else (None, None)
            title = file.stem if mute and count == 1 else ""
            axes = "xyz" if word or key.lower() == "x" else "yxz"
            if _is_cube(arrays[key]):
                yield CUBE
            columns = [said.get(role, [None] * count) for role in ("labels", "names", "split")]
            for grid, label, name, split in zip(_grids(arrays[key]), *columns, strict=True):
                kind = label or _from_name(name or "") or category
                yield Found(name or title, grid, kind, split or word or part, axes, key)
        for key, array in arrays.items():
            if key not in used:
                yield f"arrays {key} left out" + ": pickled Python objects, never loaded" * array.dtype.hasobject


def _texts(values: NDArray[Any]) -> list[str]:
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    return [str(value) for value in values.ravel()]


def _legend(arrays: Mapping[str, StoredArray], parts: dict[tuple[str, str], list[str]]) -> tuple[str, Sequence[str]]:
    """The array that says what numbers as labels mean, and its names; "" and the ten in their order where none does.

    Text beside numbers, of which no entry comes twice: it is taken out of the labels.
    """
    labels = [key for (role, _), keys in parts.items() if role == "labels" for key in keys]
    for key, array in arrays.items():
        others = any(arrays[label].dtype.kind not in "USO" for label in labels)
        if _NAMES.fullmatch(key) and others and array.dtype.kind in "US":
            if max(array.shape, default=0) != math.prod(array.shape):
                raise ArchiveError(
                    f"{array.name}: may say what the labels' numbers mean, and is no list of text: save it as one, the "
                    "name of label 0 first, or leave it out, and numbers are read by the alphabet"
                )
            names = _categories(key, array.read())
            if len({*names}) == len(names):
                for keys in parts.values():
                    keys[:] = [other for other in keys if other != key]
                return key, names
    return "", CATEGORIES


def _categories(name: str, labels: NDArray[Any], named: Sequence[str] = CATEGORIES) -> list[str]:
    """Labels as category names: from names, numbers of those that are `named`, or one-hot rows."""
    if labels.dtype.kind in "US":
        return [re.sub("[ -]", "_", label.strip().lower()) for label in _texts(labels)]
    if labels.ndim == 2 and labels.shape[1] == len(named) > 1:
        if not ((labels == 0) | (labels == 1)).all() or not (labels.sum(1) == 1).all():
            raise ArchiveError(f"{name}: its rows of {len(named)} are not one-hot")
        labels = labels.argmax(1)
    labels = labels.reshape(-1) if labels.ndim < 2 or labels.shape[1:] == (1,) else labels
    if labels.ndim != 1 or labels.dtype.kind not in "biuf" or not np.isin(labels, range(len(named))).all():
        what = f"from {labels.min()} to {labels.max()}" if labels.dtype.kind in "biuf" and labels.size else labels.dtype
        raise ArchiveError(
            f"{name}: its labels {labels.shape} are {what}, "
            f"not numbers 0 to {len(named) - 1} ({' '.join(named)}), one-hot rows or names"
        )
    return [named[int(label)] for label in labels]


def read_mat(file: Path, keys: Sequence[str] = (), known: str | None = None) -> Iterator[Found | str]:
    """A `.mat` file of 3D ShapeNets, `volumetric_data/<category>/30/<split>/<name>_<turn>.mat`: key `instance`."""
    with ar.naming(file):
        with file.open("rb") as stream:
            if b"MATLAB 7.3 MAT" in (head := stream.read(1024)) or b"\x89HDF\r\n\x1a\n" in head:
                way = "save it again with `save -v7`, or its array as .npy"
                raise ArchiveError(f"{file}: is in HDF5, MATLAB's v7.3 format, which is not read: {way}")
        held = {key: (shape, kind) for key, shape, kind in scipy.io.whosmat(file)}
        fit = [key for key, (shape, kind) in held.items() if _is_grid(shape) and kind in _NUMBERS]
        if not fit:
            found = ", ".join(f"{key} {shape} {kind}" for key, (shape, kind) in held.items()) or "nothing"
            raise ArchiveError(f"{file}: no array (R, R, R) of numbers in it, but {found}: save a shape in one")
        asked = _asked(file, keys, held)
        if asked and not {*asked} & {*fit}:
            raise ArchiveError(f"{file}: {', '.join(asked)} is no array (R, R, R) of numbers; {', '.join(fit)} is")
        key = _only(file, fit, lambda key: key == "instance" or "instance" not in fit, asked)
        values = scipy.io.loadmat(file, variable_names=[key])[key]
    yield Found(file.stem, values, *_from_path(file), key=key)
    yield from (f"arrays {other} left out" for other in held if other != key)


def read_binvox(file: Path, keys: Sequence[str] = (), known: str | None = None) -> Iterator[Found]:
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
        if len(runs) % 2:
            raise ArchiveError(f"{file}: truncated or damaged: its last run has a value and no length")
        if total != side**3:
            word = "truncated or damaged" if total < side**3 else "damaged"
            raise ArchiveError(f"{file}: {word}: {total:,} of {side**3:,} voxels are there")
        if runs[::2].max() > 1:
            raise ArchiveError(f"{file}: damaged: a voxel has the value {runs[::2].max()}")
        values = np.repeat(runs[::2].astype(np.bool_), runs[1::2]).reshape(side, side, side)
    yield Found(file.stem, values, *_from_path(file), axes="xzy")


def read_npy(file: Path, keys: Sequence[str] = (), known: str | None = None) -> Iterator[Found | str]:
    """A plain `.npy`: one shape (R, R, R) or many (N, R, R, R), of the category and split its path names."""
    category, split = _from_path(file)
    with ar.naming(file):
        array = ar.stored_array(str(file), lambda: file.open("rb"), file.stat().st_size)
        count, _ = _each(array)
        if _is_cube(array):
            yield CUBE
        for i, values in enumerate(_grids(array)):
            yield Found(file.stem if count == 1 else f"{file.stem}_{i + 1:04d}", values, category, split)


def read_voxel_archive(file: Path, keys: Sequence[str] = (), known: str | None = None) -> Iterator[Found]:
    """A voxel archive of this project."""
    archive = ar.read_archive(file)
    for i, (label, split, name) in enumerate(zip(archive.labels, archive.split, archive.names, strict=True)):
        yield Found(str(name), archive.grids([i])[0], CATEGORIES[label], str(split))


READERS: dict[str, Callable[[Path, Sequence[str], str | None], Iterator[Found | str]]] = {
    "arrays": read_arrays,
    "shapenets": read_mat,
    "binvox": read_binvox,
    "npy": read_npy,
    "archive": read_voxel_archive,
}
