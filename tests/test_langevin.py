"""The sampler against closed forms: Gaussian chains, textbook Metropolis ratios, quadrature, and its own promises."""

import gc
import math
import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from problems import equal, seeded

from dnet_lib import (
    Architecture,
    DescriptorNet,
    DivergedError,
    GaussianEnergy,
    MixtureEnergy,
    ShapeError,
    chain_generators,
    hidden_voxels,
    langevin,
    langevin_step,
    missing_detail,
    sample,
)
from dnet_lib.energy import energy_and_gradient
from dnet_lib.langevin import log_acceptance_ratio


def net8(std: float = 0.02) -> DescriptorNet:
    return DescriptorNet(Architecture(8, ((4, 4, 2), (6, 2, 1)), "silu"), weight_std=std, generator=seeded())


# -- Gaussian targets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("s", "h", "temperature", "shape", "steps"),
    [
        (0.5, 0.01, 1.0, (100, 1, 8, 8, 8), 300),  # the authors' step: sd 0.5025
        (0.5, 0.1, 1.0, (100, 1, 8, 8, 8), 40),  # the paper's: sd 0.527
        (0.5, 0.1, 0.2, (50_000, 1), 40),
        (0.5, 0.9, 1.0, (25_000, 2), 60),  # overshoots: contracts by -0.8
        (1.0, 3.0, 2.5, (10_000, 5), 30),
        (1.0, 2.0, 1.0, (50_000, 1), 5),  # forgets everything in one step
    ],
)
def test_unadjusted_langevin_on_a_gaussian_is_autoregression(s, h, temperature, shape, steps, generator):
    """y' = m + r (y - m) + sqrt(h T) eps with r = 1 - h / (2 s^2): the exact law after every number of steps.

    50,000 independent voxels: 5 sigma of a variance is 3.2 %, of a mean 2.2 % of a standard deviation.
    """
    m, r = 0.3, 1 - h / (2 * s**2)
    y = sample(
        torch.full(shape, 1.3),
        GaussianEnergy(m, s**2),
        num_steps=steps,
        step_size=h,
        temperature=temperature,
        generator=generator,
    )
    stationary = h * temperature / (1 - r**2)
    variance = stationary * (1 - r ** (2 * steps))
    n = y.numel()
    assert abs(y.double().var().item() / variance - 1) < 5 * math.sqrt(2 / n)
    assert abs(y.double().mean().item() - m - r**steps) < 5 * math.sqrt(variance / n)
    assert variance == pytest.approx(stationary, rel=1e-4), "and this is where it stays"


@pytest.mark.parametrize(
    ("s", "h", "temperature", "shape"),
    [
        (0.5, 0.1, 1.0, (6_000, 8)),
        (0.5, 0.5, 2.0, (24_000, 2)),
        (1.0, 1.5, 0.25, (48_000, 1)),
        (0.5, 0.05, 1.0, (750, 1, 4, 4, 4)),
    ],
)
@pytest.mark.parametrize("start", ["exact", "wide"])
def test_metropolis_keeps_a_gaussian_exactly(s, h, temperature, shape, start, generator):
    """Variance T s^2 whatever the step, from exact draws (kept) and from draws 1.5 times as wide (forgotten).

    48,000 independent coordinates: 5 sigma of the variance is 3.2 %; of the mean fourth power 8.2 %. The unadjusted
    chain's bias, 1 / (1 - h / (4 s^2)) - 1, is 11 %, 100 %, 60 % and 5.3 % here.
    """
    wide = 1.5 if start == "wide" else 1.0
    target = temperature * s**2
    y = wide * math.sqrt(target) * torch.randn(shape, generator=generator, dtype=torch.float64)
    steps = langevin(
        y,
        GaussianEnergy(0.0, s**2),
        num_steps=80 if start == "wide" else 25,
        step_size=h,
        temperature=temperature,
        metropolis=True,
        generator=generator,
    )
    shares = []
    for y, info in steps:  # noqa: B007
        shares.append(info.accepted.double().mean().item())
    n = y.numel()
    assert 0.2 < np.mean(shares) < 0.97, "the test must use the rejections"
    assert abs(y.var().item() / target - 1) < 5 * math.sqrt(2 / n)
    assert abs(y.mean().item()) < 5 * math.sqrt(target / n)
    assert abs((y**4).mean().item() / (3 * target**2) - 1) < 5 * math.sqrt(96 / 9 / n)


