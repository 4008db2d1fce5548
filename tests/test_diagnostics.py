"""Effective sample size and split R-hat against closed forms, slow sums and ArviZ."""

import math

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats as arviz
from hypothesis import given
from hypothesis import strategies as st
from problems import seeded

from dnet_lib import GaussianEnergy, effective_sample_size, langevin, split_rhat


def autoregressive(rho: float, steps: int, chains: int, seed: int = 0) -> torch.Tensor:
    """Stationary AR(1) chains of variance 1, (steps, chains)."""
    noise = torch.randn(steps, chains, generator=seeded(seed), dtype=torch.float64)
    values = [noise[0]]
    for e in noise[1:]:
        values.append(rho * values[-1] + math.sqrt(1 - rho**2) * e)
    return torch.stack(values)


@pytest.mark.parametrize(("rho", "margin"), [(0.0, 0.06), (0.5, 0.12), (0.9, 0.2), (-0.3, 0.11), (-0.6, 0.3)])
def test_effective_sample_size_of_autoregressive_chains(rho, margin):
    """N (1 - rho) / (1 + rho). Over 20 seeds the estimate at N = 60,000 scatters by 1.1, 2.4, 3.6, 2.0 and 4.6 %, with
    a bias of 7 % in the last case (the sum stops at the first negative pair): the margins are 5 sigma."""
    chains = autoregressive(rho, 3000, 20)
    expected = chains.numel() * (1 - rho) / (1 + rho)
    assert effective_sample_size(chains) == pytest.approx(expected, rel=margin)
    if rho < 0:
        assert effective_sample_size(chains) > chains.numel(), "antithetic chains beat independent draws"


def slow_ess(chains: np.ndarray) -> float:
    """The same estimator by sums over lags, autocovariances divided by n - 1 as variances are."""
    half = len(chains) // 2
    halves = np.concatenate([chains[:half], chains[-half:]], axis=1)
    n, m = halves.shape
    centred = halves - halves.mean(0)
    covariance = np.array([(centred[: n - t] * centred[t:]).sum(0).mean() / (n - 1) for t in range(n)])
    total = covariance[0] * (n - 1) / n + halves.mean(0).var(ddof=1)
    rho = 1 - (covariance[0] - covariance) / total
    tau, last, t = -1.0, math.inf, 0
    while t + 1 < n and rho[t] + rho[t + 1] > 0:
        last = min(last, rho[t] + rho[t + 1])
        tau, t = tau + 2 * last, t + 2
    return n * m / max(tau, 1 / math.log10(n * m + 10))


@given(rho=st.floats(-0.9, 0.95), steps=st.integers(8, 101), chains=st.integers(1, 5), seed=st.integers(0, 99))
def test_effective_sample_size_by_slow_sums(rho, steps, chains, seed):
    values = autoregressive(rho, steps, chains, seed)
    assert effective_sample_size(values) == pytest.approx(slow_ess(values.numpy()), rel=1e-6)
    assert effective_sample_size(3 * values.float() - 7) == pytest.approx(effective_sample_size(values), rel=1e-3)


def test_effective_sample_size_predicts_the_error_of_a_langevin_mean():
    """200 batches of 4 chains each: the spread of their means is std / sqrt(ESS), within 5 sigma of a deviation."""
    start = torch.randn(800, 1, generator=seeded())
    steps = langevin(start, GaussianEnergy(), num_steps=400, step_size=0.4, metropolis=True, generator=seeded(1))
    values = torch.stack([y[:, 0] for y, _ in steps])
    spread = values.mean(0).view(200, 4).mean(1).std().item()
    predicted = 1 / math.sqrt(np.mean([effective_sample_size(values[:, i : i + 4]) for i in range(0, 800, 4)]))
    assert spread == pytest.approx(predicted, rel=5 / math.sqrt(2 * 200))


def slow_rhat(chains: np.ndarray) -> float:
    half = len(chains) // 2
    halves = np.concatenate([chains[:half], chains[-half:]], axis=1)
    within, between = halves.var(0, ddof=1).mean(), half * halves.mean(0).var(ddof=1)
    return math.sqrt(((half - 1) / half * within + between / half) / within)


@given(steps=st.integers(8, 60), chains=st.integers(1, 5), shift=st.floats(0, 5), seed=st.integers(0, 99))
def test_split_rhat_by_its_definition(steps, chains, shift, seed):
    values = torch.randn(steps, chains, generator=seeded(seed), dtype=torch.float64)
    values += shift * torch.arange(chains)
    assert split_rhat(values) == pytest.approx(slow_rhat(values.numpy()), rel=1e-9)


