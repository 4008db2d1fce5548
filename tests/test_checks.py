"""Numbers and batches that cannot be meant are refused at the door, by name, and good ones of any kind are taken."""

import math
import os
import threading
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import drawn, small_model, small_net

from dnet_lib import (
    Architecture,
    Chain,
    CheckpointError,
    CoarseGaussian,
    Coarser,
    Corrupted,
    Decay,
    DescriptorNet,
    DivergedError,
    Fresh,
    GaussianEnergy,
    GeneratorNet,
    Histogram,
    MixtureEnergy,
    Noise,
    Persistent,
    PersistentData,
    Proposals,
    Run,
    Settings,
    ShapeError,
    Starts,
    Switch,
    Teaching,
    begin_grids,
    chain_generators,
    corrupt,
    down_scale,
    hidden_voxels,
    inception_score,
    langevin_step,
    learn,
    learn_grids,
    learning_gradient,
    load_model,
    load_pretrained,
    load_shapes,
    noise,
    resample,
    sample,
    save_model,
    threshold,
    up_scale,
)
from dnet_lib.baselines.denoiser import AutoEncoder, Denoiser, learn_to_denoise
from dnet_lib.checks import check_occupancy, check_real, check_whole
from dnet_lib.energy import hopfield_residual
from dnet_lib.features import logistic_regression
from dnet_lib.files import atomic_write
from dnet_lib.generator import Alternation, Layout, alternate, infer
from dnet_lib.judges import ViewNet, fit, reliability
from dnet_lib.voxels import coarsen, hide

Y = torch.zeros(3, 1, 4, 4, 4)
GAUSS = GaussianEnergy()
SETTINGS = Settings(1, 1, 0.1, batch_size=2)


BOX = np.zeros((2, 1, 8, 8, 8), np.float32)
LAYOUT = Layout(4, 3, (4,), (1, 2), 3, batch_norm=False)


CENTRED = drawn(2, 8, 0.25) - 0.25


def fitted(**options):
    return CoarseGaussian.fit(drawn(5, 4), 2, rank=2, **options)


def student():
    return GeneratorNet(LAYOUT)


def sampled(**changed):
    return sample(changed.pop("y", Y), GAUSS, **{"num_steps": 2, "step_size": 0.1} | changed)


def learned(data):
    return next(learn(Run.begin(small_net(), Noise(2), SETTINGS), data, SETTINGS))


def pcd(chains, data):
    return next(learn(Run.begin(small_net(), PersistentData(chains), SETTINGS), data, SETTINGS))