def test_the_share_of_accepted_proposals_is_the_integral(generator):
    """E min(1, r) over y ~ N(0, s^2) and white noise, by quadrature on 1,201^2 points, with the textbook ratio."""
    s, h, n = 0.7, 1.2, 100_000
    axis = np.linspace(-7, 7, 1201)
    y, noise = s * axis[:, None], axis[None]
    weight = np.exp(-(axis[:, None] ** 2 + noise**2) / 2) * (axis[1] - axis[0]) ** 2 / (2 * np.pi)
    new = y - h / 2 * y / s**2 + np.sqrt(h) * noise
    log_r = (y**2 - new**2) / (2 * s**2) + noise**2 / 2 - (y - new + h / 2 * new / s**2) ** 2 / (2 * h)
    share = (np.minimum(1, np.exp(log_r)) * weight).sum()
    start = s * torch.randn(n, 1, generator=generator, dtype=torch.float64)
    _, info = langevin_step(start, GaussianEnergy(0.0, s**2), step_size=h, metropolis=True, generator=generator)
    assert 0.5 < share < 0.9
    assert abs(info.accepted.double().mean().item() - share) < 5 * math.sqrt(share * (1 - share) / n)


# -- Metropolis-Hastings -----------------------------------------------------------------------------------------------


def textbook_log_ratio(y, new, energy, h, temperature, projection=None):
    """log p(y') q(y|y') - log p(y) q(y'|y), q the normal density of the proposal on what may move."""
    project = projection or (lambda delta: delta)
    (e, g), (e_new, g_new) = energy_and_gradient(y, energy), energy_and_gradient(new, energy)

    def log_q(to, at, slope):
        return -(to - at + h / 2 * project(slope)).flatten(1).square().sum(1) / (2 * h * temperature)

    return (e - e_new) / temperature + log_q(y, new, g_new) - log_q(new, y, g)


@given(
    h=st.floats(1e-3, 2.0),
    temperature=st.floats(0.1, 3.0),
    which=st.sampled_from(["none", "hidden", "detail"]),
    seed=st.integers(0, 999),
)
def test_both_metropolis_formulas_agree(h, temperature, which, seed):
    net = DescriptorNet(Architecture(4, ((3, 3, 1),), "silu"), weight_std=0.3, generator=seeded(seed)).double()
    y = torch.randn(5, 1, 4, 4, 4, generator=seeded(seed), dtype=torch.float64)
    hidden = torch.rand(5, 1, 4, 4, 4, generator=seeded(seed)) < 0.5
    projection = {"none": None, "hidden": hidden_voxels(hidden), "detail": missing_detail(2)}[which]
    options = dict(step_size=h, temperature=temperature, projection=projection)
    proposal, _ = langevin_step(y, net, generator=seeded(seed), **options)
    expected = textbook_log_ratio(y, proposal, net, h, temperature, projection)
    new, info = langevin_step(y, net, generator=seeded(seed), metropolis=True, **options)
    torch.testing.assert_close(info.log_acceptance, expected, rtol=1e-9, atol=1e-9)
    assert (torch.where(info.accepted.view(-1, 1, 1, 1, 1), proposal, y) == new).all()
    assert info.accepted[info.log_acceptance >= 0].all()


def test_the_ratio_from_its_parts_and_back():
    """The ratio of the way back is the inverse of the ratio of the way there."""
    energies = torch.randn(2, 6, dtype=torch.float64)
    g, g_new, delta = torch.randn(3, 6, 4, dtype=torch.float64)
    there = log_acceptance_ratio((energies[0], energies[1]), (g, g_new), delta, 0.3, 0.7)
    back = log_acceptance_ratio((energies[1], energies[0]), (g_new, g), -delta, 0.3, 0.7)
    torch.testing.assert_close(there, -back)


