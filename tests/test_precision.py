"""Products of bfloat16 numbers: how far they are from float64, which laws they keep, and where they are refused."""

import copy
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from problems import seeded
from scipy import stats
from test_fast import network, relative, with_masks

from dnet_lib import (
    Architecture,
    DescriptorNet,
    GaussianEnergy,
    Run,
    Settings,
    ShapeError,
    langevin_step,
    learn,
    learning_gradient,
    load_pretrained,
    sample,
)
from dnet_lib.energy import SameConv3d, energy_and_gradient
from dnet_lib.fast import FrozenNet, direct, freeze, geometry, has_bfloat16
from dnet_lib.fast.convolutions import Choice
from dnet_lib.starts import Persistent, noise

units = pytest.mark.skipif(not has_bfloat16(torch.device("cpu")), reason="this processor has no bfloat16 units")
EPS = 2.0**-8  # of a bfloat16 number: eight bits of mantissa


def random_network(seed: int, activation: str) -> DescriptorNet:
    """One to three layers of random sizes, all units of the size 1, without a reference that hides errors."""
    random = np.random.default_rng(seed)
    layers = [
        tuple(int(random.integers(low, high)) for low, high in ((1, 40), (1, 9), (1, 4)))
        for _ in range(random.integers(1, 4))
    ]
    side = int(random.integers(4, 15))
    return network(Architecture(side, tuple(layers), activation, s=None, bounds=(-1.0, 1.0)), seed)


@units
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_gradients_of_forty_networks_are_within_bfloat16_of_float64(activation):
    """Rounding of inputs, weights and maps, each half an EPS at most, adds up layer by layer; 2.3 % bounds it here."""
    for seed in range(40):
        net = random_network(seed, activation)
        y = torch.rand(5, 1, *[net.resolution] * 3, generator=seeded(seed)) - 0.5
        frozen = FrozenNet(net, num_chains=5, precision="bfloat16")
        e, g = frozen.energy_and_gradient(y)
        if activation == "relu":  # the same units on: a unit near 0 may round to the other side
            masks = [(a > 0).permute(3, 4, 0, 1, 2).clone() for a in frozen._forward(y)[1]]
            exact = -with_masks(net, y, masks)
        else:
            exact = energy_and_gradient(y.double(), copy.deepcopy(net).double())[1]
        assert relative(g.double(), exact) < 6 * EPS, net
        wanted = copy.deepcopy(net).double().energy(y.double())
        scale = max(wanted.abs().max().item(), math.sqrt(net.dense.weight.numel()))
        assert (e.double() - wanted).abs().max() < 8 * EPS * scale, net


@units
@pytest.mark.parametrize(
    "layers", [((9, 4, 1), (19, 8, 1)), ((8, 3, 1), (10, 8, 1)), ((12, 16, 2),), ((31, 2, 3), (7, 6, 3))]
)
def test_kernels_that_are_wrong_elsewhere_are_gone_around(layers):
    """oneDNN's for AMX, where few channels meet 8, 16, ... taps; and any of one voxel that is padded (`findings`)."""
    for side in (3, 9):
        net = network(Architecture(side, layers, "silu", s=None, bounds=(-1.0, 1.0)))
        y, exact = torch.rand(2, 1, *[side] * 3, generator=seeded(0)) - 0.5, copy.deepcopy(net).double()
        frozen = FrozenNet(net, num_chains=2, choices=[Choice()] * len(layers), precision="bfloat16")
        assert relative(frozen.energy_and_gradient(y)[1].double(), energy_and_gradient(y.double(), exact)[1]) < 6 * EPS
        _, ours = frozen.learning_gradient(y, torch.ones(2), torch.zeros(2))
        exact.energy(y.double()).sum().backward()
        for name, parameter in exact.named_parameters():
            assert relative(ours[name].double(), parameter.grad) < 12 * EPS, name