REFUSED = {
    "num_iterations must be a whole number, at least 0, not 3.5": lambda: Settings(num_iterations=3.5),
    "num_steps must be a whole number, at least 1, not '20'": lambda: Settings(num_steps="20"),
    "batch_size must be a whole number, at least 1, not True": lambda: Settings(batch_size=True),
    "step_size must be positive and finite, not None": lambda: Settings(step_size=None),
    "learning_rate.* must be at least 0 and finite, not 'fast'": lambda: Settings(learning_rate="fast"),
    "temperature.* must be at least 0 and finite, not nan": lambda: Settings(temperature=float("nan")),
    r"betas, two decays, must lie in \[0, 1\), not 'ab'": lambda: Settings(betas="ab"),
    r"betas, two decays, must lie in \[0, 1\), not None": lambda: Settings(betas=None),
    r"betas, two decays, must lie in \[0, 1\), not 0.5": lambda: Alternation(betas=0.5),
    r"betas, two decays, must lie in \[0, 1\), not \(0.5, 1\)": lambda: Teaching.begin_with(student(), betas=(0.5, 1)),
    r"betas, two decays, must lie in \[0, 1\), not \(0.5,\)": lambda: Settings(betas=(0.5,)),
    "max_gradient, a norm, must be positive and finite, not inf": lambda: Settings(max_gradient=float("inf")),
    "average, a decay, must be at least 0 and finite, not -0.1": lambda: Settings(average=-0.1),
    "renew, a probability, must be at least 0 and at most 1, not 7": lambda: Persistent(Y, renew=7),
    "per_iteration must be a whole number, at least 1, not -1": lambda: Persistent(Y, per_iteration=-1),
    "the chains must be a float tensor": lambda: Persistent(np.zeros((3, 1, 4, 4, 4))),
    "num_chains must be a whole number, at least 1, not 2.0": lambda: Noise(2.0),
    "num_chains must be a whole number, at least 1, not 0": lambda: Fresh(None, 0),
    "share of hidden voxels must be at least 0 and at most 1, not 70": lambda: Corrupted(70),
    "share of hidden voxels must be at least 0 and at most 1, not '0.7'": lambda: corrupt(Y, "0.7"),
    "over, the iterations .* at least 1, not 0": lambda: Decay(1.0, 0.1, over=0),
    "resolution must be a whole number, at least 1, not 16.0": lambda: Architecture(16.0),
    r"takes an Architecture, not 16: try DescriptorNet.compact\(16\)": lambda: DescriptorNet(16),
    r"takes a Layout, not 32: try Layout\(resolution=32\)": lambda: GeneratorNet(32),
    "a whole number, at least 1, not 2.5": lambda: Layout(factors=(1, 2.5, 2, 2)),
    "sigma must be positive and finite, not 0": lambda: Alternation(sigma=0),
    "num_steps must be a whole number, at least 0, not -3": lambda: Chain(-3, 0.1),
    "the number of chains, and each side, .* not '4'": lambda: noise("4", 16),
    "num_chains must be a whole number, at least 0, not 2.5": lambda: chain_generators(0, 2.5),
    "the number of samples must be a whole number, at least 1, not -1": lambda: small_model().sample(-1),
    "num_steps must be a whole number, at least 0, not 2.5": lambda: sampled(num_steps=2.5),
    "step_size must be positive and finite, not '0.1'": lambda: sampled(step_size="0.1"),
    "temperature must be at least 0 and finite, not -1": lambda: sampled(temperature=lambda step: -1),
    r"chains must be a non-empty float tensor \(N, ...\), not ndarray": lambda: sampled(y=np.zeros((3, 2))),
    "shapes must be a float tensor .* not ndarray: convert with torch.as_tensor": lambda: learned(
        np.zeros((3, 1, 4, 4, 4))
    ),
    "shapes must be a float tensor .* not list: convert with torch.as_tensor": lambda: learned([[0.0]]),
    r"shapes must be a float tensor .* not torch.uint8 .*: convert with .float\(\)": lambda: learned(Y.byte()),
    "shapes must be a float tensor .* not NoneType": lambda: learned(None),
    "metropolis is True or False, fast also None, not 'no' and None": lambda: Settings(metropolis="no"),
    "fast is True, False or None, not 'x'": lambda: sampled(fast="x"),
    "takes an Architecture, not '16'$": lambda: DescriptorNet("16"),
    "first and last must be": lambda: Decay("a", 0.1, 3),
    "at, the iteration of the switch, must be a whole number": lambda: Switch(1.0, 0.0, 2.5),
    "has no weights to learn": lambda: learning_gradient(small_net().requires_grad_(False), Y, Y),
    "std must be at least 0 and finite, not 'a'": lambda: noise(2, 8, std="a"),
    "metropolis needs a temperature above 0": lambda: Settings(temperature=0.0, metropolis=True),
    "5 persistent chains for 3 observed shapes: give one each": lambda: pcd(drawn(5, 4) - 0.5, drawn(3, 4) - 0.5),
    r"grids of up to three axes.*not \(2, 1, 4, 4, 4, 4\)": lambda: down_scale(torch.zeros(2, 1, 4, 4, 4, 4), 2),
    "a ShapeSet|ShapeSet: give its .centred": lambda: learned(load_shapes("furniture", "sofa", resolution=16)),
    r"layers must be \(channels, kernel, stride\), bottom up, not 16": lambda: Architecture(16, 16),
    r"layers must be \(channels, kernel, stride\), bottom up, not \(16, 4, 2\)": lambda: Architecture(16, (16, 4, 2)),
    "unknown activation \\[\\]: choose": lambda: Architecture(activation=[]),
    "channels and factors must each be a tuple, not int": lambda: Layout(channels=64),
    "weight_std must be at least 0 and finite, not 'a'": lambda: DescriptorNet.compact(8, weight_std="a"),
    "num_chains must be a whole number, at least 1, not 'a'": lambda: Teaching.begin_with(student(), num_chains="a"),
    "the generator must be a torch.nn.Module, not NoneType": lambda: Teaching.begin_with(None),
    "prior must draw shapes, not NoneType: such as a CoarseGaussian; Noise": lambda: Fresh(None, 4),
    "prior must draw shapes, not int": lambda: Fresh(5, 4),
    "resolution must be a whole number, at least 1, not 'a'": lambda: Coarser("a"),
    "5 shapes span at most 4 principal axes, not 'a'": lambda: CoarseGaussian.fit(drawn(5, 4), 2, rank="a"),
    "projection must be a function of chains, not int: such as hidden_voxels": lambda: sampled(projection=5),
    "this projection made NoneType of chains": lambda: sampled(projection=lambda delta: None),
    r"energy must be a function of a batch \(N, ...\), not int": lambda: sample(Y, 5, num_steps=1, step_size=0.1),
    "shapes must be a tensor, not ndarray: convert": lambda: small_model().recover(BOX, torch.ones(BOX.shape).bool()),
    "a boolean mask .* not ndarray": lambda: small_model().recover(torch.from_numpy(BOX), BOX > 0),
    r"this network takes shapes \(N, 1, 8, 8, 8\), not ndarray": lambda: small_model().energy(BOX),
    "net must be a torch.nn.Module, not GaussianEnergy": lambda: Run.begin(GAUSS, Noise(2), SETTINGS),
    "run must be a Run, not DescriptorNet: Run.begin": lambda: next(learn(small_net(), Y, SETTINGS)),
    "must be occupancy, from 0 to 1, not 0 to 255: divide": lambda: small_model().revise(255 * drawn(2, 8)),
    "must be occupancy, from 0 to 1: these are centred, from -0.25; give": lambda: small_model().revise(CENTRED),
    "visible voxels must be occupancy.* centred": lambda: small_model().recover(CENTRED, drawn(2, 8, seed=3) > 0),
    "low-resolution shapes must be occupancy.* centred": lambda: small_model().super_resolve(
        CENTRED[..., :8:2, ::2, ::2]
    ),
    "metropolis must be a truth value, not str: give True or False": lambda: sampled(metropolis="no"),
    "metropolis must be a truth value, not int": lambda: langevin_step(Y, GAUSS, step_size=0.1, metropolis=1),
    "sigma must be at least 0 and finite, not -1.0": lambda: Teaching.begin_with(student(), sigma=-1.0),
    "centre must be finite, not nan": lambda: Teaching.begin_with(student(), float("nan")),
    "mean, a number, must be finite, not None": lambda: replace(small_model(), mean=None),
    "a variance must be positive, not -1.0": lambda: GaussianEnergy(0.0, -1.0),
    "a variance must be positive, not tensor": lambda: GaussianEnergy(0.0, torch.tensor([1.0, 0.0])),
    "std must be positive and finite, not 0.0": lambda: MixtureEnergy(Y[:, 0, 0, 0], std=0.0),
    r"weights must be 3 numbers from 0, .*not \[-1, 0.5, 1\]": lambda: MixtureEnergy(
        Y[:, 0, 0, 0], weights=[-1, 0.5, 1]
    ),
    r"weights must be 3 numbers from 0, .*not \[1, 2\]": lambda: MixtureEnergy(Y[:, 0, 0, 0], weights=[1, 2]),
    r"weights must be 3 numbers from 0, .*not \[0, 0, 0\]": lambda: MixtureEnergy(Y[:, 0, 0, 0], weights=[0, 0, 0]),
    "temperature must be at least 0 and finite, not nan": lambda: fitted(temperature=float("nan")),
    "temperature must be at least 0 and finite, not -1.0": lambda: fitted(temperature=-1.0),
    "filled, a share, must be at least 0 and at most 1, not 50.0": lambda: coarsen(drawn(2, 4), 2, filled=50.0),
    "batch_size is 400, but there are only 3 observed": lambda: next(
        alternate(student(), drawn(3, 4), Alternation(1, 1, batch_size=400))
    ),
    "per_iteration is 100, but there are only 3 chains": lambda: Persistent(Y, per_iteration=100),
    "bins must be a whole number, at least 1, not 3.5": lambda: Histogram.fit(drawn(5, 4), 4, bins=3.5),
    "resolution must be a whole number, at least 1, not 4.5": lambda: Histogram.fit(drawn(5, 4), 4.5),
    "the number of samples must be .* at least 0, not -1": lambda: fitted().draw(-1),
    "the number of samples must be .* at least 0, not 2.5": lambda: Histogram.fit(drawn(5, 4), 4).draw(2.5),
    "the number of samples must be .* at least 0, not '3'": lambda: Proposals(student()).draw("3"),
    "`batches` must give rows of 3 observed shapes": lambda: next(
        learn(runs(), CENTRED[:, :, :4, :4, :4][[0, 1, 0]], SETTINGS, batches=lambda: torch.tensor([0, 3]))
    ),
    "this GeneratorNet has no weights to learn.*until net.train": lambda: Teaching.begin_with(
        student().requires_grad_(False)
    ),
    "this GeneratorNet has no weights to learn.*requires_grad_": lambda: next(
        alternate(student().requires_grad_(False), drawn(3, 4), Alternation(1, 1, batch_size=2))
    ),
    "shapes must be a tensor, not ndarray: convert with": lambda: hopfield_residual(BOX, small_net()),
    r"net must be a DescriptorNet, not Pretrained: a Pretrained holds one, its \.net": lambda: hopfield_residual(
        Y, small_model()
    ),
    "a file is named by a path, not NoneType: such as": lambda: load_model(None),
}


