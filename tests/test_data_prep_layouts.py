"""Other people's voxel files: the same shapes, stored in each layout, come out the same."""

import itertools
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import ArchiveError, import_shapes, load_off, voxelize, write_archive

REAL = os.environ.get("DNET_TEST_DATA")
needs_real_data = pytest.mark.skipif(not REAL, reason="DNET_TEST_DATA names no folder with real voxel files")

R = 6
GRIDS = np.random.default_rng(0).random((5, R, R, R)) < 0.3  # (y, x, z); no symmetry hides a wrong axis
LABELS = np.array([2, 9, 2, 0, 6])
NAMES = ["chair", "toilet", "chair", "bathtub", "night_stand"]
STORED = GRIDS.transpose(0, 2, 1, 3)  # X_train's own order is (x, y, z)


def binvox_bytes(grid, dims=None):
    """A .binvox file of a grid (y, x, z): run lengths over x, then z, then y fastest."""
    flat = grid.transpose(1, 2, 0).ravel()
    runs = b""
    for value, group in itertools.groupby(flat.tolist()):
        length = len(list(group))
        while length:
            runs += struct.pack("BB", value, min(length, 255))
            length -= min(length, 255)
    dims = dims or f"{len(grid)} {len(grid)} {len(grid)}"
    return f"#binvox 1\ndim {dims}\ntranslate -1 0 2.5\nscale 3\ndata\n".encode() + runs


def mat_tree(folder, turns=(1, 2, 10)):
    for i, split in enumerate(("train", "train", "test")):
        place = folder / f"volumetric_data/chair/{R}/{split}"
        place.mkdir(parents=True, exist_ok=True)
        for k in turns:
            grid = np.roll(GRIDS[i], k - 1, axis=0).astype(np.int8)
            scipy.io.savemat(place / f"chair_{i:09d}_{k}.mat", {"instance": grid}, do_compression=True)
    return folder


def read(path, **options):
    archive, problems, notes = import_shapes([path], **options)
    return archive, archive.grids(), problems, notes


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("channel", [None, 1, 4])
def test_arrays_with_splits(tmp_path, dtype, channel):
    stored = STORED.astype(dtype) if channel is None else np.expand_dims(STORED.astype(dtype), channel)
    np.savez_compressed(
        tmp_path / "set_6.npz", X_test=stored[:2], y_test=LABELS[:2], X_train=stored[2:], y_train=LABELS[2:]
    )
    archive, grids, problems, notes = read(tmp_path / "set_6.npz")
    assert np.array_equal(grids, np.concatenate([GRIDS[2:], GRIDS[:2]])) and not problems  # train comes first
    assert archive.labels.tolist() == [2, 0, 6, 2, 9] and archive.split.tolist() == ["train"] * 3 + ["test"] * 2
    assert archive.names[0] == "chair_train_0001" and archive.manifest["dataset"] == "set"
    assert notes == ["5 shapes of the layout 'arrays', axes xyz"]


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.astype(np.float32),
        LABELS.astype(np.int8)[:, None],
        np.eye(10)[LABELS],
        np.array(NAMES),
        np.array([name.replace("_", " ").title() for name in NAMES], "S"),
    ],
)
@pytest.mark.parametrize("keys", [("X_train", "y_train"), ("x_train", "Y_train"), ("train_data", "train_labels")])
def test_labels_of_every_kind(tmp_path, labels, keys):
    np.savez(tmp_path / "a.npz", **dict(zip(keys, (STORED, labels), strict=True)))
    archive, grids, _, _ = read(tmp_path / "a.npz")
    assert np.array_equal(grids, GRIDS) and archive.labels.tolist() == LABELS.tolist()


