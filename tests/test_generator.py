"""The generator: its layers against sums written out here, its posterior and its likelihood where both are known."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from problems import drawn, seeded
from test_learning import equal
from torch import nn

from dnet_lib import DivergedError, ShapeError, chain_generators
from dnet_lib.energy import SameConv3d
from dnet_lib.generator import (
    COMPACT,
    Alternation,
    GeneratorNet,
    Layout,
    Posterior,
    Proposals,
    alternate,
    infer,
    latents,
    regress,
)
from dnet_lib.resuming import read_state

TINY = Layout(resolution=4, latent=3, channels=(4, 3), factors=(1, 2, 2), kernel=3)


def tiny(seed: int = 0, **changed) -> GeneratorNet:
    return GeneratorNet(Layout(**vars(TINY) | changed), generator=seeded(seed))


class Linear(nn.Module):
    """g(Z) = W Z + b on 2^3 voxels, in double precision: what is Gaussian stays Gaussian."""

    def __init__(self, latent: int = 2, seed: int = 0):
        super().__init__()
        self.latent, self.resolution = latent, 2
        self.dense = nn.Linear(latent, 8).double()
        with torch.no_grad():
            for p in self.parameters():
                p.normal_(0, 1, generator=seeded(seed))

    def forward(self, z):
        return self.dense(z).view(-1, 1, 2, 2, 2)


# -- the network -------------------------------------------------------------------------------------------------------


def test_the_papers_generator_has_as_many_weights_as_its_layers_say():
    """Section 6.4: 100 numbers, a dense layer to 4^3 x 256, deconvolutions 4^3 to 256, 128, 64 and 1 channels."""
    net, plain = GeneratorNet(), GeneratorNet(Layout(batch_norm=False))
    kernels = 100 * 4**3 * 256 + 4**3 * (256 * 256 + 256 * 128 + 128 * 64 + 64 * 1)
    normalization = 2 * (256 + 256 + 128 + 64)  # a scale and a shift a channel; the biases before it would be idle
    assert sum(p.numel() for p in net.parameters()) == kernels + normalization + 1 == 8_459_649
    assert sum(p.numel() for p in plain.parameters()) == kernels + 4**3 * 256 + 256 + 128 + 64 + 1
    assert [tuple(layer.weight.shape[:2]) for layer in net.layers] == [(256, 256), (256, 128), (128, 64), (64, 1)]
    assert sum(p.numel() for p in GeneratorNet(COMPACT).parameters()) == pytest.approx(0.95e6, rel=0.01)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("kernel", [3, 4, 5])
@pytest.mark.parametrize(("resolution", "factors"), [(4, (1, 2, 2)), (9, (3, 3)), (6, (1, 3, 2)), (8, (2,) * 3)])
def test_shapes_come_out_as_occupancy_of_the_right_size(resolution, factors, kernel, batch_norm):
    layout = Layout(resolution, 3, (4,) * (len(factors) - 1), factors, kernel, batch_norm)
    net = GeneratorNet(layout, generator=seeded())
    with torch.no_grad():
        net.layers[-1].weight *= 1000
    y = net(latents(net, 5, seeded(1)))
    assert y.shape == (5, 1, resolution, resolution, resolution) and y.dtype == torch.float32
    assert 0 <= y.min() < 0.1 and 0.9 < y.max() <= 1, "the whole range of occupancy is in reach"


def transposed_convolution(h: np.ndarray, weight: np.ndarray, bias: np.ndarray, factor: int) -> np.ndarray:
    """Every voxel throws its kernel onto the finer grid; what falls over the edge is lost."""
    kernel, side = weight.shape[-1], factor * h.shape[-1]
    before = (kernel - factor) // 2
    out = np.zeros((len(h), weight.shape[1], side, side, side)) + bias[:, None, None, None]
    for place in np.ndindex(h.shape[2:]):
        for tap in np.ndindex((kernel,) * 3):
            to = tuple(factor * i + t - before for i, t in zip(place, tap, strict=True))
            if all(0 <= i < side for i in to):
                out[(..., *to)] += h[(..., *place)] @ weight[(..., *tap)]
    return out


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize(
    ("resolution", "factors", "kernel"), [(4, (1, 2), 3), (4, (2, 2), 4), (6, (3, 1), 5), (6, (2, 3), 3)]
)
def test_the_network_is_the_sum_written_out(resolution, factors, kernel, batch_norm, training):
    net = GeneratorNet(Layout(resolution, 3, (2,), factors, kernel, batch_norm), generator=seeded()).double()
    with torch.no_grad():
        for name, p in [*net.named_parameters(), *net.named_buffers()]:
            if "norms" in name and p.is_floating_point():
                p.uniform_(0.5, 1.5, generator=seeded(len(name)))
            elif name.endswith("bias"):
                p.normal_(generator=seeded(len(name)))
    state = {name: p.detach().numpy().copy() for name, p in net.state_dict().items()}
    z = torch.randn(3, 3, dtype=torch.float64, generator=seeded(1))
    h = z.numpy() @ state["dense.weight"].T + state.get("dense.bias", 0)
    h = h.reshape(3, 2, *(resolution // math.prod(factors),) * 3)
    for k, factor in enumerate(factors):
        if batch_norm:
            here, across = {n: state[f"norms.{k}.{n}"][:, None, None, None] for n in STATISTICS}, (0, 2, 3, 4)
            mean, variance = here["running_mean"], here["running_var"]
            if training:
                mean, variance = h.mean(across, keepdims=True), h.var(across, keepdims=True)
            h = (h - mean) / np.sqrt(variance + 1e-5) * here["weight"] + here["bias"]
        bias = state.get(f"layers.{k}.bias", np.zeros(state[f"layers.{k}.weight"].shape[1]))
        h = transposed_convolution(np.maximum(h, 0), state[f"layers.{k}.weight"], bias, factor)
    net.train(training)
    np.testing.assert_allclose(net(z).detach().numpy(), (1 + np.tanh(h)) / 2, rtol=1e-10, atol=1e-12)


STATISTICS = ("weight", "bias", "running_mean", "running_var")


@pytest.mark.parametrize(("factor", "kernel"), [(1, 3), (1, 4), (2, 4), (2, 5), (3, 5), (3, 4)])
def test_a_deconvolution_is_a_descriptors_convolution_transposed(factor, kernel):
    """<conv(y), h> = <y, deconv(h)> with the same weights: the same padding, the odd voxel last in both."""
    net = GeneratorNet(Layout(2 * factor, 3, (4,), (1, factor), kernel, False), generator=seeded())
    conv, deconvolution = SameConv3d(1, 4, kernel, factor, 2 * factor), net.layers[1]
    with torch.no_grad():
        conv.weight.copy_(deconvolution.weight)
    y, h = torch.rand(1, 1, *(2 * factor,) * 3, generator=seeded(1)), torch.rand(1, 4, 2, 2, 2, generator=seeded(2))
    up = deconvolution(h)[..., : 2 * factor, : 2 * factor, : 2 * factor]
    torch.testing.assert_close((conv(y) * h).sum(), (y * up).sum())


def test_weights_begin_with_the_deviation_of_their_fan_in():
    net = GeneratorNet(Layout(8, 50, (24, 16), (1, 2, 2)), generator=seeded())
    fans = [50, 24 * 4**3, 24 * 2**3, 16 * 2**3]  # a voxel of an up-sampling layer hears one tap of each block
    for layer, fan in zip((net.dense, *net.layers), fans, strict=True):
        w = layer.weight.detach()
        assert abs(w.std().item() / math.sqrt(2 / fan) - 1) < 5 / math.sqrt(2 * w.numel())
        assert abs(w.mean().item()) < 5 * math.sqrt(2 / fan / w.numel())
        assert layer.bias is None or not layer.bias.any()


def test_a_seed_is_a_network():
    a, b, c = tiny(1), tiny(1), tiny(2)
    assert equal(a.state_dict(), b.state_dict()) and not equal(a.state_dict(), c.state_dict())


@pytest.mark.parametrize("batch_norm", [True, False])
def test_gradients_reach_every_weight(batch_norm):
    net = tiny(channels=(12, 8), batch_norm=batch_norm)
    net(latents(net, 8, seeded())).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, name


@pytest.mark.parametrize("z", [torch.zeros(2, 4), torch.zeros(3), torch.zeros(2, 3, 1)])
def test_latent_vectors_of_the_wrong_size_are_named(z):
    with pytest.raises(ShapeError, match=r"takes latent vectors \(N, 3\), not"):
        tiny()(z)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"latent": 0}, "latent=0.*at least 1, not 0"),
        ({"channels": ()}, "a factor.*for each deconvolution"),
        ({"channels": (4, 0)}, "channels=.*at least 1, not 0"),
        ({"channels": (4, 2.0)}, "whole number.*not 2.0"),
        ({"factors": ()}, "a factor.*for each deconvolution"),
        ({"factors": (1, 2, 0)}, "factors.*at least 1"),
        ({"factors": (2, 2)}, "a factor.*for each deconvolution"),
        ({"factors": (1, 1, 4)}, "at most the kernel's size"),
        ({"resolution": 6}, r"6\^3 voxels are not a multiple of the factors"),
    ],
)
def test_layouts_that_cannot_be_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        Layout(**vars(TINY) | changed)


# -- latent vectors and proposals --------------------------------------------------------------------------------------


def test_latent_vectors_are_standard_normal():
    net = tiny(latent=10).double()
    z = latents(net, 5000, seeded())
    assert z.shape == (5000, 10) and z.dtype == torch.float64
    assert abs(z.mean().item()) < 5 / math.sqrt(z.numel())
    assert (torch.cov(z.T) - torch.eye(10)).abs().max() < 5 * math.sqrt(2 / 5000)
    assert torch.equal(latents(net, 2, seeded()), latents(net, 2, seeded()))


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_proposals_are_shapes_of_latent_vectors_plus_noise(sigma):
    net = tiny(batch_norm=False)
    proposals, generator = Proposals(net, 0.37, sigma), seeded(5)
    y = proposals.draw(500, generator)
    with torch.no_grad():
        mean = net(latents(net, 500, seeded(5))) - 0.37
    assert y.shape == (500, 1, 4, 4, 4) and not y.requires_grad
    if sigma == 0:
        assert torch.equal(y, mean)
    noise = y - mean
    assert abs(noise.mean().item()) <= 5 * sigma / math.sqrt(noise.numel())
    assert abs(noise.std().item() - sigma) <= 5 * sigma / math.sqrt(2 * noise.numel())
    assert not torch.equal(proposals.draw(500, generator), y)


def test_proposals_do_not_depend_on_how_they_are_batched():
    proposals = Proposals(tiny(batch_norm=False), 0.4, 0.2)
    whole = proposals.draw(6, chain_generators(0, 6))
    parts = [proposals.draw(b - a, chain_generators(0, b - a, first=a)) for a, b in ((0, 2), (2, 6))]
    torch.testing.assert_close(whole, torch.cat(parts))


# -- inference ---------------------------------------------------------------------------------------------------------


def test_the_posteriors_energy_is_minus_the_log_density():
    """Differences of log N(Z; 0, I) N(Y; g(Z), sigma^2 I), by torch.distributions."""
    net, y = tiny().eval(), torch.rand(4, 1, 4, 4, 4, generator=seeded())
    a, b = latents(net, 4, seeded(1)), latents(net, 4, seeded(2))

    def log_density(z):
        prior = torch.distributions.Normal(0, 1).log_prob(z).sum(1)
        return prior + torch.distributions.Normal(net(z), 0.7).log_prob(y).flatten(1).sum(1)

    energy = Posterior(net, y, 0.7)
    torch.testing.assert_close(energy(a) - energy(b), log_density(b) - log_density(a), rtol=1e-4, atol=1e-4)


def known_posterior(net: Linear, y: torch.Tensor, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of Z given Y for the linear generator, by Bayes' rule."""
    w, b = net.dense.weight.detach(), net.dense.bias.detach()
    covariance = torch.linalg.inv(torch.eye(w.shape[1]) + w.T @ w / sigma**2)
    return (y.flatten(1) - b) @ w @ covariance / sigma**2, covariance


