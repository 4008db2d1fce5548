"""The network and its energy against convolutions, sums, differences and integrals done here another way."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import seeded

from dnet_lib import Architecture, DescriptorNet, GaussianEnergy, MixtureEnergy, ShapeError, hopfield_residual
from dnet_lib.energy import SameConv3d, energy_and_gradient

SMALL = Architecture(6, ((5, 4, 2), (4, 3, 1)), activation="silu")


def small(architecture: Architecture = SMALL, std: float = 0.2, seed: int = 0, **options) -> DescriptorNet:
    return DescriptorNet(architecture, weight_std=std, generator=seeded(seed), **options)


def same_conv3d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int) -> torch.Tensor:
    """TensorFlow's SAME rule in its remainder form, one axis at a time, then a plain convolution."""
    for axis in (2, 3, 4):
        size, kernel = x.shape[axis], weight.shape[axis]
        total = max(kernel - (size % stride or stride), 0)
        edges = [x.new_zeros(*x.shape[:axis], n, *x.shape[axis + 1 :]) for n in (total // 2, total - total // 2)]
        x = torch.cat([edges[0], x, edges[1]], dim=axis)
    return F.conv3d(x, weight, bias, stride)


@settings(max_examples=30)
@given(
    side=st.integers(1, 11),
    kernel=st.integers(1, 16),
    stride=st.integers(1, 4),
    channels=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_same_conv3d_is_tensorflows(side, kernel, stride, channels, seed):
    torch.manual_seed(seed)
    layer = SameConv3d(channels, 1, kernel, stride, side).double()
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(1, channels, side, side, side, dtype=torch.float64, requires_grad=True)
    ours, theirs = layer(x), same_conv3d(x, layer.weight, layer.bias, stride)
    assert ours.shape == theirs.shape == (1, 1, *[math.ceil(side / stride)] * 3)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    along = torch.randn_like(ours)
    slopes = [torch.autograd.grad((out * along).sum(), (x, layer.weight, layer.bias)) for out in (ours, theirs)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-9, atol=1e-9)


def test_same_conv3d_by_a_loop_over_voxels():
    """The definition itself, summed voxel by voxel: output i sees inputs 3 i - before + k."""
    layer = SameConv3d(1, 1, 5, 3, 7).double()  # 7 -> 3, five weights, total padding 4
    torch.nn.init.normal_(layer.weight)
    x = np.random.default_rng(0).normal(size=(7, 7, 7))
    weight, expected = layer.weight[0, 0].detach().numpy(), np.zeros((3, 3, 3))
    for i in np.ndindex(3, 3, 3):
        for k in np.ndindex(5, 5, 5):
            at = tuple(3 * a - 2 + b for a, b in zip(i, k, strict=True))
            if all(0 <= a < 7 for a in at):
                expected[i] += x[at] * weight[k]
    np.testing.assert_allclose(layer(torch.from_numpy(x)[None, None])[0, 0].detach(), expected, atol=1e-10)


def test_the_papers_network():
    net = DescriptorNet.paper(generator=seeded(0))
    assert sum(p.numel() for p in net.parameters()) == 5_161_101
    assert [layer.out_resolution for layer in net.layers] == [11, 6]
    assert [(layer.before, layer.after) for layer in net.layers] == [(7, 7), (2, 3)]
    assert [tuple(layer.weight.shape) for layer in net.layers] == [(200, 1, 16, 16, 16), (100, 200, 6, 6, 6)]
    assert net.architecture.s == 0.5 and net.architecture.activation == "relu"
    weights = torch.cat([p.flatten() for name, p in net.named_parameters() if name.endswith("weight")]).double()
    sigma = 0.001 / math.sqrt(2 * len(weights))  # of a standard deviation of 5.2 million draws
    assert abs(weights.std().item() - 0.001) < 5 * sigma
    assert all((p == 0).all() for name, p in net.named_parameters() if name.endswith("bias"))


def test_the_papers_network_at_64_and_on_no_device():
    net = DescriptorNet.paper(64, device="meta")
    assert [layer.out_resolution for layer in net.layers] == [22, 11]
    assert [(layer.before, layer.after) for layer in net.layers] == [(7, 8), (2, 2)]
    assert {p.device.type for p in net.parameters()} == {"meta"}
    assert net.energy(torch.zeros(3, 1, 64, 64, 64, device="meta")).shape == (3,)


@pytest.mark.parametrize("resolution", [8, 16, 24, 32, 64])
def test_compact_networks_are_small(resolution):
    net = DescriptorNet.compact(resolution)
    assert sum(p.numel() for p in net.parameters()) < 700_000
    assert net.energy(torch.zeros(1, 1, *[resolution] * 3)).shape == (1,)


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_score_and_energy_are_equations_2_and_3(activation):
    net = small(Architecture(7, ((5, 4, 2), (4, 3, 2)), activation, s=0.3)).double()
    y = torch.randn(3, 1, 7, 7, 7, dtype=torch.float64)
    h, rectify = y, {"relu": lambda x: x * (x > 0), "silu": lambda x: x / (1 + (-x).exp())}[activation]
    for layer, kept, stride in zip(net.layers, net.hidden(y), (2, 2), strict=True):
        h = rectify(same_conv3d(h, layer.weight, layer.bias, stride))
        torch.testing.assert_close(kept, h)
    score = (h.flatten(1) * net.dense.weight).sum(1) + net.dense.bias
    torch.testing.assert_close(net.score(y), score)
    torch.testing.assert_close(net.energy(y), (y**2).sum((1, 2, 3, 4)) / (2 * 0.3**2) - score)
    torch.testing.assert_close(net(y), net.energy(y))


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_the_gradient_is_the_slope_of_the_energy(activation):
    """Central differences in float64: error about step^2 * third derivative, here below 1e-7 of the slope."""
    net = small(Architecture(6, ((5, 4, 2), (4, 3, 1)), activation)).double()
    y = torch.randn(4, 1, 6, 6, 6, dtype=torch.float64)
    energy, gradient = energy_and_gradient(y, net)
    torch.testing.assert_close(energy, net.energy(y).detach())
    for _ in range(5):
        along = torch.randn_like(y)
        with torch.no_grad():
            slope = (net.energy(y + 1e-6 * along) - net.energy(y - 1e-6 * along)) / 2e-6
        torch.testing.assert_close((gradient * along).flatten(1).sum(1), slope, rtol=1e-6, atol=1e-6)


def test_shapes_of_a_batch_do_not_see_each_other():
    net = small().double()
    y = torch.randn(4, 1, 6, 6, 6, dtype=torch.float64)
    energy, gradient = energy_and_gradient(y, net)
    for i in range(4):
        alone = energy_and_gradient(y[i : i + 1], net)
        torch.testing.assert_close((alone[0][0], alone[1][0]), (energy[i], gradient[i]), rtol=1e-12, atol=1e-12)


def test_the_hopfield_residual_is_the_gradient_and_vanishes_at_a_minimum():
    """Eq. (4): Y / s^2 - df/dY is dE/dY; gradient descent ends where it is 0, and E is larger all around."""
    net = small(Architecture(4, ((4, 3, 1), (4, 2, 2)), "silu", s=0.5), std=0.3).double()
    y = torch.randn(2, 1, 4, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(hopfield_residual(y, net), energy_and_gradient(y, net)[1])
    for _ in range(200):
        y = y - 0.2 * energy_and_gradient(y, net)[1]
    residual = hopfield_residual(y, net)
    assert residual.abs().max() < 1e-10 and not residual.requires_grad
    decoded = 0.5**2 * torch.autograd.functional.jacobian(lambda x: net.score(x).sum(), y)
    torch.testing.assert_close(y, decoded)  # the auto-encoder reproduces it
    assert y.abs().max() > 1e-3, "0 would be a minimum of no interest"
    for _ in range(20):
        around = y + 1e-2 * torch.randn_like(y)
        assert (net.energy(around) > net.energy(y)).all()
    uniform = small(Architecture(4, ((4, 3, 1),), s=None, bounds=(-0.5, 0.5)), std=0.3)
    y = torch.rand(2, 1, 4, 4, 4) - 0.5
    torch.testing.assert_close(hopfield_residual(y, uniform), energy_and_gradient(y, uniform)[1])


def test_the_uniform_reference_is_minus_f_inside_and_infinite_outside():
    net = small(Architecture(4, ((4, 3, 1),), s=None, bounds=(-0.2, 0.8)), std=0.3)
    assert net.bounds == (-0.2, 0.8) and small().bounds is None
    y = torch.rand(3, 1, 4, 4, 4) - 0.2
    torch.testing.assert_close(net.energy(y), -net.score(y))
    for row, outside in ((0, 0.9), (2, -0.3)):
        y[row, 0, 1, 2, 3] = outside
    assert net.energy(y).isinf().tolist() == [True, False, True]
    assert (energy_and_gradient(y, net)[1][1] != 0).any()


def test_data_lie_inside_the_bounds_of_their_own_range():
    """0 - mean and 1 - mean round differently in float32 and float64: neither may fall outside."""
    rng = np.random.default_rng(0)
    for mean in rng.random(300).tolist():
        net = small(Architecture(2, ((1, 1, 1),), s=None, bounds=(-mean, 1 - mean)))
        corners = (torch.tensor([0.0, 1.0]) - mean).repeat(4).view(1, 1, 2, 2, 2)
        assert net.energy(corners).isfinite().all(), mean


def test_no_graph_and_no_gradient_of_the_weights_is_kept():
    net = small()
    y = torch.randn(2, 1, 6, 6, 6, requires_grad=True)
    with torch.no_grad():
        energy, gradient = energy_and_gradient(y, net)
    assert not energy.requires_grad and not gradient.requires_grad
    assert y.grad is None and all(p.grad is None for p in net.parameters())
    for p in net.parameters():
        p.requires_grad_(False)
    torch.testing.assert_close(energy_and_gradient(y, net)[1], gradient)


def test_weights_come_from_the_generator_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two, three = (small(seed=seed) for seed in (1, 1, 2))
    y = torch.randn(1, 1, 6, 6, 6, generator=seeded(0))
    assert torch.equal(one.energy(y), two.energy(y)) and not torch.equal(one.energy(y), three.energy(y))
    weights, others = (torch.cat([p.flatten() for p in net.parameters()]) for net in (one, three))
    assert abs(torch.corrcoef(torch.stack([weights, others]))[0, 1]) < 5 / math.sqrt(len(weights))  # 5 sigma
    assert torch.equal(before, torch.random.get_rng_state()), "the global random numbers were touched"


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((2, 1, 5, 5, 5), torch.float32, r"\(N, 1, 6, 6, 6\), not \(2, 1, 5, 5, 5\)"),
        ((2, 6, 6, 6), torch.float32, r"not \(2, 6, 6, 6\)"),
        ((2, 3, 6, 6, 6), torch.float32, r"not \(2, 3, 6, 6, 6\)"),
        ((2, 1, 6, 6, 6), torch.float64, "network is torch.float32, the shapes are torch.float64"),
        ((2, 1, 6, 6, 6), torch.uint8, "the shapes are torch.uint8"),
    ],
)
def test_shapes_of_another_kind_are_refused(shape, dtype, message):
    with pytest.raises(ShapeError, match=message):
        small().energy(torch.zeros(shape, dtype=dtype))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 0}, "resolution|layers"),
        ({"layers": ()}, "layers"),
        ({"layers": ((4, 3),)}, "layers"),
        ({"layers": ((4, 3, 0),)}, "stride.*at least 1, not 0"),
        ({"layers": ((4.0, 3, 1),)}, "whole number.*not 4.0"),
        ({"resolution": 16.0}, "resolution must be a whole number.*not 16.0"),
        ({"s": "wide"}, "s must be positive.*not 'wide'"),
        ({"activation": "tanh"}, "'tanh'.*relu"),
        ({"s": 0.0}, "s must be positive"),
        ({"s": math.nan}, "s must be positive"),
        ({"s": None}, "bounds"),
        ({"bounds": (0, 1)}, "not both"),
        ({"s": None, "bounds": (1, 0)}, "low < high"),
        ({"s": None, "bounds": (0, math.inf)}, "finite"),
        ({"s": None, "bounds": (math.nan, 1)}, "bounds"),
    ],
)
def test_architectures_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Architecture(**settings)