def runs():
    return Run.begin(small_net(), Noise(2), SETTINGS)


def walled(bounds):
    """A network, and an energy without weights, that say their bounds."""
    net = small_net()
    net.bounds = bounds
    return net


SEEDED = {
    "a run": lambda seed: Run.begin(small_net(), Noise(2), SETTINGS, seed=seed),
    "grids": lambda seed: begin_grids([small_net()], [SETTINGS], seed=seed),
    "chains": lambda seed: chain_generators(seed, 2),
    "alternation": lambda seed: next(alternate(student(), drawn(3, 4), Alternation(1, 1, batch_size=2), seed=seed)),
    "a prior": lambda seed: CoarseGaussian.fit(drawn(8, 4), 2, rank=2, components=2, seed=seed),
    "an auto-encoder": lambda seed: Denoiser.fit(drawn(3, 8), num_iterations=1, seed=seed),
    "denoising": lambda seed: next(learn_to_denoise(AutoEncoder(), drawn(3, 8), num_iterations=1, seed=seed)),
    "a judge": lambda seed: next(fit(ViewNet(2), drawn(8, 8), torch.arange(8) % 2, torch.arange(8) >= 6, seed=seed)),
    "a classifier": lambda seed: logistic_regression(seed=seed),
}
RANDOM = {
    "noise": lambda generator: noise(2, 4, generator=generator),
    "a chain": lambda generator: sampled(generator=generator),
    "a chain without noise": lambda generator: sampled(generator=generator, temperature=0.0),
    "a model": lambda generator: small_model().sample(3, generator=generator),
    "hidden voxels": lambda generator: corrupt(Y, 0.5, generator=generator),
    "a hidden part": lambda generator: hide(Y, "cube", generator=generator),
    "a network": lambda generator: DescriptorNet.compact(8, generator=generator),
    "a student": lambda generator: GeneratorNet(LAYOUT, generator=generator),
    "a score": lambda generator: inception_score(torch.full((20, 2), 0.5), generator=generator),
}
PLACED = {
    "noise": lambda device: noise(2, 4, device=device),
    "chains": lambda device: chain_generators(0, 2, device=device),
    "a network": lambda device: DescriptorNet.compact(8, device=device),
    "a student": lambda device: GeneratorNet(LAYOUT, device=device),
    "a model": lambda device: small_model().to(device),
}
SET = {
    "a run": lambda settings: Run.begin(small_net(), Noise(2), settings),
    "learning": lambda settings: next(learn(runs(), Y, settings)),
    "grids": lambda settings: begin_grids([small_net()], [settings]),
    "one grid": lambda settings: begin_grids([small_net()], settings),
    "learning of grids": lambda settings: next(learn_grids([runs()], Y, [settings])),
    "alternation": lambda settings: next(alternate(student(), drawn(3, 4), settings)),
}


