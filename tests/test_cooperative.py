"""MCMC teaching: what starts where, what is learned from what, and teachers whose lesson is known."""

import copy
import math

import pytest
import torch
from problems import drawn, equal, seeded, small_net, told

from dnet_lib import Architecture, DescriptorNet, Run, Settings, learn, sample
from dnet_lib.cooperative import Teaching
from dnet_lib.generator import GeneratorNet, Layout, Proposals
from dnet_lib.learning import learning_step
from dnet_lib.resuming import read_state

CENTRE = 0.37


def generator_net(batch_norm: bool = True, seed: int = 0) -> GeneratorNet:
    return GeneratorNet(Layout(4, 3, (6, 4), (1, 2, 2), 3, batch_norm), generator=seeded(seed))


DATA = drawn(6, 4, 0.4) - CENTRE
SETTINGS = Settings(num_iterations=8, num_steps=3, step_size=0.02, batch_size=4, learning_rate=0.01, average=0.9)


def teaching(net: GeneratorNet | None = None, sigma: float = 0.1, rate: float | None = None) -> Teaching:
    """Five chains; by plain gradient descent where a rate is given, else as section 6.4 says."""
    net = net or generator_net()
    if rate is not None:
        return Teaching(Proposals(net, CENTRE, sigma), 5, torch.optim.SGD(net.parameters(), lr=rate))
    return Teaching.begin_with(net, CENTRE, num_chains=5, sigma=sigma, learning_rate=0.01)


def taught(settings: Settings = SETTINGS) -> Run:
    return Run.begin(small_net(), teaching(), settings, seed=4)


@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_chains_start_at_what_the_generator_makes_of_z(sigma):
    start = teaching(generator_net(batch_norm=False).double(), sigma)
    noise = []
    for seed in range(100):
        y, projection = start.begin(DATA, None, seeded(seed))
        assert projection is None and y.shape == (5, 1, 4, 4, 4) and start.latent.shape == (5, 3)
        with torch.no_grad():
            noise.append(y - (start.proposals.net(start.latent) - CENTRE))
    noise = torch.stack(noise)
    assert abs(noise.mean().item()) <= 5 * sigma / math.sqrt(noise.numel()) + 1e-12
    assert abs(noise.std().item() - sigma) <= 5 * sigma / math.sqrt(2 * noise.numel()) + 1e-12
    assert not torch.equal(start.begin(DATA, None, seeded())[0], y), "Z is fresh at every iteration"


def test_it_teaches_by_the_rates_of_section_6_4():
    group = Teaching.begin_with(generator_net(), CENTRE).optimizer.param_groups[0]
    assert (group["lr"], tuple(group["betas"])) == (0.0003, (0.6, 0.999))


