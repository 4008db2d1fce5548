"""Reading OFF and voxelizing: grids worked out by hand, a recursive voxelizer, and official grids where they are."""

import os
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import QUADS, box, off_text
from scipy import ndimage

from data_prep import MeshError, load_off, off, voxelize, voxelizer

REAL = os.environ.get("DNET_TEST_DATA")
needs_real_data = pytest.mark.skipif(not REAL, reason="DNET_TEST_DATA names no folder with real meshes and grids")


def plain_surface(vertices, faces, n, turn):
    """Steps 1 to 3 of the convention, one triangle at a time, by recursion."""
    v = vertices - (vertices.max(0) + vertices.min(0)) / 2
    c, s = np.cos(np.deg2rad(-turn)), np.sin(np.deg2rad(-turn))
    v = np.stack([s * v[:, 0] + c * v[:, 1], c * v[:, 0] - s * v[:, 1], v[:, 2]], axis=1)
    low, high = v.min(0), v.max(0)
    v = (v - (low + high) / 2) * ((n - 1) / (high - low).max()) + (n - 1) / 2
    grid = np.zeros((n, n, n), bool)

    def split(a, b, c):
        edges = [((p - q) ** 2).sum() for p, q in ((a, b), (b, c), (c, a))]
        longest = max(range(3), key=lambda k: (edges[k], k))
        if edges[longest] <= 0.5:
            for p in (a, b, c):
                grid[tuple(np.clip(np.floor(p + 0.5).astype(int), 0, n - 1))] = True
            return
        corners = [a, b, c]
        for k in (longest, (longest + 1) % 3):
            half = corners.copy()
            half[k] = (corners[longest] + corners[(longest + 1) % 3]) / 2
            split(*half)

    for face in faces:
        split(*v[face])
    return grid


def test_cube_fills_its_block():
    expected = np.zeros((8, 8, 8), bool)
    expected[2:6, 2:6, 2:6] = True
    assert np.array_equal(voxelize(*box(), resolution=8, padding=2), expected)


def test_box_lies_in_y_x_z():
    """n = 5: x spans voxels 0..4; y is half as long, 1..3; z a quarter, from 1.5 to 2.5, whose voxels are 2 and 3."""
    expected = np.zeros((5, 5, 5), bool)
    expected[1:4, 0:5, 2:4] = True
    assert np.array_equal(voxelize(*box(2, 1, 0.5), resolution=5, padding=0), expected)


def test_only_closed_cavities_are_filled():
    n = 9
    closed = voxelize(*box(), resolution=n, padding=0)
    vertices, faces = box(lid=False)
    pot = voxelize(vertices, faces, resolution=n, padding=0)
    assert closed.all()
    missing = ~pot
    assert missing[1:-1, 1:-1, 1:].all() and np.count_nonzero(missing) == (n - 2) ** 2 * (n - 1)


def test_table_stands_on_its_legs():
    """A plate 8 x 8 on four vertical lines of length 8: n = 9, so each voxel step is one unit."""
    plate = [(0, 0, 8), (8, 0, 8), (8, 8, 8), (0, 8, 8)]
    feet = [(x, y, 0) for x, y, _ in plate]
    legs = [(i, i + 4, i) for i in range(4)]
    grid = voxelize(np.array(plate + feet), np.array([(0, 1, 2), (0, 2, 3), *legs]), resolution=11, padding=1)
    expected = np.zeros((9, 9, 9), bool)
    expected[:, :, 8] = True
    expected[::8, ::8, :] = True
    assert np.array_equal(grid[1:-1, 1:-1, 1:-1], expected) and np.count_nonzero(grid) == np.count_nonzero(expected)


def test_turn_is_clockwise_from_above():
    rng = np.random.default_rng(0)
    vertices, faces = rng.normal(size=(40, 3)), rng.integers(0, 40, (30, 3))
    here = voxelize(vertices, faces, resolution=24)
    turned = voxelize(vertices, faces, resolution=24, turn=90)
    assert not np.array_equal(here, turned)
    assert np.array_equal(turned, here.transpose(1, 0, 2)[::-1])  # x' = y, y' = -x


@settings(max_examples=30, deadline=None)
@given(
    points=st.lists(st.tuples(*[st.integers(-4, 4)] * 3), min_size=3, max_size=12, unique=True),
    picks=st.lists(st.tuples(*[st.integers(0, 999)] * 3), min_size=1, max_size=8),
    jitter=st.floats(0, 0.3),
    turn=st.sampled_from([0, 30, 45, 90, 217.3]),
    n=st.integers(2, 9),
)
def test_agrees_with_recursion(points, picks, jitter, turn, n):
    """Whole numbers give ties between edges, and vertices midway between voxels: both must decide them alike."""
    vertices = np.array(points, float) + jitter * np.random.default_rng(1).random((len(points), 3))
    faces = np.array(picks) % len(points)
    expected = plain_surface(vertices, faces, n, turn)
    assert np.array_equal(voxelizer._surface(voxelizer._fit(vertices, n, turn), faces, n), expected)