@pytest.mark.parametrize("seed", ["a", 1.5, None, -1, True, [1]])
@pytest.mark.parametrize("what", SEEDED)
def test_a_seed_is_a_whole_number_wherever_it_is_taken(what, seed):
    with pytest.raises(ValueError, match=r"^seed must be a whole number, at least 0, not"):
        SEEDED[what](seed)


@pytest.mark.parametrize("generator", [3, "a", [3, 4, 5], np.random.default_rng(0)], ids=str)
@pytest.mark.parametrize("what", RANDOM)
def test_a_generator_is_pytorchs_wherever_it_is_taken(what, generator):
    seed = 3 if generator == 3 else "[03]"
    with pytest.raises(ValueError, match=rf"^generator must be a torch.Generator, not .*manual_seed\({seed}\)$"):
        RANDOM[what](generator)


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", [1]], ids=str)
@pytest.mark.parametrize("what", PLACED)
def test_a_device_is_there_wherever_it_is_taken(what, device):
    with pytest.raises(ValueError, match=r"^there is no device .* here .*device='cpu' is always there"):
        PLACED[what](device)


@pytest.mark.parametrize("settings", [{}, None, 5])
@pytest.mark.parametrize("what", SET)
def test_settings_are_settings_wherever_they_are_taken(what, settings):
    with pytest.raises(ValueError, match=r"^settings must be (Settings|an Alternation), not .*numbers by name"):
        SET[what](settings)