def test_huge_steps_reject_and_tiny_ones_accept():
    y = torch.randn(200, 1, 8, 8, 8, generator=seeded()) * 0.5
    new, info = langevin_step(y, net8(), step_size=1e3, metropolis=True, generator=seeded(1))
    assert not info.accepted.any() and torch.equal(new, y)
    new, info = langevin_step(y, net8(), step_size=1e-5, metropolis=True, generator=seeded(1))
    assert info.accepted.all() and (new != y).flatten(1).any(1).all()
    shares = [
        langevin_step(y, net8(), step_size=h, metropolis=True, generator=seeded(1))[1].accepted.float().mean().item()
        for h in (0.01, 0.05, 0.1, 0.2)
    ]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0.9 and shares[-1] < 0.5


@pytest.mark.parametrize("step_size", [1e18, 1e30])
def test_steps_past_the_largest_float_are_rejected(step_size):
    y = torch.randn(4, 8, generator=seeded())
    out = sample(y, GaussianEnergy(), num_steps=3, step_size=step_size, metropolis=True, generator=seeded(1))
    assert torch.equal(out, y)


def test_metropolis_needs_one_gradient_a_step():
    calls = []

    def energy(y):
        calls.append(len(y))
        return y.square().sum(1)

    sample(torch.zeros(3, 2), energy, num_steps=10, step_size=0.1, metropolis=True)
    assert calls == [3] * 11
    calls.clear()
    sample(torch.zeros(3, 2), energy, num_steps=10, step_size=0.1)
    assert calls == [3] * 10