def test_inference_samples_the_known_posterior():
    """Two shapes, 5,000 Metropolis chains each, against the Gaussian posterior of a linear generator."""
    net, n, sigma = Linear(), 5000, 0.8
    shapes = torch.rand(2, 1, 2, 2, 2, dtype=torch.float64, generator=seeded(1))
    mean, covariance = known_posterior(net, shapes, sigma)
    repeated = shapes.repeat_interleave(n, dim=0)
    options = {"sigma": sigma, "num_steps": 80, "step_size": 0.1, "metropolis": True, "generator": seeded(2)}
    z = infer(net, repeated, **options).view(2, n, 2)
    variance = covariance.diagonal()
    for own, truth in zip(z, mean, strict=True):
        assert ((own.mean(0) - truth).abs() < 5 * (variance / n).sqrt()).all()
        spread = ((variance[:, None] * variance + covariance**2) / n).sqrt()
        assert ((torch.cov(own.T) - covariance).abs() < 5 * spread).all()
    assert (mean[0] - mean[1]).abs().max() > 10 * (variance.max() / n).sqrt(), "two shapes that differ"
    assert (mean.abs() > 10 * (variance.max() / n).sqrt()).any(), "the prior alone must fail"


def test_without_noise_inference_is_ridge_regression():
    net, shapes, sigma = Linear(), torch.rand(3, 1, 2, 2, 2, dtype=torch.float64), 0.5
    w, b = net.dense.weight.detach(), net.dense.bias.detach()
    ridge = torch.linalg.solve(w.T @ w + sigma**2 * torch.eye(2), w.T @ (shapes.flatten(1) - b).T).T
    z = infer(net, shapes, sigma=sigma, num_steps=400, step_size=0.05, temperature=0.0, generator=seeded())
    torch.testing.assert_close(z, ridge, rtol=1e-6, atol=1e-8)
    assert all(p.grad is None for p in net.parameters()), "inference is not learning"