def test_arrays_with_names(tmp_path):
    names = [f"{name}_{i:09d}" for i, name in enumerate(NAMES)]
    np.savez(tmp_path / "a.npz", voxels=GRIDS.astype(np.uint8), names=names)
    archive, grids, _, _ = read(tmp_path / "a.npz", split="test")
    assert np.array_equal(grids, GRIDS) and archive.labels.tolist() == LABELS.tolist()
    assert archive.names.tolist() == names and set(archive.split) == {"test"}
    np.savez(tmp_path / "a.npz", data=GRIDS.reshape(5, -1), split=["test", "train", "test", "test", "train"])
    archive, grids, _, _ = read(tmp_path / "a.npz", category="sofa")
    assert np.array_equal(grids, GRIDS) and set(archive.labels) == {7} and archive.split[1] == "train"


def test_shapenets_tree(tmp_path):
    archive, grids, problems, notes = read(mat_tree(tmp_path))
    assert np.array_equal(grids, GRIDS[[2, 0, 1]]) and not problems  # folders in alphabetical order: test, train
    assert archive.names.tolist() == [f"chair_{i:09d}" for i in (2, 0, 1)]
    assert archive.split.tolist() == ["test", "train", "train"] and set(archive.labels) == {2}
    assert any("6 more files are other turns" in note for note in notes)
    archive, grids, _, _ = read(tmp_path, turns="all")
    assert len(grids) == 9 and archive.names[0] == "chair_000000002_1"


def test_a_folder_says_more_than_a_name(tmp_path):
    """One chair of the official release is called night_stand."""
    (tmp_path / "chair/30/train").mkdir(parents=True)
    scipy.io.savemat(tmp_path / "chair/30/train/night_stand_000000112_1.mat", {"instance": GRIDS[0]})
    assert read(tmp_path)[0].labels.tolist() == [2]


def test_binvox_files_and_trees(tmp_path):
    for i, split in enumerate(("test", "train")):
        (tmp_path / split).mkdir()
        (tmp_path / split / f"night_stand_000{i}.binvox").write_bytes(binvox_bytes(GRIDS[i]))
    archive, grids, _, _ = read(tmp_path)
    assert np.array_equal(grids, GRIDS[:2]) and set(archive.labels) == {6}
    assert archive.split.tolist() == ["test", "train"]
    long_run = np.zeros((20, 20, 20), bool)
    long_run[:, :, 3:] = True
    (tmp_path / "sofa.binvox").write_bytes(binvox_bytes(long_run))
    assert np.array_equal(read(tmp_path / "sofa.binvox")[1][0], long_run)


def test_plain_arrays(tmp_path):
    np.save(tmp_path / "bed_0001.npy", GRIDS[0])
    archive, grids, _, _ = read(tmp_path / "bed_0001.npy")
    assert np.array_equal(grids, GRIDS[:1]) and archive.names.tolist() == ["bed_0001"] and archive.labels[0] == 1
    np.save(tmp_path / "many.npy", np.asfortranarray(GRIDS[..., None].astype(np.float32) * 0.7))
    archive, grids, _, notes = read(tmp_path / "many.npy", category="desk")
    assert np.array_equal(grids, GRIDS) and "5 have values other than 0 and 1: above 0.5 is occupied" in notes


def test_archives_can_be_imported_and_padded(tmp_path):
    manifest = {"dataset": "a", "source": "a", "sha256": None, "fill_rule": "none", "padding": 0}
    write_archive(tmp_path / "a.npz", GRIDS, LABELS, ["train"] * 5, NAMES, manifest)
    archive, grids, _, _ = read(tmp_path / "a.npz", resolution=8)
    assert np.array_equal(grids, np.pad(GRIDS, [(0, 0)] + [(1, 1)] * 3)) and archive.names.tolist() == NAMES
    assert archive.manifest["padding"] == 1 and archive.resolution == 8
    np.save(tmp_path / "bed.npy", grids[0])
    assert np.array_equal(read(tmp_path / "bed.npy", resolution=6)[1], GRIDS[:1])
    with pytest.raises(ArchiveError, match=r"do not fit into 4\^3"):
        read(tmp_path / "bed.npy", resolution=4)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations("xyz"), flips=st.tuples(*[st.booleans()] * 3))
