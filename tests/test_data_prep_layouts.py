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
    said = "shapes of the layout 'arrays', axes xyz, from"
    told, *others = notes
    assert others == [f"3 {said} X_train into train", f"2 {said} X_test into test"]
    assert told.startswith("2 arrays of labels read by the alphabet: 0 bathtub, 1 bed, 2 chair,")


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


def test_a_link_is_where_it_stands_before_what_it_points_to(tmp_path):
    for place in ("store/sofa/test", "tree/bed/train", "tree/any"):
        (tmp_path / place).mkdir(parents=True)
    np.save(tmp_path / "store/sofa/test/1.npy", GRIDS[0])
    for place in ("bed/train", "any"):
        (tmp_path / "tree" / place / "1.npy").symlink_to(tmp_path / "store/sofa/test/1.npy")
    archive = read(tmp_path / "tree")[0]
    assert archive.labels.tolist() == [7, 1] and archive.split.tolist() == ["test", "train"]


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
    np.save(place / "chair_22.npy", np.array(3))
    (place / "chair_23.binvox").write_bytes(binvox_bytes(GRIDS[0]) + b"\1")
    np.save(place / "chair_12.npy", np.array([{}], object))
    (place / "chair_13.npy").write_bytes(b"")
    (place / "chair_14.npy").write_bytes(b"\x93NUMPY\x01\x00\x10\x00" + b"(((((((((((((((\n" + bytes(64))
    (place / "chair_15.npy").write_bytes(b'\x93NUMPY\x01\x00\x10\x00"""((((((((((((\n' + bytes(64))
    (place / "chair_16.npy").symlink_to("nowhere.npy")
    (place / "chair_17.npy").symlink_to("chair_17.npy")
    os.mkfifo(place / "chair_18.npy")
    scipy.io.savemat(place / "chair_19.mat", {"a": np.full((1, 2), 0, object), "b": np.full((2, 2, 2), 0, object)})
    (place / "chair_20.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: X".ljust(124) + b"\0\2IM" + bytes(500))
    (place / "chair_21.mat").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500))
    archive, _, problems, _ = read(tmp_path)
    assert len(archive.names) == 3
    said = {Path(line.split(":")[0]).name.partition(".")[0]: line for line in problems}
    words = {
        "chair_000000100_1": "damaged|readable",
        "chair_000000101_1": "damaged|readable",
        "chair_000000102_1": "grid of 3 x 4 x 5 is not cubic: --resolution 5",
        "chair_000000103_1": r"no array \(R, R, R\) of numbers in it, but other \(1,\) char",
        "chair_000000104_1": "NaN",
        "chair_5": "truncated",
        "chair_6": "217 of 216",
        "chair_7": "6 x 6 x 7 is not cubic",
        "chair_8": "not cubic with at most",
        "chair_9": "not a binvox file",
        "chair_10": "truncated",
        "chair_11": r"shape \(2, 3\)",
        "chair_22": r"shape \(\) is not \(N, R, R, R\)",
        "chair_23": "its last run has a value and no length",
        "chair_12": "pickled",
        "chair_13": "damaged",
        "chair_14": "damaged: its header",
        "chair_15": "damaged: its header",
        "chair_16": "No such file",
        "chair_17": "symbolic links",
        "chair_18": "a device or a pipe",
        "chair_19": r"but a \(1, 2\) cell, b \(2, 2, 2\) cell",
        "chair_20": r"v7\.3 format.*save -v7`",
        "chair_21": r"v7\.3 format.*save -v7`",
    }
    assert said.keys() == words.keys()
    for name, pattern in words.items():
        assert re.search(pattern, said[name]), said[name]
        assert ("truncated" in said[name]) == (name in ("chair_5", "chair_10", "chair_23")), said[name]