@units
@pytest.mark.parametrize("choice", [Choice(), Choice("DFT", 6), Choice("DFT", 3)])
def test_each_algorithm_rounds_alike(choice):
    net = network(Architecture(12, ((40, 6, 2), (10, 4, 2)), "silu"))
    y = torch.randn(6, 1, 12, 12, 12, generator=seeded(0))
    frozen = FrozenNet(net, num_chains=6, choices=[choice, Choice()], precision="bfloat16")
    exact = copy.deepcopy(net).double()
    s = net.architecture.s
    decoded = y.double() / s**2 - energy_and_gradient(y.double(), exact)[1]
    assert 1e-4 < relative(y / s**2 - frozen.energy_and_gradient(y)[1], decoded) < 3 * EPS
    weight, penalty = torch.randn(6, generator=seeded(1)), torch.rand(6, generator=seeded(2)) / 10
    _, ours = frozen.learning_gradient(y, weight, penalty)
    _, wanted = FrozenNet(net, num_chains=6).learning_gradient(y, weight, penalty)
    for name, gradient in wanted.items():
        assert ours[name].dtype == torch.float32
        assert relative(ours[name], gradient) < 4 * EPS, name


@units
def test_sums_over_groups_are_float32(monkeypatch):
    """1024 + 1/4 - 1024, each of another group of phases: bfloat16 numbers near 1024 are 8 apart."""
    monkeypatch.setattr(direct, "TOGETHER", 0)
    conv = SameConv3d(2, 1, 2, 2, 4)
    with torch.no_grad():
        conv.weight.zero_()[0, :, 0, 0] = 256
        conv.weight[0, :, 0, 1], conv.weight[0, :, 1, 1] = 1 / 16, -256
    layer = direct.Direct(geometry(conv), "cpu", torch.bfloat16)
    layer.begin(3)
    layer.load(conv.weight.detach(), conv.bias.detach())
    for _, slot in layer.slots:
        slot.fill_(1)
    assert len(layer.groups) == 4 and (layer.forward() == 0.25).all()


@units
def test_an_affine_score_keeps_its_gaussian():
    """All units on, f is affine: E = |y|^2 / (2 s^2) - b y. Eq. (7) then has a known law, its bias included.

    Tolerances: the mean s^2 b within EPS of itself (b is made of rounded weights), the variance untouched, as the
    reference stays float32; both plus 4 standard errors.
    """
    s, h, n = 0.5, 0.1, 3000
    net = network(Architecture(4, ((6, 2, 2), (5, 2, 1)), s=s))
    with torch.no_grad():
        for conv in net.convolutions:
            conv.weight.mul_(0.3), conv.bias.fill_(8.0)
    y = torch.zeros(n, 1, 4, 4, 4)
    b = -energy_and_gradient(y[:1].double(), copy.deepcopy(net).double())[1][0].flatten()
    ends = sample(y, net, num_steps=120, step_size=h, precision="bfloat16", generator=seeded(0)).flatten(1).double()
    variance = s**2 / (1 - h / (4 * s**2))
    error = (ends.mean(0) - s**2 * b).abs()
    assert (error < EPS * s**2 * b.abs() + 4 * math.sqrt(variance / n)).all()
    assert s**2 * b.abs().max() > 10 * math.sqrt(variance / n), "there is a mean to find"
    assert (ends.var(0) / variance - 1).abs().max() < 4 * math.sqrt(2 / n)