def test_any_axes(tmp_path_factory, order, flips):
    """`axes` says what the stored axes are: put a grid (y, x, z) into that order, and it comes back."""
    path = tmp_path_factory.getbasetemp() / "bed.npy"
    stored = GRIDS[0].transpose(["yxz".index(axis) for axis in order])
    stored = stored[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    np.save(path, stored)
    axes = "".join("-" * flip + axis for flip, axis in zip(flips, order, strict=True))
    assert np.array_equal(read(path, axes=axes)[1][0], GRIDS[0])


def test_axes_must_be_a_permutation(tmp_path):
    for axes in ("xy", "xyy", "abc", "xyzz", "zyx "):
        with pytest.raises(ValueError, match="--axes"):
            import_shapes([tmp_path], axes=axes)


def test_one_bad_file_is_named_and_the_rest_goes_on(tmp_path):
    mat_tree(tmp_path, turns=(1,))
    place = tmp_path / f"volumetric_data/chair/{R}/train"
    good = place / "chair_000000000_1.mat"
    (place / "chair_000000100_1.mat").write_bytes(good.read_bytes()[:150])
    (place / "chair_000000101_1.mat").write_bytes(b"MATLAB 5.0 but not really" * 10)
    scipy.io.savemat(place / "chair_000000102_1.mat", {"instance": np.zeros((3, 4, 5))})
    scipy.io.savemat(place / "chair_000000103_1.mat", {"other": "text"})
    scipy.io.savemat(place / "chair_000000104_1.mat", {"instance": np.full((R, R, R), np.nan)})
    (place / "chair_5.binvox").write_bytes(binvox_bytes(GRIDS[0])[:-2])
    (place / "chair_6.binvox").write_bytes(binvox_bytes(GRIDS[0]) + b"\1\1")
    (place / "chair_7.binvox").write_bytes(binvox_bytes(GRIDS[0], "6 6 7"))
    (place / "chair_8.binvox").write_bytes(binvox_bytes(GRIDS[0], "900000 900000 900000"))
    (place / "chair_9.binvox").write_bytes(b"#binvox 1\n")
    (place / "chair_10.binvox").write_bytes(binvox_bytes(GRIDS[0])[:-1])
    np.save(place / "chair_11.npy", np.zeros((2, 3)))
    np.save(place / "chair_12.npy", np.array([{}], object))
    (place / "chair_13.npy").write_bytes(b"")
    archive, _, problems, _ = read(tmp_path)
    assert len(archive.names) == 3
    said = {Path(line.split(":")[0]).name.partition(".")[0]: line for line in problems}
    words = {
        "chair_000000100_1": "damaged|readable",
        "chair_000000101_1": "damaged|readable",
        "chair_000000102_1": "no cubic array",
        "chair_000000103_1": "no cubic array",
        "chair_000000104_1": "NaN",
        "chair_5": "truncated",
        "chair_6": "217 of 216",
        "chair_7": "6 x 6 x 7 is not cubic",
        "chair_8": "not cubic with at most",
        "chair_9": "not a binvox file",
        "chair_10": "truncated",
        "chair_11": r"shape \(2, 3\)",
        "chair_12": "pickled",
        "chair_13": "damaged",
    }
    assert said.keys() == words.keys()
    for name, pattern in words.items():
        assert re.search(pattern, said[name]), said[name]


def test_bad_arrays_are_refused_by_name(tmp_path):
    path = tmp_path / "a.npz"

    def refused(words, **arrays):
        np.savez_compressed(path, **arrays)
        with pytest.raises(ArchiveError, match=words) as error:
            read(path)
        assert "a.npz" in str(error.value) and "\n" not in str(error.value)

    refused("no X_train, X_test or voxels", images=STORED)
    refused("not within|not numbers 0 to 9", X_train=STORED, y_train=LABELS + 1)
    refused("not one-hot", X_train=STORED, y_train=np.ones((5, 10)))
    refused("5 shapes, but 4 labels", X_train=STORED, y_train=LABELS[:4])
    refused("--category", X_train=STORED)
    refused(r"shape \(5, 6, 6, 5\)", X_train=STORED[..., :5], y_train=LABELS)
    refused("pickled", X_train=STORED, y_train=np.array([None] * 5))
    refused("not numbers", X_train=STORED.astype(str), y_train=LABELS)
    refused("none of the ten", X_train=STORED, y_train=np.array(["piano"] * 5))
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:cut])
        with pytest.raises(ArchiveError, match=r"a\.npz"):
            read(path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArchiveError, match="holds no"):
        read(tmp_path / "empty")


