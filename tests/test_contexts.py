"""The same numbers, or one clear word, in whatever context PyTorch is: threads, modes, autocast, default dtypes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from problems import equal, seeded, small_net

from dnet_lib import (
    Architecture,
    DescriptorNet,
    GaussianEnergy,
    Persistent,
    Run,
    Settings,
    ShapeError,
    hopfield_residual,
    learn,
    learning_gradient,
    load_judge,
    load_pretrained,
    noise,
    sample,
)
from dnet_lib.baselines.denoiser import load_denoiser
from dnet_lib.energy import SameConv3d
from dnet_lib.fast import FrozenNet
from dnet_lib.fast.convolutions import Choice
from dnet_lib.presets import COOPERATIVE, MULTIGRID, SYNTHESIS

NET = DescriptorNet(Architecture(12, ((6, 4, 2), (5, 3, 1))), weight_std=0.1, generator=seeded())
Y = 0.3 * torch.randn(3, 1, 12, 12, 12, generator=seeded(1))
FAST = Choice("DFT", 6), Choice("Toom-Cook", 3)
SETTINGS = Settings(2, 4, 0.01, batch_size=3, learning_rate=0.01)


@contextmanager
def double() -> Iterator[None]:
    """float64 as the default of new tensors."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def halved() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def chains(fast: bool) -> torch.Tensor:
    return sample(Y, NET, num_steps=5, step_size=0.01, fast=fast, generator=seeded(2))


def learned(fast: bool | None = None) -> torch.Tensor:
    net = small_net()
    run = Run.begin(net, Persistent(noise(3, 4, generator=seeded())), SETTINGS)
    for _ in learn(run, 0.1 * torch.randn(5, 1, 4, 4, 4, generator=seeded(3)), SETTINGS):
        pass
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


SHAPES = (torch.rand(2, 1, 32, 32, 32, generator=seeded()) < 0.2).float()
HIDDEN = torch.rand(SHAPES.shape, generator=seeded(1)) < 0.5
ORIGIN = torch.zeros(2, 2)

EVERYTHING = {
    "chains, plain": lambda: chains(False),
    "chains, fast": lambda: chains(True),
    "a shipped model, loaded and sampled": lambda: load_pretrained("synthesis/toilet").sample(1, generator=seeded()),
    "a generator's proposals, revised": lambda: load_pretrained("cooperative/toilet").sample(1, generator=seeded()),
    "points": lambda: sample(ORIGIN, GaussianEnergy(), num_steps=5, step_size=0.1, generator=seeded()),
    "the residual of eq. (4)": lambda: hopfield_residual(Y, NET),
    "learning": learned,
    "the judge of voxels": lambda: load_judge("voxnet").probabilities(SHAPES),
    "the judge of views": lambda: load_judge("views").probabilities(SHAPES),
    "the auto-encoder": lambda: load_denoiser("full").recover(SHAPES, HIDDEN),
}


@pytest.mark.parametrize("what", EVERYTHING)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, double])
def test_the_same_numbers_in_every_context(what, context):
    if what == "learning" and context is not torch.no_grad:
        pytest.skip("it says so, or makes float64 networks, below")
    expected = EVERYTHING[what]()
    with context():
        found = EVERYTHING[what]()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("what", EVERYTHING)
def test_autocast_lowers_precision_and_breaks_nothing(what):
    expected = EVERYTHING[what]()
    with halved():
        found = EVERYTHING[what]()
    assert found.shape == expected.shape and bool(torch.isfinite(found).all())
    assert (found.float() - expected).abs().mean() < 0.05


def test_the_frozen_path_is_exact_under_autocast():
    """It is the float32 path: autocast is for the plain one."""
    frozen = FrozenNet(NET, num_chains=3, choices=FAST)
    weight, penalty = torch.ones(3), torch.zeros(3)
    expected = frozen.energy_and_gradient(Y), frozen.learning_gradient(Y, weight, penalty), frozen.score(Y)
    with halved():
        found = frozen.energy_and_gradient(Y), frozen.learning_gradient(Y, weight, penalty), frozen.score(Y)
        again = FrozenNet(NET, num_chains=3, choices=FAST).score(Y)
    assert equal(found, expected) and torch.equal(again, expected[2])


