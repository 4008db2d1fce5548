"""Voxel archives as the contract describes them, written here by hand: good ones, broken ones, hostile ones."""

import hashlib
import io
import json
import os
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep import ArchiveError, read_archive
from dnet_lib import load_shapes
from dnet_lib.data import EMBEDDED, DataError, cache_folder

CATEGORIES = ("bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet")


def manifest(**over) -> np.ndarray:
    """A full manifest; `over` replaces some of it, or drops it when None."""
    full = {"dataset": "toy", "resolution": 4, "source": "a test", "sha256": None, "fill_rule": "none", "padding": 0}
    dropped = {key for key, value in over.items() if value is None}
    return np.array(json.dumps({k: v for k, v in ({"version": 1} | full | over).items() if k not in dropped}))


def arrays(side: int = 4, train: int = 6, test: int = 3, seed: int = 0, **over) -> dict[str, np.ndarray]:
    """The arrays of a small archive; `over` replaces some, or drops them when None."""
    rng = np.random.default_rng(seed)
    n = train + test
    grids = (rng.random((n, side, side, side)) < 0.3).astype(np.uint8)
    archive = {
        "voxels": np.packbits(grids.reshape(n, -1), axis=1),
        "labels": np.arange(n) % 3,
        "split": np.array(["train"] * train + ["test"] * test),
        "names": np.array([f"shape_{i:04d}" for i in range(n)]),
        "categories": np.array(CATEGORIES),
        "manifest": manifest(resolution=side),
    }
    return {key: value for key, value in (archive | over).items() if value is not None}


def grids_of(archive: dict[str, np.ndarray], side: int = 4) -> np.ndarray:
    """The archive's shapes (N, R, R, R), unpacked bit by bit: the first voxel is a byte's highest bit."""
    bits = [[byte >> (7 - bit) & 1 for byte in row for bit in range(8)] for row in archive["voxels"].tolist()]
    return np.array(bits)[:, : side**3].reshape(-1, side, side, side)


def written(path: Path, archive: dict[str, np.ndarray]) -> Path:
    np.savez_compressed(path, **archive)
    return path


@pytest.fixture
def toy(tmp_path) -> Path:
    return written(tmp_path / "toy.npz", arrays())


@pytest.mark.parametrize("side", [3, 4, 5])
@pytest.mark.parametrize("split", ["train", "test"])
def test_shapes_come_out_as_they_were_packed(tmp_path, side, split):
    archive = arrays(side)
    shapes = load_shapes(written(tmp_path / "a.npz", archive), split=split, resolution=side)
    rows = archive["split"] == split
    assert shapes.voxels.dtype == torch.float32 and shapes.voxels.shape == (len(shapes), 1, side, side, side)
    np.testing.assert_array_equal(shapes.voxels[:, 0].numpy(), grids_of(archive, side)[rows])
    assert shapes.labels.tolist() == archive["labels"][rows].tolist() and shapes.labels.dtype == torch.int64
    assert shapes.names == tuple(archive["names"][rows]) and shapes.categories == CATEGORIES
    assert shapes.dataset == "toy" and shapes.sha256 == hashlib.sha256(archive["voxels"].tobytes()).hexdigest()


def test_one_category_alone(toy):
    archive = arrays()
    shapes = load_shapes(str(toy), "chair", resolution=4)
    rows = (archive["split"] == "train") & (archive["labels"] == 2)
    np.testing.assert_array_equal(shapes.voxels[:, 0].numpy(), grids_of(archive)[rows])
    assert set(shapes.labels.tolist()) == {2}


@pytest.mark.parametrize("category", [None, "bed"])
def test_the_mean_is_the_training_mean_for_both_splits(toy, category):
    archive = arrays()
    rows = archive["split"] == "train"
    if category:
        rows &= archive["labels"] == CATEGORIES.index(category)
    expected = grids_of(archive)[rows].mean()
    train, test = (load_shapes(toy, category, split, 4) for split in ("train", "test"))
    assert train.mean == test.mean == pytest.approx(expected, abs=1e-12)
    assert abs(test.voxels.mean().item() - expected) > 1e-3, "the two splits must differ, or this test sees nothing"
    torch.testing.assert_close(test.centred, test.voxels - expected)
    assert train.centred.mean().abs() < 1e-6


