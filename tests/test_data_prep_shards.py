"""Work split over machines: archive and report are those of one machine, and what is missing is named."""

import shutil

import numpy as np
import pytest
from test_data_prep_modelnet10 import make_zip

from data_prep import modelnet10, read_archive
from data_prep.__main__ import main

SHARDS = (1, 2, 3, 7)


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    """Meshes are voxelized in this process: starting others takes longer than all of them."""
    monkeypatch.setattr(modelnet10, "_run", lambda jobs, count, workers: (modelnet10._voxelize_member(j) for j in jobs))
    monkeypatch.setenv("DNET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def meshes(tmp_path):
    """A zip of six meshes and four broken ones, and one more whose compressed bytes are damaged."""
    path = make_zip(tmp_path / "m.zip")
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"desk_0004.off") + 60] ^= 0xFF
    path.write_bytes(damaged)
    modelnet10._open_zip.cache_clear()
    return ["modelnet10", "--zip", path, "--resolution", "14", "--padding", "2", "--turns", "2"]


@pytest.fixture
def files(tmp_path):
    """Files with and without names, broken, of another size, and with values that may mean two things."""
    random = np.random.default_rng(0)
    folder = tmp_path / "mine"
    for k, category in enumerate(("chair", "bed", "chair", "sofa")):
        (folder / category).mkdir(parents=True, exist_ok=True)
        grids = random.random((3, 6, 6, 6)) < 0.3
        np.savez(folder / category / f"{k}.npz", X_train=grids, X_test=grids[:1, :5], y_train=[k, k, 2], y_test=[k])
        np.save(folder / category / f"one_{k}.npy", grids[0])
    np.save(folder / "bed/many.npy", random.random((2, 6, 6, 6)))
    np.savez(folder / "sofa/z.npz", voxels=random.integers(0, 9, (2, 6, 6, 6)), more=[1])
    np.save(folder / "lamp.npy", np.zeros((6, 6, 6)))
    (folder / "chair/broken.npz").write_bytes(b"?")
    (folder / "chair/notes.txt").write_text("?")
    return ["import", folder, "--resolution", "6"]


def run(words, capsys, code=0):
    """The command; what it says, but for the size of a file and its place."""
    assert main([str(word) for word in words]) == code
    said = capsys.readouterr()
    return [line for line in said.out.splitlines() if not line.startswith("written: ")], said.err


@pytest.mark.parametrize("what", ["meshes", "files"])
def test_the_merged_archive_and_its_report_are_those_of_one_machine(what, request, tmp_path, capsys):
    words = request.getfixturevalue(what)
    said, errors = run([*words, "--out", tmp_path / "a.npz"], capsys)
    assert ("desk_0004" if what == "meshes" else "chair/broken.npz") in errors
    assert len(read_archive(tmp_path / "a.npz").names) == (10 if what == "meshes" else 20)
    for n in SHARDS:
        folder = tmp_path / str(n)
        for i in reversed(range(1, n + 1)):
            run([*words, "--out", folder / "a.npz", "--shard", f"{i}/{n}"], capsys)
        again, more = run(["merge", (folder, folder / "a.npz", folder / "a")[n % 3]], capsys)
        assert (folder / "a.npz").read_bytes() == (tmp_path / "a.npz").read_bytes(), n
        assert again == said and progress_aside(more) == progress_aside(errors)


def progress_aside(errors):
    return [line for line in errors.splitlines() if line and "voxelize" not in line]


@pytest.mark.parametrize("what", ["meshes", "files"])
def test_an_interrupted_shard_is_named_and_goes_on_where_it_was(what, request, tmp_path, capsys, monkeypatch):
    words = [*request.getfixturevalue(what), "--out", tmp_path / "s" / "a.npz"]
    run([*request.getfixturevalue(what), "--out", tmp_path / "a.npz"], capsys)
    for i in (1, 2):
        run([*words, "--shard", f"{i}/2"], capsys)
    cut = tmp_path / "s" / "a.shard-2-of-2"
    whole = cut.read_bytes()
    for keep in (len(whole) - 5, 30):  # in its last record, and in its head
        cut.write_bytes(whole[:keep])
        _, error = run(["merge", tmp_path / "s"], capsys, code=1)
        assert "a.shard-2-of-2" in error and ("--shard 2/2" in error or "not a shard" in error)
        run([*words, "--shard", "2/2"], capsys)
        assert cut.read_bytes() == whole
    run(["merge", tmp_path / "s"], capsys)
    assert (tmp_path / "s" / "a.npz").read_bytes() == (tmp_path / "a.npz").read_bytes()
    for place in ("data_prep.modelnet10._voxelize_member", "data_prep.layouts.read_file"):
        monkeypatch.setattr(place, None)
    run([*words, "--shard", "2/2"], capsys)  # nothing is done twice
    assert cut.read_bytes() == whole


def test_what_is_not_one_whole_run_is_named(meshes, files, tmp_path, capsys):
    folder = tmp_path / "s"
    assert "no shards of it" in run(["merge", tmp_path], capsys, code=1)[1]
    for i in (1, 3, 4):
        run([*meshes, "--out", folder / "a.npz", "--shard", f"{i}/5"], capsys)
    assert "missing: run --shard 2/5, 5/5" in run(["merge", folder], capsys, code=1)[1]
    first = folder / "a.shard-1-of-5"
    shutil.copy(first, folder / "a.shard-2-of-5")
    assert "the same shard: delete one" in run(["merge", folder], capsys, code=1)[1]
    (folder / "a.shard-2-of-5").unlink()
    for other, what in (("--turns 3 --shard 2/5", "recipe"), ("--shard 2/4", "number of shards")):
        run([*meshes, "--out", folder / "a.npz", *other.split()], capsys)
        _, error = run(["merge", folder], capsys, code=1)
        assert f"of two runs ({what})" in error and error.count("\n") == 1
        (folder / f"a.shard-{other[-3]}-of-{other[-1]}").unlink()
    _, error = run([*meshes, "--padding", "3", "--out", folder / "a.npz", "--shard", "1/5"], capsys, code=1)
    assert "a.shard-1-of-5: is of another run" in error
    run([*files, "--out", folder / "b.npz", "--shard", "1/1"], capsys)
    assert "name the archive to merge" in run(["merge", folder], capsys, code=1)[1]
    run(["merge", folder / "b.npz", "--out", tmp_path / "c.npz"], capsys)
    assert read_archive(tmp_path / "c.npz").resolution == 6


def test_shards_are_asked_for_in_one_way_and_fetch_nothing_at_once(files, capsys):
    for word in ("0/2", "3/2", "2", "1/x", "-1/2"):
        with pytest.raises(SystemExit):
            main(["modelnet10", f"--shard={word}"])
        assert "--shard" in capsys.readouterr().err
    assert "give --zip" in run(["modelnet10", "--shard", "1/2"], capsys, code=1)[1]
    assert "--out" in run([*files, "--shard", "1/2"], capsys, code=1)[1]