@units
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_networks_law_by_quadrature_is_kept(precision):
    """A network that reads one number a block; T = 1 and small steps, whose bias is h / (4 s^2) = 0.5 % of a variance.

    Tolerance: the distribution function nowhere off by more than .012 (its standard error is .0035).
    """
    s, n = 0.5, 2500
    net = DescriptorNet(Architecture(4, ((6, 4, 2), (5, 1, 1)), activation="silu", s=s))
    u = torch.nn.functional.normalize(torch.rand(8, generator=seeded(0)), dim=0)
    with torch.no_grad():
        first, second = net.convolutions
        first.weight.zero_()[:, 0, 1:3, 1:3, 1:3] = (4 * torch.randn(6, 1, generator=seeded(1)) * u).view(6, 2, 2, 2)
        for parameter in (first.bias, second.weight, second.bias, net.dense.weight):
            parameter.normal_(0, 0.6, generator=seeded(2))
        net.dense.weight[:] = 1.5 * net.dense.weight.view(5, 8)[:, :1].expand(5, 8).reshape(1, -1)  # all blocks alike
        axis = torch.linspace(-4, 4, 4001)
        maps = net.hidden((axis[:, None] * u).view(-1, 1, 2, 2, 2).repeat(1, 1, 2, 2, 2))[-1]
        log_p = (maps.flatten(2)[..., 0].double() @ net.dense.weight.view(5, 8)[:, 0].double()) - axis.double() ** 2 / (
            2 * s**2
        )
    cdf = torch.cumulative_trapezoid((log_p - log_p.max()).exp(), dim=0)
    cdf = torch.cat([cdf[:1] * 0, cdf / cdf[-1]]).numpy()
    y = s * torch.randn(n, 1, 4, 4, 4, generator=seeded(3))
    y = sample(y, net, num_steps=400, step_size=0.005, fast=True, precision=precision, generator=seeded(4))
    read = y.view(n, 2, 2, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6).reshape(n * 8, 8) @ u
    assert stats.kstest(np.interp(read, axis, cdf), "uniform").statistic < 0.012
    assert stats.kstest(read / s, "norm").statistic > 0.1, "the network has its say"


@units
def test_only_products_are_rounded():
    """Chains, weights and Adam stay float32; the run can go on in the other precision."""
    net = DescriptorNet(Architecture(8, ((8, 4, 2),)), generator=seeded(0))
    run = Run.begin(net, Persistent(noise(4, 8, generator=seeded(1))), Settings(average=0.9))
    data = torch.rand(6, 1, 8, 8, 8, generator=seeded(2)) - 0.5
    options = dict(batch_size=4, num_steps=5, average=0.9)
    list(learn(run, data, Settings(2, precision="bfloat16", **options)))
    state = [t for entry in run.optimizer.state.values() for t in entry.values()]
    tensors = [*net.parameters(), *run.averaged.parameters(), run.starts.chains, *state]
    assert {t.dtype for t in tensors} == {torch.float32}
    assert len(list(learn(run, data, Settings(4, **options)))) == 2
    ends = sample(torch.zeros(2, 1, 8, 8, 8), net, num_steps=3, step_size=0.1, precision="bfloat16")
    assert ends.dtype == torch.float32


@units
def test_a_learning_gradient_in_bfloat16():
    net = network(Architecture(12, ((20, 6, 2), (10, 4, 2)), "silu"))
    observed, synthesized = (0.5 * torch.randn(6, 1, 12, 12, 12, generator=seeded(k)) for k in (0, 1))
    wanted = learning_gradient(net, observed, synthesized)
    gradients = [p.grad.clone() for p in net.parameters()]
    frozen = FrozenNet(net, num_chains=12, precision="bfloat16")
    ours = learning_gradient(net, observed, synthesized, frozen=frozen)
    for got, want in zip(ours, wanted, strict=True):
        assert (got - want).abs().max() < 2 * EPS * want.abs().max()
    for (name, parameter), want in zip(net.named_parameters(), gradients, strict=True):
        assert parameter.grad.dtype == torch.float32
        assert relative(parameter.grad, want) < 8 * EPS or name == "dense.bias"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_buffers_that_were_laid_out_in_inference_mode_serve_outside(precision):
    net, y = DescriptorNet(Architecture(8, ((8, 4, 2), (6, 2, 2))), weight_std=0.1), torch.rand(4, 1, 8, 8, 8)
    frozen = FrozenNet(net, num_chains=4, precision=precision)
    with torch.inference_mode():
        inside = frozen.energy_and_gradient(y)
    for got, wanted in zip(frozen.energy_and_gradient(y), inside, strict=True):
        assert torch.equal(got, wanted)