@pytest.mark.parametrize("batch_norm", [True, False])
def test_an_iteration_is_algorithm_3_written_out(batch_norm):
    """Z, g(Z), the chain, eq. (8) for the descriptor, eq. (22) by hand for the generator; three times over."""
    settings = Settings(num_iterations=3, num_steps=3, step_size=0.02, batch_size=4, learning_rate=0.01, fast=False)
    start = teaching(generator_net(batch_norm), 0.1, rate=0.003)
    run = Run.begin(small_net(), start, settings, seed=4)
    ours, theirs = Run.begin(small_net(), start, settings, seed=4), generator_net(batch_norm)
    for record in learn(run, DATA, settings):
        observed = DATA[ours.next_batch(6, 4)]
        z = torch.randn(5, 3, generator=ours.generator)
        with torch.no_grad():
            drafts = theirs(z) - CENTRE + 0.1 * torch.randn(5, 1, 4, 4, 4, generator=ours.generator)
        revised = sample(drafts, ours.net, num_steps=3, step_size=0.02, generator=ours.generator, fast=False)
        learning_step(ours, observed, revised, settings)
        loss = (revised + CENTRE - theirs(z)).square().sum() / 5
        slopes = torch.autograd.grad(loss, list(theirs.parameters()))
        with torch.no_grad():
            for p, slope in zip(theirs.parameters(), slopes, strict=True):
                p -= 0.003 * slope
        assert torch.equal(start.latent, z), "the same Z that was revised is the one that is learned"
        torch.testing.assert_close(record.synthesized, revised)
        assert start.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(run.net.state_dict(), ours.net.state_dict(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(start.proposals.net.state_dict(), theirs.state_dict(), rtol=1e-4, atol=1e-6)
    assert not equal(theirs.state_dict(), generator_net(batch_norm).state_dict())


def test_a_teacher_that_revises_nothing_teaches_nothing():
    still = Settings(num_iterations=20, num_steps=3, step_size=1e-12, temperature=0.0, batch_size=4)
    start = teaching(generator_net(batch_norm=False), 0.0, rate=0.1)
    list(learn(Run.begin(small_net(), start, still), DATA, still))
    assert start.loss.item() < 1e-10
    fresh = generator_net(batch_norm=False).state_dict()
    torch.testing.assert_close(start.proposals.net.state_dict(), fresh, rtol=0, atol=1e-6)


def towards(target: torch.Tensor, s: float = 0.5) -> DescriptorNet:
    """A descriptor of energy |Y - target|^2 / (2 s^2), up to a constant: its score is linear where voxels exceed -9."""
    net = DescriptorNet(Architecture(4, ((1, 1, 1),), s=s))
    with torch.no_grad():
        net.layers[0].weight.fill_(1)
        net.layers[0].bias.fill_(9)
        net.dense.weight.copy_(target.flatten()[None] / s**2)
        net.dense.bias.fill_(0)
    return net


def test_a_teacher_of_known_energy_is_what_the_assembled_one_is():
    target, y = torch.rand(4, 4, 4, generator=seeded()), torch.randn(3, 1, 4, 4, 4, generator=seeded(1))
    energy = towards(target)(y) - towards(target)(torch.zeros(1, 1, 4, 4, 4))
    expected = ((y - target).square().flatten(1).sum(1) - target.square().sum()) / (2 * 0.25)
    torch.testing.assert_close(energy, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("temperature", [0.0, 0.03])
def test_a_generator_converges_to_what_its_teacher_wants(temperature):
    """Chains move every draft towards one target; in the end every Z gives the target, with Langevin noise too."""
    target = 0.8 * torch.rand(4, 4, 4, generator=seeded(3)) + 0.1
    settings = Settings(60, 2, 0.25, temperature, batch_size=1, learning_rate=0.0)
    net = generator_net(batch_norm=False)
    start = Teaching.begin_with(net, CENTRE, num_chains=10, learning_rate=0.03)
    list(learn(Run.begin(towards(target - CENTRE), start, settings), DATA, settings))
    z = torch.randn(50, 3, generator=seeded(9))
    with torch.no_grad():
        after, before = (g(z)[:, 0] - target for g in (net, generator_net(batch_norm=False)))
    assert after.square().mean().sqrt() < 0.2 * before.square().mean().sqrt()


def test_it_resumes_from_the_descriptors_checkpoint(tmp_path):
    """Weights, batch statistics and both optimizers: a run interrupted twice is the run that never was."""
    whole = taught()
    records = {r.iteration: told(r) for r in learn(whole, DATA, SETTINGS)}
    for save_every in (1, 3):
        path = tmp_path / f"{save_every}.pt"
        for stop in (2, 5, None):
            run = taught()
            for r in learn(run, DATA, SETTINGS, checkpoint=path, save_every=save_every):
                assert told(r) == records[r.iteration]
                if r.iteration == stop:
                    break
        assert equal(run.state_dict(), whole.state_dict()) and equal(read_state(path)[0], whole.state_dict())
        assert equal(run.starts.proposals.net.state_dict(), whole.starts.proposals.net.state_dict())


def test_a_state_is_a_copy_and_can_be_restored():
    run = taught()
    steps = learn(run, DATA, SETTINGS)
    [next(steps) for _ in range(3)]
    state = run.state_dict()
    kept = copy.deepcopy(state)
    last = told(list(steps)[-1])
    assert equal(state, kept), "going on changed the state"
    run.load_state_dict(state)
    assert told(list(learn(run, DATA, SETTINGS))[-1]) == last and equal(state, kept)


def test_a_checkpoint_of_another_generator_is_named(tmp_path):
    path = tmp_path / "mine.pt"
    list(learn(taught(), DATA, SETTINGS, checkpoint=path))
    other = Run.begin(small_net(), teaching(generator_net(batch_norm=False)), SETTINGS)
    with pytest.raises(ValueError, match=r"mine\.pt is the checkpoint of another run"):
        next(learn(other, DATA, SETTINGS, checkpoint=path))


def test_learning_before_it_began_is_refused():
    with pytest.raises(AssertionError, match="begins before it learns"):
        teaching().learn(DATA)
