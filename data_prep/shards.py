"""Records of what is done, that survive a killed run; and runs that many machines share, a shard each."""

import glob
import json
import os
import struct
import zlib
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import IO, Any

from .archive import ArchiveError, blaming

_RECORD = struct.Struct("<IBII")  # number of the item, good or failed, length, crc32
_KIND = "dnet-data shard 1"

Done = dict[int, tuple[bool, bytes]]
"""What is known of each item of a run, by its number: whether it is good, and its bytes."""
Shard = tuple[int, int]
"""Which of how many, (3, 8): every eighth item of the run, from its third."""


def entry(i: int, good: bool, payload: bytes) -> bytes:
    """What is known of an item, as a file has it."""
    return _RECORD.pack(i, good, len(payload), zlib.crc32(payload)) + payload


def append(file: FileIO, data: bytes) -> None:
    """Add the whole of it, or nothing."""
    end = file.seek(0, os.SEEK_END)
    try:
        with blaming(Path(file.name)):
            while data:
                data = data[file.write(data) :]
    except OSError:
        file.truncate(end)
        raise


def resume(file: FileIO, head: bytes = b"") -> Done:
    """The finished items of an earlier run; a record that was cut short is removed from the file.

    Raises ArchiveError where the file does not begin with `head`.
    """
    file.seek(0)
    if (held := file.read(len(head))) != head:
        if not head.startswith(held):
            raise ArchiveError(f"{file.name}: is of another run: delete it, or choose another --out")
        file.truncate(0)
        append(file, head)
    done, end = _records(file)
    file.truncate(end)
    return done


def _records(file: IO[bytes] | FileIO) -> tuple[Done, int]:
    """The whole records from here on, and where they end."""
    done, end = dict[int, tuple[bool, bytes]](), file.tell()
    while len(start := file.read(_RECORD.size)) == _RECORD.size:
        i, good, length, crc = _RECORD.unpack(start)
        payload = file.read(length)
        if len(payload) < length or zlib.crc32(payload) != crc:
            break
        done[i] = bool(good), payload
        end = file.tell()
    return done, end


def numbers(count: int, shard: Shard | None) -> range:
    """The items that a shard takes of `count`: every n-th from its own on; without one all."""
    i, n = shard or (1, 1)
    return range(count)[i - 1 :: n]


def shard_path(out: Path, shard: Shard) -> Path:
    """Where a shard of the archive `out` lies."""
    return out.with_name(f"{out.stem}.shard-{shard[0]}-of-{shard[1]}")


def head_of(run: Mapping[str, Any], shard: Shard | None) -> bytes:
    """How a shard's file begins: what is the same in all shards of a `run`, as JSON, and which it is."""
    return json.dumps({"kind": _KIND, "shard": shard, "run": run}).encode() + b"\n" if shard else b""


def gather(place: Path) -> tuple[dict[str, Any], Done]:
    """The run whose shards lie in a folder, or beside the archive of that name, and all that they did.

    Raises ArchiveError naming shards that are missing, unfinished, twice there, or of another run.
    """
    stem = "*" if place.is_dir() else glob.escape(place.name.removesuffix(".npz"))
    files: dict[int, Path] = {}
    first: dict[str, Any] = {}
    whole = dict[int, tuple[bool, bytes]]()
    for path in sorted((place if place.is_dir() else place.parent).glob(f"{stem}.shard-*-of-*")):
        with path.open("rb") as file:
            try:
                head = json.loads(file.readline())
                (i, n), run, kind = head["shard"], head["run"], head["kind"]
            except (ValueError, TypeError, LookupError):
                kind = None
            if kind != _KIND:
                raise ArchiveError(f"{path}: not a shard, or one of another version: delete it")
            done, _ = _records(file)
        run["number of shards"] = n
        first = first or run
        if others := [key for key in {**first, **run} if first.get(key) != run.get(key)]:
            raise ArchiveError(
                f"{path} and {next(iter(files.values()))} are of two runs ({', '.join(others)}): delete the shards of "
                "one, or name the archive to merge"
            )
        if i in files:
            raise ArchiveError(f"{path} and {files[i]} are the same shard: delete one")
        files[i], mine = path, numbers(len(run["items"]), (i, n))
        if missing := len(mine) - len(done.keys() & set(mine)):
            raise ArchiveError(f"{path}: unfinished, {missing} of {len(mine)} are missing: run --shard {i}/{n} again")
        whole |= done
    if not files:
        raise ArchiveError(f"{place}: no shards of it, NAME.shard-1-of-8 and so on: make them with --shard 1/8")
    if absent := [f"{i}/{n}" for i in range(1, n + 1) if i not in files]:
        raise ArchiveError(f"{place}: shards are missing: run --shard {', '.join(absent)}")
    return first, whole
