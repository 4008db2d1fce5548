"""The frozen-weight path against float64, against the plain path, and against changed weights."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from problems import seeded

from dnet_lib import (
    Architecture,
    DescriptorNet,
    GaussianEnergy,
    Run,
    Settings,
    ShapeError,
    chain_generators,
    hidden_voxels,
    langevin,
    langevin_step,
    learn,
    learning_gradient,
    load_pretrained,
    load_shapes,
    sample,
)
from dnet_lib.energy import energy_and_gradient
from dnet_lib.errors import StaleError
from dnet_lib.fast import FrozenNet, freeze, geometry
from dnet_lib.fast import count as count_room
from dnet_lib.fast import frozen as frozen_room
from dnet_lib.fast.convolutions import AXES, METHODS, Choice, Geometry, Separable, candidates
from dnet_lib.starts import Persistent, noise


def network(architecture: Architecture, seed: int = 0) -> DescriptorNet:
    """A network whose units are all of the size 1, so that no layer hides another's errors."""
    generator = seeded(seed)
    net = DescriptorNet(architecture, generator=generator)
    with torch.no_grad():
        for conv in net.convolutions:
            conv.weight.normal_(std=2 / math.sqrt(conv.weight[0].numel()), generator=generator)
            conv.bias.normal_(std=0.3, generator=generator)
        net.dense.weight.normal_(generator=generator)
    return net


def with_masks(net: DescriptorNet, y: torch.Tensor, masks: list[torch.Tensor]) -> torch.Tensor:
    """df/dy in float64, written out here, with the given sets of active rectified units."""
    y = y.double().requires_grad_(True)
    h = y
    for conv, mask in zip(net.convolutions, masks, strict=True):
        h = F.pad(h, (conv.before, conv.after) * 3)
        h = F.conv3d(h, conv.weight.double(), conv.bias.double(), conv.stride) * mask
    (gradient,) = torch.autograd.grad((h.flatten(1) * net.dense.weight.double()).sum(), y)
    return gradient


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """|a - b| / |b|, or |a| where b is nothing."""
    return ((a - b).norm() / (b.norm() + 1e-300 if b.any() else 1)).item()


def gradient_error(net: DescriptorNet, y: torch.Tensor, frozen: FrozenNet) -> float:
    """Relative error of df/dy, the frozen network's own rectifications taken as given."""
    with torch.no_grad():
        masks = [(a > 0).permute(3, 4, 0, 1, 2).clone() for a in frozen._forward(y)[1]]
    s, (_, g) = net.architecture.s, frozen.energy_and_gradient(y)
    assert s is None, "with a Gaussian reference, Y / s^2 would hide errors of df/dY"
    return relative(-g.double(), with_masks(net, y, masks))


layers = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 16), st.integers(1, 4)), min_size=1, max_size=3)


@settings(max_examples=40)
@given(side=st.integers(3, 15), layers=layers, chains=st.integers(1, 4), pick=st.integers(0, 10**6))
@example(side=32, layers=[(200, 16, 3), (100, 6, 2)], chains=2, pick=-1)
@example(side=17, layers=[(20, 5, 4), (30, 3, 2)], chains=3, pick=-1)
def test_the_gradient_equals_float64(side, layers, chains, pick):
    """Whatever algorithms are chosen, by the count (pick -1) or at random."""
    net = network(Architecture(side, tuple(layers), s=None, bounds=(-1.0, 1.0)))
    y = torch.rand(chains, 1, *[side] * 3, generator=seeded(chains)) - 0.5
    possible = [candidates(geometry(conv)) for conv in net.convolutions]
    choices = None if pick < 0 else [some[(pick + k) % len(some)] for k, some in enumerate(possible)]
    assert gradient_error(net, y, FrozenNet(net, num_chains=chains, choices=choices)) < 1e-4


