"""Plain grid operations against matrices and loops written out here."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import as_matrix, seeded

from dnet_lib.checks import check_shapes
from dnet_lib.voxels import (
    ShapeError,
    centre,
    coarsen,
    corrupt,
    down_scale,
    pad,
    resample,
    space_to_depth,
    threshold,
    threshold_blocks,
    uncentre,
    up_scale,
)


@given(blocks=st.integers(1, 4), scale=st.integers(1, 4), seed=st.integers(0, 99))
def test_down_scale_is_the_mean_of_each_block(blocks, scale, seed):
    side = blocks * scale
    y = torch.rand(2, 1, side, side, side, generator=seeded(seed))
    low = down_scale(y, scale)
    assert low.shape == (2, 1, blocks, blocks, blocks)
    for i, j, k in {(0, 0, 0), (blocks - 1, 0, blocks // 2), (blocks // 2, blocks - 1, 0)}:
        cut = tuple(slice(a * scale, (a + 1) * scale) for a in (i, j, k))
        np.testing.assert_allclose(low[:, 0, i, j, k], y[:, 0, *cut].flatten(1).mean(1), rtol=1e-6)


@pytest.mark.parametrize(("side", "scale"), [(4, 2), (6, 3), (4, 4), (3, 1)])
def test_up_scale_is_the_pseudo_inverse(side, scale):
    down = as_matrix(lambda y: down_scale(y, scale), side)
    up = as_matrix(lambda y: up_scale(y, scale), side // scale)
    np.testing.assert_allclose(up, torch.linalg.pinv(down), atol=1e-12)


@pytest.mark.parametrize(
    ("old", "new"), [(4, 6), (6, 4), (9, 6), (3, 5), (5, 2), (1, 3), (3, 1), (4, 8), (6, 3), (5, 5)]
)
def test_resample_takes_the_mean_over_each_new_voxels_cube(old, new):
    """In whole fractions, by cutting the grid into the finest voxels that both sizes divide, one by one."""
    fine = math.lcm(old, new)
    y = torch.randint(0, 10, (2, 1, old, old, old), generator=seeded(0))
    for n, (i, j, k) in itertools.product(range(2), [(0, 0, 0), (new - 1,) * 3, (new // 2, 0, new - 1)]):
        axes = [range(a * fine // new, (a + 1) * fine // new) for a in (i, j, k)]
        values = [
            y[n, 0, a * old // fine, b * old // fine, c * old // fine].item() for a, b, c in itertools.product(*axes)
        ]
        mean = float(Fraction(sum(values), len(values)))
        assert resample(y.double(), new)[n, 0, i, j, k].item() == pytest.approx(mean, rel=1e-12, abs=1e-12)
        assert resample(y.float(), new)[n, 0, i, j, k].item() == pytest.approx(mean, rel=1e-5, abs=1e-5)


@given(old=st.integers(1, 9), new=st.integers(1, 9), seed=st.integers(0, 99))
def test_resample_keeps_the_mean_and_the_range(old, new, seed):
    y = torch.rand(2, 1, old, old, old, dtype=torch.float64, generator=seeded(seed))
    other = resample(y, new)
    assert other.shape == (2, 1, new, new, new) and other.dtype == y.dtype
    torch.testing.assert_close(other.flatten(1).mean(1), y.flatten(1).mean(1), rtol=1e-12, atol=0)
    assert y.min() - 1e-12 <= other.min() and other.max() <= y.max() + 1e-12
    if new % old == 0:
        assert torch.equal(other, up_scale(y, new // old))
        torch.testing.assert_close(resample(other, old), y, rtol=1e-12, atol=0)
    if old % new == 0:
        assert torch.equal(other, down_scale(y, old // new))


def test_resample_keeps_the_axes_apart():
    y = torch.zeros(1, 1, 4, 4, 4)
    y[0, 0, 0, 1, 3] = 1
    assert resample(y, 6)[0, 0].nonzero().tolist() == [[a, b, c] for a in (0, 1) for b in (1, 2) for c in (4, 5)]


@pytest.mark.parametrize("resolution", [0, -3, 2.0, "4", None])
def test_resample_refuses_sizes_that_are_none(resolution):
    with pytest.raises(ShapeError, match="a resolution must be a whole number, at least 1"):
        resample(torch.zeros(1, 1, 4, 4, 4), resolution)


@pytest.mark.parametrize("new", [2, 6, 8])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_resample_refuses_whole_numbers(new, dtype):
    """Whose shares of a voxel would all round to none."""
    with pytest.raises(ShapeError, match=r"must be floats, not torch\..*\.float\(\)"):
        resample(torch.ones(1, 1, 4, 4, 4, dtype=dtype), new)


def test_space_to_depth_keeps_blocks_together():
    x = torch.arange(2 * 2 * 4**3).view(2, 2, 4, 4, 4)
    y = space_to_depth(x, 2)
    assert y.shape == (2, 16, 2, 2, 2)
    assert sorted(y[1, 8:, 1, 0, 1].tolist()) == sorted(x[1, 1, 2:, :2, 2:].flatten().tolist())


def test_coarsen_fills_a_block_from_a_quarter_on():
    y = torch.zeros(2, 1, 4, 4, 4)
    y[0, 0, 0, 0, :2] = 1  # 2 of 8: a quarter
    y[1, 0, 0, 0, 0] = 1  # 1 of 8
    filled = coarsen(y, 2)
    assert filled[0].sum() == 1 and filled[0, 0, 0, 0, 0] == 1
    assert filled[1].sum() == 0
    assert coarsen(y, 2, filled=0.5).sum() == 0
    assert set(coarsen(torch.rand(3, 1, 6, 6, 6), 3).unique().tolist()) <= {0.0, 1.0}


@given(seed=st.integers(0, 99), scale=st.integers(1, 4))
def test_threshold_blocks_fills_the_highest_voxels_of_each_block(seed, scale):
    generator = seeded(seed)
    values = torch.randn(2, 1, 2 * scale, 2 * scale, 2 * scale, generator=generator)
    truth = (torch.rand(values.shape, generator=generator) < 0.4).float()
    coarse = down_scale(truth, scale)
    binary = threshold_blocks(values, coarse)
    assert set(binary.unique().tolist()) <= {0.0, 1.0}
    np.testing.assert_allclose(down_scale(binary, scale), coarse, atol=1e-6)
    for n, i, j, k in itertools.product(range(2), repeat=4):
        here = n, 0, *(slice(a * scale, (a + 1) * scale) for a in (i, j, k))
        full, empty = values[here][binary[here] == 1], values[here][binary[here] == 0]
        assert not (len(full) and len(empty)) or full.min() > empty.max()
    assert torch.equal(threshold_blocks(truth, coarse), truth)
    with pytest.raises(ShapeError, match="block means"):
        threshold_blocks(values, coarse[:1])


def test_pad_surrounds_with_empty_voxels():
    y = torch.rand(2, 1, 3, 3, 3)
    padded = pad(y, 2)
    assert padded.shape == (2, 1, 7, 7, 7)
    assert torch.equal(padded[:, :, 2:5, 2:5, 2:5], y)
    assert padded.sum().item() == pytest.approx(y.sum().item())


def test_threshold_is_strict_and_keeps_the_type():
    y = torch.tensor([0.2, 0.5, 0.51, 1.3, -0.1], dtype=torch.float64)
    assert threshold(y).tolist() == [0, 0, 1, 1, 0]
    assert threshold(y, 0.1).tolist() == [1, 1, 1, 1, 0]
    assert threshold(y).dtype == torch.float64


def test_uncentre_undoes_centre():
    y = torch.rand(3, 1, 2, 2, 2, dtype=torch.float64)
    assert centre(y, 0.25).mean().item() == pytest.approx(y.mean().item() - 0.25)
    torch.testing.assert_close(uncentre(centre(y, 0.3), 0.3), y)


@given(share=st.floats(0, 1), side=st.integers(1, 5), seed=st.integers(0, 99))
def test_corrupt_hides_exactly_the_share(share, side, seed):
    y = torch.rand(3, 1, side, side, side) + 1
    before = y.clone()
    seen, hidden = corrupt(y, share, fill=-7.0, generator=seeded(seed))
    assert hidden.dtype == torch.bool and hidden.shape == y.shape
    assert (hidden.flatten(1).sum(1) == round(share * side**3)).all()
    assert (seen[hidden] == -7).all() and torch.equal(seen[~hidden], y[~hidden])
    assert torch.equal(y, before)
    again = corrupt(y, share, fill=-7.0, generator=seeded(seed))
    assert torch.equal(again[1], hidden)


def test_corrupt_hides_every_voxel_equally_often(generator):
    _, hidden = corrupt(torch.zeros(8000, 1, 2, 2, 2), 0.5, generator=generator)
    share = hidden.float().mean(dim=0).flatten()
    assert (share - 0.5).abs().max() < 5 * 0.5 / math.sqrt(8000)  # 5 sigma of a fair coin, 8 voxels
    pairs = (hidden[:, 0, 0, 0, 0] & hidden[:, 0, 1, 1, 1]).float().mean().item()
    expected = 0.5 * 3 / 7  # without replacement: 4 of 8
    assert abs(pairs - expected) < 5 * math.sqrt(expected * (1 - expected) / 8000)


GOOD = torch.zeros(2, 1, 4, 4, 4)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (GOOD.numpy(), "the chairs.*float tensor.*ndarray"),
        (GOOD.int(), r"the chairs.*torch.int32.*\.float\(\)"),
        (GOOD.bool(), "the chairs.*torch.bool"),
        (GOOD[:, 0], r"the chairs.*\(2, 4, 4, 4\)"),
        (GOOD.expand(2, 3, 4, 4, 4), r"the chairs.*\(2, 3, 4, 4, 4\)"),
        (GOOD[..., :3], r"the chairs.*\(2, 1, 4, 4, 3\)"),
        (GOOD[:0], "the chairs is empty"),
        (GOOD / 0, "the chairs contains NaN"),
        (GOOD + math.inf, "the chairs contains NaN or infinite"),
    ],
)
def test_check_shapes_names_what_is_wrong(bad, message):
    with pytest.raises(ShapeError, match=message):
        check_shapes(bad, name="the chairs")


def test_check_shapes_returns_good_shapes_and_checks_the_resolution():
    assert check_shapes(GOOD) is GOOD
    assert check_shapes(GOOD, resolution=4) is GOOD
    with pytest.raises(ShapeError, match=r"8\^3 voxels, not 4\^3"):
        check_shapes(GOOD, resolution=8)


@pytest.mark.parametrize("scale", [0, -2, 3, 2.5])
@pytest.mark.parametrize("operation", [down_scale, coarsen])
def test_scales_that_cannot_cut_the_grid_are_refused(operation, scale):
    with pytest.raises(ShapeError, match=str(scale)):
        operation(GOOD, scale)


@pytest.mark.parametrize("scale", [0, -1])
def test_up_scale_refuses_a_scale_below_one(scale):
    with pytest.raises(ShapeError, match=str(scale)):
        up_scale(GOOD, scale)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_corrupt_refuses_a_share_outside_the_unit_interval(share):
    with pytest.raises(ShapeError, match="share"):
        corrupt(GOOD, share)
