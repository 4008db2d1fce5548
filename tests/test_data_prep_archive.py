"""Voxel archives: what is written comes back; what is broken is refused by name."""

import errno
import io
import json
import os
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import CATEGORIES, ArchiveError, read_archive, write_archive
from data_prep.report import contact_sheet, describe, shaded, text_picture

MANIFEST = {"dataset": "toy", "source": "a test", "sha256": None, "fill_rule": "none", "padding": 0}


def toy(n=7, resolution=5, seed=0):
    rng = np.random.default_rng(seed)
    voxels = rng.random((n, *[resolution] * 3)) < 0.3
    labels = rng.integers(0, 10, n)
    split = np.where(rng.random(n) < 0.5, "train", "test")
    return voxels, labels, split, np.array([f"shape_{i}" for i in range(n)])


@pytest.fixture
def path(tmp_path):
    write_archive(tmp_path / "toy.npz", *toy(), MANIFEST)
    return tmp_path / "toy.npz"


def altered(path, **changes):
    """The same archive with some arrays replaced, or left out where None."""
    with np.load(path) as file:
        arrays = {**file, **changes}
    np.savez_compressed(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def manifest(path, **changes):
    with np.load(path) as file:
        return altered(path, manifest=np.array(json.dumps({**json.loads(str(file["manifest"])), **changes})))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 9), resolution=st.integers(1, 9), seed=st.integers(0, 99))
def test_round_trip(tmp_path_factory, n, resolution, seed):
    path = tmp_path_factory.getbasetemp() / "round.npz"
    voxels, labels, split, names = toy(n, resolution, seed)
    write_archive(path, voxels, labels, split, names, MANIFEST)
    archive = read_archive(path)
    assert archive.resolution == resolution and np.array_equal(archive.grids(), voxels)
    assert np.array_equal(archive.labels, labels) and archive.split.tolist() == split.tolist()
    assert archive.names.tolist() == names.tolist() and archive.manifest["dataset"] == "toy"
    assert archive.counts().tolist() == voxels.sum((1, 2, 3)).tolist()


def test_the_file_is_the_contract(path):
    """What any other reader relies on, without our code."""
    voxels, labels, split, names = toy()
    with np.load(path, allow_pickle=False) as file:
        assert set(file.files) == {"voxels", "labels", "split", "names", "categories", "manifest"}
        assert np.array_equal(file["voxels"], np.packbits(voxels.reshape(7, 125), axis=1))
        assert file["labels"].tolist() == labels.tolist() and file["split"].tolist() == split.tolist()
        assert file["names"].tolist() == names.tolist() and file["categories"].tolist() == list(CATEGORIES)
        held = json.loads(str(file["manifest"]))
    assert held["resolution"] == 5 and {*MANIFEST, "version"} <= held.keys()


def test_same_shapes_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_archive(tmp_path / name, *toy(), MANIFEST)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_write_leaves_the_old_archive(path, monkeypatch):
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"toy\.npz"):
        write_archive(path, *toy(seed=1), MANIFEST)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["toy.npz"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: altered(p, voxels=np.zeros((0, 16), np.uint8)), "no shapes"),
        (lambda p: altered(p, voxels=None, split=None), "no split, voxels.*dnet-data import"),
        (lambda p: altered(p, voxels=np.zeros((7, 15), np.uint8)), r"voxels are uint8 \(7, 15\).*16"),
        (lambda p: altered(p, voxels=np.zeros((7, 16))), "voxels are float64"),
        (lambda p: altered(p, labels=np.full(7, 10)), "labels run from 10"),
        (lambda p: altered(p, labels=np.full(7, -1)), "labels run from -1"),
        (lambda p: altered(p, labels=np.zeros(6, int)), "another length"),
        (lambda p: altered(p, labels=np.zeros(7)), "not integers"),
        (lambda p: altered(p, split=np.array(["val"] * 7)), "'val'"),
        (lambda p: altered(p, categories=np.array(["sofa"])), "categories are"),
        (lambda p: altered(p, manifest=np.array("{")), "not JSON"),
        (lambda p: altered(p, manifest=np.array("[" * 100_000)), "not JSON"),
        (lambda p: altered(p, manifest=np.array("[]")), "not a JSON object"),
        (lambda p: altered(p, manifest=np.array("{}")), "lacks dataset"),
        (lambda p: manifest(p, resolution="5"), "resolution is '5'"),
        (lambda p: manifest(p, resolution=10**9), "resolution is 10"),
        (lambda p: manifest(p, version=99), "update the project"),
        (lambda p: altered(p, voxels=np.zeros((7, 16), np.uint8)), "not those its manifest names"),
    ],
)
def test_refuses_what_does_not_fit_together(path, change, words):
    with pytest.raises(ArchiveError, match=words) as error:
        read_archive(change(path))
    assert "toy.npz" in str(error.value) and "\n" not in str(error.value)