@pytest.mark.parametrize("method, axes", [(method, axes) for method in METHODS for axes in AXES[method]])
@pytest.mark.parametrize("tiles", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "kernel, stride, channels", [(4, 2, 3), (6, 2, 20), (5, 3, 1), (3, 2, 130), (3, 1, 2), (7, 4, 1)]
)
def test_each_algorithm_with_each_number_of_tiles(method, axes, tiles, kernel, stride, channels):
    side = 13
    net = network(Architecture(side, ((channels, 1, 1), (9, kernel, stride)), activation="silu"))
    g = geometry(net.convolutions[1])
    choice = Choice(method, -(-g.out // tiles), axes)
    if choice not in candidates(g):
        pytest.skip("too many points for this algorithm")
    y = torch.randn(3, 1, *[side] * 3, generator=seeded(0))
    frozen = FrozenNet(net, num_chains=3, choices=[Choice(), choice])
    assert isinstance(frozen.layers[1], Separable) and frozen.layers[1].tiles == -(-g.out // choice.m)
    reference = copy.deepcopy(net).double()
    e, slope = energy_and_gradient(y.double(), reference)
    ours, g = frozen.energy_and_gradient(y)
    torch.testing.assert_close(ours.double(), e, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(g.double(), slope, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(frozen.score(y).double(), reference.score(y.double()), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(frozen(y), ours)


@pytest.mark.parametrize("method", METHODS)
def test_the_algorithms_are_exact_in_one_dimension(method):
    algorithm, most = METHODS[method]
    rng = np.random.default_rng(0)
    for m in range(2, 8):
        for q in range(2, 8):
            n = m + q - 1
            if n > most:
                continue
            w, x = rng.standard_normal(q), rng.standard_normal(n)
            for axis in (0, 1):
                a, g, b = (t.resolve_conj().numpy() for t in algorithm(m, q, axis))
                y = a @ ((g @ w) * (b @ x))
                assert len(b) == (n // 2 + 1 if method == "DFT" and axis == 0 else n), "as few products as possible"
                np.testing.assert_allclose(y.real, np.correlate(x, w, "valid"), atol=1e-11)
                if axis:
                    assert np.abs(np.imag(y)).max() < 1e-12


def test_trained_weights():
    """The shipped networks, on shapes as their chains see them, whatever the algorithm."""
    model = load_pretrained("synthesis/toilet")
    y = model.sample(2, generator=seeded(0)) - model.mean
    exact = copy.deepcopy(model.net).double()
    decoded = y.double() / model.net.architecture.s**2 - energy_and_gradient(y.double(), exact)[1]
    for method in (*METHODS, None):
        choices = method and [candidates(geometry(conv))[-1] for conv in model.net.convolutions]
        frozen = FrozenNet(model.net, num_chains=2, choices=choices)
        ours = y / model.net.architecture.s**2 - frozen.energy_and_gradient(y)[1]
        plain = y / model.net.architecture.s**2 - energy_and_gradient(y, model.net)[1]
        limit = 1e-4 + 3 * relative(plain.double(), decoded)  # rectified units near 0 flip in any float32
        assert relative(ours.double(), decoded) < limit


SMALL = Architecture(12, ((20, 6, 2), (10, 4, 2)))
CHOICES = [Choice("DFT", 6), Choice("Toom-Cook", 3)]


def test_any_number_of_chains_in_blocks(monkeypatch):
    net, y = network(SMALL), torch.randn(13, 1, 12, 12, 12)
    whole = FrozenNet(net, num_chains=13, choices=CHOICES)
    count_room.at_once.cache_clear()
    monkeypatch.setattr(count_room, "BUFFERS", 2**19)
    blocks = FrozenNet(net, num_chains=13, choices=CHOICES)
    count_room.at_once.cache_clear()
    assert 1 <= blocks.block < 13 <= whole.block
    for got, wanted in zip(blocks.energy_and_gradient(y), whole.energy_and_gradient(y), strict=True):
        torch.testing.assert_close(got, wanted)
    for n in (1, 5, 13):
        torch.testing.assert_close(blocks.energy_and_gradient(y[:n])[1], whole.energy_and_gradient(y)[1][:n])
    weight, penalty = torch.randn(13), torch.rand(13)
    for got, wanted in zip(
        blocks.learning_gradient(y, weight, penalty)[1].values(),
        whole.learning_gradient(y, weight, penalty)[1].values(),
        strict=True,
    ):
        assert relative(got, wanted) < 1e-4


def test_buffers_are_kept_from_step_to_step():
    frozen, y = FrozenNet(network(SMALL), num_chains=4, choices=CHOICES), torch.randn(4, 1, 12, 12, 12)

    def places():
        stores = [layer.storage for layer in frozen.layers] + [frozen.scratch]
        return {(k, name): t.data_ptr() for k, store in enumerate(stores) for name, t in store.items()}

    frozen.energy_and_gradient(y)
    before = places()
    for n in (4, 2, 4):
        frozen.energy_and_gradient(y[:n])
    assert places() == before and len(before) > 8


CHANGES = {
    "an optimizer's step": lambda net: torch.optim.Adam(net.parameters(), lr=0.1).step(),
    "load_state_dict": lambda net: net.load_state_dict(network(SMALL, seed=1).state_dict()),
    "one bias in place": lambda net: torch.no_grad()(net.convolutions[1].bias.add_)(1),
    "one weight": lambda net: torch.no_grad()(net.dense.weight[0, :1].fill_)(3),
    "other data": lambda net: setattr(net.dense.weight, "data", torch.randn_like(net.dense.weight)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_stale_weights_are_refused(change):
    net, y = network(SMALL), torch.randn(2, 1, 12, 12, 12)
    frozen = FrozenNet(net, num_chains=2, choices=CHOICES)
    old = frozen.energy(y)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    CHANGES[change](net)
    for call in (frozen, frozen.score, frozen.energy, frozen.energy_and_gradient):
        with pytest.raises(StaleError, match="refresh"):
            call(y)
    with pytest.raises(StaleError, match="refresh"):
        frozen.learning_gradient(y, torch.ones(2), torch.zeros(2))
    with pytest.raises(StaleError, match="refresh"):
        sample(y, frozen, num_steps=5, step_size=0.01)
    assert not torch.allclose(frozen.refresh().energy(y), old)
    torch.testing.assert_close(frozen.energy(y), net.energy(y).detach(), rtol=1e-5, atol=1e-3)


def test_evaluating_and_moving_shapes_does_not_make_it_stale():
    net, y = network(SMALL), torch.randn(2, 1, 12, 12, 12)
    frozen = FrozenNet(net, num_chains=2)
    net.energy(y).sum().backward()
    net.eval().requires_grad_(False)
    copy.deepcopy(net).double()
    assert torch.isfinite(frozen.energy(y)).all()


@pytest.mark.parametrize("metropolis", [False, True])
@pytest.mark.parametrize("projected", [False, True])
def test_sample_takes_it_by_itself_and_agrees(metropolis, projected, monkeypatch):
    """A smooth network, so that rounding cannot flip a rectified unit; 12 steps, the same noise."""
    net = network(Architecture(32, ((32, 16, 3), (20, 6, 2)), activation="silu"))
    y = 0.5 * torch.randn(3, 1, 32, 32, 32, generator=seeded(1))
    made = []

    class Counted(FrozenNet):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(frozen_room, "FrozenNet", Counted)
    options = {
        "num_steps": 12,
        "step_size": 0.01,
        "metropolis": metropolis,
        "projection": hidden_voxels(torch.rand(1, 1, 32, 32, 32) < 0.5) if projected else None,
    }
    ours = sample(y, net, generator=chain_generators(5, 3), **options)
    assert len(made) == 1 and any(isinstance(layer, Separable) for layer in made[0].layers)
    plain = sample(y, net, generator=chain_generators(5, 3), fast=False, **options)
    *_, (steps, _) = langevin(y, net, generator=chain_generators(5, 3), **options)
    assert len(made) == 1
    assert torch.equal(plain, steps)
    torch.testing.assert_close(ours, plain, rtol=0, atol=2e-4)
    assert not torch.equal(ours, plain), "the plain path was taken twice"


def test_chains_on_frozen_weights_are_reflected_at_the_walls():
    net = network(Architecture(12, SMALL.layers, "silu", s=None, bounds=(-0.3, 0.7)))
    start, options = torch.zeros(4, 1, 12, 12, 12), dict(num_steps=8, step_size=0.05)
    ours, plain = (sample(start, net, generator=seeded(1), fast=fast, **options) for fast in (True, False))
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-4)
    assert -0.3 <= ours.min() < -0.29 and 0.69 < ours.max() <= 0.7


def test_acceptance_is_unchanged():
    """log of the Metropolis ratio on both paths, where proposals are near the edge of being refused."""
    net = network(Architecture(16, ((20, 8, 2), (10, 4, 2)), activation="silu"))
    frozen = FrozenNet(net, num_chains=8, choices=[Choice("DFT", 8), Choice("Toom-Cook", 4)])
    y = 0.5 * torch.randn(8, 1, 16, 16, 16)
    rates = []
    for energy in (net, frozen):
        _, info = langevin_step(y, energy, step_size=0.002, metropolis=True, generator=seeded(0))
        rates.append(info.log_acceptance)
    assert 0.05 < rates[0].exp().clamp(max=1).mean() < 0.99
    torch.testing.assert_close(*rates, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_a_thousand_steps_have_the_same_moments():
    """The same noise, chaotic dynamics: chains part, their statistics may not.

    64 chains of 1,000 steps, the second half measured. The means of energy, voxel and squared voxel of the two paths
    differ by less than 4 standard errors of their difference, chain by chain (3 numbers: false alarm 2 in 10,000; the
    noise is fixed, so the test is not random).
    """
    net = network(Architecture(10, ((12, 6, 2), (8, 3, 1))))
    frozen = FrozenNet(net, num_chains=64, choices=[Choice("Toom-Cook", 5), Choice("DFT", 5)])
    numbers = []
    for energy in (net, frozen):
        seen = []
        start = 0.5 * torch.randn(64, 1, 10, 10, 10, generator=seeded(0))
        for step, (y, info) in enumerate(langevin(start, energy, num_steps=1000, step_size=0.05, generator=seeded(1))):
            if step >= 500:
                seen.append(torch.stack([info.energy, y.flatten(1).mean(1), y.flatten(1).square().mean(1)]))
        numbers.append(torch.stack(seen).mean(0))  # (3, chains)
    difference = (numbers[0] - numbers[1]).double()
    spread = (numbers[0].double().var(1) + numbers[1].double().var(1)).div(64).sqrt()
    assert (difference.mean(1).abs() < 4 * spread).all()
    assert (numbers[1].var(1) / numbers[0].var(1)).log().abs().max() < 1.5


@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("penalty", [0.0, 0.1])
@pytest.mark.parametrize("choices", [CHOICES, [Choice("Toom-Cook", 3), Choice("DFT", 2)], [Choice(), Choice("DFT", 3)]])
def test_the_learning_gradient(activation, penalty, choices):
    net = network(Architecture(SMALL.resolution, SMALL.layers, activation=activation))
    observed, synthesized = 0.3 * torch.randn(5, 1, 12, 12, 12), 0.5 * torch.randn(7, 1, 12, 12, 12)
    energies = learning_gradient(net, observed, synthesized, energy_penalty=penalty)
    wanted = [p.grad.clone() for p in net.parameters()]
    frozen = FrozenNet(net, num_chains=7, choices=choices)
    ours = learning_gradient(net, observed, synthesized, energy_penalty=penalty, frozen=frozen)
    for got, want in zip(ours, energies, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-2)
    for parameter, want in zip(net.parameters(), wanted, strict=True):
        assert (parameter.grad - want).norm() < 1e-3 * want.norm() + 1e-6  # the last bias's gradient is nothing


@pytest.mark.parametrize("chains", [1, 4])
@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize(
    "side, layers",
    [(5, ((7, 1, 3), (6, 8, 1))), (9, ((31, 2, 3), (7, 6, 3))), (4, ((5, 2, 4), (9, 3, 2))), (7, ((4, 9, 2),))],
)
def test_kernels_larger_than_the_grid_and_smaller_than_the_stride(side, layers, activation, chains):
    """Taps that meet no voxel are left out, voxels that meet no tap have no gradient."""
    net = network(Architecture(side, layers, activation, s=None, bounds=(-1.0, 1.0)))
    y, weight = torch.rand(chains, 1, *[side] * 3, generator=seeded(1)) - 0.5, torch.ones(chains)
    exact = copy.deepcopy(net).double()
    e, slope = energy_and_gradient(y.double(), exact)
    exact.requires_grad_(True).energy(y.double()).sum().backward()
    for pick in (0, -1):
        choices = [candidates(geometry(conv))[pick] for conv in net.convolutions]
        frozen = FrozenNet(net, num_chains=chains, choices=choices)
        for _ in range(2):
            ours, gradient = frozen.energy_and_gradient(y)
            assert relative(ours.double(), e) < 1e-4 and relative(gradient.double(), slope) < 1e-4
        for name, got in frozen.learning_gradient(y, weight, torch.zeros(chains))[1].items():
            wanted = exact.get_parameter(name).grad
            assert wanted is not None and (got.double() - wanted).norm() < 1e-4 * wanted.norm() + 1e-5


def test_learning_on_both_paths_and_resumed(tmp_path):
    shapes = load_shapes("furniture", "toilet", resolution=16).centred[:20]
    architecture = Architecture(16, ((16, 8, 2), (20, 4, 2)), activation="silu")

    def run(way, iterations, file=None):
        net = DescriptorNet(architecture, generator=seeded(0))
        starts = Persistent(noise(6, 16, generator=seeded(1)))
        settings = Settings(iterations, num_steps=5, step_size=0.01, batch_size=8, fast=way, average=0.5)
        began = Run.begin(net, starts, settings, seed=3)
        return began, list(learn(began, shapes, settings, checkpoint=file, save_every=2))

    (plain, _), (ours, _), (auto, _) = run(False, 6), run(True, 6), run(None, 6)
    for name, a in plain.net.named_parameters():
        if name != "dense.bias":  # its gradient is nothing, and Adam magnifies the rounding
            torch.testing.assert_close(a, ours.net.get_parameter(name), rtol=0, atol=5e-4)  # Adam: 1e-3 an iteration
            torch.testing.assert_close(a, auto.net.get_parameter(name), rtol=0, atol=5e-4)
    torch.testing.assert_close(ours.starts.chains, plain.starts.chains, rtol=0, atol=1e-2)
    run(True, 3, tmp_path / "state.pt")
    resumed, rest = run(True, 6, tmp_path / "state.pt")
    assert [record.iteration for record in rest] == [4, 5, 6]
    for a, b in zip(ours.net.parameters(), resumed.net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_cannot_be_frozen():
    y = torch.randn(2, 1, 12, 12, 12)
    net = network(SMALL)
    gauss = GaussianEnergy()
    assert freeze(gauss, y, num_steps=100) is gauss
    assert freeze(net, y, num_steps=2) is net and freeze(net, y, num_steps=100, fast=False) is net
    assert freeze(copy.deepcopy(net).double(), y.double(), num_steps=100).dense.weight.dtype == torch.float64
    with pytest.raises(ShapeError, match="DescriptorNet"):
        sample(y, GaussianEnergy(), num_steps=9, step_size=0.1, fast=True)
    with pytest.raises(ShapeError, match="float32"):
        sample(y.double(), net.double(), num_steps=9, step_size=0.1, fast=True)
    frozen = FrozenNet(net.float(), num_chains=2)
    for wrong in (y.double(), y[:, :, :5], y[:0], y[0]):
        with pytest.raises(ShapeError, match="float32"):
            frozen.energy(wrong)

    class Own(DescriptorNet):
        def score(self, y):
            return super().score(y) + 1

    assert type(freeze(Own(Architecture(32)), torch.randn(9, 1, 32, 32, 32), num_steps=100)) is Own


def test_the_count_prefers_what_is_known_to_be_fast():
    paper = FrozenNet(DescriptorNet.paper(), num_chains=25)
    text = paper.describe().splitlines()
    assert len(text) == 2 and "DFT" in text[0] and "2304 points" in text[0] and "Toom-Cook" in text[1], text
    assert paper.block >= 25
    lean = FrozenNet(DescriptorNet.paper(), num_chains=25, learning=True)
    sizes = [max(layer.num_weights for layer in view.layers if isinstance(layer, Separable)) for view in (paper, lean)]
    assert 4 * sizes[1] <= count_room.WEIGHTS // 2 < 4 * sizes[0] <= count_room.WEIGHTS
    compact = [layer.choice for layer in FrozenNet(DescriptorNet.compact(32), num_chains=16).layers]
    assert compact == [Choice(), Choice("Toom-Cook", 4, 2), Choice("Toom-Cook", 4, 2)]
    tiny = FrozenNet(DescriptorNet(Architecture(8, ((4, 1, 1), (4, 3, 2)))), num_chains=1)
    assert "direct" in tiny.describe().splitlines()[0]
    assert candidates(Geometry(8, 1, 8, 4, 1, 1, 0)) == [Choice()], "nothing is gained on one tap"


def test_a_view_that_is_refreshed_follows_weights_that_moved_unseen():
    """A fused optimizer does not tell that it changed the weights; `learn` refreshes at every iteration."""
    net, y = network(SMALL), torch.randn(3, 1, 12, 12, 12, generator=seeded(0))
    frozen = FrozenNet(net, num_chains=3)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1, fused=True)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    torch.testing.assert_close(frozen.refresh().energy(y), net.energy(y).detach(), rtol=1e-4, atol=1e-2)


def test_weights_that_come_to_lie_where_others_lay_are_no_others():
    net, y = network(SMALL), torch.randn(3, 1, 12, 12, 12)
    for _ in range(20):
        net.layers[1].weight = torch.nn.Parameter(torch.randn_like(net.layers[1].weight))
        frozen = FrozenNet(net, num_chains=3)
        for _ in range(2):
            net.layers[1].weight = torch.nn.Parameter(torch.randn_like(net.layers[1].weight))
        with pytest.raises(StaleError):
            frozen.energy(y)


def test_float32_under_autocast_and_with_other_defaults():
    net, y = network(SMALL), 9 * torch.randn(3, 1, 12, 12, 12)
    frozen = FrozenNet(net, num_chains=3)
    wanted = frozen.energy_and_gradient(y)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(frozen.energy(y), wanted) and torch.equal(frozen(y), wanted)
    _, exact = FrozenNet(net, num_chains=3).learning_gradient(y, torch.ones(3), torch.zeros(3))
    torch.set_default_dtype(torch.bfloat16)
    try:
        _, ours = FrozenNet(net, num_chains=3).learning_gradient(y, torch.ones(3), torch.zeros(3))
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(ours[name], gradient) for name, gradient in exact.items())
    with torch.device("meta"):
        FrozenNet(net, num_chains=3, choices=CHOICES)


def test_what_a_view_cannot_be_asked():
    net, y = network(SMALL), torch.randn(4, 1, 12, 12, 12)
    frozen, ones = FrozenNet(net, num_chains=4), torch.ones(4)
    for bad in (y[0, 0, 0], y.tolist(), y.double()):
        with pytest.raises(ShapeError, match=r"float32 .*\(N, 1, 12, 12, 12\)"):
            frozen.energy(bad)
    for weight, penalty in ((ones[:1], ones), (ones, ones[:1])):
        with pytest.raises(ShapeError, match="each of 4 shapes"):
            frozen.learning_gradient(y, weight, penalty)
    for choices in ([], [Choice()] * 3, [Choice("FFT", 4), Choice()], [Choice("Toom-Cook", 0), Choice()]):
        with pytest.raises(ValueError, match=r"one a convolution|not among this convolution's choices"):
            FrozenNet(net, num_chains=4, choices=choices)
    for fast in (0, 1, "yes"):
        with pytest.raises(ValueError, match="fast is True, False or None"):
            freeze(net, y, num_steps=20, fast=fast)
    assert freeze(frozen, y, num_steps=20, fast=True) is frozen, "it is frozen already"
    hooked(net)
    for other in (net, torch.nn.Linear(2, 2)):
        with pytest.raises(ShapeError, match="FrozenNet needs a DescriptorNet as it is"):
            FrozenNet(other, num_chains=4)
    with pytest.raises(ShapeError, match="only a float32 network"):
        net.double()
        frozen.refresh()


def test_any_device():
    """On the meta device an operation between devices raises: nothing may be left on the CPU."""
    net, y = DescriptorNet(SMALL).to("meta"), torch.empty(3, 1, 12, 12, 12, device="meta")
    frozen = FrozenNet(net, num_chains=3, choices=CHOICES)
    e, g = frozen.energy_and_gradient(y)
    assert e.device.type == g.device.type == "meta" and g.shape == y.shape
    _, gradients = frozen.learning_gradient(y, torch.empty(3, device="meta"), torch.empty(3, device="meta"))
    assert all(gradients[name].shape == p.shape for name, p in net.named_parameters())


def hooked(net: DescriptorNet) -> None:
    net.register_forward_hook(lambda module, inputs, output: 3 * output)


def hooked_inside(net: DescriptorNet) -> None:
    net.layers[0].register_forward_hook(lambda module, inputs, output: 0 * output)


def parametrized(net: DescriptorNet) -> None:
    torch.nn.utils.parametrizations.weight_norm(net.layers[1])


def replaced(net: DescriptorNet) -> None:
    plain = net.forward
    net.forward = lambda y: 3 * plain(y)


class Scaled(DescriptorNet):
    """Another energy with the same weights."""

    def energy(self, y):
        return 2 * super().energy(y)

    forward = energy


@pytest.mark.parametrize("change", [hooked, hooked_inside, parametrized, replaced])
def test_a_network_that_does_not_compute_what_its_weights_say_is_not_frozen(change):
    net, y = network(Architecture(32, ((32, 16, 3), (20, 6, 2)))), torch.randn(8, 1, 32, 32, 32)
    assert isinstance(freeze(net, y, num_steps=20), FrozenNet), "it would be frozen as it is"
    change(net)
    assert freeze(net, y, num_steps=20) is net
    with pytest.raises(ShapeError, match="no hooks, no parametrizations"):
        freeze(net, y, num_steps=20, fast=True)


def test_a_subclass_with_another_energy_is_not_frozen():
    net, y = Scaled(SMALL), torch.randn(2, 1, 12, 12, 12)
    assert freeze(net, y, num_steps=20) is net
    with pytest.raises(ShapeError, match="not this Scaled"):
        freeze(net, y, num_steps=20, fast=True)