def test_bad_arrays_are_refused_by_name(tmp_path):
    path = tmp_path / "a.npz"

    def is_refused(words, **arrays):
        np.savez_compressed(path, **arrays)
        refused(path, words)

    is_refused("no X_train, X_test or voxels", images=STORED)
    is_refused("not within|not numbers 0 to 9", X_train=STORED, y_train=LABELS + 1)
    is_refused("not one-hot", X_train=STORED, y_train=np.ones((5, 10)))
    is_refused("5 shapes, but 4 labels", X_train=STORED, y_train=LABELS[:4])
    is_refused("--category", X_train=STORED)
    is_refused("6 x 6 x 5 is not cubic", X_train=STORED[..., :5], y_train=LABELS)
    is_refused(r"shape \(5, 6, 6, 1\)", X_train=STORED[..., :1], y_train=LABELS)
    is_refused("pickled", X_train=STORED, y_train=np.array([None] * 5))
    is_refused("not numbers", X_train=STORED.astype(str), y_train=LABELS)
    is_refused("none of the ten", X_train=STORED, y_train=np.array(["piano"] * 5))
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


def refused(path, words, **options):
    """The reason why a file is refused as a whole: one line that names it."""
    with pytest.raises(ArchiveError, match=words) as error:
        read(path, **options)
    assert path.name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("side", [6, 7])
@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize("key", ["X_train", "voxels", "bytes"])
@pytest.mark.parametrize("memory", ["C", "F"])
def test_packed_bits_are_never_taken_for_values(tmp_path, side, order, key, memory):
    grids = np.random.default_rng(1).random((3, side, side, side)) < 0.5
    packed = np.packbits(grids.reshape(3, -1), axis=1, bitorder=order)
    np.savez(tmp_path / "a.npz", **{key: np.asarray(packed, order=memory)})
    options = {"category": "chair", "axes": "yxz", "keys": [key]}
    refused(tmp_path / "a.npz", rf"{key}: .* --occupied bits \(or little-bits: packed bytes of {side}\^3", **options)
    occupied = "bits" if order == "big" else "little-bits"
    assert np.array_equal(read(tmp_path / "a.npz", occupied=occupied, **options)[1], grids)


def test_bytes_of_0_and_255_in_rows_may_be_packed_and_zeros_and_ones_may_not(tmp_path):
    block = np.zeros((1, 16, 16, 16), np.uint8)
    block[:, :8, :8, :8] = 1
    for name, rows in (("bed_1.npy", np.packbits(block).reshape(1, -1)), ("bed_2.npy", block.reshape(1, -1) * 255)):
        np.save(tmp_path / name, rows)
        refused(tmp_path / name, r"from 0 to 255.*packed bytes of (16|32)\^3")
    assert np.array_equal(read(tmp_path / "bed_1.npy", occupied="bits")[1], block)
    assert np.array_equal(read(tmp_path / "bed_2.npy", occupied="positive")[1], block)
    np.save(tmp_path / "empty.npy", np.zeros((1, 43), np.uint8))
    refused(tmp_path / "empty.npy", r"from 0 to 0.*packed bytes of 7\^3", category="bed")
    np.save(tmp_path / "bed_3.npy", block.reshape(1, -1))
    assert np.array_equal(read(tmp_path / "bed_3.npy")[1], block)
    np.save(tmp_path / "bed_4.npy", block)
    refused(tmp_path / "bed_4.npy", "no row of bytes", occupied="bits")


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64, np.int64])
@pytest.mark.parametrize("side", [8, 16, 32])
def test_bits_packed_in_wider_integers_are_said_to_be_such(tmp_path, dtype, side):
    grids = np.random.default_rng(1).random((3, side, side, side)) < 0.5
    packed = np.packbits(grids.reshape(3, -1), axis=1)
    np.save(tmp_path / "bed.npy", packed.view(dtype))
    way = rf"packed bits of {side}\^3 in {np.dtype(dtype)}, save them as bytes, \.view\(numpy\.uint8\)"
    refused(tmp_path / "bed.npy", way)
    refused(tmp_path / "bed.npy", way, occupied="bits")
    few = np.zeros_like(packed)
    few[:, -1] = 255
    np.save(tmp_path / "bed.npy", few.view(dtype))  # two values, one of them 0, are no voxels yet
    refused(tmp_path / "bed.npy", way)
    np.save(tmp_path / "bed.npy", packed)
    assert np.array_equal(read(tmp_path / "bed.npy", occupied="bits")[1], grids)