def test_an_architecture_for_no_compact_network():
    with pytest.raises(ValueError, match=r"8, 16, 24, 32, 64.*not 12"):
        DescriptorNet.compact(12)


@pytest.mark.parametrize(
    ("energy", "message"),
    [
        (lambda y: y.square(), r"\(3,\).*returned \(3, 2\)"),
        (lambda y: y.square().sum(), r"\(3,\).*returned \(\)"),
        (lambda y: y.square().sum(1, keepdim=True), r"returned \(3, 1\)"),
        (lambda y: 1.0, "returned float"),
        (lambda y: y.detach().sum(1), "gradient"),
    ],
)
def test_energies_of_the_wrong_kind_are_refused(energy, message):
    with pytest.raises(ShapeError, match=message):
        energy_and_gradient(torch.zeros(3, 2), energy)


def test_gaussian_energy():
    y = torch.randn(4, 1, 2, 2, 2, dtype=torch.float64)
    mean, variance = torch.randn(2, 2, 2, dtype=torch.float64), torch.rand(2, 2, 2, dtype=torch.float64) + 0.1
    normal = torch.distributions.Normal(mean, variance.sqrt())
    difference = GaussianEnergy(mean, variance)(y) + normal.log_prob(y).flatten(1).sum(1)
    torch.testing.assert_close(difference, difference[:1].expand(4))  # log Z
    torch.testing.assert_close(energy_and_gradient(y, GaussianEnergy(mean, variance))[1], (y - mean) / variance)


@pytest.mark.parametrize("weights", [None, (1.0, 3.0, 2.0)])
def test_the_mixture_is_normalised(weights):
    line = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    one = MixtureEnergy(torch.tensor([[-2.0], [0.5], [3.0]]), 0.7, weights)
    density = (-one(line[:, None])).exp()
    assert torch.trapezoid(density, line).item() == pytest.approx(1, abs=1e-9)
    share = np.array(weights or (1, 1, 1)) / sum(weights or (1, 1, 1))
    assert torch.trapezoid(density * line, line).item() == pytest.approx(share @ [-2, 0.5, 3], abs=1e-7)
    axis = torch.linspace(-6, 6, 241, dtype=torch.float64)
    plane = torch.cartesian_prod(axis, axis)
    two = MixtureEnergy(torch.tensor([[-1.0, 0.0], [1.0, 1.0], [0.0, -2.0]]), 0.6, weights)
    assert ((-two(plane)).exp().sum() * (axis[1] - axis[0]) ** 2).item() == pytest.approx(1, abs=1e-9)
