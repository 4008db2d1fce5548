"""Eq. (8) against exactly normalised models; runs that are killed, resumed, spread over processes, or diverge."""

import copy
import math
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from problems import drawn, equal, seeded, small_net, told
from torch import nn

from dnet_lib import (
    Architecture,
    DivergedError,
    GaussianEnergy,
    Record,
    Run,
    Settings,
    ShapeError,
    down_scale,
    learn,
    learning_gradient,
    sample,
)
from dnet_lib.learning import learning_step
from dnet_lib.presets import AUTHORS, PAPER
from dnet_lib.resuming import read_state, write_state
from dnet_lib.starts import Corrupted, Data, LowResolution, Noise, Persistent, PersistentData

DATA = drawn(6, 4, 0.4) - 0.4

# Every option that leaves something behind between iterations.
EVERYTHING = Settings(
    num_iterations=8,
    num_steps=3,
    step_size=0.02,
    temperature=lambda iteration: 1.0 if iteration < 5 else 0.5,
    metropolis=True,
    batch_size=4,
    learning_rate=lambda iteration: 0.01 / (1 + iteration),
    data_noise=0.03,
    max_gradient=2.0,
    average=0.9,
    energy_penalty=0.001,
)


def everything(settings: Settings = EVERYTHING) -> Run:
    chains = torch.randn(5, 1, 4, 4, 4, generator=seeded(3))
    return Run.begin(small_net(), Persistent(chains, per_iteration=3, renew=0.2), settings, seed=4)


# -- eq. (8) -----------------------------------------------------------------------------------------------------------