def test_an_array_of_four_equal_sides_is_read_n_first_and_it_is_said(tmp_path):
    grids = np.random.default_rng(2).random((R, R, R, R)) < 0.3
    for path, save in ((tmp_path / "bed.npy", np.save), (tmp_path / "bed.npz", lambda p, v: np.savez(p, voxels=v))):
        save(path, grids)
        _, found, _, notes = read(path)
        assert np.array_equal(found, grids) and any(
            "1 arrays of four equal sides read as (N, R, R, R)" in n for n in notes
        )
        save(path, grids[:-1])
        assert not any("equal sides" in note for note in read(path)[3])


def test_shapes_without_an_occupied_voxel_are_kept_and_counted(tmp_path):
    np.save(tmp_path / "bed.npy", np.concatenate([GRIDS, np.zeros((2, R, R, R), bool)]))
    archive, _, problems, notes = read(tmp_path / "bed.npy")
    assert len(archive.names) == 7 and not problems
    assert "2 shapes are kept although none of their voxels is occupied" in notes
    np.save(tmp_path / "bed.npy", GRIDS)
    assert not any("although" in note for note in read(tmp_path / "bed.npy")[3])


@pytest.mark.parametrize("shape", [(-1, 6, 6, 6), (-6, -6, 6, 6), (10**30, 6, 6, 6)])
def test_a_header_with_a_shape_that_cannot_be_is_named(tmp_path, shape):
    with (tmp_path / "bed.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.write(bytes(216))
    way = "which no array has: fetch" if min(shape) < 0 else "more than .* values: split the file, or"
    refused(tmp_path / "bed.npy", rf"bed\.npy: its header claims the shape {re.escape(str(shape))}, {way}")


def test_a_category_of_ones_own_is_filed_under_one_of_the_ten(tmp_path):
    (tmp_path / "mugs" / "train").mkdir(parents=True)
    np.save(tmp_path / "mugs" / "train" / "mine.npy", GRIDS)
    with pytest.raises(ArchiveError, match=r"none of the ten categories .* archives hold no others: give --category"):
        read(tmp_path / "mugs")
    archive, grids, _, _ = read(tmp_path / "mugs", category="table")
    assert np.array_equal(grids, GRIDS) and set(archive.labels.tolist()) == {8}
    assert archive.manifest["dataset"] == "mugs" and set(archive.split.tolist()) == {"train"}


@pytest.mark.parametrize(
    ("values", "occupied", "hint"),
    [
        (np.where(GRIDS, -1.0, 1.0), "negative", "signed distances"),
        (np.where(GRIDS, -0.25, 0.75).astype(np.float32), "negative", "signed distances"),
        (np.where(GRIDS, 0.25, -0.75), "positive", "positive"),
        (np.where(GRIDS, 1, -1).astype(np.int8), "positive", "positive"),
        (np.where(GRIDS, 200, np.arange(6)), "above-127", "from 0 to 200.*above-127"),
        (GRIDS * np.arange(1, 7), "positive", "positive"),
        (np.where(GRIDS, 1.25, 0.25), "above-0.5", r"above-0\.5"),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
def test_values_that_may_mean_two_things_are_refused_with_the_choice(tmp_path, values, occupied, hint, suffix):
    path = tmp_path / f"chair{suffix}"
    if suffix == ".mat":
        values = values[0]
        scipy.io.savemat(path, {"instance": values})
    else:
        np.save(path, values) if suffix == ".npy" else np.savez(path, voxels=values)
    refused(path, f"--occupied.*{hint}" if hint.isalpha() else hint, category="chair")
    _, grids, _, notes = read(path, category="chair", occupied=occupied)
    assert np.array_equal(grids, GRIDS if values.ndim == 4 else GRIDS[:1])
    assert f"{len(grids)} have values other than 0 and 1: {occupied.replace('-', ' ')} is occupied" in notes
    with pytest.raises(ValueError, match="--occupied"):
        read(path, occupied="full")


@pytest.mark.parametrize("high", [2, 255, 0.75, True])
def test_two_values_one_of_them_zero_are_clear(tmp_path, high):
    np.save(tmp_path / "bed.npy", GRIDS * high)
    assert np.array_equal(read(tmp_path / "bed.npy")[1], GRIDS)


def test_what_shares_the_doubt_is_refused_with_it(tmp_path):
    """Distances to a thin shape are nowhere negative: beside others that are, they are no occupancies."""
    values = np.where(GRIDS, -1.0, 0.75)
    values[1], values[4] = 0.75, GRIDS[4]
    np.savez(tmp_path / "a.npz", X_train=values, y_train=LABELS)
    refused(tmp_path / "a.npz", "the first of 2 problems.*signed distances")  # also what is all 0 and 1
    for i in range(3):
        np.save(tmp_path / f"bed_{i}.npy", values[i])
    np.save(tmp_path / "bed_3.npy", GRIDS[3])
    archive, grids, problems, _ = read(tmp_path, layout="npy")
    assert np.array_equal(grids, GRIDS[3:4]) and archive.names.tolist() == ["bed_3"]
    assert [line.partition(": ")[0][-9:] for line in problems[:2]] == ["bed_0.npy", "bed_2.npy"]
    assert problems[2].startswith("1 more shapes") and len(problems) == 3
    assert len(read(tmp_path, layout="npy", occupied="negative")[1]) == 4


def test_a_set_that_is_mostly_full_is_asked_about(tmp_path):
    np.save(tmp_path / "bed.npy", GRIDS)
    assert not any("swapped" in note for note in read(tmp_path / "bed.npy")[3])
    np.save(tmp_path / "bed.npy", ~GRIDS)
    assert any("swapped" in note for note in read(tmp_path / "bed.npy")[3])


@pytest.mark.parametrize("word", ["val", "valid", "validation", "dev", "Val"])
def test_validation_goes_where_split_says_and_it_is_said(tmp_path, word):
    parts = {"X_train": STORED[:2], "y_train": LABELS[:2], f"X_{word}": STORED[2:3], f"y_{word}": LABELS[2:3]}
    np.savez(tmp_path / "a.npz", **parts, X_test=STORED[3:], y_test=LABELS[3:])
    archive, grids, problems, notes = read(tmp_path / "a.npz")
    assert np.array_equal(grids, GRIDS) and archive.labels.tolist() == LABELS.tolist() and not problems
    assert archive.split.tolist() == ["train"] * 3 + ["test"] * 2
    assert any(note.endswith(f"from X_{word} ('{word.lower()}') into train") for note in notes)
    assert read(tmp_path / "a.npz", split="test")[0].split.tolist() == ["train"] * 2 + ["test"] * 3
    for i, folder in enumerate(("training", word, "testing")):
        (tmp_path / "tree/bed" / folder).mkdir(parents=True)
        np.save(tmp_path / "tree/bed" / folder / f"{i}.npy", GRIDS[i])
    archive, _, _, notes = read(tmp_path / "tree")
    assert dict(zip(archive.names, archive.split, strict=True)) == {"0": "train", "1": "train", "2": "test"}
    assert any(f"('{word.lower()}') into train" in note for note in notes)
    np.savez(tmp_path / "b.npz", voxels=GRIDS, labels=LABELS, split=["Train", word, "test", "fold", "testing"])
    archive, _, problems, _ = read(tmp_path / "b.npz")
    assert archive.split.tolist() == ["train", "train", "test", "test"] and "'fold'" in problems[0]


def test_what_was_not_read_is_said(tmp_path):
    labels = {"y_train": LABELS, "class_map": np.array({2: "chair"}, object), "X_more": STORED}
    np.savez(tmp_path / "a.npz", X_train=STORED, **labels)
    _, grids, problems, notes = read(tmp_path / "a.npz")
    assert np.array_equal(grids, GRIDS) and not problems
    assert notes[1:3] == [
        "1 arrays class_map left out: pickled Python objects, never loaded",
        "1 arrays X_more left out",
    ]
    pickled = {"labels": np.array(["?"] * 5, object), "names": np.array(NAMES, object)}
    np.savez(tmp_path / "b.npz", voxels=GRIDS, **pickled)
    refused(tmp_path / "b.npz", "labels: holds pickled")
    _, grids, _, notes = read(tmp_path / "b.npz", category="bed")
    assert np.array_equal(grids, GRIDS) and sum("pickled" in note for note in notes) == 2
    scipy.io.savemat(tmp_path / "bed.mat", {"instance": GRIDS[0].astype(np.int8), "other": GRIDS[1].astype(float)})
    _, grids, _, notes = read(tmp_path / "bed.mat")
    assert np.array_equal(grids, GRIDS[:1]) and "1 arrays other left out" in notes
    (tmp_path / "tree/bed").mkdir(parents=True)
    for name in ("a.txt", "b.off", "c.off", ".d.npy"):
        (tmp_path / "tree" / name).write_text("?")
    np.save(tmp_path / "tree/bed/a.npy", GRIDS[0])
    (tmp_path / "tree/link").symlink_to(tmp_path / "tree/bed")
    notes = read(tmp_path / "tree")[3]
    assert {"1 .txt files left out", "2 .off files left out"} < {*notes} and "1 links to folders" in " ".join(notes)


@pytest.mark.parametrize("names", [np.array("chair bed"), np.array([["chair", "bed"]] * 2)])
def test_names_of_labels_that_cannot_be_read_are_no_reason_to_guess(tmp_path, names):
    np.savez(tmp_path / "a.npz", voxels=GRIDS, labels=LABELS, class_names=names)
    with pytest.raises(ArchiveError, match=r"class_names.*is no list of text: save it as one"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize("key", ["label_names", "classes", "class names", "Categories", "target_names", "labelmap"])
@pytest.mark.parametrize("kind", ["numbers", "one-hot"])
def test_names_in_the_file_say_what_its_numbers_mean(tmp_path, key, kind):
    """In any order and any case, some of the ten or all; what lies beyond them is left out by name."""
    words = ["Toilet", "night-stand", "CHAIR", "bathtub", "lamp"]
    numbers = np.array([words.index(word) for word in ("CHAIR", "Toilet", "CHAIR", "bathtub", "night-stand")])
    labels = np.eye(5, dtype=int)[numbers] if kind == "one-hot" else numbers
    np.savez(tmp_path / "a.npz", voxels=GRIDS, labels=labels, **{key: np.array(words)})
    archive, grids, problems, notes = read(tmp_path / "a.npz")
    assert np.array_equal(grids, GRIDS) and archive.labels.tolist() == LABELS.tolist() and not problems
    assert f"1 arrays of labels read by {key}: 0 toilet, 1 night_stand, 2 chair, 3 bathtub, 4 lamp" in notes
    assert not any("left out" in note for note in notes)
    if kind == "numbers":
        np.savez(tmp_path / "b.npz", voxels=GRIDS, labels=[4, 0, 0, 0, 0], **{key: np.array(words)})
        assert "none of the ten categories" in read(tmp_path / "b.npz")[2][0]
        np.savez(tmp_path / "c.npz", voxels=GRIDS, labels=LABELS, **{key: np.array(words)})
        refused(tmp_path / "c.npz", r"from 0 to 9, not numbers 0 to 4 \(toilet night_stand chair bathtub lamp\)")
        assert len(read(tmp_path / "c.npz", category="bed")[1]) == 5


def test_what_is_named_twice_is_read_once_and_is_no_other_turn(tmp_path):
    (tmp_path / "tree/chair").mkdir(parents=True)
    for k in range(2):
        np.save(tmp_path / f"tree/chair/{k}.npy", GRIDS[k])
    again = tmp_path / "tree/chair/../chair/0.npy"
    for turns in ("first", "all"):
        archive, problems, notes = import_shapes([tmp_path / "tree", tmp_path / "tree/chair", again], turns=turns)
        assert np.array_equal(archive.grids(), GRIDS[:2]) and not problems
        assert "3 files were named again, and are read once" in notes and not any("turns" in note for note in notes)


def test_options_that_apply_to_nothing_say_so(tmp_path):
    np.save(tmp_path / "bed.npy", GRIDS[0])
    (tmp_path / "bed.binvox").write_bytes(binvox_bytes(GRIDS[0]))
    for name in ("bed.npy", "bed.binvox"):
        _, grids, _, notes = read(tmp_path / name, keys=["x"], occupied="negative")
        assert np.array_equal(grids, GRIDS[:1]), "a stored truth is no value"
        assert sum("says nothing here" in note for note in notes) == 2
    np.savez(tmp_path / "bed.npz", voxels=GRIDS[:1].astype(float))
    notes = read(tmp_path / "bed.npz", keys=["voxels"], occupied="positive")[3]
    assert not any("says nothing" in note for note in notes)


def test_of_several_arrays_that_fit_the_key_chooses(tmp_path):
    small = np.random.default_rng(2).random((5, 4, 4, 4)) < 0.3
    np.savez(tmp_path / "a.npz", voxels=GRIDS, grids=small, features=np.zeros((5, 8)), labels=LABELS, classes=NAMES[:3])
    refused(tmp_path / "a.npz", "voxels and grids could each be meant: choose with --key")
    refused(tmp_path / "a.npz", "no voxel among its arrays", keys=["voxel"])
    archive, grids, _, notes = read(tmp_path / "a.npz", keys=["grids"])
    assert np.array_equal(grids, small) and archive.labels.tolist() == LABELS.tolist()
    assert {f"1 arrays {key} left out" for key in ("voxels", "features", "classes")} < {*notes}
    np.savez(tmp_path / "b.npz", X=STORED, X_train=STORED[:3], X_test=STORED[3:])
    refused(tmp_path / "b.npz", "may hold the same shapes: choose with --key", category="bed")
    assert len(read(tmp_path / "b.npz", category="bed", keys=["X_train", "X_test"])[1]) == 5
    np.savez(tmp_path / "c.npz", voxels_6=GRIDS, voxels_4=small)
    refused(tmp_path / "c.npz", r"\(voxels_6, voxels_4\): name one by --key", category="bed")
    assert np.array_equal(read(tmp_path / "c.npz", category="bed", keys=["voxels_4"])[1], small)
    scipy.io.savemat(tmp_path / "bed.mat", {"a": GRIDS[0].astype(np.uint8), "b": small[0].astype(np.uint8)})
    refused(tmp_path / "bed.mat", "a and b could each be meant: choose with --key")
    assert np.array_equal(read(tmp_path / "bed.mat", keys=["b"])[1], small[:1])


def test_a_tree_of_npz_reads_as_one_of_npy(tmp_path):
    for i, place in enumerate(("chair/train", "chair/test", "night_stand/train")):
        for kind in ("npy", "npz", "labelled"):
            (tmp_path / kind / place).mkdir(parents=True)
        np.save(tmp_path / "npy" / place / f"shape_{i}.npy", GRIDS[i])
        np.savez(tmp_path / "npz" / place / f"shape_{i}.npz", GRIDS[i] if i else GRIDS[i : i + 1])
        np.savez(tmp_path / "labelled" / place / f"shape_{i}.npz", voxels=GRIDS[i], label=2, points=np.zeros((9, 3)))
    plain, grids, _, _ = read(tmp_path / "npy")
    for kind, labels in (("npz", plain.labels), ("labelled", np.array([2, 2, 2]))):
        other, others, problems, _ = read(tmp_path / kind)
        assert np.array_equal(others, grids) and not problems and np.array_equal(other.labels, labels)
        assert other.names.tolist() == plain.names.tolist() and other.split.tolist() == plain.split.tolist()


def test_boxes_are_padded_to_a_cube_where_a_resolution_is_given(tmp_path):
    low = GRIDS[:, 1:5]  # 4 x 6 x 6
    np.save(tmp_path / "bed.npy", low)
    refused(tmp_path / "bed.npy", "grid of 4 x 6 x 6 is not cubic: --resolution 6 pads it")
    assert np.array_equal(read(tmp_path / "bed.npy", resolution=6)[1], np.pad(low, ((0, 0), (1, 1), (0, 0), (0, 0))))
    padded = np.pad(low, ((0, 0), (1, 2), (0, 1), (0, 1)))  # the odd voxel goes to the end
    assert np.array_equal(read(tmp_path / "bed.npy", resolution=7)[1], padded)
    turned = read(tmp_path / "bed.npy", resolution=6, axes="zyx")[1]
    assert np.array_equal(turned, np.pad(low.transpose(0, 2, 3, 1), ((0, 0), (0, 0), (0, 0), (1, 1))))
    scipy.io.savemat(tmp_path / "bed.mat", {"instance": low[0].astype(np.uint8)})
    assert np.array_equal(
        read(tmp_path / "bed.mat", resolution=6)[1], np.pad(low[:1], ((0, 0), (1, 1), (0, 0), (0, 0)))
    )
    refused(tmp_path / "bed.npy", r"4 x 6 x 6 voxels do not fit into 3\^3", resolution=3)


def test_axes_that_are_no_side_of_a_grid_are_refused(tmp_path):
    grids = np.zeros((3, 16, 16, 16), np.uint8)
    for rows, words in (
        (np.packbits(grids, axis=-1), r"\(3, 16, 16, 2\) is not"),  # packed along an axis
        (np.packbits(grids, axis=1), r"\(3, 2, 16, 16\) is not"),
        (np.stack([grids[0]] * 3, -1), "moveaxis"),  # colours, or shapes, last
        (np.moveaxis(grids, 0, -1), "moveaxis"),
        (grids.reshape(-1), r"\(12288,\) is not"),
        (grids.reshape(3, 16, -1), r"\(3, 16, 256\) is not"),
        (np.stack([grids] * 2, 1), r"\(3, 2, 16, 16, 16\) is not"),
    ):
        np.save(tmp_path / "bed.npy", rows)
        refused(tmp_path / "bed.npy", words, resolution=16)
    np.save(tmp_path / "bed.npy", np.moveaxis(GRIDS[:1], 0, -1))
    assert np.array_equal(read(tmp_path / "bed.npy")[1], GRIDS[:1])


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error"), MemoryError("8 EiB")]
)
def test_what_the_machine_cannot_do_is_no_damage(tmp_path, monkeypatch, error):
    np.save(tmp_path / "bed_1.npy", GRIDS[0])
    for name in ("bed_2.npz", "bed_2.npy", "bed_2.mat", "bed_2.binvox"):
        (tmp_path / name).write_bytes(b"?")
    opened = Path.open

    def fails(path, *arguments, **options):
        if "bed_2" in str(path):
            raise error
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", fails)
    monkeypatch.setattr("zipfile.ZipFile", fails)
    _, grids, problems, _ = read(tmp_path)
    assert np.array_equal(grids, GRIDS[:1]) and len(problems) == 4
    for line in problems:
        assert "bed_2" in line and str(error.args[-1]) in line and "damaged" not in line and "again" not in line


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    np.save(tmp_path / "bed.npy", GRIDS[0])
    listed = os.scandir

    def fails(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", fails)
    _, _, problems, _ = read(tmp_path)
    assert len(problems) == 1 and "Permission denied" in problems[0] and "closed" in problems[0]
    with pytest.raises(PermissionError):
        read(tmp_path / "closed")


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