def test_a_shape_with_nan_is_left_out(tmp_path):
    stored = STORED.astype(np.float32)
    stored[1, 2, 3, 4] = np.nan
    np.savez(tmp_path / "a.npz", X_train=stored, y_train=LABELS)
    archive, grids, problems, _ = read(tmp_path / "a.npz")
    assert np.array_equal(grids, np.delete(GRIDS, 1, axis=0)) and archive.labels.tolist() == [2, 2, 0, 6]
    assert len(problems) == 1 and "toilet_train_0001" in problems[0] and "NaN" in problems[0]


def test_sizes_are_not_mixed(tmp_path):
    np.save(tmp_path / "bed_1.npy", np.ones((2, 2, 2)))
    np.save(tmp_path / "bed_2.npy", np.ones((4, 4, 4)))
    with pytest.raises(ArchiveError, match=r"1 of 2\^3, 1 of 4\^3; choose with --resolution"):
        read(tmp_path)
    assert [grid.sum() for grid in read(tmp_path, resolution=4)[1]] == [8, 64]


def overlap(a, b):
    return np.mean([(p & q).sum() / max(1, (p | q).sum()) for p, q in zip(a, b, strict=True)])


@needs_real_data
def test_modelnet10_as_others_made_it_lies_like_the_official_chairs():
    archive, grids, problems, _ = read(Path(REAL) / "modelnet10_30.npz")
    assert len(grids) == 4899 and not problems and archive.manifest["padding"] == 3
    train = np.bincount(archive.labels[archive.split == "train"])
    assert train.tolist() == [106, 515, 889, 200, 200, 465, 200, 680, 392, 344]
    _, official, _, _ = read(Path(REAL) / "chairs_official_30.npz", category="chair")
    chairs = grids[(archive.labels == 2) & (archive.split == "train")]
    assert overlap(chairs, official) == pytest.approx(0.74, abs=0.005)
    assert overlap(chairs[:, :, ::-1], official) < 0.73 and overlap(chairs.transpose(0, 2, 1, 3), official) < 0.3
    counts = archive.counts()
    assert [np.count_nonzero(counts[(archive.labels == c) & (archive.split == "train")] < 50) for c in (0, 2)] == [
        10,
        2,
    ]


@needs_real_data
def test_official_files_and_binvox_lie_like_our_meshes():
    folder = Path(REAL)
    archive, grids, _, _ = read(folder / "volumetric_data")
    _, official, _, _ = read(folder / "chairs_official_30.npz", category="chair")
    names = np.load(folder / "chairs_official_30.npz")["names"].tolist()
    assert np.array_equal(grids, official[[names.index(name) for name in archive.names]])
    mesh = voxelize(*load_off(folder / "meshes/toilet/toilet_0345.off"), resolution=30, padding=0)
    _, (toilet,), _, _ = read(folder / "binvox/toilet_0345_30.binvox")
    assert overlap([toilet], [mesh]) > 0.81 and overlap([toilet[:, ::-1]], [mesh]) < overlap([toilet], [mesh])