@pytest.mark.parametrize("bounds", [5, (0,), (0, 1, 2), "ab", (1, 0), (0, float("nan"))])
def test_bounds_are_low_and_high_wherever_they_are_read(bounds):
    for use in (
        lambda: Architecture(4, ((4, 3, 1),), s=None, bounds=bounds),
        lambda: sample(Y, walled(bounds), num_steps=1, step_size=0.1, fast=False),
        lambda: next(learn(Run.begin(walled(bounds), Noise(2), SETTINGS), Y - 0.5, SETTINGS)),
    ):
        with pytest.raises(ValueError, match=r"^bounds must be \(low, high\) with low < high, not"):
            use()
    with pytest.raises(ValueError, match="bounds must be finite"):
        Architecture(4, ((4, 3, 1),), s=None, bounds=(0, float("inf")))


@pytest.mark.parametrize("operation", [up_scale, down_scale, resample, coarsen])
def test_operations_on_grids_ask_for_tensors(operation):
    with pytest.raises(ShapeError, match=r"shapes must be a tensor, not ndarray: convert with torch.as_tensor"):
        operation(BOX, 2)
    with pytest.raises(ShapeError, match="shapes must be a tensor, not list"):
        threshold([0.0])


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_meant_is_refused_by_name(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_the_slack_of_chains_is_no_centred_data():
    """Voxels a little below 0, of any number, and few of one and the same value."""
    y = drawn(2, 8, 0.25)
    for slack in (0.05 * torch.randn(y.shape), -0.3 * (torch.rand(y.shape) < 0.05), -1e-5):
        assert check_occupancy(y + slack) is not None
    with pytest.raises(ShapeError, match="centred"):
        check_occupancy(down_scale(y, 2) * (drawn(2, 4, 0.5) > 0) - 0.1)


def test_a_start_that_is_a_class_is_named():
    with pytest.raises(TypeError, match=r"starts must be a start, not a class of them: make one, Noise\(\.\.\.\)"):
        next(learn(Run.begin(small_net(), Noise, SETTINGS), drawn(4, 4) - 0.5, SETTINGS))


@pytest.mark.parametrize("mean", [np.float32(0.25), torch.tensor(0.25), 0.25])
def test_a_mean_of_any_kind_is_a_number(mean, tmp_path):
    model = replace(small_model(), mean=mean)
    save_model(tmp_path / "m.safetensors", model)
    assert type(model.mean) is float and load_model(tmp_path / "m.safetensors").mean == 0.25


def test_a_start_that_is_not_finite_is_not_blamed_on_rates_before_anything_was_learned():
    bad = Fresh(Constant(), 2)
    bad.prior.level = float("nan")
    with pytest.raises(DivergedError, match=r"iteration 0: its chains' start is not finite: look at its Fresh\. The"):
        next(learn(Run.begin(small_net(), bad, SETTINGS), drawn(4, 4) - 0.5, SETTINGS))


def test_whole_numbers_and_reals_of_any_kind_are_taken():
    assert sampled(metropolis=np.float64(1) > 0).shape == Y.shape
    settings = Settings(np.int64(3), np.int32(2), np.float32(0.5), batch_size=np.int8(2), average=torch.tensor(0.5))
    assert settings == Settings(3, 2, 0.5, batch_size=2, average=0.5) and type(settings.num_steps) is int
    assert noise(2, np.int64(3)).shape == (2, 1, 3, 3, 3) and noise(2, (3,)).shape == (2, 3)
    assert check_whole(np.int64(2), "n") == 2 and check_real(torch.tensor(0.25), "x") == 0.25
    assert check_real(1, "x", high=1) == 1 and check_real(0, "x") == 0
    for wrong in (True, 1.0, None, "1", -1):
        with pytest.raises(ValueError, match="n must be a whole number, at least 0, not"):
            check_whole(wrong, "n")


def test_shapes_of_0_to_255_are_not_learned_in_silence():
    with pytest.warns(UserWarning, match=r"run from 0 to 255, .*centred occupancy"):
        learned(255 * drawn(4, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learned(drawn(4, 4) - 0.5)


def test_occupancy_that_is_not_centred_and_chains_that_fly_away_are_said():
    with pytest.warns(UserWarning, match=r"no observed voxel is negative: learn from centred shapes"):
        learned(drawn(4, 4))
    steep = Settings(3, 2, 0.1, batch_size=2)
    run = Run.begin(small_net(), Noise(2, std=1e3), steep)
    with pytest.warns(UserWarning, match=r"at iteration 0 the chains reach .* far outside the observed shapes") as said:
        list(learn(run, drawn(4, 4) - 0.5, steep))
    assert len(said) == 1, "once is enough"


class Odd(Starts):
    """A start that forgets the projection."""

    def begin(self, observed, index, generator):
        return observed


@pytest.mark.parametrize("returned", [torch.zeros(2, 1, 4, 4, 4), (None, torch.zeros(1)), [1, 2]])
def test_a_start_that_returns_something_else_is_named(returned, monkeypatch):
    monkeypatch.setattr(Odd, "begin", lambda *given: returned)
    with pytest.raises(TypeError, match=r"Odd\.begin must return \(first shapes, a projection or None\)"):
        next(learn(Run.begin(small_net(), Odd(), SETTINGS), drawn(4, 4) - 0.5, SETTINGS))


def test_whole_numbers_among_the_weights_are_averaged_as_they_are():
    class Counted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(2))
            self.k = torch.nn.Parameter(torch.tensor([1, 2]), requires_grad=False)

        def forward(self, y):
            return (y**2).sum(1) / 2 - (y * self.w * self.k).sum(1)

    settings = replace(SETTINGS, average=0.9)
    run = Run.begin(Counted(), Noise(2), settings)
    next(learn(run, torch.randn(4, 2), settings))
    assert run.averaged.k.tolist() == [1, 2] and run.averaged.w.abs().max() > 0


def test_weights_of_a_mixture_may_be_tensors():
    means, y = torch.tensor([[0.0], [1.0]]), torch.randn(3, 1)
    for weights in (torch.tensor([0.3, 0.7]), np.array([0.3, 0.7])):
        assert torch.equal(MixtureEnergy(means, weights=weights)(y), MixtureEnergy(means, weights=(0.3, 0.7))(y))


def test_a_network_lies_where_the_default_device_is():
    with torch.device("meta"):
        net = DescriptorNet.compact(16)
    assert {parameter.device.type for parameter in net.parameters()} == {"meta"} == {net.device.type}


def test_no_step_gives_a_copy():
    y = torch.zeros(2, 3)
    same = sample(y, GAUSS, num_steps=0, step_size=0.1)
    assert torch.equal(same, y) and same.data_ptr() != y.data_ptr()


# -- projections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masks", [4, 2])
def test_a_mask_that_does_not_fit_the_chains_is_named(masks):
    hidden = torch.ones(masks, 1, 4, 4, 4, dtype=torch.bool)
    with pytest.raises(ShapeError, match=rf"a mask \({masks}, 1, 4, 4, 4\) does not fit chains \(1, 1, 4, 4, 4\)"):
        sample(Y[:1], GAUSS, num_steps=1, step_size=0.1, projection=hidden_voxels(hidden))
    with pytest.raises(ShapeError, match=r"does not fit chains \(3, 1, 4, 4, 4\)"):
        sample(Y, GAUSS, num_steps=1, step_size=0.1, projection=hidden_voxels(torch.ones(1, 1, 5, 5, 5).bool()))
    for good in (hidden[:1], hidden[0, 0], hidden[:1].expand(3, 1, 4, 4, 4)):
        assert sample(Y, GAUSS, num_steps=1, step_size=0.1, projection=hidden_voxels(good)).shape == Y.shape


def test_a_projection_that_changes_the_form_is_named():
    with pytest.raises(
        ShapeError, match=r"this projection made torch.float32 \(4, 1, 4, 4, 4\) of chains \(1, 1, 4, 4, 4\)"
    ):
        langevin_step(Y[:1], GAUSS, step_size=0.1, projection=lambda delta: delta.expand(4, 1, 4, 4, 4))
    with pytest.raises(ShapeError, match=r"boolean mask, True where a voxel may move, not ndarray"):
        hidden_voxels(np.ones((4, 4, 4), bool))


# -- pretrained networks, devices, files -------------------------------------------------------------------------------


def test_a_pretrained_network_says_how_it_learns_on():
    model, settings = small_model(), SETTINGS
    model.net.requires_grad_(False)
    with pytest.raises(ValueError, match=r"for reading only until net\.train\(\)\.requires_grad_\(\)"):
        Run.begin(model.net, Noise(2), settings)
    before = model.net.dense.weight.clone()
    run = Run.begin(model.net.train().requires_grad_(), Noise(2), settings)
    next(learn(run, drawn(4, 8) - 0.5, settings))
    assert not torch.equal(model.net.dense.weight, before)


def test_a_device_that_is_not_there_is_no_damage():
    with pytest.raises(ValueError, match=r"there is no device 'nothing' here .*device='cpu' is always there"):
        load_pretrained("synthesis/toilet", device="nothing")


def test_files_and_networks_that_are_no_models_say_what_to_do(tmp_path):
    with pytest.raises(TypeError, match=r"writes a Pretrained, not a DescriptorNet: make one of a run with Pretrained"):
        save_model(tmp_path / "net.safetensors", small_net())
    with pytest.raises(TypeError, match=r"not a \w+"):
        save_model(small_model(), tmp_path / "swapped")
    run = Run.begin(small_net(), Noise(2), SETTINGS)
    list(learn(run, drawn(4, 4) - 0.5, SETTINGS, checkpoint=tmp_path / "run.pt"))
    with pytest.raises(CheckpointError, match=r"no model: if it is the checkpoint of a run, give it to `learn`"):
        load_model(tmp_path / "run.pt")
    with pytest.raises(CheckpointError, match="synthesis/toilet") as caught:
        load_pretrained("toilet")
    assert "judges/" not in str(caught.value) and "denoiser" not in str(caught.value)


class Constant:
    """A prior of the user's own, with a tensor."""

    level = 0.0

    def draw(self, num_samples, generator=None):
        return torch.full((num_samples, 1, 8, 8, 8), self.level)


def test_a_model_with_a_prior_of_ones_own_is_copied():
    model = replace(small_model(), prior=Constant())
    copied = model.to("cpu")
    assert isinstance(copied.prior, Constant) and torch.equal(copied.sample(1), model.sample(1))
    assert all(p is not q for p, q in zip(copied.net.parameters(), model.net.parameters(), strict=True))
    assert model.to("meta").net.device.type == "meta"


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path, meet = tmp_path / "shared.txt", threading.Barrier(2)
    (tmp_path / "shared.txt.part").write_text("somebody's own")
    (tmp_path / ".shared.txt.mine.part").write_text("and this")
    os.utime(tmp_path / ".shared.txt.mine.part", (0, 0))
    failed = []

    def write(text: str) -> None:
        try:
            for _ in range(20):
                with atomic_write(path) as part:
                    part.write_text(text)
                    meet.wait(10)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and path.read_text() in ("one", "two")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".shared.txt.mine.part", "shared.txt", "shared.txt.part"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "there" / "real.safetensors")
    save_model(tmp_path / "model.safetensors", small_model())
    assert (tmp_path / "model.safetensors").is_symlink() and (tmp_path / "there" / "real.safetensors").is_file()
    assert load_model(tmp_path / "model.safetensors").net.resolution == 8


@pytest.mark.parametrize("thing", [Persistent(torch.zeros(40, 1, 8, 8, 8)), Histogram.fit(drawn(9, 8), 8)], ids=repr)
def test_what_holds_tensors_prints_their_sizes(thing):
    assert len(repr(thing)) < 200 and "tensor(" not in repr(thing)


def test_a_run_and_its_records_print_in_a_line():
    run = Run.begin(small_net(), Noise(2), SETTINGS)
    record = next(learn(run, drawn(4, 4) - 0.5, SETTINGS))
    assert "synthesized=(2, 1, 4, 4, 4)" in repr(record) and "optimizer=Adam" in repr(run)
    assert max(len(repr(run)), len(repr(record))) < 400 and "\n" not in repr(run) + repr(record)


@pytest.mark.parametrize(
    "call",
    [
        lambda: GaussianEnergy(math.nan, 1.0),
        lambda: GaussianEnergy(0.0, math.inf),
        lambda: MixtureEnergy(torch.zeros(2, 2), weights=[math.inf, 0.5]),
        lambda: MixtureEnergy(torch.zeros(2, 2), weights=torch.ones(2, 2)),
        lambda: MixtureEnergy(torch.full((2, 2), math.nan)),
        lambda: MixtureEnergy([[0.0, 1.0]]),
        lambda: infer(
            torch.nn.Identity(), torch.zeros(2, 1, 4, 4, 4), torch.zeros(2, 3), sigma=0.0, num_steps=1, step_size=0.1
        ),
        lambda: infer(torch.nn.Identity(), torch.zeros(2, 1, 4, 4, 4), torch.zeros(3, 3), num_steps=1, step_size=0.1),
        lambda: reliability(torch.ones(2, 3), torch.zeros(2), bins=0),
        lambda: CoarseGaussian.fit(torch.rand(5, 1, 4, 4, 4), 2, rank=True),
        lambda: CoarseGaussian.fit(torch.full((5, 1, 4, 4, 4), math.nan), 2, rank=2),
    ],
)
def test_what_no_law_has_is_refused(call):
    with pytest.raises(ValueError, match=r"must be|latent vectors for|span at most|NaN"):
        call()


def test_a_projection_may_write_into_what_it_gets():
    """Even where an energy hands out the chains themselves as their gradient."""

    class Own:
        def __call__(self, y):
            return y.square().flatten(1).sum(1) / 2

        def energy_and_gradient(self, y):
            return self(y), y

    y = torch.ones(2, 3)
    langevin_step(y, Own(), step_size=0.1, projection=lambda t: t.mul_(0.5))
    assert (y == 1).all()