def test_one_frozen_network_serves_several_threads():
    """Each thread its own shapes, all through one set of buffers."""
    frozen = FrozenNet(NET, num_chains=3, choices=FAST)
    shapes = [0.3 * torch.randn(3, 1, 12, 12, 12, generator=seeded(seed)) for seed in range(4)]
    expected = [frozen.energy_and_gradient(y) for y in shapes]
    found: list[list] = [[] for _ in shapes]
    meet = threading.Barrier(len(shapes))

    def work(k: int) -> None:
        meet.wait()
        found[k] += [frozen.energy_and_gradient(shapes[k]) for _ in range(40)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(shapes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, (e, g) in zip(found, expected, strict=True):
        assert len(results) == 40 and all(torch.equal(r[0], e) and torch.equal(r[1], g) for r in results)


def test_what_was_made_in_inference_mode_says_so():
    with torch.inference_mode():
        net, data = small_net(), 0.1 * torch.randn(5, 1, 4, 4, 4, generator=seeded(3))
        begun = Run.begin(small_net(), Persistent(noise(3, 4)), SETTINGS)
        with pytest.raises(ValueError, match=r"made in torch\.inference_mode and cannot learn: make or load it"):
            next(learn(begun, data, SETTINGS))
    with pytest.raises(ShapeError, match=r"made in torch\.inference_mode.*make or load it outside"):
        sample(torch.zeros(1, 1, 4, 4, 4), net, num_steps=1, step_size=0.1, fast=False)
    with torch.inference_mode():
        matrix = torch.eye(2)
    with pytest.raises(ShapeError, match=r"^this energy has tensors made in torch\.inference_mode"):
        sample(ORIGIN, lambda y: (y @ matrix * y).sum(1), num_steps=1, step_size=0.1)
    run = Run.begin(small_net(), Persistent(noise(3, 4)), SETTINGS)
    with torch.inference_mode(), pytest.raises(ValueError, match=r"nothing can be learned in torch\.inference_mode"):
        next(learn(run, data, SETTINGS))
    assert run.iteration == 0
    with torch.inference_mode():
        run.starts = Persistent(noise(3, 4))
    assert len(list(learn(run, data, SETTINGS))) == 2, "data and chains may come from there"
    with torch.no_grad():
        learning_gradient(run.net, Y[..., :4, :4, :4], Y[..., :4, :4, :4] + 0.1)
    assert all(parameter.grad is not None for parameter in run.net.parameters())


def test_dtypes_that_do_not_meet_are_named():
    with double():
        net = small_net()
    with pytest.raises(ShapeError, match=r"network is torch\.float64, the shapes are torch\.float32: convert"):
        sample(torch.zeros(1, 1, 4, 4, 4), net, num_steps=1, step_size=0.1)


def geometries(architecture: Architecture) -> Iterator[tuple[int, ...]]:
    """Resolution, channels in and out, kernel and stride of each convolution."""
    side, channels = architecture.resolution, 1
    for out, kernel, stride in architecture.layers:
        yield side, channels, out, kernel, stride
        side, channels = -(-side // stride), out


LAYERS = {  # of the presets, many strided and some with one output column: resolution, channels, kernel, stride
    (r, i, o, k, s)
    for preset in (*MULTIGRID.values(), *SYNTHESIS.values(), *COOPERATIVE.values())
    for architecture in getattr(preset, "grids", (preset.architecture,))
    for r, i, o, k, s in geometries(architecture)
}


@pytest.mark.parametrize(
    "layer", sorted(layer for layer in LAYERS if layer[1] * layer[2] * layer[3] ** 3 < 3e5 and layer[0] < 64)
)
def test_convolutions_in_half_precision_are_right_on_this_processor(layer):
    """PyTorch's own, as autocast calls them: reports tell of strided ones that were wrong with one output column."""
    r, channels, out, kernel, stride = layer
    conv = SameConv3d(channels, out, kernel, stride, r)
    torch.nn.init.normal_(conv.weight, generator=seeded())
    y = torch.randn(2, channels, r, r, r, generator=seeded(1), requires_grad=True)
    exact = conv(y)
    up = torch.randn(exact.shape, generator=seeded(2))
    expected = exact, *torch.autograd.grad(exact, (y, conv.weight), up)
    with halved():
        rounded = conv(y)
    found = rounded, *torch.autograd.grad(rounded, (y, conv.weight), up.to(rounded.dtype))
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.float() - theirs).norm() < 0.02 * theirs.norm()