def test_pruning_agrees_with_recursion_on_many_triangles():
    rng = np.random.default_rng(2)
    vertices, faces = rng.random((60, 3)), rng.integers(0, 60, (60, 3))
    surface = voxelizer._surface(voxelizer._fit(vertices, 9, 10), faces, 9)
    assert np.array_equal(surface, plain_surface(vertices, faces, 9, 10))
    label, _ = ndimage.label(~np.pad(surface, 1))
    filled = voxelize(vertices, faces, resolution=9, padding=0, turn=10)
    assert np.array_equal(filled, (label != label[0, 0, 0])[1:-1, 1:-1, 1:-1])


def test_scale_place_and_order_do_not_matter():
    rng = np.random.default_rng(3)
    vertices, faces = rng.normal(size=(60, 3)), rng.integers(0, 60, (40, 3))
    grid = voxelize(vertices, faces, resolution=20)
    assert np.array_equal(voxelize(vertices * 2.0**-40, faces, resolution=20), grid)
    assert np.array_equal(voxelize(vertices, np.concatenate([faces, faces])[::-1], resolution=20), grid)
    assert np.count_nonzero(voxelize(vertices + 7, faces, resolution=20) != grid) <= 2  # rounding of the sum
    occupied = np.argwhere(grid)
    assert occupied.min() == 3 and occupied.max() == 20 - 1 - 3


def test_refuses_what_is_not_a_mesh(monkeypatch):
    vertices, faces = box()
    nan = vertices.copy()
    nan[3, 1] = np.nan
    for bad, words in (
        ((nan, faces), "not finite"),
        ((vertices, faces + 1), "uses vertices"),
        ((vertices * 0, faces), "one point"),
        (((vertices * 2 - 1) * 1.7e308, faces), "wider"),
        ((vertices * 5e-324, faces), "small"),
        ((vertices[:, :2], faces), r"\(V, 3\)"),
        ((vertices, faces.astype(float)), "integers"),
        ((vertices, faces[:0]), r"\(F, 3\)"),
    ):
        with pytest.raises(MeshError, match=words):
            voxelize(*bad, resolution=32)
    with pytest.raises(ValueError, match="leaves 0 voxels"):
        voxelize(vertices, faces, resolution=6)
    monkeypatch.setattr(voxelizer, "MAX_BISECTIONS", 1000)
    with pytest.raises(MeshError, match="soup of huge triangles"):
        voxelize(vertices, faces, resolution=64)


def test_a_soup_of_huge_triangles_is_bounded():
    vertices = np.random.default_rng(4).random((60_000, 3))
    start = time.process_time()
    grid = voxelize(vertices, np.arange(60_000).reshape(-1, 3), resolution=32)
    assert grid.mean() > 0.5 and time.process_time() - start < 5


VERTICES, FACES = box(2, 1, 0.5)
TEXT = off_text(VERTICES, FACES)
COLOURED = off_text(VERTICES, [f"{a} {b} {c} 255 0 0".split() for a, b, c in FACES]).replace("\n6 ", "\n3 ")


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.replace("OFF\n", "OFF"),  # the glued header of many ModelNet files
        TEXT.replace("OFF\n", "OFF "),
        TEXT.replace("OFF\n", "off\n\n"),
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("\n", "\r"),
        "\ufeff" + TEXT,
        "# made by hand\n" + TEXT.replace("\n", " # a comment\n"),
        TEXT.replace("\n", "\n\n  "),
        TEXT.replace(" 0\n", "\n", 1),
        TEXT.rstrip("\n"),
        off_text(VERTICES, [f"{a} {b} {c} 0.5 0.5 1 1".split() for a, b, c in FACES]).replace("\n7 ", "\n3 "),
        off_text(VERTICES, QUADS),
        "OFF\n" + "\n".join(TEXT.split()[1:]),  # line breaks are free
        "OFF\n" + " ".join(TEXT.split()[1:]),
        "OFF" + "\n".join(" ".join(TEXT.split()[i : i + 5]) for i in range(1, 80, 5)),
        off_text(VERTICES, QUADS).replace(" ", "\n"),
        TEXT.replace("8 12 0\n", "8\n12\n0\n"),
        TEXT.replace("8 12 0\n", "8 12 # so many\n0 0.0 0.0\n0.0 ").replace("0.0 0.0 0.0\n", "", 1),
        TEXT.replace("\n3 ", " 3 ", 2).replace(" 3 7\n", "\n3\n7\n", 1),
        COLOURED,
        COLOURED.replace("8 12 0\n", "8\n12\n0\n"),
    ],
)
def test_reads_every_dialect(tmp_path, text):
    path = tmp_path / "box.off"
    path.write_bytes(text.encode())
    vertices, faces = load_off(path)
    assert vertices.dtype == np.float64 and faces.dtype.kind == "i"
    assert np.array_equal(vertices, VERTICES) and np.array_equal(faces, FACES)


