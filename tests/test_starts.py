"""Where chains start: what each start hands out, hears and remembers."""

import copy
import io
import math

import numpy as np
import pytest
import torch
from problems import seeded

from dnet_lib import ShapeError, chain_generators, down_scale, up_scale
from dnet_lib.priors import CoarseGaussian, Histogram
from dnet_lib.starts import Coarser, Data, Fresh, Noise, Persistent, PersistentData, noise


def numbered(n: int, side: int = 2) -> torch.Tensor:
    """n shapes, the i-th filled with the number i: a shape that says who it is."""
    return torch.arange(float(n)).view(-1, 1, 1, 1, 1).expand(-1, 1, side, side, side).clone()


def who(y: torch.Tensor) -> list[int]:
    """The numbers of shapes made by `numbered`; every revision added 100."""
    assert (y == y[..., :1, :1, :1]).all(), "a shape was mixed with another"
    return (y[:, 0, 0, 0, 0].long() % 100).tolist()


OBSERVED, INDEX = numbered(4), torch.tensor([3, 0, 2, 1])


def test_noise_is_white_and_fresh():
    for std in (1.0, 0.3):
        first, projection = Noise(500, std).begin(torch.zeros(3, 1, 4, 4, 4), None, seeded())
        assert projection is None and first.shape == (500, 1, 4, 4, 4) and first.dtype == torch.float32
        n = first.numel()
        assert abs(first.mean().item()) < 5 * std / math.sqrt(n)
        assert abs(first.std().item() / std - 1) < 5 / math.sqrt(2 * n)
    start, generator = Noise(2), seeded()
    assert not torch.equal(*(start.begin(OBSERVED, INDEX, generator)[0] for _ in range(2)))
    assert start.begin(OBSERVED.double(), INDEX, generator)[0].dtype == torch.float64
    assert start.state_dict() == {}


def test_first_shapes_for_persistent_chains():
    y = noise(300, 4, std=0.5, generator=seeded())
    assert y.shape == (300, 1, 4, 4, 4)
    assert abs(y.std().item() / 0.5 - 1) < 5 / math.sqrt(2 * y.numel())
    assert torch.equal(y, noise(300, 4, std=0.5, generator=seeded()))
    assert noise(1, 2, device="meta").device.type == "meta"


def test_data_starts_at_a_copy_of_the_batch():
    y, projection = Data().begin(OBSERVED, INDEX, None)
    assert projection is None and torch.equal(y, OBSERVED)
    y += 1
    assert who(OBSERVED) == [0, 1, 2, 3]


@pytest.mark.parametrize("per_iteration", [None, 1, 3, 7])
def test_persistent_chains_return_to_their_slots(per_iteration):
    """Over 60 iterations no chain is dropped, doubled or moved, and each is revised equally often."""
    start, generator, iterations = Persistent(numbered(7), per_iteration), seeded(), 60
    size = per_iteration or 7
    for _ in range(iterations):
        y, projection = start.begin(OBSERVED, INDEX, generator)
        assert projection is None and len(y) == size and len(set(who(y))) == size
        start.learn(y + 100)
    assert who(start.chains) == list(range(7))
    revisions = start.chains[:, 0, 0, 0, 0] // 100
    assert revisions.sum() == iterations * size
    sigma = math.sqrt(iterations * size / 7 * (1 - size / 7))
    assert (revisions - iterations * size / 7).abs().max() <= 5 * sigma


def test_persistent_chains_leave_the_callers_tensor_alone():
    mine = numbered(4)
    for start in (Persistent(mine), PersistentData(mine)):
        y, _ = start.begin(OBSERVED, INDEX, seeded())
        start.learn(y + 100)
        assert (start.chains >= 100).all() and torch.equal(mine, numbered(4))


def test_begin_hands_out_copies():
    for start in (Persistent(numbered(4)), PersistentData(numbered(4))):
        y, _ = start.begin(OBSERVED, INDEX, seeded())
        y += 100
        assert who(start.chains) == [0, 1, 2, 3] and start.chains.max() == 3


