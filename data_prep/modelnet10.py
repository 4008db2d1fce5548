"""ModelNet10: the official zip, fetched and voxelized mesh by mesh, straight from the zip."""

import hashlib
import http.client
import json
import os
import re
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, astuple, dataclass
from functools import cache
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from . import archive as ar
from .archive import CATEGORIES, Archive, ArchiveError
from .off import parse_off
from .shards import Done, Shard, append, entry, head_of, numbers, resume, shard_path
from .voxelizer import FILL_RULE, room, voxelize

URL = "http://3dvision.princeton.edu/projects/2014/3DShapeNets/ModelNet10.zip"
MAX_MESH = 1 << 28  # bytes of one mesh, unpacked
ATTEMPTS = 5  # in a row that bring nothing

_MEMBER = re.compile(rf"(?:[^/\\]+/)?({'|'.join(CATEGORIES)})/(train|test)/([^/\\]+)\.off")


@dataclass(frozen=True)
class Recipe:
    """What decides the voxels of a mesh: grid `resolution` with its `padding`, and how many turns of 30 degrees."""

    resolution: int = 32
    padding: int = 3
    turns: int = 1

    def __post_init__(self) -> None:
        room(self.resolution, self.padding)


def download(url: str, target: Path, sha256: str | None = None, wait: Callable[[float], None] = time.sleep) -> Path:
    """Fetch a file, going on where an interrupted download stopped.

    Args:
        url: where from.
        target: where to; until it is complete and checked it is called `<target>.part`.
        sha256: what its hash must be, if known.
        wait: how to wait (seconds) between attempts.

    Raises:
        ArchiveError: if the hash is another, or the server keeps failing; the part stays for the next attempt.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    part.touch()
    failed = 0
    while True:
        have = part.stat().st_size
        try:
            _fetch(url, part, have)
            break
        except urllib.error.HTTPError as error:
            if error.code == 416 and error.headers["Content-Range"] == f"bytes */{have}":
                break  # it was complete
            if error.code == 416:  # longer than the file: not a part of it
                part.unlink()
                part.touch()
            elif error.code < 500:
                raise ArchiveError(f"{url}: the server answers {error.code} {error.reason}") from error
            reason: Exception = error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = error
        failed = failed + 1 if part.stat().st_size <= have else 1
        if failed == ATTEMPTS:
            if not part.stat().st_size:
                part.unlink()
            raise ArchiveError(f"{url}: {reason}; run again to go on, or fetch it yourself and give --zip") from reason
        tqdm.write(f"{url}: {reason}; trying again", file=sys.stderr)
        wait(2 ** (failed - 1))
    if sha256 and (digest := ar.sha256_of(part)) != sha256.lower():
        part.unlink()
        raise ArchiveError(f"{url}: sha256 is {digest}, not {sha256}: it is deleted, run again")
    part.replace(target)
    return target


def _fetch(url: str, part: Path, have: int) -> None:
    """One attempt: append what is missing, or begin again where the server cannot send a range."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        if answer.status != 206:
            have = 0
        length = answer.headers["Content-Length"]
        total = have + int(length) if length else None
        bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, unit_divisor=1024, desc=part.stem)
        with ar.blaming(part), part.open("ab" if have else "wb") as file, bar:
            while block := answer.read(1 << 18):
                file.write(block)
                bar.update(len(block))
            if total is not None and file.tell() < total:
                raise ConnectionError(f"the connection closed after {file.tell():,} of {total:,} bytes")


def fetch_zip(folder: Path, url: str = URL, sha256: str | None = None) -> tuple[Path, str]:
    """ModelNet10's zip in `folder`, fetched if it is not there, and its sha256, recorded beside it the first time."""
    target = folder / Path(url).name
    record = target.with_name(target.name + ".sha256")
    if not target.exists():
        download(url, target, sha256)
        try:
            find_meshes(target)
        except ArchiveError as error:
            target.unlink()
            raise ArchiveError(f"{url}: what it sent is not ModelNet10 ({error}); deleted") from error
        record.unlink(missing_ok=True)
    if not record.exists():
        with ar.replacing(record) as file:
            file.write(f"{ar.sha256_of(target)}  {target.name}\n".encode())
    return target, sha256 or record.read_text().partition(" ")[0]