def test_inference_goes_on_from_given_vectors_and_reconstructs():
    net = tiny(batch_norm=False).requires_grad_(False)
    truth = latents(net, 4, seeded(1))
    start = truth + 0.1 * latents(net, 4, seeded(2))
    options = {"sigma": 0.01, "step_size": 1e-3, "temperature": 0.0}
    assert torch.equal(infer(net, net(truth), start, num_steps=0, **options), start)
    z = infer(net, net(truth), start, num_steps=100, **options)
    before, after = ((net(v) - net(truth)).square().mean() for v in (start, z))
    assert after < 0.1 * before


def test_inference_does_not_depend_on_how_shapes_are_batched():
    net, shapes = tiny(batch_norm=False), torch.rand(5, 1, 4, 4, 4, generator=seeded())
    options = {"num_steps": 10, "step_size": 0.01}
    whole = infer(net, shapes, generator=chain_generators(0, 5), **options)
    parts = [
        infer(net, shapes[a:b], generator=chain_generators(0, b - a, first=a), **options) for a, b in [(0, 2), (2, 5)]
    ]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-4, atol=1e-5)


def test_shapes_of_another_size_cannot_be_inferred():
    with pytest.raises(ShapeError, match=r"4\^3 voxels, not 8\^3"):
        infer(tiny(), torch.zeros(1, 1, 8, 8, 8), num_steps=1, step_size=0.1)


