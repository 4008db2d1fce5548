"""The embedded furniture: closed volumes of the solids, and what must hold of every shape at every resolution."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import pdist, squareform

from data_prep import furniture
from data_prep.furniture import (
    ROUND,
    SHARP,
    SOFT,
    Dice,
    Grid,
    Solid,
    box,
    disc,
    four,
    lean,
    limb,
    make_furniture,
    make_shape,
)

Voxels = NDArray[np.bool_]
TOUCHING = np.ones((3, 3, 3))  # 26 neighbours
DIGESTS = {
    16: "3afd81ac7c3bca6987b267ca2d7fd56486306d312d4d2d1ec58fbecf7baaac73",
    32: "2f023280acb0ef3dc1cfe7676ad30f07a7a335fecac46eba452243dacc953d79",
}


@pytest.fixture(scope="module")
def shapes() -> dict[int, tuple[Voxels, NDArray[np.int64], NDArray[np.str_], NDArray[np.str_]]]:
    """The embedded set, and the beginning of it on a coarser and a finer grid."""
    return {16: make_furniture(16, train=24, test=0), 32: make_furniture(), 64: make_furniture(64, train=3, test=0)}


def extent(shape: Voxels) -> list[tuple[int, int]]:
    """First and last occupied cell along every axis."""
    occupied = [np.flatnonzero(shape.any(axis=tuple(a for a in range(3) if a != k))) for k in range(3)]
    return [(int(cells[0]), int(cells[-1])) for cells in occupied]


def volume(solid: Solid) -> float:
    """Volume by counting cells of 128^3, in cubic metres."""
    grid = furniture.rasterise(solid, 128)
    cells = [high - low + 1 for low, high in extent(grid)]
    return float(grid.sum() * np.prod((solid.hi - solid.lo) / cells))


SUPERELLIPSE = 2 * math.gamma(1.25) ** 2 / math.gamma(1.5)  # area of |u|^4 + |v|^4 <= 1, over 2


@pytest.mark.parametrize(
    ("solid", "exact"),
    [
        (box(0.5, (0.2, 0.9), (0, 0.6)), 0.42),
        (box(0.5, 0.3, 0.4, ROUND), math.tau * 2 / 3 * 0.06),
        (limb((0, 0, 0), (0, 0, 1), 0.4, 0.2, ROUND), math.pi / 3 * (0.16 + 0.08 + 0.04)),
        (limb((0, 0, 0), (0.3, -0.2, 1), (0.3, 0.2)), 0.24),
        (disc((0, 0.5), (0.4, 0.3), SOFT), 2 * SUPERELLIPSE * 0.4 * 0.3 * 0.5),
        (disc((0, 1), 0.4) - disc((0, 1), 0.4, inset=0.1), math.pi * (0.16 - 0.09)),
        (lean(box(0.2, 0.1, (0, 1)), 0.5, 0), 0.08),
        (four(box((0.1, 0.3), (0.2, 0.4), (0, 0.5))), 0.08),
        (box(0.5, 0.5, (0, 1)) & limb((-0.5, 0, 0), (0.5, 0, 0), (0.5, 1), section=ROUND), math.pi / 4),
    ],
)
def test_solids_have_their_closed_form_volume(solid: Solid, exact: float) -> None:
    assert volume(solid) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("section", [SHARP, ROUND, SOFT])
def test_the_thinnest_leg_and_wall_survive_anywhere(section: int) -> None:
    frame = box(1, 1, (-0.02, 0))  # spans 14 cells on a grid of 16^3
    for at in np.linspace(-0.9, 0.9, 37).tolist():
        leg = limb((at, 0.5 * at, 0), (0.7 * at, -at, 2), 1e-3, section=section)
        assert furniture.rasterise(leg | frame, 16).any(axis=(0, 1)).sum() == 14
    for radius in np.linspace(0.4, 1, 25).tolist():
        tube = disc((0, 2), radius, section) - disc((0, 2), radius, section, inset=1e-3)
        layer = furniture.rasterise(tube | frame, 16)[:, :, 8]
        apart, count = ndimage.label(~layer)  # water in the tube cannot reach the rim of the grid
        assert count >= 2 and apart[7, 7] not in (0, apart[0, 0])


def test_a_mirrored_solid_is_exactly_symmetric() -> None:
    grid = furniture.rasterise(four(limb((0.4, 0.3, 0), (0.237, 0.101, 0.8), 0.011, 0.083, ROUND)), 33)
    (x0, x1), (y0, y1), _ = extent(grid)
    legs = grid[x0 : x1 + 1, y0 : y1 + 1]
    assert (legs == legs[::-1]).all() and (legs == legs[:, ::-1]).all()


@pytest.mark.parametrize("category", furniture.CATEGORIES)
def test_no_voxel_hangs_on_the_last_bit(category: str) -> None:
    for seed in range(12):
        solid = furniture.MAKERS[category](Dice(np.random.default_rng(seed)))
        for shift in (-1e-12, 1e-12):

            def moved(g: Grid, solid: Solid = solid, shift: float = shift) -> Voxels:
                return solid.inside(Grid(tuple(axis + shift for axis in g.axes), g.step))

            same = furniture.rasterise(solid, 32) == furniture.rasterise(Solid(moved, solid.lo, solid.hi), 32)
            assert same.all(), f"{category} of seed {seed}"


@pytest.mark.parametrize("resolution", [16, 32])
def test_voxels_are_the_same_on_every_platform(resolution: int) -> None:
    voxels = make_furniture(resolution, train=2, test=1)[0]
    assert hashlib.sha256(np.packbits(voxels).tobytes()).hexdigest() == DIGESTS[resolution]


def test_the_set_is_ordered_and_named(shapes: dict) -> None:
    voxels, labels, split, names = shapes[32]
    assert voxels.shape == (1200, 32, 32, 32) and voxels.dtype == bool
    assert " ".join(furniture.CATEGORIES) == "bathtub bed chair desk dresser monitor night_stand sofa table toilet"
    assert (labels == np.repeat(np.arange(10), 120)).all()
    assert (split == np.tile(["train"] * 100 + ["test"] * 20, 10)).all()
    assert names[0] == "bathtub_0001" and names[-1] == "toilet_0120" and len(set(names.tolist())) == 1200


def test_a_shape_does_not_depend_on_how_many_are_made(shapes: dict) -> None:
    voxels, _, split, names = make_furniture(32, train=1, test=1)
    where = {name: shape for shape, name in zip(shapes[32][0], shapes[32][3].tolist(), strict=True)}
    assert all((shape == where[name]).all() for shape, name in zip(voxels, names.tolist(), strict=True))
    assert split.tolist() == ["train", "test"] * 10
    assert (make_furniture(16, train=1, test=0, seed=1)[0] != make_furniture(16, train=1, test=0)[0]).any()


@pytest.mark.parametrize("resolution", [16, 32, 64])
def test_every_shape_is_one_piece_that_fills_the_grid_centred(shapes: dict, resolution: int) -> None:
    room = {16: 14, 32: 26, 64: 52}[resolution]
    for shape, name in zip(shapes[resolution][0], shapes[resolution][3], strict=True):
        assert ndimage.label(shape, TOUCHING)[1] == 1, f"{name} falls apart"
        ends = extent(shape)
        assert max(high - low + 1 for low, high in ends) == room, f"{name} spans {ends}"
        assert all(abs(low + high - (resolution - 1)) <= 1 for low, high in ends), f"{name} is off centre: {ends}"


@pytest.mark.parametrize(("fine", "coarse"), [(64, 32), (32, 16)])
def test_two_resolutions_show_the_same_shape(shapes: dict, fine: int, coarse: int) -> None:
    one, other = ({name: v for v, name in zip(*(shapes[r][k] for k in (0, 3)), strict=True)} for r in (fine, coarse))
    overlaps = []
    for name in sorted(set(one) & set(other)):
        pooled, drawn = one[name].reshape((coarse, 2) * 3).any(axis=(1, 3, 5)), other[name]
        overlaps.append((pooled & drawn).sum() / (pooled | drawn).sum())
        near_pooled, near_drawn = (ndimage.binary_dilation(v, TOUCHING) for v in (pooled, drawn))
        assert not (drawn & ~near_pooled).any(), f"{name} has a part at {coarse}^3 that {fine}^3 lacks"
        assert not (pooled & ~near_drawn).any(), f"{name} loses a part at {coarse}^3"
    assert len(overlaps) >= 30 and np.mean(overlaps) > 0.65


def test_no_two_shapes_are_equal_and_each_category_varies(shapes: dict) -> None:
    voxels, labels, _, _ = shapes[32]
    packed = np.packbits(voxels.reshape(len(voxels), -1), axis=1)
    assert len(np.unique(packed, axis=0)) == len(voxels)
    for label in range(10):
        flat = voxels[labels == label][::2].reshape(60, -1)
        differing = squareform(pdist(flat, "hamming")) * flat.shape[1]
        np.fill_diagonal(differing, np.inf)
        nearest = differing.min(axis=1) / flat.sum(axis=1)  # voxels that differ, over voxels occupied
        assert nearest.mean() > 0.1, f"{furniture.CATEGORIES[label]} hardly varies: {nearest.mean():.3f}"


@pytest.mark.parametrize("resolution", [16, 32])
def test_bathtubs_hold_water(shapes: dict, resolution: int) -> None:
    voxels, labels, _, names = shapes[resolution]
    middle = resolution // 2
    for tub, name in zip(voxels[labels == 0], names[labels == 0], strict=True):
        floor = np.flatnonzero(tub[middle, middle])[-1]
        apart = [ndimage.label(~tub[:, :, z])[0] for z in range(floor + 1, floor + 1 + resolution // 16)]
        assert all(layer[middle, middle] != layer[0, 0] for layer in apart), f"{name} leaks"


def test_backs_are_behind(shapes: dict) -> None:
    """As in ModelNet10: beds, chairs and toilets face -y, sofas -x: the upper half leans to the other side."""
    voxels, labels, _, _ = shapes[32]
    for category, axis in (("bed", 0), ("chair", 0), ("toilet", 0), ("sofa", 1)):
        mean = voxels[labels == furniture.CATEGORIES.index(category)].mean(axis=0)
        upper = mean[:, :, 17:].sum(axis=(1 - axis, 2))
        assert upper[16:].sum() > 1.3 * upper[:16].sum(), category


def test_bad_requests_are_refused_by_name() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"'lamp'.*bathtub, bed"):
        make_shape("lamp", 32, rng)
    with pytest.raises(ValueError, match="at least 16 cells"):
        make_shape("chair", 8, rng)
    with pytest.raises(ValueError, match="0 train and 0 test"):
        make_furniture(train=0, test=0)