def test_renewed_chains_begin_as_noise_again():
    n, renew = 4000, 0.2
    start = Persistent(numbered(1).expand(n, 1, 2, 2, 2) + 50, renew=renew, std=0.5)
    y, _ = start.begin(OBSERVED, INDEX, seeded())
    fresh = (y != 50).flatten(1).all(1)
    assert ((y != 50).flatten(1).any(1) == fresh).all(), "a chain is renewed as a whole"
    assert abs(fresh.double().mean().item() - renew) < 5 * math.sqrt(renew * (1 - renew) / n)
    values = y[fresh]
    assert abs(values.std().item() / 0.5 - 1) < 5 / math.sqrt(2 * values.numel())
    start.learn(y)
    assert (start.chains != 50).flatten(1).all(1).sum() == fresh.sum()


def test_persistent_data_has_one_chain_for_each_shape():
    start = PersistentData(numbered(6))
    for index in ([5, 0, 3], [1, 2, 4], [3, 5, 1]):
        y, projection = start.begin(OBSERVED, torch.tensor(index), seeded())
        assert projection is None and who(y) == index
        start.learn(y + 100)
    assert who(start.chains) == list(range(6))
    assert (start.chains[:, 0, 0, 0, 0] // 100).tolist() == [1, 2, 1, 2, 1, 2]


@pytest.mark.parametrize("make", [lambda: Persistent(numbered(7), 3, 0.3), lambda: PersistentData(numbered(7))])
def test_a_restored_start_goes_on_as_if_nothing_had_happened(make):
    def go_on(start, generator, iterations):
        for _ in range(iterations):
            y, _ = start.begin(OBSERVED, INDEX, generator)
            start.learn(y * 0.5 + 1)

    start, generator = make(), seeded()
    go_on(start, generator, 4)
    file = io.BytesIO()
    torch.save((start.state_dict(), generator.get_state()), file)
    go_on(start, generator, 4)

    file.seek(0)
    state, numbers = torch.load(file, weights_only=True)
    again, generator = make(), seeded(9)
    again.load_state_dict(copy.deepcopy(state))
    generator.set_state(numbers)
    go_on(again, generator, 4)
    assert torch.equal(again.chains, start.chains)


def shapes_with_two_axes(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Shapes 0.4 + a u + b v on 4^3 grids of equal 2^3 blocks, a ~ N(0, 0.1^2), b ~ N(0, 0.03^2), and u, v."""
    u, v = torch.linalg.qr(torch.randn(8, 2, generator=seeded(5))).Q.T
    numbers = torch.randn(n, 2, generator=seeded(6)) * torch.tensor([0.1, 0.03])
    coarse = 0.4 + numbers @ torch.stack([u, v])
    return up_scale(coarse.view(-1, 1, 2, 2, 2), 2), u, v


def test_the_coarse_gaussian_has_the_datas_mean_and_covariance():
    shapes, _, _ = shapes_with_two_axes(300)
    coarse = down_scale(shapes, 2).flatten(1)
    start = CoarseGaussian.fit(shapes, 2, rank=2)
    torch.testing.assert_close(start.mean.flatten(), coarse.mean(0))
    torch.testing.assert_close(start.factor.T @ start.factor, torch.cov(coarse.T), rtol=1e-4, atol=1e-6)
    fresh = Fresh(start, 5)
    y, projection = fresh.begin(shapes[:2], None, seeded())
    assert projection is None and y.shape == (5, 1, 4, 4, 4) and fresh.state_dict() == {}
    assert torch.equal(y, start.draw(5, seeded()))
    torch.testing.assert_close(up_scale(down_scale(y, 2), 2), y)
    for temperature in (1.0, 0.25):
        start = CoarseGaussian.fit(shapes, 2, rank=2, temperature=temperature)
        n = 20_000
        drawn = down_scale(start.draw(n, seeded(1)), 2).flatten(1) + shapes.mean()
        covariance = temperature * torch.cov(coarse.T)
        sigma = (covariance.diagonal() / n).sqrt()
        assert ((drawn.mean(0) - coarse.mean(0)).abs() < 5 * sigma + 1e-6).all()
        sigma = ((covariance.diagonal()[:, None] * covariance.diagonal() + covariance**2) / n).sqrt()
        assert ((torch.cov(drawn.T) - covariance).abs() < 5 * sigma + 1e-7).all()


def test_the_leading_axis_comes_first():
    shapes, u, v = shapes_with_two_axes(4000)
    start = CoarseGaussian.fit(shapes, 2, rank=1)
    assert start.factor.shape == (1, 8)
    assert abs((start.factor[0] @ u).item()) == pytest.approx(0.1, rel=5 / math.sqrt(2 * 4000))
    assert abs((start.factor[0] @ v).item()) < 0.01


def test_coarse_draws_do_not_depend_on_how_chains_are_batched():
    start = CoarseGaussian.fit(shapes_with_two_axes(30)[0], 2, rank=2)
    whole = start.draw(6, chain_generators(0, 6))
    parts = torch.cat([start.draw(2, chain_generators(0, 2)), start.draw(4, chain_generators(0, 4, first=2))])
    torch.testing.assert_close(whole, parts)


@pytest.mark.parametrize("rank", [0, -1, 30, 1000])
def test_more_axes_than_shapes_are_refused(rank):
    with pytest.raises(ShapeError, match="30 shapes span at most 29 principal axes"):
        CoarseGaussian.fit(shapes_with_two_axes(30)[0], 2, rank=rank)


def test_a_mixture_of_coarse_gaussians_finds_the_groups_nobody_named():
    """Shapes of two kinds, far apart: draws fall near one kind or the other, in the training shapes' proportion."""
    random = seeded(0)
    kinds = torch.zeros(2, 1, 8, 8, 8)
    kinds[0, :, :4], kinds[1, :, 4:] = 1, 1
    which = (torch.arange(200) % 4 == 0).long()  # a quarter is of the second kind
    y = (kinds[which] + 0.1 * torch.randn(200, 1, 8, 8, 8, generator=random)).clamp(0, 1)
    start = CoarseGaussian.fit(y, 2, rank=4, components=2, temperature=0.25)
    drawn = start.draw(400, seeded(1)) + start.centre
    to_kinds = (drawn[:, None] - y[which.argsort()][[0, -1]][None]).flatten(2).norm(dim=2)
    assert (to_kinds.min(1).values < 0.3 * to_kinds.max(1).values).all()  # none lies between
    assert (to_kinds.argmin(1) == 1).float().mean() == pytest.approx(0.25, abs=0.07)
    single = CoarseGaussian.fit(y, 2, rank=4, temperature=0.25)
    between = single.draw(400, seeded(1)) + start.centre
    to_kinds = (between[:, None] - y[which.argsort()][[0, -1]][None]).flatten(2).norm(dim=2)
    assert not (to_kinds.min(1).values < 0.3 * to_kinds.max(1).values).all()


def test_a_mixture_draws_with_the_moments_of_its_parts():
    weights, means = torch.tensor([0.3, 0.7]), torch.tensor([[2.0, 0.0], [-1.0, 1.0]])
    factors = torch.tensor([[[0.5, 0.0], [0.2, 0.1]], [[0.3, 0.0], [-0.3, 0.6]]])
    start = CoarseGaussian(torch.zeros(1, 2, 2, 2), torch.eye(2, 8), 1, 0.0, 0.49, (weights, means, factors))
    x = start.draw(40000, seeded(0)).flatten(1)[:, :2]
    mean = weights @ means
    covariance = sum(
        w * (0.49 * f @ f.T + torch.outer(m - mean, m - mean)) for w, m, f in zip(weights, means, factors, strict=True)
    )
    assert torch.allclose(x.mean(0), mean, atol=0.03)
    assert torch.allclose(x.T.cov(), covariance, atol=0.05)
    x = start.balanced().draw(40000, seeded(0)).flatten(1)[:, :2]
    assert torch.allclose(x.mean(0), means.mean(0), atol=0.03)
    with pytest.raises(ShapeError, match="groups"):
        CoarseGaussian.fit(torch.rand(5, 1, 4, 4, 4), 2, rank=2, components=6)


# -- one voxel, and grid by grid ---------------------------------------------------------------------------------------


def shapes_of_levels(levels: torch.Tensor) -> torch.Tensor:
    """Binary-looking shapes on 4^3 grids that are far from constant, whose mean occupancies are the given ones."""
    y = torch.rand(len(levels), 1, 4, 4, 4, generator=seeded(1), dtype=torch.float64)
    return y + (levels - y.flatten(1).mean(1)).view(-1, 1, 1, 1, 1)


LEVELS = torch.cat([0.1 + 0.05 * torch.rand(60, generator=seeded(2)), 0.4 + 0.2 * torch.rand(140, generator=seeded(3))])


def test_a_histogram_counts_the_mean_occupancies():
    start = Histogram.fit(shapes_of_levels(LEVELS.double()), 6, bins=10)
    low, high = LEVELS.min().item(), LEVELS.max().item()
    bins = ((LEVELS.double() - low) / (high - low) * 10).long().clamp(max=9)
    assert start.counts.tolist() == bins.bincount(minlength=10).tolist() and start.counts.sum() == 200
    torch.testing.assert_close(start.edges, torch.linspace(low, high, 11, dtype=torch.float64))
    assert start.centre == pytest.approx(LEVELS.double().mean().item()) and start.resolution == 6
    assert Histogram.fit(shapes_of_levels(LEVELS.double()).float(), 6).counts.shape == (30,)


def test_histogram_draws_follow_the_histogram():
    """Bins by a chi-square; levels by their distribution function, which is straight within a bin; 5 sigma."""
    n, start = 20_000, Histogram.fit(shapes_of_levels(LEVELS.double()), 3, bins=10)
    y = start.draw(n, seeded(4))
    assert y.shape == (n, 1, 3, 3, 3) and y.dtype == torch.float64 and y.is_contiguous()
    assert (y == y[..., :1, :1, :1]).all(), "a start is one voxel, expanded"
    level = y[:, 0, 0, 0, 0] + start.centre
    drawn = torch.histogram(level, start.edges).hist
    assert drawn.sum() == n and (drawn[start.counts == 0] == 0).all() and (start.counts == 0).any()
    expected = n * start.counts / start.counts.sum()
    full = expected > 0
    freedom = int(full.sum()) - 1
    assert ((drawn - expected)[full].square() / expected[full]).sum() < freedom + 5 * math.sqrt(2 * freedom)
    counts, level = start.counts.numpy(), level.numpy()
    cdf = np.interp(np.sort(level), start.edges.numpy(), np.concatenate([[0], np.cumsum(counts) / 200]))
    assert np.abs(cdf - (np.arange(n) + 0.5) / n).max() < 2.3 / math.sqrt(n)  # Kolmogorov: p = 5e-5
    empirical = np.searchsorted(np.sort(LEVELS.numpy()), np.sort(level), side="right") / 200
    widest = counts.max() / 200
    assert np.abs(empirical - (np.arange(n) + 0.5) / n).max() < widest + 0.02, "what the bins cannot tell"
    assert abs(y.mean().item()) < 0.6 * (start.edges[1] - start.edges[0])


def test_histogram_draws_do_not_depend_on_how_chains_are_batched():
    start = Histogram.fit(shapes_of_levels(LEVELS.double()), 2)
    whole = start.draw(6, chain_generators(0, 6))
    parts = torch.cat([start.draw(2, chain_generators(0, 2)), start.draw(4, chain_generators(0, 4, first=2))])
    assert torch.equal(whole, parts) and len(whole.unique()) == 6
    assert torch.equal(start.draw(3, seeded()), start.draw(3, seeded()))
    generator = seeded()
    assert not torch.equal(start.draw(3, generator), start.draw(3, generator))


def test_a_histogram_of_one_level_draws_near_it():
    start = Histogram.fit(torch.full((3, 1, 4, 4, 4), 0.25), 4)
    level = start.draw(500, seeded()) + start.centre
    assert (level - 0.25).abs().max() <= 1 / 30 + 1e-6


def test_grids_hand_their_samples_up():
    """The coarsest starts at the observed 1x1x1 means, each other grid at the samples it was told of last."""
    coarse = Coarser(2)
    middle = Coarser(3, coarse)
    observed = torch.rand(5, 1, 6, 6, 6, generator=seeded())
    for _ in range(2):
        y, projection = coarse.begin(observed, None, None)
        assert projection is None
        torch.testing.assert_close(y, observed.flatten(1).mean(1).view(-1, 1, 1, 1, 1).expand(-1, 1, 2, 2, 2))
        samples = torch.rand(5, 1, 2, 2, 2)
        coarse.learn(samples)
        y, projection = middle.begin(torch.zeros(5, 1, 3, 3, 3), None, None)
        assert projection is None
        torch.testing.assert_close(y, down_scale(up_scale(samples, 3), 2))
    assert coarse.state_dict() == {} == middle.state_dict()


def test_a_grid_before_its_coarser_one_is_named():
    with pytest.raises(ShapeError, match=r"the grid below 6\^3 has no samples yet: it must go first"):
        Coarser(6, Coarser(4)).begin(torch.rand(2, 1, 6, 6, 6), None, None)