@dataclass(frozen=True)
class Mesh:
    """A member of the zip: its full name, and the category, split and name that stand in it."""

    member: str
    category: str
    split: str
    name: str


def find_meshes(path: Path) -> tuple[list[Mesh], list[str]]:
    """The meshes in the zip, train before test, in the order of the categories; and lines about the rest.

    Members are read, never extracted; names that point outside are left out all the same.
    """
    try:
        with ar.blaming(path), zipfile.ZipFile(path) as file:
            members = [info.filename for info in file.infolist() if not info.is_dir()]
    except Exception as error:
        if ar.of_the_machine(error):
            raise
        raise ArchiveError(f"{path}: not a complete zip file ({error}): fetch it again") from error
    found: dict[str, Mesh] = {}
    notes, ignored = [], 0
    for member in members:
        match = _MEMBER.fullmatch(member)
        if ".." in re.split(r"[/\\]", member) or re.match(r"[/\\]|[A-Za-z]:", member):
            notes.append(f"left out: {member!r} points outside the zip")
        elif match and not match[3].startswith("."):
            found[member] = Mesh(member, match[1], match[2], match[3])
        elif member.endswith(".off") and "__MACOSX" not in member:
            ignored += 1
    if ignored:
        notes.append(f"left out: {ignored} meshes not in <one of the ten categories>/<train or test>/")
    if not found:
        raise ArchiveError(f"{path}: no ModelNet10/<category>/<split>/<name>.off in it")
    order = {category: i for i, category in enumerate(CATEGORIES)}
    return sorted(found.values(), key=lambda m: (m.split == "test", order[m.category], m.name)), notes


def voxelize_zip(
    path: Path,
    out: Path,
    recipe: Recipe,
    *,
    sha256: str | None = None,
    workers: int | None = None,
    shard: Shard | None = None,
) -> tuple[Archive | None, list[str], list[str], list[str]]:
    """Voxelize every mesh of ModelNet10's zip and write the archive.

    Finished meshes are kept in `<out>.<key>.part`, whose key names the zip and the recipe: a run that was interrupted
    or killed goes on where it was.

    Args:
        path: the zip; out: the archive to write; sha256: what the zip's hash must be.
        workers: processes; by default one for each core.
        shard: (3, 8) takes every eighth mesh, from the third, and writes no archive: `merge` does, of all shards.

    Returns:
        The archive (None if every mesh failed, or of a shard), a line for each mesh that failed, one for each that was
        voxelized with a remark, and notes about the run.

    Raises:
        ArchiveError: if the zip is unusable. OSError: if a file cannot be written. BrokenProcessPool: if a worker dies.
    """
    digest = ar.sha256_of(path)
    if sha256 and digest != sha256.lower():
        raise ArchiveError(f"{path}: sha256 is {digest}, not {sha256}: delete it and fetch it again")
    meshes, notes = find_meshes(path)
    if len(meshes) * recipe.turns * recipe.resolution**3 > ar.MAX_VOXELS:
        raise ValueError(f"{len(meshes)} meshes at {recipe.resolution}^3 are too many for one archive: lower it")
    identity = json.dumps([digest, asdict(recipe), FILL_RULE, ar.VERSION, [mesh.member for mesh in meshes]])
    key = hashlib.sha256(identity.encode()).hexdigest()[:12]
    out.parent.mkdir(parents=True, exist_ok=True)
    run: dict[str, Any] = {"command": "modelnet10", "out": out.name, "source": path.name, "sha256": digest}
    run |= {"recipe": asdict(recipe), "fill_rule": FILL_RULE, "version": ar.VERSION, "notes": notes}
    run["items"] = [astuple(mesh) for mesh in meshes]
    journal = shard_path(out, shard) if shard else out.with_name(f"{out.name}.{key}.part")
    with journal.open("a+b", buffering=0) as file:
        done, mine = resume(file, head_of(run, shard)), numbers(len(meshes), shard)
        todo = [i for i in mine if i not in done]
        if done:
            notes = [*notes, f"went on after {len(done)} of {len(mine)} meshes already voxelized"]
        jobs = ((i, path, meshes[i].member, recipe) for i in todo)
        bar = tqdm(total=len(mine), initial=len(done), unit=" meshes", desc=f"voxelize {recipe.resolution}^3")
        with bar, closing(_run(jobs, len(todo), workers or _cores())) as results:
            for i, good, payload in results:
                append(file, entry(i, good, payload))
                done[i] = good, payload
                bar.update()
    archive, failures, remarks = assemble(run, done, None if shard else out)
    if not shard:
        journal.unlink()
    return archive, failures, remarks, notes


