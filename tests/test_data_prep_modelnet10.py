"""Fetching and voxelizing ModelNet10: cut connections, hostile zips, broken meshes, killed runs."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from problems import box, is_gone, off_text, until

from data_prep import CATEGORIES, ArchiveError, modelnet10, read_archive, voxelize
from data_prep.modelnet10 import Recipe, download, fetch_zip, find_meshes, voxelize_zip
from data_prep.shards import append

BODY = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@contextmanager
def served(body=BODY, *, ranges=True, cut=0, status=200):
    """A server of one file that closes each connection after `cut` bytes; yields its address and the requests."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            requests.append(wanted)
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and ranges else 0
            if status != 200:
                return self.send_error(status)
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                return self.end_headers()
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            self.wfile.write(body[start : start + cut] if cut else body[start:])
            return None

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/ModelNet10.zip", requests
    finally:
        server.shutdown()
        server.server_close()


def test_download_goes_on_where_the_connection_broke(tmp_path):
    with served(cut=700_000) as (url, requests):
        download(url, tmp_path / "a.zip", SHA256, wait=lambda _: None)
    assert (tmp_path / "a.zip").read_bytes() == BODY and [p.name for p in tmp_path.iterdir()] == ["a.zip"]
    starts = [int(r[6:-1]) for r in requests[1:]]
    assert requests[0] is None and len(starts) >= 4 and starts == sorted(set(starts)) and starts[-1] >= 2_000_000


def test_download_goes_on_from_an_earlier_run(tmp_path):
    (tmp_path / "a.zip.part").write_bytes(BODY[:2_999_000])
    with served() as (url, requests):
        download(url, tmp_path / "a.zip", SHA256)
    assert (tmp_path / "a.zip").read_bytes() == BODY and requests == ["bytes=2999000-"]
    (tmp_path / "b.zip.part").write_bytes(BODY)  # it was killed before it could rename
    with served() as (url, requests):
        download(url, tmp_path / "b.zip", SHA256)
    assert (tmp_path / "b.zip").read_bytes() == BODY and len(requests) == 1


def test_download_begins_again_where_the_server_cannot_go_on(tmp_path):
    (tmp_path / "a.zip.part").write_bytes(b"x" * 1000)
    with served(ranges=False) as (url, _):
        download(url, tmp_path / "a.zip", SHA256)
    assert (tmp_path / "a.zip").read_bytes() == BODY
    (tmp_path / "b.zip.part").write_bytes(BODY + b"x")
    with served() as (url, _):
        download(url, tmp_path / "b.zip", SHA256, wait=lambda _: None)
    assert (tmp_path / "b.zip").read_bytes() == BODY


def test_download_refuses_another_file_and_gives_up_in_the_end(tmp_path):
    with served() as (url, _), pytest.raises(ArchiveError, match=f"sha256 is {SHA256}, not 00"):
        download(url, tmp_path / "a.zip", "00")
    assert not list(tmp_path.iterdir())
    with served(status=404) as (url, requests), pytest.raises(ArchiveError, match="404"):
        download(url, tmp_path / "a.zip")
    assert len(requests) == 1
    waits = []
    with served(status=503) as (url, requests), pytest.raises(ArchiveError, match=r"503.*run again"):
        download(url, tmp_path / "a.zip", wait=waits.append)
    assert len(requests) == modelnet10.ATTEMPTS and waits == sorted(waits)
    with pytest.raises(ArchiveError, match="run again"):
        download(url, tmp_path / "a.zip", wait=waits.append)  # nobody is there
    assert not list(tmp_path.iterdir())


def meshes(count=6):
    """Boxes of different sizes: the grids of each are known to `voxelize`."""
    for i in range(count):
        category = CATEGORIES[i % 3 * 3]
        yield f"ModelNet10/{category}/{'test' if i % 4 == 3 else 'train'}/{category}_{i:04d}.off", box(1 + i, 2, 1.5)