def test_a_30_cube_is_padded_to_the_papers_32(tmp_path):
    archive = arrays(30, train=2, test=1)
    shapes = load_shapes(written(tmp_path / "a.npz", archive), resolution=32)
    assert shapes.voxels.shape == (2, 1, 32, 32, 32)
    np.testing.assert_array_equal(shapes.voxels[:, 0, 1:31, 1:31, 1:31].numpy(), grids_of(archive, 30)[:2])
    assert shapes.voxels.sum() == grids_of(archive, 30)[:2].sum()


def test_a_32_cube_is_coarsened_to_16(tmp_path):
    archive = arrays(32, train=2, test=1)
    shapes = load_shapes(written(tmp_path / "a.npz", archive), resolution=16)
    blocks = grids_of(archive, 32)[:2].reshape(2, 16, 2, 16, 2, 16, 2).sum(axis=(2, 4, 6))
    np.testing.assert_array_equal(shapes.voxels[:, 0].numpy(), blocks >= 2)


@pytest.mark.parametrize("resolution", [3, 5, 0, -4, 2.0, "4", True, None])
def test_resolutions_that_cannot_be_are_refused(toy, resolution):
    with pytest.raises(DataError, match=r"resolution|cannot give"):
        load_shapes(toy, resolution=resolution)


def test_unknown_names_list_the_known_ones(toy, tmp_path):
    with pytest.raises(DataError, match=r"unknown category 'sofas'.*bathtub, bed, chair"):
        load_shapes(toy, "sofas", resolution=4)
    with pytest.raises(DataError, match=r"unknown split 'valid'.*'train' or 'test'"):
        load_shapes(toy, split="valid", resolution=4)
    with pytest.raises(DataError, match=r"unknown dataset.*'furniture', 'modelnet10'"):
        load_shapes("modelnet11")
    with pytest.raises(DataError, match="no test shapes of category bed"):
        load_shapes(written(tmp_path / "b.npz", arrays(test=0)), "bed", "test", 4)


def test_modelnet10_comes_from_the_cache_or_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DNET_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    with pytest.raises(DataError, match="dnet-data modelnet10 --resolution 4"):
        load_shapes("modelnet10", resolution=4)
    written(tmp_path / "modelnet10_4.npz", arrays())
    assert len(load_shapes("modelnet10", resolution=4)) == 6
    monkeypatch.delenv("DNET_CACHE")
    assert "dnet" in str(cache_folder())


@pytest.mark.skipif(not EMBEDDED.exists(), reason="the embedded furniture has not been made yet")
def test_the_embedded_furniture():
    categories = ("bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet")
    assert EMBEDDED.stat().st_size < 1_000_000
    train, test = load_shapes("furniture"), load_shapes("furniture", split="test")
    assert train.categories == test.categories == categories
    assert train.labels.bincount().tolist() == [100] * 10 and test.labels.bincount().tolist() == [20] * 10
    both = torch.cat([train.voxels, test.voxels])
    assert both.shape[1:] == (1, 32, 32, 32) and set(both.unique().tolist()) == {0.0, 1.0}
    filled = both.flatten(1).sum(1)
    assert filled.min() > 100 and filled.max() < 32**3 / 2
    assert len({np.packbits(y).tobytes() for y in both.numpy() > 0.5}) > 1140, "shapes must vary"
    assert len(set(train.names) | set(test.names)) == 1200
    assert train.mean == test.mean == pytest.approx(train.voxels.mean().item(), abs=1e-6)
    chairs = load_shapes("furniture", "chair", resolution=16)
    assert chairs.voxels.shape == (100, 1, 16, 16, 16) and set(chairs.labels.tolist()) == {2}