def assemble(run: Mapping[str, Any], done: Done, out: Path | None) -> tuple[Archive | None, list[str], list[str]]:
    """The archive of voxelized meshes, written to `out`; and, as `voxelize_zip`, lines of those that failed or are odd.

    `run` is what a shard's file says; without `out` no archive is made.
    """
    meshes, recipe = [Mesh(*item) for item in run["items"]], Recipe(**run["recipe"])
    width = (recipe.resolution**3 + 7) // 8 * recipe.turns
    voxelized = [i for i in sorted(done) if done[i][0]]
    failures = [f"{meshes[i].member}: {done[i][1].decode()}" for i in sorted(done.keys() - set(voxelized))]
    remarks = [f"{meshes[i].name}: {text.decode()}" for i in voxelized if (text := done[i][1][width:])]
    if not voxelized or out is None:
        return None, failures, remarks
    turned = [(meshes[i], turn) for i in voxelized for turn in range(1, recipe.turns + 1)]
    archive = ar.write_archive(
        out,
        np.frombuffer(b"".join(done[i][1][:width] for i in voxelized), np.uint8).reshape(len(turned), -1),
        [CATEGORIES.index(mesh.category) for mesh, _ in turned],
        [mesh.split for mesh, _ in turned],
        [mesh.name if recipe.turns == 1 else f"{mesh.name}_{turn}" for mesh, turn in turned],
        {
            "dataset": "modelnet10",
            "resolution": recipe.resolution,
            "source": run["source"],
            "sha256": run["sha256"],
            "fill_rule": run["fill_rule"],
            "padding": recipe.padding,
            "turns": recipe.turns,
            "failed": failures,
        },
    )
    return archive, failures, remarks


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Job = tuple[int, Path, str, Recipe]


def _run(jobs: Iterator[Job], count: int, workers: int) -> Generator[tuple[int, bool, bytes], None, None]:
    """Voxelize in processes that end with this one, however it ends."""
    if not count:
        return
    pool = ProcessPoolExecutor(min(workers, count), get_context("spawn"), initializer=_start_worker)
    try:
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the workers inherit: Ctrl-C is not theirs
        try:
            results = pool.map(_voxelize_member, jobs, chunksize=8)
        finally:
            signal.signal(signal.SIGINT, interrupt)
        yield from results
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    parent = parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


_open_zip = cache(zipfile.ZipFile)  # once in a process: reading its table of contents takes longer than a mesh


def _voxelize_member(job: Job) -> tuple[int, bool, bytes]:
    """One mesh: its packed grids and remarks, or the reason why it has none."""
    i, path, member, recipe = job
    file = _open_zip(path)
    try:
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always")
            info = file.getinfo(member)
            if info.file_size > MAX_MESH:
                raise ValueError(f"claims {info.file_size:,} bytes, more than {MAX_MESH:,}")
            vertices, faces = parse_off(file.read(info), "mesh")
            turns = [
                voxelize(vertices, faces, resolution=recipe.resolution, padding=recipe.padding, turn=30.0 * turn)
                for turn in range(recipe.turns)
            ]
        text = "; ".join(dict.fromkeys(str(remark.message).removeprefix("mesh: ") for remark in remarks))
        return i, True, ar.pack(np.stack(turns)).tobytes() + text.encode()
    except Exception as error:
        return i, False, (str(error).removeprefix("mesh: ") or type(error).__name__).encode()
