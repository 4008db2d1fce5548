"""The command line: what it writes, what it says, and one line when it cannot."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from problems import box, off_text

from data_prep import CATEGORIES, furniture, make_furniture, read_archive
from data_prep.__main__ import main

EMBEDDED = Path(__file__).parents[1] / "dnet_lib/shapes/furniture_32.npz"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_shapes_and_info(cache, tmp_path, capsys):
    assert main(["shapes", "--resolution", "16", "--train", "2", "--test", "1", "--seed", "5"]) == 0
    assert "all              20     10" in capsys.readouterr().out
    archive = read_archive(cache / "furniture_16.npz")
    voxels, labels, split, names = make_furniture(16, train=2, test=1, seed=5)
    assert np.array_equal(archive.grids(), voxels) and archive.labels.tolist() == labels.tolist()
    assert archive.split.tolist() == split.tolist() and archive.names.tolist() == names.tolist()
    occupied = np.argwhere(voxels.any(0))
    assert archive.manifest["padding"] == min(occupied.min(), 15 - occupied.max())

    assert main(["info", str(cache / "furniture_16.npz"), "--png", str(tmp_path / "sheet.png")]) == 0
    said = capsys.readouterr().out
    assert all(category in said for category in CATEGORIES) and "seed 5" in said and "⠀" in said
    assert (tmp_path / "sheet.png").stat().st_size > 10_000


def test_import_goes_to_the_cache_and_never_overwrites_unasked(cache, tmp_path, capsys):
    grids = np.random.default_rng(0).random((3, 6, 6, 6)) < 0.4
    grids[2] = False
    np.savez(tmp_path / "mine_6.npz", X_train=grids, y_train=[2, 2, 9])
    assert main(["import", str(tmp_path / "mine_6.npz"), "--resolution", "8"]) == 0
    said = capsys.readouterr().out
    assert "3 shapes of the layout 'arrays', axes xyz" in said and "1 empty:\n  toilet_train_0001" in said
    assert read_archive(cache / "mine_8.npz").resolution == 8
    again = ["import", str(tmp_path / "mine_6.npz"), "--resolution", "8", "--axes", "yxz"]
    assert main(again) == 1 and "--force" in capsys.readouterr().err
    assert main([*again, "--force"]) == 0
    assert np.array_equal(read_archive(cache / "mine_8.npz").grids()[:, 1:-1, 1:-1, 1:-1], grids)


def test_import_says_what_it_left_out_and_takes_the_choices(cache, tmp_path, capsys):
    grids = np.random.default_rng(0).random((3, 8, 8, 8)) < 0.4
    packed = np.packbits(grids.reshape(3, -1), axis=1)
    np.savez(tmp_path / "mine.npz", voxels=packed, shapes=grids[:, ::2, ::2, ::2], labels=[2, 2, 9], more=[1])
    mine = ["import", str(tmp_path / "mine.npz")]
    assert main(mine) == 1 and "voxels and shapes could each be meant: choose with --key" in capsys.readouterr().err
    assert main([*mine, "--key", "voxels"]) == 1 and "--occupied bits" in capsys.readouterr().err
    assert main([*mine, "--key", "voxels", "--occupied", "bits"]) == 0
    said = capsys.readouterr().out
    assert "1 arrays more left out" in said and "1 arrays shapes left out" in said
    assert np.array_equal(read_archive(cache / "mine_8.npz").grids(), grids)
    (tmp_path / "beds").mkdir()
    np.save(tmp_path / "beds/bed.npy", grids)
    for i in range(30):
        (tmp_path / f"beds/bed_{i}.npy").write_bytes(b"?")
    assert main(["import", str(tmp_path / "beds")]) == 0
    said = capsys.readouterr().err
    assert "30 left out:" in said and all(f"bed_{i}.npy" in said for i in range(30))


def test_want_of_memory_names_the_file_and_the_way_out(tmp_path, capsys, monkeypatch):
    def fails(*_, **__):
        raise MemoryError("8 EiB")

    (tmp_path / "a.npz").write_bytes(b"?")
    monkeypatch.setattr(zipfile, "ZipFile", fails)
    assert main(["info", str(tmp_path / "a.npz")]) == 1
    assert "a.npz: not enough memory to read it (8 EiB): choose a lower --resolution" in capsys.readouterr().err


@pytest.mark.slow
def test_modelnet10_from_a_zip(cache, tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as file:
        file.writestr("ModelNet10/bed/train/bed_0001.off", off_text(*box(2, 3, 1)))
        file.writestr("ModelNet10/bed/test/bed_0002.off", "OFF\n")
    assert main(["modelnet10", "--zip", str(tmp_path / "m.zip"), "--resolution", "16", "--workers", "1"]) == 0
    said = capsys.readouterr()
    assert "1 meshes could not be voxelized:\n  ModelNet10/bed/test/bed_0002.off" in said.err
    assert read_archive(cache / "modelnet10_16.npz").names.tolist() == ["bed_0001"]
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as file:
        file.writestr("ModelNet10/bed/test/bed_0002.off", "OFF\n")
    assert main(["modelnet10", "--zip", str(tmp_path / "m.zip"), "--resolution", "16", "--workers", "1"]) == 1
    assert "no mesh could be voxelized" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("info {}/nothing.npz", "nothing.npz"),
        ("info {}", "directory"),
        ("info {}/text.npz", "text.npz: damaged or of another kind"),
        ("import {}/nothing", "no such file or folder"),
        ("import {}/text.npz", "no shapes could be read"),
        ("import {}/text.txt", "not a .binvox .mat .npy .npz file"),
        ("import {} --axes xxz", "--axes"),
        ("modelnet10 --zip {}/nothing.zip", "nothing.zip"),
        ("modelnet10 --zip {}/text.npz", "not a complete zip"),
        ("modelnet10 --zip {}/text.npz --resolution 8 --padding 4", "leaves 0 voxels"),
        ("shapes --resolution 1", "resolution|cells|grid"),
        ("shapes --resolution 512", "too many"),
        ("shapes --train 0 --test 0", "at least one"),
    ],
)
def test_errors_are_one_line(tmp_path, capsys, words, line):
    for name in ("text.npz", "text.txt"):
        (tmp_path / name).write_text("only text")
    assert main(words.format(tmp_path).split()) == 1
    error = capsys.readouterr().err
    assert error.startswith("dnet-data: ") and error.count("\n") == 1
    assert any(part in error for part in line.split("|"))


@pytest.mark.parametrize(
    "words", ["", "paint", "shapes --resolution 0", "shapes --seed -1", "import", "modelnet10 --turns 13"]
)
def test_misuse_is_shown_the_usage(capsys, words):
    with pytest.raises(SystemExit) as end:
        main(words.split())
    assert end.value.code == 2 and "usage: dnet-data" in capsys.readouterr().err


def test_it_is_a_program_without_torch():
    code = "import sys, data_prep.__main__ as m; m.main(['-h']) if 'torch' not in sys.modules else sys.exit(3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("shapes", "modelnet10", "import", "info"))


def test_one_list_of_categories():
    assert furniture.CATEGORIES == CATEGORIES


@pytest.mark.slow
@pytest.mark.skipif(not EMBEDDED.exists(), reason="the embedded shapes are not made yet")
def test_the_embedded_shapes_are_those_the_command_makes(cache):
    assert EMBEDDED.stat().st_size < 1_000_000
    assert main(["shapes"]) == 0
    made, held = read_archive(cache / "furniture_32.npz"), read_archive(EMBEDDED)
    assert made.manifest == held.manifest  # with the sha256 of the voxels
    for part in ("labels", "split", "names"):
        assert np.array_equal(getattr(made, part), getattr(held, part))