# -- learning ----------------------------------------------------------------------------------------------------------


def test_one_regression_step_is_the_slope_of_equation_22():
    """|Y - W Z - b|^2, summed over voxels, mean over the batch: its gradient by hand, a step of size 0.01."""
    net, z = Linear(), torch.randn(5, 2, dtype=torch.float64, generator=seeded(1))
    y = torch.rand(5, 1, 2, 2, 2, dtype=torch.float64, generator=seeded(2))
    w, b = (p.detach().clone() for p in net.parameters())
    misfit = y.flatten(1) - z @ w.T - b
    loss = regress(net, torch.optim.SGD(net.parameters(), lr=0.01), z, y)
    assert loss.item() == pytest.approx(misfit.square().sum().item() / 5) and not loss.requires_grad
    torch.testing.assert_close(net.dense.weight.detach(), w + 0.01 * 2 / 5 * misfit.T @ z)
    torch.testing.assert_close(net.dense.bias.detach(), b + 0.01 * 2 / 5 * misfit.sum(0))
    w, b = (p.detach().clone() for p in net.parameters())
    misfit = y.flatten(1) - z @ w.T - b
    regress(net, torch.optim.SGD(net.parameters(), lr=0.01), z, y)  # gradients do not pile up
    torch.testing.assert_close(net.dense.weight.detach(), w + 0.01 * 2 / 5 * misfit.T @ z)