# What is wrong with an archive, and what the error must say besides the file's name.
BROKEN = {
    "no voxels": ({"voxels": None}, "voxels"),
    "no names": ({"names": None}, "names"),
    "no manifest": ({"manifest": None}, "manifest"),
    "other keys": (dict.fromkeys(("voxels", "labels", "split"), None) | {"X_train": np.zeros(3)}, "dnet-data import"),
    "pickled names": ({"names": np.array([{}] * 9, dtype=object)}, "allow_pickle"),
    "voxels 0-d": ({"voxels": np.array(3, dtype=np.uint8)}, "voxels"),
    "voxels float": ({"voxels": np.zeros((9, 8))}, "float64"),
    "voxels unpacked": ({"voxels": np.zeros((9, 64), dtype=np.uint8)}, "cannot be packed"),
    "voxels too few": ({"voxels": np.zeros((8, 8), dtype=np.uint8)}, "differ in length"),
    "labels too few": ({"labels": np.zeros(8, dtype=int)}, "differ in length"),
    "labels 2-d": ({"labels": np.zeros((9, 1), dtype=int)}, "labels"),
    "labels NaN": ({"labels": np.full(9, np.nan)}, "labels"),
    "labels text": ({"labels": np.array(list("abcabcabc"))}, "labels"),
    "labels 0-d": ({"labels": np.array(1)}, "labels"),
    "labels beyond": ({"labels": np.full(9, 10)}, "label"),
    "labels negative": ({"labels": np.full(9, -1)}, "label"),
    "split bytes": ({"split": np.array([b"train"] * 9)}, "split"),
    "split 2-d": ({"split": np.array([["train"]] * 9)}, "split"),
    "split unknown": ({"split": np.array(["valid"] * 9)}, "split has .'valid'"),
    "split partly unknown": ({"split": np.array(["train"] * 8 + ["val"])}, "split has .'val'"),
    "names 2-d": ({"names": np.array([["a", "b"]] * 9)}, "names"),
    "no shapes": ({key: arrays()[key][:0] for key in ("voxels", "labels", "split", "names")}, "empty"),
    "categories 0-d": ({"categories": np.array("chair")}, "categories"),
    "categories in another order": ({"categories": np.array(CATEGORIES[::-1])}, "categories"),
    "categories too few": ({"categories": np.array(CATEGORIES[:3])}, "categories"),
    "manifest no json": ({"manifest": np.array("resolution 4")}, "readable"),
    "manifest a list": ({"manifest": np.array("[4]")}, "readable"),
    "manifest array": ({"manifest": np.array(["a", "b"])}, "readable"),
    "manifest deep": ({"manifest": np.array("[" * 100_000)}, "readable"),
    "manifest empty": ({"manifest": np.array("{}")}, "resolution"),
    "resolution text": ({"manifest": manifest(resolution="4")}, "resolution '4'"),
    "resolution huge": ({"manifest": manifest(resolution=10**400)}, "resolution"),
    "resolution beyond": ({"manifest": manifest(resolution=513)}, "resolution 513"),
    "resolution other": ({"manifest": manifest(resolution=5)}, "cannot be packed"),
    "dataset a number": ({"manifest": manifest(dataset=3)}, "dataset 3"),
    "dataset null": ({"manifest": np.array(str(manifest()).replace('"toy"', "null"))}, "dataset None"),
    "version true": ({"manifest": manifest(version=True)}, "version True"),
    "version newer": ({"manifest": manifest(version=2)}, "version 2, this program reads 1: update the project"),
    "version text": ({"manifest": manifest(version="1")}, "version '1'"),
    "version missing": ({"manifest": manifest(version=None)}, "lacks version"),
    "padding missing": ({"manifest": manifest(padding=None)}, "lacks padding"),
    "other shapes": ({"manifest": manifest(voxels_sha256="0" * 64)}, "not those its manifest names"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_archives_are_refused_by_name(tmp_path, case):
    over, message = BROKEN[case]
    path = written(tmp_path / "broken.npz", arrays(**over))
    with pytest.raises(DataError, match=message) as caught:
        load_shapes(path, resolution=4)
    assert "broken.npz" in str(caught.value)


@pytest.mark.parametrize("case", BROKEN)
def test_both_readers_of_the_contract_are_equally_strict(toy, tmp_path, case):
    """`data_prep` reads what it wrote as `dnet_lib` does."""
    assert len(read_archive(toy).packed) == 9
    with pytest.raises(ArchiveError, match=r"broken\.npz"):
        read_archive(written(tmp_path / "broken.npz", arrays(**BROKEN[case][0])))


def test_what_cannot_be_read_says_why_and_is_no_damage(toy, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "loop.npz").symlink_to("loop.npz")
    for place, words in (
        (tmp_path, "it is a folder"),
        (tmp_path / "pipe.npz", "it is a device or a pipe"),
        ("/dev/zero", "it is a device or a pipe"),
        (tmp_path / "loop.npz", "symbolic links"),
        (tmp_path / ("a" * 300), "name too long"),
        (toy / "inside", "unknown dataset"),
    ):
        with pytest.raises(DataError, match=words) as told:
            load_shapes(place, resolution=4)
        assert str(place) in str(told.value) and "again" not in str(told.value)
    for error in (PermissionError(13, "Permission denied"), OSError(5, "Input/output error"), MemoryError("8 EiB")):

        def fails(*_, error=error, **__):
            raise error

        monkeypatch.setattr(np, "load", fails)
        with pytest.raises(DataError, match=rf"toy\.npz cannot be read: {error.args[-1]}$"):
            load_shapes(toy, resolution=4)


def test_files_that_are_no_archives_are_refused_by_name(toy, tmp_path):
    whole = toy.read_bytes()
    contents = {
        "empty.npz": b"",
        "text.npz": b"not a zip\n",
        "pickle.npz": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00]\x94.",
        "cut.npz": whole[:-30],
        "half.npz": whole[: len(whole) // 2],
        "one.npz": whole[:1],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "array.npz.npy", np.zeros(3))
    (tmp_path / "array.npz.npy").rename(tmp_path / "array.npz")
    (tmp_path / "folder.npz").mkdir()
    for name in [*contents, "array.npz", "folder.npz"]:
        with pytest.raises(DataError, match=name):
            load_shapes(tmp_path / name, resolution=4)


def with_member(path: Path, member: str, content: bytes) -> Path:
    """The archive with one member's raw bytes replaced or added."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()} | {member: content}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


@pytest.mark.parametrize("shape", [(10**15, 8), (9, 10**13), (2**62, 16), (2**40, 2**40), (-9, 8), (9, 8, 10**12)])
def test_a_header_that_claims_the_moon_is_refused(toy, shape):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with pytest.raises(DataError, match=r"toy\.npz"):
        load_shapes(with_member(toy, "voxels.npy", header.getvalue() + bytes(100)), resolution=4)


def test_a_header_that_is_code_is_refused_and_not_run(toy, tmp_path):
    code = f"__import__('pathlib').Path({str(tmp_path / 'evil')!r}).touch()".ljust(200).encode() + b"\n"
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(code)) + code
    with pytest.raises(DataError, match=r"toy\.npz"):
        load_shapes(with_member(toy, "voxels.npy", header), resolution=4)
    assert not (tmp_path / "evil").exists()


def test_member_names_that_climb_out_write_nothing(toy, tmp_path):
    before = sorted(tmp_path.parent.iterdir())
    with_member(toy, "../escaped.npy", b"x")
    assert len(load_shapes(toy, resolution=4)) == 6
    assert sorted(tmp_path.parent.iterdir()) == before and list(tmp_path.iterdir()) == [toy]


def test_random_damage_gives_shapes_or_a_named_error(toy):
    """600 archives with one to three random bytes changed, a fifth of them cut: never a raw error."""
    whole, rng = toy.read_bytes(), np.random.default_rng(1)
    refused = 0
    for trial in range(600):
        damaged = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        if trial % 5 == 0:
            damaged = damaged[: rng.integers(len(damaged))]
        toy.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                shapes = load_shapes(toy, resolution=4)
                assert torch.isfinite(shapes.voxels).all()
            except DataError as error:
                assert "toy.npz" in str(error)
                refused += 1
    assert refused > 300


def test_unsupported_compression_is_refused(toy):
    whole = bytearray(toy.read_bytes())
    at = whole.index(b"PK\x01\x02")
    struct.pack_into("<H", whole, at + 10, 99)  # the first member's compression method, in the directory
    toy.write_bytes(whole)
    with pytest.raises(DataError, match=r"toy\.npz"):
        load_shapes(toy, resolution=4)


def test_an_empty_border_is_cut_off_and_a_filled_one_is_not(tmp_path):
    inner = np.random.default_rng(0).random((9, 4, 4, 4)) < 0.3
    grids = np.pad(inner, ((0, 0), (1, 1), (1, 1), (1, 1)))
    archive = arrays(6, voxels=np.packbits(grids.reshape(9, -1), axis=1))
    shapes = load_shapes(written(tmp_path / "a.npz", archive), resolution=4)
    np.testing.assert_array_equal(shapes.voxels[:, 0].numpy(), inner[archive["split"] == "train"])
    grids[0, 0, 0, 0] = True
    archive = arrays(6, voxels=np.packbits(grids.reshape(9, -1), axis=1))
    with pytest.raises(DataError, match=r"6\^3 archive cannot give 4\^3"):
        load_shapes(written(tmp_path / "b.npz", archive), resolution=4)