def test_no_steps_and_numpys_truth_values_are_as_good_here_as_elsewhere():
    net, y = DescriptorNet(Architecture(8, ((8, 4, 2),))), torch.rand(2, 1, 8, 8, 8)
    for options in ({"fast": True}, {"precision": "bfloat16"}):
        assert torch.equal(sample(y, net, num_steps=0, step_size=0.1, **options), y)
    assert Settings(metropolis=np.True_).metropolis is True
    for wrong in ({"num_chains": 0}, {"num_chains": 2, "num_steps": 0}):
        with pytest.raises(ValueError, match="must be a whole number, at least 1"):
            FrozenNet(net, **wrong)
    for wrong in ("bf16", ["bfloat16"]):
        with pytest.raises(ValueError, match="precision is one of"):
            FrozenNet(net, num_chains=2, precision=wrong)
    with pytest.raises(ValueError, match="fast=False is plain PyTorch"):
        Settings(fast=False, precision="bfloat16")


@units
def test_a_model_samples_in_it():
    model = load_pretrained("synthesis/toilet")
    exact, ours = (model.sample(2, generator=seeded(0), precision=kind) for kind in ("float32", "bfloat16"))
    assert not torch.equal(exact, ours) and ((exact > 0.5) != (ours > 0.5)).float().mean() < 0.01


def test_what_is_refused():
    net, y = DescriptorNet(Architecture(8, ((8, 4, 2),))), torch.zeros(2, 1, 8, 8, 8)
    options = dict(num_steps=9, step_size=0.1)
    with pytest.raises(ShapeError, match=r"precision='bfloat16' needs a DescriptorNet .* not this GaussianEnergy"):
        sample(y, GaussianEnergy(), precision="bfloat16", **options)
    with pytest.raises(ValueError, match="precision is one of float32, tf32, bfloat16"):
        sample(y, net, precision="half", **options)
    with pytest.raises(ValueError, match="precision is one of"):
        Settings(precision="float16")
    with pytest.raises(ValueError, match="fast=False is plain PyTorch"):
        sample(y, net, precision="bfloat16", fast=False, **options)
    with pytest.raises(ValueError, match="compares energies, which must not be rounded"):
        Settings(metropolis=True, precision="bfloat16")
    with pytest.warns(UserWarning, match="only NVIDIA's GPUs have TF32: float32 is taken"):
        assert freeze(net, y, num_steps=9, precision="tf32").precision == "float32"


@units
def test_metropolis_refuses_rounded_energies():
    net, y = DescriptorNet(Architecture(8, ((8, 4, 2),))), torch.zeros(2, 1, 8, 8, 8)
    frozen = FrozenNet(net, num_chains=2, precision="bfloat16")
    for energy, options in ((net, {"precision": "bfloat16"}), (frozen, {})):
        with pytest.raises(ValueError, match="give precision='float32', not 'bfloat16'"):
            sample(y, energy, num_steps=3, step_size=0.1, metropolis=True, **options)
    with pytest.raises(ValueError, match="must not be rounded"):
        langevin_step(y, frozen, step_size=0.1, metropolis=True)
    assert copy.deepcopy(frozen).precision == "bfloat16"


WITHOUT_UNITS = """
import warnings
import torch
from dnet_lib import DescriptorNet, sample
net, y = DescriptorNet.compact(8, generator=torch.Generator().manual_seed(0)), torch.zeros(4, 1, 8, 8, 8)
def run(**options):
    return sample(y, net, num_steps=5, step_size=0.1, generator=torch.Generator().manual_seed(1), **options)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    ends = run(precision="bfloat16")
assert torch.equal(ends, run(fast=True))
print([str(warning.message) for warning in told])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the switch is that of PyTorch's oneDNN")
def test_without_units_it_says_so_and_takes_float32():
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_UNITS], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("this processor has no bfloat16 units: float32 is taken") == 1, done.stdout