def sine(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of the largest angle between the column spaces of two matrices."""
    a, b = (torch.linalg.qr(m.detach()).Q for m in (a, b))
    return torch.linalg.matrix_norm(a - b @ (b.T @ a), 2).item()


def test_alternating_back_propagation_finds_the_principal_subspace():
    """A linear generator is probabilistic PCA: the likeliest W spans the data's principal axes, where the misfit at
    inferred Z is the noise alone, 8 sigma^2 (5 per cent more at this Langevin step).
    """
    sigma, n = 0.6, 400
    noise = sigma * torch.randn(n, 1, 2, 2, 2, dtype=torch.float64, generator=seeded(2))
    shapes = Linear(seed=5)(torch.randn(n, 2, dtype=torch.float64, generator=seeded(1))).detach() + noise
    principal = torch.linalg.eigh(torch.cov(shapes.flatten(1).T)).eigenvectors[:, -2:]
    net = Linear(seed=6)
    assert sine(net.dense.weight, principal) > 0.9
    settings = Alternation(200, num_steps=6, step_size=0.05, sigma=sigma, batch_size=n, learning_rate=0.05)
    told = list(alternate(net, shapes, settings))
    losses = [r.loss for r in told]
    assert sine(net.dense.weight, principal) < 0.03
    assert losses[0] > 5 * 8 * sigma**2 and sum(losses[-50:]) / 50 == pytest.approx(8 * sigma**2, rel=0.1)
    assert [r.iteration for r in told] == list(range(1, 201))


SHAPES = drawn(7, 4, 0.4)
SHORT = Alternation(8, num_steps=3, step_size=0.01, batch_size=4, learning_rate=0.01)


def test_each_shape_keeps_its_own_chain():
    """Only the rows of the mini-batch move, every shape's turn comes, and what was told is not overwritten later."""
    told = [r.latent for r in alternate(tiny(), SHAPES, SHORT)]
    moved = [(a != b).any(1) for a, b in pairwise(told)]
    assert all(rows.sum() == 4 for rows in moved) and torch.stack(moved).any(0).all()
    assert told[0].shape == (7, 3)


@pytest.mark.parametrize("save_every", [1, 3, 50])
def test_alternation_resumes_from_its_checkpoint(save_every, tmp_path):
    whole = tiny()
    records = {r.iteration: (r.loss, r.latent.tolist()) for r in alternate(whole, SHAPES, SHORT, seed=4)}
    path = tmp_path / "deep" / "run.pt"
    seen = set()
    for stop in (2, 5, 7, None):
        net = tiny(9 if path.exists() else 0)
        for r in alternate(net, SHAPES, SHORT, seed=4, checkpoint=path, save_every=save_every):
            assert (r.loss, r.latent.tolist()) == records[r.iteration]
            seen.add(r.iteration)
            if r.iteration == stop:
                break
    assert equal(net.state_dict(), whole.state_dict()) and seen == set(range(1, 9))
    assert [p.name for p in path.parent.iterdir()] == ["run.pt"]
    assert equal(read_state(path)[0]["net"], whole.state_dict())
    assert list(alternate(tiny(), SHAPES, SHORT, seed=4, checkpoint=path)) == []


@pytest.mark.parametrize("other", ["network", "shapes", "file"])
def test_a_checkpoint_of_another_alternation_is_named(other, tmp_path):
    path = tmp_path / "mine.pt"
    list(alternate(tiny(), SHAPES, SHORT, checkpoint=path))
    if other == "file":
        path.write_bytes(path.read_bytes()[:100])
    net = tiny(channels=(3, 3)) if other == "network" else tiny()
    with pytest.raises(ValueError, match=r"mine\.pt"):
        next(alternate(net, SHAPES[: 5 if other == "shapes" else 7], Alternation(20, batch_size=4), checkpoint=path))


@pytest.mark.parametrize("num_steps", [0, 3])
def test_an_alternation_that_diverges_says_so_and_keeps_the_last_good_state(num_steps, tmp_path):
    """Without inference the loss explodes, with it the chains of Z do: both by name."""
    net, shapes = Linear().float(), torch.rand(7, 1, 2, 2, 2, generator=seeded())
    first = {name: value.clone() for name, value in net.state_dict().items()}
    settings = Alternation(20, num_steps=num_steps, batch_size=4, learning_rate=1e30)
    with pytest.raises(DivergedError, match=r"lower the (learning rate|step size)") as caught:
        list(alternate(net, shapes, settings, checkpoint=tmp_path / "run.pt"))
    kept = caught.value.state
    assert kept["iteration"] == 0 and equal(kept["net"], first) and equal(net.state_dict(), first)
    assert caught.value.checkpoint == str(tmp_path / "run.pt")
    assert equal(read_state(tmp_path / "run.pt")[0]["net"], first)


def test_shapes_an_alternation_cannot_learn_are_named():
    with pytest.raises(ShapeError, match=r"observed shapes must be 4\^3"):
        next(alternate(tiny(), torch.rand(3, 1, 5, 5, 5), SHORT))
    with pytest.raises(ShapeError, match=r"observed shapes.*int64"):
        next(alternate(tiny(), SHAPES.long(), SHORT))


def test_a_generator_learns_shapes_without_a_teacher():
    """The whole of it, nonlinear: reconstructions at inferred Z come far closer than the data's spread."""
    net = tiny(channels=(16, 8), latent=4, batch_norm=False)
    before = copy.deepcopy(net)
    spread = (SHAPES - SHAPES.mean(0)).square().flatten(1).sum(1).mean().item()
    settings = Alternation(70, num_steps=4, step_size=0.05, sigma=0.5, batch_size=7, learning_rate=0.02)
    losses = [r.loss for r in alternate(net, SHAPES, settings)]
    assert sum(losses[-20:]) / 20 < 0.4 * spread and losses[0] > spread
    assert not equal(net.state_dict(), before.state_dict())


def test_inference_under_batch_norm_does_not_depend_on_the_batch():
    net = GeneratorNet(Layout(8, 5, (4,), (1, 2)), generator=seeded(0))
    net(torch.randn(6, 5))  # running statistics of its own
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    shapes, z = torch.rand(3, 1, 8, 8, 8), torch.randn(3, 5)
    options = {"num_steps": 4, "step_size": 0.01, "temperature": 0.0}
    together = infer(net, shapes, z, **options)
    alone = torch.cat([infer(net, shapes[i : i + 1], z[i : i + 1], **options) for i in range(3)])
    torch.testing.assert_close(together, alone)
    assert net.training and all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert (together - z).abs().max() > 0.01