@pytest.mark.parametrize("head", ["OFF\n", "OFF", "OFF # a comment\n\n"])
def test_triangles_without_colours_take_the_fast_way(tmp_path, monkeypatch, head):
    monkeypatch.delattr(off, "_polygons")
    (tmp_path / "box.off").write_text(off_text(VERTICES, FACES, head))
    assert np.array_equal(load_off(tmp_path / "box.off")[1], FACES)


def test_polygons_become_fans(tmp_path):
    path = tmp_path / "pentagon.off"
    path.write_text("OFF\n5 2 0\n0 0 0\n1 0 0\n1 1 0\n0.5 2 0\n0 1 0\n5 0 1 2 3 4\n3 0 1 3\n")
    assert load_off(path)[1].tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 1, 3]]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"8 12 0\n0 0 0\n", "does not begin with OFF"),
        (b"solid box\nfacet", "does not begin with OFF"),
        (TEXT.replace("OFF", "COFF").encode(), "COFF"),
        (TEXT.replace("OFF", "NOFF").encode(), "NOFF"),
        (TEXT.replace("OFF", "4OFF").encode(), "4OFF"),
        (TEXT.replace("OFF", "STCNOFF").encode(), "STCNOFF"),
        (b"OFF BINARY\n\0\0\0\x08", "binary"),
        (b"OFF\n\0\0\0\x08\0\0", "binary"),
        (b"OFF\n", "numbers of vertices"),
        (b"OFF\nx y z\n", "numbers of vertices"),
        (b"OFF\n0 0 0\n", "nothing to draw"),
        (b"OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n", "nothing to draw"),
        (b"OFF\n-3 1 0\n", "nothing to draw"),
        (b"OFF\n999999999999 1 0\n0 0 0\n", "truncated"),
        (TEXT.encode()[:150], "truncated"),
        (TEXT.encode()[:-12], "truncated"),
        (TEXT.rstrip("\n")[:-2].encode(), "truncated"),
        (TEXT.replace("\n3 4", "\n3 9", 1).encode(), "uses vertices"),
        (TEXT.replace("\n3 4", "\n3 -1", 1).encode(), "uses vertices"),
        (TEXT.replace("\n3 4", "\n2 4", 1).encode(), "damaged at the line"),
        (TEXT.replace("2.0", "nan", 1).encode(), "not finite"),
        (TEXT.replace("2.0", "inf", 1).encode(), "not finite"),
        (TEXT.replace("2.0", "1e999", 1).encode(), "not finite"),
        (TEXT.replace("2.0", "2,0", 1).encode(), "damaged at the line"),
        (b"OFF\n3 1 0\n1 1 1\n1 1 1\n1 1 1\n3 0 1 2\n", "one point"),
        (b"OFF\n1 1 0\n1 1 1\n3 0 0 0\n", "one point"),
        (TEXT.encode("utf-16"), "does not begin|binary"),
        (TEXT.replace("2.0 1.0 0.5", "2.0").encode(), "damaged at the line '2.0'"),
        (TEXT.replace(" ", "\n")[:-4].encode(), "truncated or damaged"),
        (TEXT.replace("12 0\n", "12 0", 1).encode(), "numbers of vertices"),
        (TEXT.replace("\n3 4 7 5", "\n3 4 7 ").encode(), "damaged at the line '3 4 7'"),  # what looks like a pair
        (off_text(VERTICES, QUADS).replace("0.0 0.0 0.0\n", "", 1).encode(), "truncated or damaged"),
        (TEXT.replace("0.0 0.0 0.0\n", "", 1).encode(), ": damaged: 19 lines .* or with faces .* cannot be told apart"),
        (TEXT.replace(" ", "\n").replace("12", "-12", 1).encode(), "nothing to draw"),
        (b"OFF\n3\n1\n0\n0 0 0 1 0 0 0 1 0\n-3 0 1 2", "truncated or damaged"),
        (b"OFF\n3 2 0\n0 0 0\n1 0 0\n0 1 0\n2 0 1\n1 2\n", "nothing to draw: its 2 faces have fewer than 3 corners"),
    ],
)
def test_refuses_with_one_line_that_names_file_and_reason(tmp_path, data, reason):
    path = tmp_path / "chair_0007.off"
    path.write_bytes(data)
    with pytest.raises(MeshError, match=reason) as error:
        load_off(path)
    assert "chair_0007.off" in str(error.value) and "\n" not in str(error.value)