def test_what_a_metropolis_step_hands_on_is_true():
    y = torch.randn(20, 1, 8, 8, 8, generator=seeded()) * 0.5
    steps = langevin(y, net8(), num_steps=5, step_size=0.1, metropolis=True, generator=seeded(1))
    mixed = False
    for y, info in steps:
        energy, gradient = energy_and_gradient(y, net8())
        torch.testing.assert_close(info.here[0], energy, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(info.here[1], gradient, rtol=1e-5, atol=1e-5)
        mixed |= 0 < info.accepted.sum() < 20
    assert mixed, "some accepted, some not"


def test_what_an_unadjusted_step_reports():
    y = torch.randn(5, 1, 8, 8, 8, generator=seeded())
    energy, gradient = energy_and_gradient(y, net8())
    _, info = langevin_step(y, net8(), step_size=0.1)
    torch.testing.assert_close(info.energy, energy)
    torch.testing.assert_close(info.gradient_norm, gradient.flatten(1).norm(dim=1))
    assert info.accepted.all() and (info.log_acceptance == 0).all()


@pytest.mark.parametrize("metropolis", [False, True])
def test_a_projection_may_write_into_what_it_gets(metropolis):
    """The chain, and all that its steps report, is that of a projection that makes a copy."""
    mask, y = (torch.arange(8.0) % 2).expand(8, 8, 8), torch.randn(4, 1, 8, 8, 8, generator=seeded())

    def chain(projection):
        options = {"num_steps": 6, "step_size": 0.1, "metropolis": metropolis, "generator": seeded(1)}
        return [(z, *info[:4]) for z, info in langevin(y, net8(), projection=projection, **options)]

    kept = chain(lambda t: t * mask)
    torch.testing.assert_close(kept[0][2], energy_and_gradient(y, net8())[1].flatten(1).norm(dim=1))
    assert equal(chain(lambda t: t.mul_(mask)), kept)


# -- mixtures against quadrature ---------------------------------------------------------------------------------------


def total_variation(points: torch.Tensor, energy, temperature: float, low: float, high: float, bins: int):
    """TV between a histogram of points (N, D) and exp(-E / T), and the most that chance explains.

    A bin's share of N draws is off by sqrt(p / N), in the mean absolutely by sqrt(2 / pi) of it: the expected TV is
    sum sqrt(2 p / (pi N)) / 2, its deviation sqrt((1 - 2 / pi) / N) / 2. The bound is that mean and 5 deviations.
    """
    d, fine = points.shape[1], 8
    axis = low + (torch.arange(bins * fine, dtype=torch.float64) + 0.5) * (high - low) / (bins * fine)
    grid = torch.cartesian_prod(*[axis] * d).view(-1, d)
    density = (-energy(grid) / temperature).exp().view([bins, fine] * d)
    p = density.sum(dim=list(range(1, 2 * d, 2))) / density.sum()
    counts, _ = np.histogramdd(points.numpy(), bins=bins, range=[(low, high)] * d)
    n = len(points)
    distance = np.abs(counts / n - p.numpy()).sum() / 2 + (1 - counts.sum() / n) / 2
    return distance, float((2 * p / (math.pi * n)).sqrt().sum() / 2 + 2.5 * math.sqrt((1 - 2 / math.pi) / n))


ONE = MixtureEnergy(torch.tensor([[-1.2], [1.3]]), 0.6, (0.3, 0.7))
TWO = MixtureEnergy(torch.tensor([[-1.0, 0.0], [1.0, 0.8], [0.3, -1.2]]), 0.5, (1.0, 2.0, 1.0))


@pytest.mark.parametrize(
    ("energy", "temperature", "h", "steps", "bins", "worse"),
    [(ONE, 1.0, 0.4, 150, 40, 0.03), (ONE, 2.5, 0.8, 60, 40, 0.01), (TWO, 1.0, 0.3, 120, 14, 0.03)],
)
def test_mixtures_against_quadrature(energy, temperature, h, steps, bins, worse):
    """Metropolis comes within chance of the integral; the unadjusted chain at the same step visibly does not."""
    y = 2 * torch.randn(20_000, energy.means.shape[1], generator=seeded(), dtype=torch.float64)
    options = dict(num_steps=steps, step_size=h, temperature=temperature)
    exact = sample(y, energy, metropolis=True, generator=seeded(1), **options)
    distance, bound = total_variation(exact, energy, temperature, -6, 6, bins)
    assert distance < bound < 0.03
    biased, _ = total_variation(sample(y, energy, generator=seeded(1), **options), energy, temperature, -6, 6, bins)
    assert biased > bound + worse


# -- temperature -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("h", [0.01, 0.1])
def test_temperature_zero_is_gradient_descent(h):
    net = net8(0.1)
    start = torch.randn(3, 1, 8, 8, 8, generator=seeded())
    generator = seeded(1)
    ours = sample(start, net, num_steps=30, step_size=h, temperature=0.0, generator=generator)
    y = start.clone()
    for _ in range(30):
        y.requires_grad_(True)
        y = (y - h / 2 * torch.autograd.grad(net.energy(y).sum(), y)[0]).detach()
    assert torch.equal(ours, y)
    assert torch.equal(generator.get_state(), seeded(1).get_state()), "no noise is drawn"
    again = sample(start, net, num_steps=30, step_size=h, temperature=0.0)
    assert torch.equal(ours, again)


def test_a_step_is_equation_7_to_the_bit():
    y = torch.randn(3, 1, 8, 8, 8, generator=seeded())
    gradient = energy_and_gradient(y, net8())[1]
    new, _ = langevin_step(y, net8(), step_size=0.05, temperature=0.7, generator=seeded(1))
    noise = torch.randn(y.shape, generator=seeded(1))
    torch.testing.assert_close(new, y - 0.05 / 2 * gradient + math.sqrt(0.05 * 0.7) * noise, rtol=1e-6, atol=1e-7)


def test_temperature_may_follow_a_schedule():
    y = torch.randn(4, 6, generator=seeded())
    options = dict(step_size=0.1, generator=seeded(1))
    ours = sample(y, GaussianEnergy(), num_steps=9, temperature=lambda step: 2.0 / (1 + step // 3), **options)
    options["generator"] = seeded(1)
    for temperature in (2.0, 1.0, 2.0 / 3):
        y = sample(y, GaussianEnergy(), num_steps=3, temperature=temperature, **options)
    assert torch.equal(ours, y)


# -- independence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metropolis", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_samples_do_not_depend_on_how_chains_are_batched(metropolis, temperature):
    if metropolis and not temperature:
        return
    y = torch.randn(6, 1, 8, 8, 8, generator=seeded())
    options = dict(num_steps=15, step_size=0.05, temperature=temperature, metropolis=metropolis)
    for energy, tolerance in ((GaussianEnergy(0.1, 0.25), 0.0), (net8(0.1), 1e-5)):
        whole = sample(y, energy, generator=chain_generators(7, 6), **options)
        parts = [
            sample(y[a:b], energy, generator=chain_generators(7, b - a, first=a), **options)
            for a, b in ((0, 2), (2, 6))
        ]
        torch.testing.assert_close(whole, torch.cat(parts), rtol=0, atol=tolerance)
        order = [3, 0, 5, 1, 4, 2]
        own = chain_generators(7, 6)
        shuffled = sample(y[order], energy, generator=[own[i] for i in order], **options)
        torch.testing.assert_close(shuffled, whole[order], rtol=0, atol=tolerance)


def test_chain_generators_give_different_streams():
    draws = torch.stack([torch.randn(2000, generator=g) for g in chain_generators(0, 20)])
    correlation = torch.corrcoef(draws) - torch.eye(20)
    assert correlation.abs().max() < 5.5 / math.sqrt(2000)  # 190 pairs
    other = torch.randn(2000, generator=chain_generators(1, 1)[0])
    assert not torch.equal(other, draws[0])


def test_only_the_given_generator_is_used():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    options = dict(num_steps=5, step_size=0.1, metropolis=True)
    one = sample(torch.zeros(3, 4), GaussianEnergy(), generator=seeded(), **options)
    two = sample(torch.zeros(3, 4), GaussianEnergy(), generator=seeded(), **options)
    assert torch.equal(one, two) and torch.equal(before, torch.random.get_rng_state())
    three = sample(torch.zeros(3, 4), GaussianEnergy(), **options)
    assert not torch.equal(before, torch.random.get_rng_state()) and not torch.equal(one, three)


# -- what is kept ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metropolis", [False, True])
def test_no_graph_and_no_weight_gradient_is_kept(metropolis):
    net = net8()
    net.dense.bias.grad = torch.full((1,), 7.0)
    start = torch.randn(3, 1, 8, 8, 8, requires_grad=True)
    before = start.detach().clone()
    counts = []
    steps = langevin(start, net, num_steps=25, step_size=0.1, metropolis=metropolis)
    for step, (y, info) in enumerate(steps):
        assert not y.requires_grad and not any(x.requires_grad for x in (info.energy, info.gradient_norm))
        if step in (5, 23):
            gc.collect()
            counts.append(sum(type(thing) is torch.Tensor for thing in gc.get_objects()))
    assert counts[0] == counts[1], "tensors pile up"
    assert all(p.grad is None for p in net.parameters() if p is not net.dense.bias)
    assert net.dense.bias.grad.item() == 7 and all(p.requires_grad for p in net.parameters())
    assert start.grad is None and torch.equal(start.detach(), before), "the start is not written to"
    with torch.no_grad():
        assert not torch.equal(sample(start, net, num_steps=1, step_size=0.1, metropolis=metropolis), before)


# -- the uniform reference ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slope:
    """E = tilt * sum(y) inside the bounds, infinite outside: exponential laws with known distribution functions."""

    tilt: float = 0.0
    bounds: tuple[float, float] = (-0.3, 0.7)

    def __call__(self, y):
        inside = ((y >= self.bounds[0] - 1e-6) & (y <= self.bounds[1] + 1e-6)).flatten(1).all(1)
        return torch.where(inside, self.tilt * y.flatten(1).sum(1), math.inf)

    def cdf(self, y, temperature=1.0):
        low, high = self.bounds
        if self.tilt == 0:
            return (y - low) / (high - low)
        a = self.tilt / temperature
        return (1 - np.exp(-a * (y - low))) / (1 - math.exp(-a * (high - low)))


def kolmogorov(y: torch.Tensor, cdf) -> float:
    """sqrt(n) times the largest distance between the empirical distribution function and `cdf`."""
    values = np.sort(y.double().flatten().numpy())
    n, exact = len(values), cdf(values)
    steps = np.arange(n + 1) / n
    return math.sqrt(n) * max((steps[1:] - exact).max(), (exact - steps[:-1]).max())


KOLMOGOROV = 2.7  # exceeded once in 1,000,000: 2 exp(-2 * 2.7^2)


@pytest.mark.parametrize("start", [0.7, -0.3, 0.1])
@pytest.mark.parametrize("h", [0.05, 0.5, 20.0])
def test_a_flat_energy_between_walls_gives_the_uniform_law(start, h):
    """Reflected white noise: the slowest mode decays as exp(-pi^2 h / 2) a step, from a wall or the middle."""
    steps = langevin(torch.full((500, 1, 4, 4, 4), start), Slope(), num_steps=60, step_size=h, generator=seeded())
    for y, _ in steps:
        assert y.min() >= -0.3 - 1e-6 and y.max() <= 0.7 + 1e-6
    assert kolmogorov(y, Slope().cdf) < KOLMOGOROV
    for low, high in ((-0.3, -0.29), (0.69, 0.7)):  # the last hundredth before each wall
        share = ((y >= low) & (y <= high)).double().mean().item()
        assert abs(share - 0.01) < 5 * math.sqrt(0.01 * 0.99 / y.numel())


def test_an_untrained_network_between_walls_gives_the_uniform_law():
    net = DescriptorNet(Architecture(4, ((3, 3, 1),), s=None, bounds=(-0.3, 0.7)), weight_std=0.0)
    y = sample(torch.zeros(400, 1, 4, 4, 4), net, num_steps=60, step_size=0.05, generator=seeded())
    assert kolmogorov(y, Slope().cdf) < KOLMOGOROV


@pytest.mark.parametrize(("tilt", "temperature"), [(0.0, 1.0), (3.0, 1.0), (-4.0, 0.5)])
def test_metropolis_between_walls_gives_the_exact_law(tilt, temperature):
    energy = Slope(tilt)
    y, refused = torch.zeros(20_000, 1, dtype=torch.float64), 0
    steps = langevin(
        y, energy, num_steps=150, step_size=0.2, temperature=temperature, metropolis=True, generator=seeded()
    )
    for y, info in steps:
        assert y.min() >= -0.3 - 1e-6 and y.max() <= 0.7 + 1e-6
        refused += (~info.accepted).sum().item()
    assert refused > 10_000
    assert kolmogorov(y, lambda x: energy.cdf(x, temperature)) < KOLMOGOROV


@pytest.mark.parametrize("metropolis", [False, True])
def test_chains_begun_outside_the_walls_come_in(metropolis):
    y = 2 * torch.randn(200, 2, generator=seeded())
    y = sample(y, Slope(), num_steps=100, step_size=0.05, metropolis=metropolis, generator=seeded(1))
    assert y.min() >= -0.3 - 1e-6 and y.max() <= 0.7 + 1e-6
    assert kolmogorov(y, Slope().cdf) < KOLMOGOROV


@pytest.mark.parametrize("metropolis", [False, True])
def test_a_start_outside_is_folded_and_not_clamped(metropolis):
    """Mirrored at the wall it has passed, of a range from -0.3 to 0.7, as often as need be."""
    y = torch.tensor([[1.0, -0.5, 0.2, 1.75, 0.7]], dtype=torch.float64)
    step = {"step_size": 1e-20, "metropolis": metropolis, "generator": seeded()}
    folded = torch.tensor([[0.4, -0.1, 0.2, -0.25, 0.7]], dtype=torch.float64)
    torch.testing.assert_close(langevin_step(y, Slope(), **step)[0], folded, rtol=0, atol=1e-8)


# -- bad input ---------------------------------------------------------------------------------------------------------

Y = torch.zeros(3, 4)


@pytest.mark.parametrize(
    ("y", "options", "error", "message"),
    [
        (Y, {"step_size": 0.0}, ValueError, "step_size must be positive.*0"),
        (Y, {"step_size": -0.1}, ValueError, "step_size must be positive.*-0.1"),
        (Y, {"step_size": math.nan}, ValueError, "step_size"),
        (Y, {"step_size": math.inf}, ValueError, "step_size"),
        (Y, {"temperature": -1.0}, ValueError, "temperature must be at least 0.*-1"),
        (Y, {"temperature": math.nan}, ValueError, "temperature"),
        (Y, {"temperature": lambda step: -step}, ValueError, "temperature.*-1"),
        (Y, {"temperature": 0.0, "metropolis": True}, ValueError, "Metropolis.*temperature above 0"),
        (Y, {"num_steps": -3}, ValueError, "num_steps.*-3"),
        (Y.long(), {}, ShapeError, r"chains.*torch.int64 \(3, 4\)"),
        (Y[:0], {}, ShapeError, r"non-empty.*\(0, 4\)"),
        (Y[:, 0], {}, ShapeError, r"\(N, ...\).*\(3,\)"),
        (torch.tensor(1.0), {}, ShapeError, r"\(\)"),
        (Y.numpy(), {}, ShapeError, "ndarray"),
        ([[0.0]], {}, ShapeError, "list"),
        (Y / 0, {}, ShapeError, "start contains NaN"),
        (Y + math.inf, {}, ShapeError, "infinite"),
        (Y, {"generator": chain_generators(0, 2)}, ShapeError, "2 generators for 3 chains"),
        (Y, {"energy": lambda y: y.square()}, ShapeError, r"\(3, 4\) to \(3,\).*returned \(3, 4\)"),
        (Y, {"energy": lambda y: y.new_zeros(3)}, ShapeError, "gradient"),
    ],
)
def test_bad_input_is_named(y, options, error, message):
    options = {"energy": GaussianEnergy(), "num_steps": 4, "step_size": 0.1} | options
    with pytest.raises(error, match=message):
        sample(y, **options)


def test_the_network_names_shapes_it_cannot_take():
    with pytest.raises(ShapeError, match=r"\(N, 1, 8, 8, 8\), not \(2, 1, 4, 4, 4\)"):
        sample(torch.zeros(2, 1, 4, 4, 4), net8(), num_steps=1, step_size=0.1)
    with pytest.raises(ShapeError, match="float64"):
        sample(torch.zeros(2, 1, 8, 8, 8, dtype=torch.float64), net8(), num_steps=1, step_size=0.1)


def test_chains_that_run_away_are_named():
    """E = y^4 with a step far too large: chains at 0 stay, the others double their exponents until they overflow."""
    y = torch.tensor([[0.0], [3.0], [0.0], [-3.0]])
    with pytest.raises(DivergedError, match=r"2 of 4 chains \(number 1, 3\).*size 1: lower the step size"):
        sample(y, lambda y: y.pow(4).sum(1), num_steps=20, step_size=1.0, temperature=0.0)


def test_progress_is_shown_only_on_request(capsys):
    sample(Y, GaussianEnergy(), num_steps=3, step_size=0.1)
    silent = capsys.readouterr()
    assert silent.out == silent.err == ""
    sample(Y, GaussianEnergy(), num_steps=3, step_size=0.1, progress="melting")
    shown = capsys.readouterr()
    assert "melting" in shown.err and "3/3" in shown.err and shown.out == ""


def test_no_steps_change_nothing():
    assert torch.equal(sample(Y + 1, GaussianEnergy(), num_steps=0, step_size=0.1), Y + 1)
    endless = langevin(Y, GaussianEnergy(), step_size=0.1, generator=seeded())
    steps = random.Random(0).randint(3, 9)
    assert len([next(endless) for _ in range(steps)]) == steps