class Bumps(nn.Module):
    """E(y) = y^2 / 2 - g(y), g a small network with smooth bumps: 13 weights on a line, normalised by quadrature."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(1, 4).double(), nn.Linear(4, 1).double()
        with torch.no_grad():
            for p in self.parameters():
                p.normal_(0, 1, generator=seeded(2))

    def energy(self, y):
        return y.square().sum(1) / 2 - self.outer(torch.tanh(self.inner(y))).squeeze(1)

    forward = energy


LINE = torch.linspace(-9, 9, 3001, dtype=torch.float64)[:, None]


def log_likelihood(net: nn.Module, observed: torch.Tensor, states: torch.Tensor, log_cell: float) -> torch.Tensor:
    """mean_i log p(y_i) with Z summed over all `states` of equal volume exp(log_cell)."""
    return -net.energy(observed).mean() - torch.logsumexp(-net.energy(states), 0) - log_cell


def differences(net: nn.Module, function, step: float = 1e-5) -> list[torch.Tensor]:
    """Central differences of function() with respect to every weight."""
    slopes = []
    with torch.no_grad():
        for p in net.parameters():
            slope = torch.empty_like(p)
            for i in range(p.numel()):
                old, values = p.view(-1)[i].item(), []
                for sign in (1, -1):
                    p.view(-1)[i] = old + sign * step
                    values.append(function().item())
                p.view(-1)[i] = old
                slope.view(-1)[i] = (values[0] - values[1]) / (2 * step)
            slopes.append(slope)
    return slopes


def test_equation_8_is_the_slope_of_the_likelihood_on_a_line():
    """Synthesized shapes at the 20,000 mid-quantiles of p: their mean is the integral to about 1e-5."""
    net, observed = Bumps(), torch.randn(7, 1, generator=seeded(1), dtype=torch.float64) + 1
    with torch.no_grad():
        density = (-net.energy(LINE)).exp()
        cdf = torch.cumulative_trapezoid(density, LINE[:, 0])
        cdf = torch.cat([cdf.new_zeros(1), cdf]) / cdf[-1]
        levels = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
        right = torch.searchsorted(cdf, levels).clamp(1, len(cdf) - 1)
        part = (levels - cdf[right - 1]) / (cdf[right] - cdf[right - 1])
        synthesized = LINE[right - 1] + part[:, None] * (LINE[1] - LINE[0])
    slopes = differences(net, lambda: log_likelihood(net, observed, LINE, math.log((LINE[1] - LINE[0]).item())))
    learning_gradient(net, observed, synthesized)
    assert max(slope.abs().max() for slope in slopes) > 0.1
    for p, slope in zip(net.parameters(), slopes, strict=True):
        torch.testing.assert_close(p.grad, -slope, rtol=1e-4, atol=3e-5)


def test_equation_8_with_langevin_samples():
    """The whole of modes sought and shifted: 20,000 Metropolis chains in place of the integral, within 5 sigma."""
    net, observed = Bumps(), torch.randn(7, 1, generator=seeded(1), dtype=torch.float64) + 1
    start = 2 * torch.randn(20_000, 1, generator=seeded(3), dtype=torch.float64)
    synthesized = sample(start, net, num_steps=120, step_size=0.6, metropolis=True, generator=seeded(4))
    slopes = differences(net, lambda: log_likelihood(net, observed, LINE, math.log((LINE[1] - LINE[0]).item())))
    features = torch.func.vmap(
        torch.func.grad(lambda w, y: torch.func.functional_call(net, w, (y[None],)).squeeze()), (None, 0)
    )(dict(net.named_parameters()), synthesized)
    learning_gradient(net, observed, synthesized)
    for (name, p), slope in zip(net.named_parameters(), slopes, strict=True):
        sigma = features[name].std(0) / math.sqrt(len(synthesized))
        assert ((p.grad + slope).abs() <= 5 * sigma + 1e-9).all(), name


class Dice(nn.Module):
    """Six states whose probabilities are w / sum(w) at the first weights: E = -log w(y) + g(y) - g0(y), exactly."""

    COUNTS = torch.tensor([1, 4, 2, 7, 3, 3])

    def __init__(self):
        super().__init__()
        self.g = nn.Sequential(nn.Linear(1, 3), nn.SiLU(), nn.Linear(3, 1)).double()
        self.first = [copy.deepcopy(self.g).requires_grad_(False)]  # in a list: not among the parameters

    def energy(self, y):
        return (self.g(y / 5) - self.first[0](y / 5)).squeeze(1) - self.COUNTS[y[:, 0].long()].double().log()

    forward = energy


def test_equation_8_is_exact_on_a_countable_space():
    """Each state as often as its probability says: no sampling, no quadrature error; differences agree to 1e-9."""
    net, states = Dice(), torch.arange(6, dtype=torch.float64)[:, None]
    observed = torch.tensor([[5.0], [0.0], [0.0], [1.0]], dtype=torch.float64)
    synthesized = states.repeat_interleave(Dice.COUNTS, dim=0)
    slopes = differences(net, lambda: log_likelihood(net, observed, states, 0.0))
    e_observed, e_synthesized = learning_gradient(net, observed, synthesized)
    for p, slope in zip(net.parameters(), slopes, strict=True):
        torch.testing.assert_close(p.grad, -slope, rtol=1e-7, atol=1e-9)
    assert next(net.parameters()).grad.abs().max() > 1e-3
    torch.testing.assert_close(e_observed, net.energy(observed).detach())
    torch.testing.assert_close(e_synthesized, net.energy(synthesized).detach())


@pytest.mark.parametrize("penalty", [0.0, 0.1])
def test_the_learning_gradient_is_that_of_equation_14(penalty):
    net = small_net().double()
    observed, synthesized = DATA.double(), torch.randn(9, 1, 4, 4, 4, generator=seeded(), dtype=torch.float64)
    value = net.energy(synthesized).mean() - net.energy(observed).mean()
    level = net.energy(synthesized).square().mean() + net.energy(observed).square().mean()
    expected = torch.autograd.grad(penalty * level - value, list(net.parameters()))
    for _ in range(2):  # gradients do not pile up
        energies = learning_gradient(net, observed, synthesized, energy_penalty=penalty)
    for p, slope in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, slope)
    assert not any(e.requires_grad for e in energies) and observed.grad is None


def test_learning_matches_the_statistics_of_an_exponential_family():
    """E = y^2 / 2 - theta y: the likeliest theta is the data's mean, found by persistent chains and eq. (8).

    The last 100 thetas of 200 are averaged. The mean of 20,000 chains is off by 0.007, its average over 100
    iterations with autocorrelation time about 2.5 by 0.0012: the bound is 8 sigma.
    """

    class Tilt(nn.Module):
        def __init__(self):
            super().__init__()
            self.theta = nn.Parameter(torch.zeros(()))

        def energy(self, y):
            return y.square().sum(1) / 2 - self.theta * y.sum(1)

        forward = energy

    net, observed = Tilt(), torch.randn(50, 1, generator=seeded()) + 1.5
    y, path = torch.randn(20_000, 1, generator=seeded(1)), []
    for _ in range(200):
        y = sample(y, net, num_steps=2, step_size=1.0, metropolis=True, generator=seeded(len(path)))
        learning_gradient(net, observed, y)
        with torch.no_grad():
            net.theta -= 0.1 * net.theta.grad
        path.append(net.theta.item())
    assert sum(path[100:]) / 100 == pytest.approx(observed.mean().item(), abs=0.01)


@pytest.mark.parametrize("empty", ["observed", "synthesized"])
def test_a_side_without_shapes_is_refused(empty):
    observed, synthesized = (DATA[: 0 if empty == side else 2] for side in ("observed", "synthesized"))
    with pytest.raises(ShapeError, match="at least one"):
        learning_gradient(small_net(), observed, synthesized)


# -- one step and one iteration ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 0.02])
def test_a_learning_step_is_adam(limit):
    """Three steps of Adam, its clipping and the weights' moving average, written out."""
    settings = Settings(batch_size=1, learning_rate=0.01, max_gradient=limit, average=0.8)
    run = Run.begin(small_net().double(), Noise(1), settings)
    theta = [p.detach().clone() for p in run.net.parameters()]
    m, v, average = ([torch.zeros_like(p) for p in theta] for _ in range(3))
    average = [p.clone() for p in theta]
    twin = small_net().double()
    for step in (1, 2, 3):
        observed, synthesized = torch.randn(2, 3, 1, 4, 4, 4, generator=seeded(step), dtype=torch.float64)
        *_, norm = learning_step(run, observed, synthesized, settings)
        for p, value in zip(twin.parameters(), theta, strict=True):
            p.data.copy_(value)
        learning_gradient(twin, observed, synthesized)
        slopes = [p.grad for p in twin.parameters()]
        size = math.sqrt(sum(slope.square().sum().item() for slope in slopes))
        assert float(norm) == pytest.approx(size)
        shrink = 1 if limit is None or size < limit else limit / (size + 1e-6)
        for i, slope in enumerate(slopes):
            m[i] = 0.5 * m[i] + 0.5 * slope * shrink
            v[i] = 0.999 * v[i] + 0.001 * (slope * shrink) ** 2
            theta[i] = theta[i] - 0.01 * m[i] / (1 - 0.5**step) / ((v[i] / (1 - 0.999**step)).sqrt() + 1e-8)
            average[i] = 0.8 * average[i] + 0.2 * theta[i]
    torch.testing.assert_close(list(run.net.parameters()), theta, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(list(run.averaged.parameters()), average, rtol=1e-9, atol=1e-12)
    if limit:
        assert size > limit, "the clipping must be used"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_records_tell_the_truth(dtype):
    """With learning rate 0 the weights stay: every number of a record can be computed again from its shapes."""
    settings = Settings(num_iterations=3, num_steps=4, batch_size=6, learning_rate=0.0, step_size=0.02)
    net, data = small_net().to(dtype), DATA.to(dtype)
    run = Run.begin(net, Persistent(torch.randn(5, 1, 4, 4, 4, generator=seeded()).to(dtype)), settings)
    records = list(learn(run, data, settings))
    assert [r.iteration for r in records] == [1, 2, 3]
    assert [r.seconds for r in records] == sorted(r.seconds for r in records) and records[0].seconds > 0
    for r in records:
        e_observed, e_synthesized = net.energy(data).mean().item(), net.energy(r.synthesized).mean().item()
        assert r.energy_observed == pytest.approx(e_observed, rel=1e-5)
        assert r.energy_synthesized == pytest.approx(e_synthesized, rel=1e-5)
        assert r.value == pytest.approx(e_synthesized - e_observed, rel=1e-4)
        assert r.energy_gap == pytest.approx(r.value / 64)
        learning_gradient(net, data, r.synthesized)
        size = math.sqrt(sum(p.grad.square().sum().item() for p in net.parameters()))
        assert r.learning_gradient == pytest.approx(size, rel=1e-4)
        assert r.acceptance == 1.0 and r.gradient_norm > 0 and r.synthesized.dtype == dtype
    kept, last = (y[y[:, 0, 0, 0, 0].argsort()] for y in (run.starts.chains, records[-1].synthesized))
    assert torch.equal(kept, last)


def test_acceptance_is_the_share_of_accepted_proposals():
    shares = []
    for h in (1e-4, 0.05, 50.0):
        settings = Settings(num_iterations=2, num_steps=20, batch_size=6, step_size=h, metropolis=True)
        run = Run.begin(small_net(), Noise(20, std=0.5), settings)
        shares += [[r.acceptance for r in learn(run, DATA, settings)]]
    assert min(shares[0]) > 0.99 and min(shares[1]) > 0.3 and max(shares[1]) < 0.99 and max(shares[2]) == 0


def test_contrastive_divergence_starts_at_the_data_and_noise_free():
    """K = 1 and temperature 0: the synthesized shapes are one gradient step from the batch, data noise aside."""
    settings = Settings(num_iterations=1, num_steps=1, batch_size=6, step_size=0.02, temperature=0.0, data_noise=0.5)
    net = small_net()
    before = copy.deepcopy(net)
    (record,) = learn(Run.begin(net, Data(), settings), DATA, settings)
    expected = sample(DATA, before, num_steps=1, step_size=0.02, temperature=0.0)
    order = [int(((expected - y).abs().flatten(1).sum(1)).argmin()) for y in record.synthesized]
    assert sorted(order) == list(range(6))
    torch.testing.assert_close(record.synthesized, expected[order])


def test_data_noise_has_the_given_deviation():
    """With f = 0 the energy of observed + noise exceeds that of observed by R^3 sigma^2 / (2 s^2) on average."""
    settings = Settings(num_iterations=60, num_steps=1, batch_size=6, learning_rate=0.0, data_noise=0.3)
    run = Run.begin(small_net(std=0.0), Noise(1), settings)
    means = [r.energy_observed for r in learn(run, DATA, settings)]
    plain = DATA.square().sum().item() / 6 / 0.5
    n, sigma2 = 60 * 6 * 64, 0.3**2
    spread = math.sqrt((4 * sigma2 * DATA.square().mean().item() + 2 * sigma2**2) / n) * 64 / 0.5
    assert abs(sum(means) / 60 - plain - 64 * sigma2 / 0.5) < 5 * spread


@given(shapes=st.integers(1, 9), data=st.data())
def test_batches_deal_every_shape_once_an_epoch_and_never_twice_a_batch(shapes, data):
    size = data.draw(st.integers(1, shapes))
    run = everything()
    batches = [run.next_batch(shapes, size) for _ in range(4 * shapes)]
    assert all(len(set(batch.tolist())) == size for batch in batches)
    dealt = torch.cat(batches)
    epochs = dealt[: len(dealt) // shapes * shapes].view(-1, shapes)
    assert (epochs.sort(dim=1).values == torch.arange(shapes)).all()


def test_batches_come_in_a_fresh_order():
    run = everything()
    orders = {tuple(run.next_batch(6, 6).tolist()) for _ in range(20)}
    assert len(orders) > 15


def test_persistent_data_follow_the_batches():
    settings = Settings(num_iterations=9, num_steps=1, batch_size=4, step_size=1e-12, temperature=0.0)
    starts = PersistentData(DATA)
    list(learn(Run.begin(small_net(), starts, settings), DATA, settings))
    torch.testing.assert_close(starts.chains, DATA)  # each chain is still at its own shape


ALL = torch.arange(len(DATA))


def test_every_iteration_has_noise_of_its_own():
    """With f = 0 and h = 0.1 a step from the data is 0.8 Y + sqrt(h) eps: eps of variance 1, apart from another's."""
    settings = Settings(num_iterations=4, num_steps=1, batch_size=6, learning_rate=0.0, step_size=0.1)
    records = learn(Run.begin(small_net(std=0.0), Data(), settings), DATA, settings, batches=lambda: ALL)
    noise = torch.stack([((r.synthesized - 0.8 * DATA) / math.sqrt(0.1)).flatten() for r in records])
    assert (torch.cov(noise) - torch.eye(4)).abs().max() < 5 * math.sqrt(2 / DATA.numel())


@pytest.mark.parametrize("metropolis", [False, True])
def test_chains_keep_what_their_start_says(metropolis):
    settings = Settings(num_iterations=2, num_steps=4, batch_size=6, step_size=0.02, metropolis=metropolis)
    for starts in (Corrupted(0.75), LowResolution(2)):
        for r in learn(Run.begin(small_net(), starts, settings), DATA, settings, batches=lambda: ALL):
            kept = r.synthesized == DATA
            if isinstance(starts, Corrupted):
                assert (kept.flatten(1).sum(1) == 16).all()
            else:
                torch.testing.assert_close(down_scale(r.synthesized, 2), down_scale(DATA, 2))
                assert not kept.any()


def test_schedules_follow_the_iteration():
    seen = {"rate": [], "temperature": []}

    def watch(name, value):
        return lambda iteration: seen[name].append(iteration) or value

    settings = Settings(
        num_iterations=4,
        num_steps=2,
        batch_size=3,
        learning_rate=watch("rate", 0.01),
        temperature=watch("temperature", 0.5),
    )
    list(learn(Run.begin(small_net(), Noise(2), settings), DATA, settings))
    assert sorted(set(seen["rate"])) == sorted(set(seen["temperature"])) == [0, 1, 2, 3]
    assert seen["temperature"] == [0, 1, 2, 3]


def test_a_run_draws_only_from_its_own_seed():
    one, two = everything(), everything()
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    records = [[told(r) for r in learn(run, DATA, EVERYTHING)] for run in (one, two)]
    assert records[0] == records[1]
    assert torch.equal(before, torch.random.get_rng_state())
    other = Run.begin(small_net(), everything().starts, EVERYTHING, seed=5)
    assert told(next(learn(other, DATA, EVERYTHING))) != records[0][0]


# -- kill and resume ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", range(1, EVERYTHING.num_iterations))
def test_a_run_resumed_after_any_iteration_is_bit_equal(stop, tmp_path):
    whole = everything()
    records = list(learn(whole, DATA, EVERYTHING))

    first = everything()
    steps = learn(first, DATA, EVERYTHING)
    told_first = [told(next(steps)) for _ in range(stop)]
    write_state(first.state_dict(), tmp_path / "run.pt", {})
    second = everything()
    second.load_state_dict(read_state(tmp_path / "run.pt")[0])
    assert second.iteration == stop and equal(second.state_dict(), first.state_dict())
    told_second = [told(r) for r in learn(second, DATA, EVERYTHING)]
    assert told_first + told_second == [told(r) for r in records]
    assert equal(second.state_dict(), whole.state_dict())


@pytest.mark.parametrize("save_every", [1, 3, 50])
def test_learn_resumes_from_its_checkpoint(save_every, tmp_path):
    whole = everything()
    records = {r.iteration: told(r) for r in learn(whole, DATA, EVERYTHING)}
    path = tmp_path / "deep" / "run.pt"
    seen = {}
    for stop in (2, 5, 7, None):  # interrupted after so many records of its own, three times
        run = everything()
        for r in learn(run, DATA, EVERYTHING, checkpoint=path, save_every=save_every):
            assert told(r) == records[r.iteration]
            seen[r.iteration] = True
            if r.iteration == stop:
                break
    assert equal(run.state_dict(), whole.state_dict()) and list(seen) == list(range(1, 9))
    assert sorted(p.name for p in path.parent.iterdir()) == ["run.pt"]
    assert equal(read_state(path)[0], whole.state_dict())
    done = everything()
    assert list(learn(done, DATA, EVERYTHING, checkpoint=path)) == [] and equal(done.state_dict(), whole.state_dict())
    longer = Settings(**{**vars(EVERYTHING), "num_iterations": 10})
    assert [r.iteration for r in learn(everything(), DATA, longer, checkpoint=path)] == [9, 10]


def test_a_state_can_be_restored_again_and_again():
    run = everything()
    steps = learn(run, DATA, EVERYTHING)
    [next(steps) for _ in range(3)]
    state = run.state_dict()
    kept = copy.deepcopy(state)
    for _ in range(2):
        run.load_state_dict(state)
        last = [told(r) for r in learn(run, DATA, EVERYTHING)][-1]
        assert equal(state, kept), "going on changed the state that was restored"
    whole = everything()
    assert last == told(list(learn(whole, DATA, EVERYTHING))[-1])
    run.load_state_dict(state)
    run.starts.chains += 1
    assert equal(state, kept)


LONG = Settings(**{**vars(EVERYTHING), "num_iterations": 40})


def learn_aloud(path: str) -> None:
    """What a process that will be killed runs: a checkpoint at each iteration, a line out after it and one in."""
    torch.set_num_threads(1)
    for record in learn(everything(LONG), DATA, LONG, checkpoint=path, save_every=1):
        print(record.iteration, flush=True)
        input()


def start_process(call: str) -> subprocess.Popen:
    """A fresh Python that makes one call of this module."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_learning; test_learning.{call}"
    local = {"GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}  # a host need not know its own name
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", code], text=True, env=os.environ | local, **pipes)


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_nothing(tmp_path):
    whole = everything(LONG)
    list(learn(whole, DATA, LONG))
    path = tmp_path / "run.pt"
    for lines in (3, 6):
        process = start_process(f"learn_aloud({str(path)!r})")
        process.stdin.write("\n" * (LONG.num_iterations // 2))  # it never ends, however late it is killed
        process.stdin.flush()
        for _ in range(lines):
            assert process.stdout.readline(), process.stderr.read()
        time.sleep(0.003 * lines)
        process.kill()
        process.communicate()
        assert process.returncode < 0 and path.exists()
        assert 1 < read_state(path)[0]["iteration"] < LONG.num_iterations
    (tmp_path / "run.pt.part").write_text("somebody's own")
    for left in (tmp_path / ".run.pt.1-1.part", *tmp_path.glob(".run.pt.*.part")):  # killed while writing
        left.write_bytes(path.read_bytes()[:100])
        os.utime(left, (0, 0))
    last = everything(LONG)
    list(learn(last, DATA, LONG, checkpoint=path, save_every=1))
    assert equal(last.state_dict(), whole.state_dict())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.pt", "run.pt.part"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut"])
def test_a_file_that_is_no_checkpoint_is_named(content, tmp_path):
    path = tmp_path / "mine.pt"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"mine\.pt cannot be read as the checkpoint(.|\n)*name another file"
    ) as caught:
        next(learn(everything(), DATA, EVERYTHING, checkpoint=path))
    assert path.read_bytes() == content
    assert "weights_only" not in str(caught.value), "torch's advice to load it unsafely must not be passed on"


def test_a_cut_checkpoint_is_named(tmp_path):
    path = tmp_path / "mine.pt"
    write_state(everything().state_dict(), path, {})
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 10):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"mine\.pt"):
            read_state(path)


@pytest.mark.parametrize("content", [{"a": 1}, [{"a": 1}], [], 3, torch.zeros(2), [None]])
def test_a_torch_file_of_another_kind_is_named(content, tmp_path):
    path = tmp_path / "mine.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"mine\.pt"):
        next(learn(everything(), DATA, EVERYTHING, checkpoint=path))


def test_a_checkpoint_of_another_network_is_named(tmp_path):
    path = tmp_path / "mine.pt"
    other = Run.begin(small_net(layers=((5, 3, 2),)), Persistent(SYNTHESIZED), EVERYTHING)
    write_state(other.state_dict(), path, {})
    run = everything()
    with pytest.raises(ValueError, match=r"mine\.pt"):
        next(learn(run, DATA, EVERYTHING, checkpoint=path))


def test_a_checkpoint_never_runs_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "evil"),))

    torch.save([Evil()], tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"evil\.pt"):
        read_state(tmp_path / "evil.pt")
    assert not (tmp_path / "evil").exists()


# -- divergence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("save_every", [1, 4, 5, 50])
@pytest.mark.parametrize("rate", [1e12, 1e30])
def test_a_diverged_run_gives_back_its_last_good_state(save_every, rate, tmp_path):
    """Sane for four iterations, then a learning rate beyond all measure: the state must still be of use."""
    sane = Settings(num_iterations=12, num_steps=3, step_size=0.02, batch_size=4, learning_rate=0.01)
    mad = Settings(**{**vars(sane), "learning_rate": lambda iteration: 0.01 if iteration < 4 else rate})
    path = tmp_path / "run.pt"
    run = everything(mad)
    with pytest.raises(DivergedError, match=r"diverged at iteration \d+.*Lower the learning rate") as caught:
        list(learn(run, DATA, mad, checkpoint=path, save_every=save_every))
    state = caught.value.state
    assert state["iteration"] <= 5 and caught.value.checkpoint == str(path)
    assert equal(read_state(path)[0], state), "the file holds the same state"
    again = everything(sane)
    again.load_state_dict(state)
    assert again.net.energy(DATA).isfinite().all(), "the last good state is not good"
    assert max(p.abs().max().item() for p in again.net.parameters()) < 10, "it holds the weights of the explosion"
    assert [r.iteration for r in learn(again, DATA, sane)][-1] == 12
    whole = everything(sane)
    list(learn(whole, DATA, sane))
    assert equal(again.net.state_dict(), whole.net.state_dict()), "up to the explosion it was the sane run"


def test_chains_that_run_away_diverge_by_name():
    settings = Settings(num_iterations=5, num_steps=5, step_size=1e12, batch_size=4)
    run = everything(settings)
    with pytest.raises(DivergedError, match="iteration 0") as caught:
        list(learn(run, DATA, settings))
    assert caught.value.state["iteration"] == 0 and caught.value.checkpoint is None
    again = everything(settings)
    again.load_state_dict(caught.value.state)
    assert equal(again.state_dict(), everything(settings).state_dict())


# -- the uniform reference ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metropolis", [False, True])
def test_learning_with_a_uniform_reference_stays_finite_and_inside(metropolis):
    mean = 0.37
    shapes = (DATA > 0).float() - mean
    settings = Settings(
        num_iterations=6, num_steps=4, step_size=0.01, batch_size=4, data_noise=0.05, metropolis=metropolis
    )
    net = small_net(s=None, bounds=(-mean, 1 - mean))
    run = Run.begin(net, Persistent(torch.randn(5, 1, 4, 4, 4, generator=seeded())), settings)
    for r in learn(run, shapes, settings):
        assert math.isfinite(r.value)
        assert r.synthesized.min() >= -mean - 1e-6 and r.synthesized.max() <= 1 - mean + 1e-6


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_iterations", -1),
        ("num_steps", 0),
        ("num_steps", -2),
        ("batch_size", 0),
        ("batch_size", -3),
        ("learning_rate", -0.1),
        ("learning_rate", math.nan),
        ("step_size", 0.0),
        ("step_size", -1.0),
        ("step_size", math.nan),
        ("data_noise", -0.1),
        ("average", 1.5),
        ("average", -0.1),
        ("energy_penalty", -1.0),
        ("max_gradient", -1.0),
        ("max_gradient", 0.0),
        ("num_iterations", 4.5),
        ("num_steps", 2.0),
        ("batch_size", 10.0),
        ("temperature", -1.0),
        ("betas", (0.9, 1.0)),
    ],
)
def test_settings_that_cannot_be_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        Settings(**{name: value})


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (DATA[:0], "observed shapes is empty"),
        (DATA / 0, "observed shapes contains NaN"),
        (DATA.int(), "observed shapes.*int32"),
        (DATA[:, 0], r"of one kind, not torch.float32 \(4, 4, 4, 4\) and torch.float32 \(3, 1, 4, 4, 4\)"),
        (torch.zeros(6, 1, 5, 5, 5), r"observed shapes must be 4\^3 voxels, not 5\^3"),
        (DATA[:2], "batch_size is 4, but there are only 2"),
        (DATA.double(), "of one kind, not torch.float64.*torch.float32"),
    ],
)
def test_observed_shapes_of_the_wrong_kind_are_named(shapes, message):
    with pytest.raises(ShapeError, match=message):
        next(learn(everything(), shapes, EVERYTHING))


def test_save_every_must_be_positive():
    with pytest.raises(ValueError, match="save_every"):
        next(learn(everything(), DATA, EVERYTHING, save_every=0))


def test_the_papers_numbers():
    s = PAPER.settings
    assert (s.num_iterations, s.num_steps, s.step_size, s.batch_size) == (3000, 20, 0.1, 20)
    assert (s.learning_rate, s.betas) == (0.001, (0.5, 0.999)) and PAPER.num_chains == 25
    assert [s.temperature(i) for i in (0, 99, 100, 2999)] == [1, 1, 0, 0]
    assert PAPER.architecture.layers == ((200, 16, 3), (100, 6, 2)) and PAPER.architecture.s == 0.5
    assert (AUTHORS.settings.step_size, AUTHORS.settings.learning_rate) == (0.01, 0.01)
    assert PAPER.architecture == Architecture() and Settings().step_size == 0.1


# -- several processes -------------------------------------------------------------------------------------------------

SHARES = {"observed": (4, 2), "synthesized": (2, 5)}
SYNTHESIZED = torch.randn(7, 1, 4, 4, 4, generator=seeded(11))
TOGETHER = Settings(num_iterations=6, num_steps=2, step_size=0.02, batch_size=3, average=0.9)


def share(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    return DATA.split(SHARES["observed"])[rank], SYNTHESIZED.split(SHARES["synthesized"])[rank]


def shared_run(rank: int, settings: Settings = TOGETHER) -> Run:
    return Run.begin(small_net(), Persistent(share(rank)[1]), settings, seed=1)


def one_of_two(rank: int, folder: str) -> None:
    """What each of two processes does; it leaves what it found in its own file."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=timedelta(seconds=240))
    net = small_net()
    energies = learning_gradient(net, *share(rank), energy_penalty=0.01)
    found = {"gradient": [p.grad for p in net.parameters()], "energies": energies}

    still = Settings(**{**vars(TOGETHER), "num_iterations": 1, "learning_rate": 0.0})
    (record,) = learn(shared_run(rank, still), DATA, still)
    found["record"], found["synthesized"] = list(record[:-2]), record.synthesized

    whole = shared_run(rank)
    found["values"] = [r.value for r in learn(whole, DATA, TOGETHER)]
    first = learn(shared_run(rank), DATA, TOGETHER, checkpoint=f"{folder}/run", save_every=2)
    [next(first) for _ in range(4)]
    second = shared_run(rank)
    list(learn(second, DATA, TOGETHER, checkpoint=f"{folder}/run", save_every=2))
    found["resumed"] = equal(second.state_dict(), whole.state_dict())
    found["weights"], found["noise"] = whole.net.state_dict(), torch.randn(4, generator=shared_run(rank).generator)
    torch.save(found, f"{folder}/found{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_learn_as_one(tmp_path):
    """Unequal shares of shapes and chains over gloo: the gradient, the records and a resumed run."""
    processes = [start_process(f"one_of_two({rank}, {str(tmp_path)!r})") for rank in (0, 1)]
    for process in processes:
        try:
            _, errors = process.communicate(timeout=240)
        finally:
            process.kill()
        assert process.returncode == 0, errors
    found = [torch.load(tmp_path / f"found{rank}") for rank in (0, 1)]

    net = small_net()
    energies = learning_gradient(net, DATA, SYNTHESIZED, energy_penalty=0.01)
    for i, p in enumerate(net.parameters()):
        torch.testing.assert_close(found[0]["gradient"][i], p.grad, rtol=1e-5, atol=1e-6)
        assert torch.equal(found[0]["gradient"][i], found[1]["gradient"][i])
    for side in (0, 1):
        torch.testing.assert_close(torch.cat([found[rank]["energies"][side] for rank in (0, 1)]), energies[side])

    assert found[0]["record"] == found[1]["record"]
    synthesized = torch.cat([found[rank]["synthesized"] for rank in (0, 1)])
    mean = small_net().energy(synthesized).mean().item()
    assert found[0]["record"][Record._fields.index("energy_synthesized")] == pytest.approx(mean, rel=1e-5)

    assert found[0]["values"] == found[1]["values"]
    assert equal(found[0]["weights"], found[1]["weights"])
    assert found[0]["resumed"] and found[1]["resumed"]
    assert not torch.equal(found[0]["noise"], found[1]["noise"]), "each process has its own"
    with pytest.raises(ValueError, match="written by 2 processes"):
        read_state(tmp_path / "run")
    assert not list(tmp_path.glob("*.part"))


def test_the_reference_alone_has_a_known_value():
    """With f = 0 eq. (14) compares |Y|^2 / (2 s^2): an untrained run begins at a value known by hand."""
    settings = Settings(num_iterations=1, num_steps=60, step_size=0.1, batch_size=6, learning_rate=0.0)
    run = Run.begin(small_net(std=0.0), Noise(300), settings)
    (record,) = learn(run, DATA, settings)
    r = 1 - 0.1 / 0.5
    per_voxel = 0.1 / (1 - r**2) / 0.5
    n = 300 * 64
    assert abs(record.energy_synthesized / (64 * per_voxel) - 1) < 5 * math.sqrt(2 / n)
    expected = GaussianEnergy(0.0, 0.25)(DATA).mean().item()
    assert record.energy_observed == pytest.approx(expected, rel=1e-5)