def test_split_rhat_tells_health_from_sickness():
    """Independent draws: R-hat^2 - 1 is about (chi^2_7 / 7 - 1) / 1000, so 1.003 is beyond 5 sigma of 1."""
    healthy = torch.randn(2000, 4, generator=seeded())
    assert abs(split_rhat(healthy) - 1) < 0.003
    apart = healthy + torch.tensor([0.0, 0.0, 0.0, 2.0])
    assert split_rhat(apart) == pytest.approx(math.sqrt(1 + 6 / 7), rel=0.05)  # B/n of means 0 0 0 2, twice, over 7
    drift = healthy[:, :1] + torch.linspace(0, 4, 2000)[:, None]
    assert split_rhat(drift) > 1.3, "one chain that drifts is seen because it is split"
    assert split_rhat(autoregressive(0.999, 500, 4)) > 1.05


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 123.456])
def test_stuck_chains(value):
    stuck = torch.full((101, 3), value)
    assert split_rhat(stuck) == 1 and math.isnan(effective_sample_size(stuck))
    stuck[:, 1] += 0.7
    assert split_rhat(stuck) == math.inf
    assert effective_sample_size(stuck) < 7, "constant chains are worth no more than their number"


# -- ArviZ, which others wrote -----------------------------------------------------------------------------------------

RHOS = (0.0, 0.9, 0.99, -0.3, -0.6, -0.9)  # white, slow, slower, and three antithetic ones, the last at the bound
LENGTHS = [(3000, 20), (1000, 4), (101, 3), (20, 2)]


@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize(("steps", "chains"), LENGTHS)
def test_effective_sample_size_of_arviz(rho, steps, chains):
    """ArviZ's ess(method="mean") splits and sums alike, with three differences that vanish as chains grow.

    Of an autocorrelation at lag t >= 1 it leaves out n / (n - 1), which Vehtari et al. (2021) have; it adds the
    even lag of the first pair that is refused; its bound is N log10 N, here it is N log10(N + 10). So the times tau =
    N / ESS differ by about the error of one autocorrelation, 1 / sqrt(N), and by a multiple of tau / n. Over 100 seeds
    they differ by at most 5.3 times 1 / sqrt(N) + 2 tau / n: the margin is 8.
    """
    for seed in range(10):
        values = autoregressive(rho, steps, chains, seed)
        count = 2 * (steps // 2) * chains
        ours = count / effective_sample_size(values)
        theirs = count / arviz.ess(values.numpy(), chain_axis=1, draw_axis=0, method="mean")
        assert abs(ours - theirs) < 8 * (1 / math.sqrt(count) + 2 * theirs / steps)
        if steps == 3000 and rho >= 0:
            assert ours == pytest.approx(theirs, rel=0.01)


@pytest.mark.parametrize("rho", RHOS)
@pytest.mark.parametrize(("steps", "chains"), [*LENGTHS, (9, 2)])
def test_split_rhat_of_arviz(rho, steps, chains):
    """The same formula, so the same number. ArviZ asks for two chains; here one, cut in halves, is enough."""
    values = autoregressive(rho, steps, chains) + 0.3 * torch.arange(chains)
    theirs = arviz.rhat(values.numpy(), chain_axis=1, draw_axis=0, method="split")
    assert split_rhat(values) == pytest.approx(theirs, rel=1e-12)


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_stuck_chains_of_arviz():
    """Stuck at different places: R-hat is infinite for both. Stuck at one, both would divide 0 by 0: ArviZ answers NaN
    and an ESS of all N draws, the library that the chains agree and that their worth is unknown."""
    stuck = torch.full((101, 3), 0.25, dtype=torch.float64)
    apart = stuck + torch.tensor([0, 0.5, 0])
    assert split_rhat(apart) == arviz.rhat(apart.numpy(), chain_axis=1, draw_axis=0, method="split") == math.inf
    theirs = arviz.ess(apart.numpy(), chain_axis=1, draw_axis=0, method="mean")
    assert effective_sample_size(apart) == pytest.approx(theirs, rel=0.1)
    assert split_rhat(stuck) == 1 and math.isnan(effective_sample_size(stuck))
    assert math.isnan(arviz.rhat(stuck.numpy(), chain_axis=1, draw_axis=0, method="split"))
    assert arviz.ess(stuck.numpy(), chain_axis=1, draw_axis=0, method="mean") == 300


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("diagnostic", [split_rhat, effective_sample_size])
@pytest.mark.parametrize(
    ("chains", "message"),
    [
        (torch.zeros(7, 2), r"steps >= 8.*\(7, 2\)"),
        (torch.zeros(20), r"\(20,\)"),
        (torch.zeros(20, 2, 2), r"\(20, 2, 2\)"),
        (torch.zeros(20, 0), r"\(20, 0\)"),
        (torch.full((20, 2), math.nan), "NaN"),
        (torch.full((20, 2), math.inf), "infinite"),
    ],
)
def test_chains_of_the_wrong_kind_are_named(diagnostic, chains, message):
    with pytest.raises(ValueError, match=message):
        diagnostic(chains)