def test_pickles_are_never_loaded(path, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "boom"),)

    altered(path, names=np.array([Bomb()] * 7, object))
    with pytest.raises(ArchiveError, match="pickled"):
        read_archive(path)
    assert not (tmp_path / "boom").exists()


def test_claims_are_checked_before_memory_is_taken(path):
    def with_member(data, claim):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": claim})
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
            file.writestr("extra.npy", header.getvalue() + data)
        return path

    for claim, words in (((10**12,), "claims the shape"), ((100, 100), "claims 10,000 bytes but holds 50")):
        write_archive(path, *toy(), MANIFEST)
        with pytest.raises(ArchiveError, match=words):
            read_archive(with_member(bytes(50), claim))
    write_archive(path, *toy(), MANIFEST)
    altered(path, names=np.zeros(1 << 27, np.uint8))  # 128 MiB of zeros in 128 KiB
    with pytest.raises(ArchiveError, match="more than"):
        read_archive(path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_refused_or_harmless(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    write_archive(path, *toy(), MANIFEST)
    whole, voxels = path.read_bytes(), toy()[0]
    place = data.draw(st.integers(0, len(whole) - 1))
    broken = bytearray(whole)
    if data.draw(st.booleans()):
        del broken[place:]
    else:
        broken[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(broken)
    try:
        archive = read_archive(path)
    except ArchiveError as error:
        assert "damaged.npz" in str(error)
    else:
        assert np.array_equal(archive.grids(), voxels)


def test_a_pickle_that_is_not_needed_does_not_matter(path):
    altered(path, more=np.array([{}], object))
    assert np.array_equal(read_archive(path).grids(), toy()[0])


def test_what_cannot_be_read_says_why(path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        read_archive(path.parent / "nothing.npz")
    with pytest.raises(IsADirectoryError):
        read_archive(path.parent)
    os.mkfifo(path.parent / "pipe.npz")
    for place in (path.parent / "pipe.npz", "/dev/zero"):
        with pytest.raises(ArchiveError, match=f"{place}: is a device or a pipe"):
            read_archive(place)
    (path.parent / "loop.npz").symlink_to("loop.npz")
    with pytest.raises(OSError, match=r"symbolic links.*loop\.npz"):
        read_archive(path.parent / "loop.npz")
    for error in (PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EIO, "I/O"), MemoryError("8 EiB")):

        def fails(*_, error=error):
            raise error

        monkeypatch.setattr(zipfile, "ZipFile", fails)
        with pytest.raises(type(error), match=rf"{error.args[-1]}.*|toy\.npz") as told:
            read_archive(path)
        assert "toy.npz" in str(told.value) and "damaged" not in str(told.value)


def test_report_counts_and_draws(tmp_path):
    voxels = np.zeros((4, 12, 12, 12), bool)
    voxels[0, 2:10, 2:10, 2:10] = True
    voxels[1, 5, 5, :4] = True
    voxels[2, 3:9, 1:11, :] = True
    archive = write_archive(
        tmp_path / "a", voxels, [2, 2, 9, 9], ["train", "train", "train", "test"], [*"abcd"], MANIFEST
    )
    text = describe(archive)
    assert "chair             2      0      14.9%" in text and "4 .. 512" in text
    assert "1 empty:\n  d" in text and "1 with under 50 voxels:\n  b" in text
    assert {0x2800 <= ord(c) < 0x2900 for c in text_picture(archive, 80) if c not in " \n" and ord(c) > 127} == {True}
    contact_sheet(archive, tmp_path / "sheet.png", across=2)
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_shading_shows_the_shape_from_its_front():
    """A cube is a hexagon whose top is the lightest of three faces; a shape's own left stays left, its top up."""
    grid = np.zeros((16, 16, 16), bool)
    grid[4:12, 4:12, 4:12] = True
    image = shaded(grid, 64)
    assert 0.15 < np.isfinite(image).mean() < 0.5
    top, bottom = image[np.isfinite(image).any(1)][[4, -4]]
    assert np.nanmean(top) > np.nanmean(bottom)
    post = np.zeros((16, 16, 16), bool)
    post[8, 8, 8:] = True
    assert np.argwhere(np.isfinite(shaded(post, 64)))[:, 0].max() <= 34
    assert np.isnan(shaded(np.zeros((16, 16, 16), bool), 8)).all()
