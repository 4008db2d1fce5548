"""Both projections as matrices, as constraints over 1,000 steps, and as exact conditional Gaussians."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import as_matrix, seeded

from dnet_lib import (
    Architecture,
    DescriptorNet,
    GaussianEnergy,
    ShapeError,
    down_scale,
    hidden_voxels,
    langevin,
    missing_detail,
    sample,
    up_scale,
)


@given(side=st.integers(1, 4), share=st.floats(0, 1), seed=st.integers(0, 999))
def test_hidden_voxels_is_an_orthogonal_projector(side, share, seed):
    hidden = torch.rand(1, 1, side, side, side, generator=seeded(seed)) < share
    p = as_matrix(hidden_voxels(hidden), side)
    assert torch.equal(p, p.T) and torch.equal(p @ p, p)
    assert torch.equal(p.diagonal().bool(), hidden.flatten()), "hidden voxels move, visible ones do not"


@given(blocks=st.integers(1, 3), scale=st.integers(1, 3))
def test_missing_detail_is_an_orthogonal_projector(blocks, scale):
    side = blocks * scale
    if side > 6:
        return
    p = as_matrix(missing_detail(scale), side)
    torch.testing.assert_close(p, p.T)
    torch.testing.assert_close(p @ p, p)
    assert round(p.trace().item()) == side**3 - blocks**3, "what moves: all but one number a block"
    low = torch.randn(1, 1, blocks, blocks, blocks, dtype=torch.float64)
    assert missing_detail(scale)(up_scale(low, scale)).abs().max() < 1e-12


def correlated(side: int, seed: int = 0):
    """E(y) = (y - m)^T A (y - m) / 2 with a dense A of eigenvalues 1 to 4, as an energy of side^3 grids."""
    generator = seeded(seed)
    d = side**3
    axes = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    a = axes @ torch.diag(torch.linspace(1, 4, d, dtype=torch.float64)) @ axes.T
    m = torch.randn(d, generator=generator, dtype=torch.float64)

    def energy(y):
        y = y.flatten(1) - m
        return ((y @ a) * y).sum(1) / 2

    return energy, a, m


HIDDEN = torch.tensor([1, 0, 1, 1, 0, 1, 1, 0], dtype=torch.bool).view(1, 1, 2, 2, 2)
PROJECTIONS = {"hidden voxels": hidden_voxels(HIDDEN), "missing detail": missing_detail(2)}


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("which", PROJECTIONS)
def test_projected_metropolis_samples_the_conditional_gaussian(which, temperature, generator):
    """y = y0 + Q z, with Q a basis of what may move: z ~ N(-(Q'AQ)^-1 Q'A (y0 - m), T (Q'AQ)^-1).

    20,000 independent chains from one point, 60 steps: the slowest mode keeps under 1e-5 of its start. Every mean and
    covariance must lie within 5 sigma of independent draws (44 numbers a case: false alarm 1 in 40,000).
    """
    energy, a, m = correlated(2)
    projection, n = PROJECTIONS[which], 20_000
    y0 = torch.randn(8, generator=seeded(3), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(as_matrix(projection, 2))
    q = vectors[:, values > 0.5]
    precision = q.T @ a @ q
    mean = y0 - q @ torch.linalg.solve(precision, q.T @ a @ (y0 - m))
    covariance = temperature * q @ torch.linalg.inv(precision) @ q.T

    start = y0.view(1, 1, 2, 2, 2).repeat(n, 1, 1, 1, 1)
    shares = []
    for y, info in langevin(  # noqa: B007
        start,
        energy,
        num_steps=60,
        step_size=0.5,
        temperature=temperature,
        metropolis=True,
        projection=projection,
        generator=generator,
    ):
        shares.append(info.accepted.double().mean().item())
    assert 0.5 < sum(shares) / len(shares) < 0.99, "the test must use the rejections"
    y = y.flatten(1)
    variance = covariance.diagonal()
    sigma = (variance / n).sqrt() + 1e-9
    assert ((y.mean(0) - mean).abs() < 5 * sigma).all()
    sigma = ((variance[:, None] * variance[None] + covariance**2) / n).sqrt() + 1e-9
    assert ((torch.cov(y.T) - covariance).abs() < 5 * sigma).all()
    free = torch.linalg.inv(a)  # what an unconditioned chain would give: seen by the same test
    assert ((temperature * free - covariance).abs() > 5 * sigma).any()


def walk(y, projection, **options):
    """1,000 projected steps in a Gaussian energy."""
    return sample(y, GaussianEnergy(0.3, 0.25), num_steps=1000, projection=projection, **options)


@pytest.mark.parametrize("metropolis", [False, True])
def test_hidden_voxels_keeps_visible_voxels_to_the_bit(metropolis, generator):
    y = torch.randn(5, 1, 4, 4, 4, generator=generator)
    hidden = torch.rand(5, 1, 4, 4, 4, generator=generator) < 0.7
    out = walk(y, hidden_voxels(hidden), step_size=0.05, metropolis=metropolis, generator=generator)
    assert torch.equal(out[~hidden], y[~hidden])
    assert (out[hidden] != y[hidden]).all()


@pytest.mark.parametrize("metropolis", [False, True])
@pytest.mark.parametrize("scale", [2, 4])
def test_missing_detail_keeps_the_low_resolution(metropolis, scale, generator):
    """Each step rounds a voxel by half an ulp at most (6e-8 at 1): 1,000 of them wander about 2e-6, not 6e-5."""
    y = torch.randn(5, 1, 8, 8, 8, generator=generator)
    out = walk(y, missing_detail(scale), step_size=0.02, metropolis=metropolis, generator=generator)
    assert (down_scale(out, scale) - down_scale(y, scale)).abs().max() < 5e-6
    assert (out - y).abs().mean() > 0.1


@pytest.mark.parametrize("which", ["hidden voxels", "missing detail"])
@pytest.mark.parametrize("metropolis", [False, True])
def test_a_constraint_holds_between_walls_too(which, metropolis, generator):
    """With a uniform reference a projected chain keeps both its constraint and the bounds, or is refused by name."""
    net = DescriptorNet(Architecture(4, ((2, 2, 1),), s=None, bounds=(-0.1, 0.9)), weight_std=0.1, generator=generator)
    y = torch.rand(6, 1, 4, 4, 4, generator=generator) * 0.8
    hidden = torch.rand(6, 1, 4, 4, 4, generator=generator) < 0.5
    projection = hidden_voxels(hidden) if which == "hidden voxels" else missing_detail(2)
    options = dict(num_steps=300, step_size=1e-3, metropolis=metropolis, projection=projection, generator=generator)
    try:
        out = sample(y, net, **options)
    except ValueError as error:
        assert "metropolis" in str(error) and not metropolis
        return
    assert (out >= -0.1 - 1e-6).all() and (out <= 0.9 + 1e-6).all() and not torch.equal(out, y)
    kept = (out - y)[~hidden] if which == "hidden voxels" else down_scale(out - y, 2)
    assert kept.abs().max() < 5e-6


def test_temperature_zero_finds_the_conditional_minimum():
    energy, a, m = correlated(2)
    y0 = torch.zeros(1, 1, 2, 2, 2, dtype=torch.float64)
    free = HIDDEN.flatten()
    out = sample(y0, energy, num_steps=400, step_size=0.4, temperature=0.0, projection=hidden_voxels(HIDDEN)).flatten()
    residual = a @ (out - m)
    assert residual[free].abs().max() < 1e-10 and (out[~free] == 0).all()
    assert residual[~free].abs().max() > 0.1


def test_masks_broadcast_over_the_batch():
    delta = torch.randn(3, 1, 2, 2, 2)
    for mask in (HIDDEN, HIDDEN[0], HIDDEN.int(), HIDDEN.expand(3, 1, 2, 2, 2)):
        assert torch.equal(hidden_voxels(mask)(delta), torch.where(HIDDEN, delta, 0.0))


def test_bad_projections_are_refused():
    with pytest.raises(ShapeError, match=r"hidden.*boolean.*torch\.float32"):
        hidden_voxels(torch.ones(1, 1, 2, 2, 2))
    for scale in (0, -1, 2.5, math.nan):
        with pytest.raises(ShapeError, match="scale"):
            missing_detail(scale)
    with pytest.raises(ShapeError, match=r"4\^3 voxels cannot be cut into blocks of 3\^3"):
        missing_detail(3)(torch.zeros(1, 1, 4, 4, 4))