BAD = {
    "ModelNet10/bed/train/bed_0901.off": ("OFF\n3 1 0\n0 0 0\n1 0 0\n", "truncated"),
    "ModelNet10/bed/train/bed_0902.off": ("OFF\n3 1 0\n0 0 nan\n1 0 0\n0 1 0\n3 0 1 2\n", "not finite"),
    "ModelNet10/bed/test/bed_0903.off": ("COFF\n3 1 0\n", "COFF"),
    "ModelNet10/bed/test/bed_0904.off": ("", "empty"),
}
OTHER = ["../evil.off", "/chair/train/evil.off", "ModelNet10/../chair/train/evil.off", "ModelNet10/piano/train/p_1.off"]
OTHER += ["ModelNet10/README.txt", "__MACOSX/ModelNet10/bed/train/._bed_0001.off", "ModelNet10/.DS_Store"]


def make_zip(path, bad=True, count=6):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for member, mesh in meshes(count):
            file.writestr(member, off_text(*mesh))
        if bad:
            for member, (text, _) in BAD.items():
                file.writestr(member, text)
            for member in OTHER:
                file.writestr(member, "x")
    return path


def test_finds_the_meshes_and_nothing_else(tmp_path):
    found, notes = find_meshes(make_zip(tmp_path / "m.zip"))
    assert {mesh.member for mesh in found} == {member for member, _ in meshes()} | BAD.keys()
    assert [mesh.split for mesh in found] == sorted((mesh.split for mesh in found), reverse=True)
    assert sum("outside" in note for note in notes) == 3 and "1 meshes not in" in notes[-1]


def test_refuses_what_is_not_modelnet10(tmp_path):
    whole = make_zip(tmp_path / "m.zip").read_bytes()
    for data in (b"", b"<html>sorry</html>", whole[:-30], whole[: len(whole) // 2]):
        (tmp_path / "bad.zip").write_bytes(data)
        with pytest.raises(ArchiveError, match=r"bad\.zip: not a complete zip"):
            find_meshes(tmp_path / "bad.zip")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        file.writestr("readme", "nothing")
    with pytest.raises(ArchiveError, match=r"no ModelNet10/<category>"):
        find_meshes(tmp_path / "bad.zip")
    with served(b"<html>sorry</html>") as (url, _), pytest.raises(ArchiveError, match="not ModelNet10"):
        fetch_zip(tmp_path / "cache", url)
    assert not [p for p in (tmp_path / "cache").iterdir() if p.suffix == ".zip"]


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError("8 EiB")])
def test_a_zip_that_the_machine_cannot_read_is_neither_incomplete_nor_deleted(tmp_path, monkeypatch, error):
    def fails(*_):
        raise error

    make_zip(tmp_path / "m.zip")
    with served((tmp_path / "m.zip").read_bytes()) as (url, _):
        monkeypatch.setattr(zipfile, "ZipFile", fails)
        with pytest.raises(type(error), match=error.args[-1]):
            fetch_zip(tmp_path / "cache", url)
    assert (tmp_path / "cache/ModelNet10.zip").exists()


def test_the_zip_is_fetched_once_and_its_hash_remembered(tmp_path):
    body = make_zip(tmp_path / "m.zip").read_bytes()
    with served(body) as (url, requests):
        path, sha256 = fetch_zip(tmp_path / "cache", url)
        assert fetch_zip(tmp_path / "cache", url) == (path, sha256) and len(requests) == 1
    assert path.read_bytes() == body and sha256 == hashlib.sha256(body).hexdigest()
    path.write_bytes(body + b"x")
    path, sha256 = fetch_zip(tmp_path / "cache", url)
    with pytest.raises(ArchiveError, match=r"sha256 is .* fetch it again"):
        voxelize_zip(path, tmp_path / "a.npz", Recipe(), sha256=sha256)