MIXED = off_text(VERTICES, QUADS).replace("8 6 0", "8 8 0") + "3 0 1 2\n2 0 6\n"
FLAT = off_text(VERTICES, FACES).replace("8 12 0", "8 13 0") + "2 0 6\n"


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        (MIXED.replace(" ", "\n"), "with faces of other sizes"),
        (FLAT.replace("0.0 0.0 0.0\n", "0.0 0.0 0.0 ", 1).replace("2 0 6", "2 0\n6"), "with faces of other sizes"),
        (COLOURED.replace(" 255 0 0", "\n255 0 0"), "coloured"),
        (COLOURED.replace("255 0 0\n", "255 0 0 "), "coloured"),
    ],
)
def test_line_breaks_that_look_like_damage_are_said_to(tmp_path, text, meaning):
    """Nothing is wrong with these files, and nothing tells them from damaged ones."""
    path = tmp_path / "truncated or so.off"
    path.write_text(text)
    with pytest.raises(
        MeshError, match=f"or {meaning} (and|with) line breaks .* cannot be told apart: put each"
    ) as error:
        load_off(path)
    assert meaning == "coloured" or ": truncated" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("flat", ["2 0 6", "2 0 6 255 0 0", "1 5", "0", "2 0 6\n1 3"])
@pytest.mark.parametrize("end", [" ", "\n"])
def test_faces_without_area_are_left_out_with_a_warning(tmp_path, flat, end):
    count, path = 1 + flat.count("\n"), tmp_path / "box.off"
    text = off_text(VERTICES, QUADS).replace("8 6 0", f"8 {6 + count} 0") + flat + "\n"
    if end == "\n" and "255" not in flat:
        text = "OFF" + text[3:].replace(" ", end)
    path.write_text(text)
    with pytest.warns(UserWarning, match=f"box.off: {count} of {6 + count} faces have fewer than 3 corners") as told:
        vertices, faces = load_off(path)
    assert np.array_equal(vertices, VERTICES) and np.array_equal(faces, FACES) and len(told) == 1


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, len(TEXT)), place=st.integers(0, len(TEXT) - 1), byte=st.integers(0, 255))
def test_damaged_files_never_raise_anything_else(tmp_path_factory, cut, place, byte):
    path = tmp_path_factory.getbasetemp() / "damaged.off"
    data = bytearray(TEXT.encode())
    data[place] = byte
    path.write_bytes(bytes(data[:cut]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            vertices, faces = load_off(path)
        except MeshError:
            return
    assert vertices.shape[1:] == faces.shape[1:] == (3,) and 0 <= faces.min() <= faces.max() < len(vertices)


def test_warns_of_stray_vertices_that_shrink_the_object(tmp_path):
    path = tmp_path / "stray.off"
    path.write_text(off_text([*VERTICES, (8, 0, 0)], FACES))
    with pytest.warns(UserWarning, match=r"stray\.off: 1 stray .* 25%"):
        vertices, faces = load_off(path)
    with pytest.warns(UserWarning, match="25%"):
        grid = voxelize(vertices, faces, resolution=32)
    assert np.ptp(np.argwhere(grid)[:, 1]) == round(25 * 0.25)  # the convention counts every vertex that is listed
    path.write_text(off_text([*VERTICES, (1, 0.5, 0.2)], FACES))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_off(path)


def test_warns_of_lines_after_the_last_face(tmp_path):
    path = tmp_path / "long.off"
    path.write_text(TEXT + "3 0 1 2\n")
    with pytest.warns(UserWarning, match="1 lines after the last face"):
        load_off(path)


@needs_real_data
@pytest.mark.parametrize(("number", "mesh"), [(182, "chair_0001"), (184, "chair_0002")])
def test_official_grids_voxel_for_voxel(number, mesh):
    folder = Path(REAL)
    vertices, faces = load_off(folder / f"meshes/chair/{mesh}.off")
    for k in range(1, 13):
        file = folder / f"volumetric_data/chair/30/train/chair_{number:09d}_{k}.mat"
        official = scipy.io.loadmat(file)["instance"].astype(bool)
        assert np.array_equal(voxelize(vertices, faces, resolution=30, turn=30 * (k - 1)), official)


@needs_real_data
def test_real_meshes_take_at_most_30_ms():
    files = sorted(Path(REAL).glob("meshes/*/*.off"))
    seconds = np.full((3, len(files)), np.inf)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i, j in np.ndindex(seconds.shape):
            start = time.process_time()
            voxelize(*load_off(files[j]), resolution=32)
            seconds[i, j] = time.process_time() - start
    assert seconds.min(0).mean() < 0.030