@pytest.mark.slow
def test_one_bad_mesh_never_ends_the_run(tmp_path):
    path = make_zip(tmp_path / "m.zip")
    damaged = bytearray(path.read_bytes())
    at = damaged.index(b"desk_0004.off") + 60
    damaged[at] ^= 0xFF  # inside that member's compressed bytes
    path.write_bytes(damaged)
    recipe = Recipe(resolution=14, padding=2, turns=2)
    archive, failures, _, _ = voxelize_zip(path, tmp_path / "a.npz", recipe, workers=2)
    for member, (_, reason) in BAD.items():
        assert any(line.startswith(member) and reason in line for line in failures)
    assert len(failures) == len(BAD) + 1 and any("desk_0004" in line for line in failures)
    expected = {
        f"{member.split('/')[-1][:-4]}_{turn + 1}": (
            member.split("/"),
            voxelize(*mesh, resolution=14, padding=2, turn=30 * turn),
        )
        for member, mesh in meshes()
        if "desk_0004" not in member
        for turn in range(2)
    }
    held = read_archive(tmp_path / "a.npz")
    assert set(held.names) == expected.keys() and len(held.names) == len(expected)
    for name, grid, label, split in zip(held.names, held.grids(), held.labels, held.split, strict=True):
        (_, category, part, _), voxels = expected[name]
        assert np.array_equal(grid, voxels) and CATEGORIES[label] == category and split == part
    assert (
        held.manifest["failed"] == failures and held.manifest["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    )
    assert {p.name for p in tmp_path.iterdir()} == {"m.zip", "a.npz"} and archive is not None


def command(path, out):
    return [sys.executable, "-m", "data_prep", "modelnet10", "--zip", path, "--out", out, "--workers", "2"]


def start(path, out):
    """The command as a process that hears Ctrl-C even where the tests run in the background, which ignores it."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(path, out), **pipes, preexec_fn=hear_interrupts)


def hear_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def when_some_are_done(folder, process, size=50_000):
    while not any(p.stat().st_size > size for p in folder.glob("a.npz.*.part")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_the_same(tmp_path):
    path = make_zip(tmp_path / "m.zip", count=480)
    voxelize_zip(path, tmp_path / "whole.npz", Recipe(), workers=2)
    folder = tmp_path / "killed"
    process = start(path, folder / "a.npz")
    when_some_are_done(folder, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (journal,) = folder.iterdir()
    assert not (folder / "a.npz").exists()
    with journal.open("ab") as file:
        file.write(b"half a record")
    kept = journal.stat().st_size
    voxelize_zip(path, folder / "a.npz", Recipe(resolution=16), workers=1)  # another setting takes nothing from it
    assert read_archive(folder / "a.npz").resolution == 16 and journal.stat().st_size == kept

    process = start(path, folder / "a.npz")
    when_some_are_done(folder, process, kept)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130 and "Traceback" not in errors and "goes on where it was" in errors
    process = start(path, folder / "a.npz")
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "went on after" in output
    assert (folder / "a.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert [p.name for p in folder.iterdir()] == ["a.npz"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_workers_end_with_their_parent(tmp_path):
    path = make_zip(tmp_path / "m.zip", count=160)
    process = start(path, tmp_path / "a.npz")
    when_some_are_done(tmp_path, process)
    children = {
        int(pid.name) for pid in os.scandir("/proc") if pid.name.isdigit() and parent_of(int(pid.name)) == process.pid
    }
    process.kill()
    process.wait()
    assert children and until(lambda: all(map(is_gone, children)))


def parent_of(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def test_a_full_disk_keeps_whole_records_only(tmp_path, monkeypatch):
    class Full:
        """A file with room for 100 bytes more."""

        def __init__(self):
            self.name, self.data, self.room = "a.part", b"", 100

        def seek(self, offset, whence=0):
            return len(self.data)

        def write(self, record):
            if not self.room:
                raise OSError(28, "No space left on device")
            part = record[: self.room]
            self.data, self.room = self.data + part, self.room - len(part)
            return len(part)

        def truncate(self, end):
            self.data = self.data[:end]

    file = Full()
    append(file, b"x" * 60)
    with pytest.raises(OSError, match=r"a\.part"):
        append(file, b"y" * 60)
    assert file.data == b"x" * 60
