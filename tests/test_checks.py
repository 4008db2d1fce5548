"""Numbers and batches that cannot be meant are refused at the door, by name, and good ones of any kind are taken."""

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
    Corrupted,
    Decay,
    DescriptorNet,
    Fresh,
    GaussianEnergy,
    GeneratorNet,
    Histogram,
    MixtureEnergy,
    Noise,
    Persistent,
    PersistentData,
    Run,
    Settings,
    ShapeError,
    Starts,
    Switch,
    chain_generators,
    corrupt,
    down_scale,
    hidden_voxels,
    langevin_step,
    learn,
    learning_gradient,
    load_model,
    load_pretrained,
    load_shapes,
    noise,
    sample,
    save_model,
)
from dnet_lib.checks import check_real, check_whole
from dnet_lib.files import atomic_write
from dnet_lib.generator import Alternation, Layout

Y = torch.zeros(3, 1, 4, 4, 4)
GAUSS = GaussianEnergy()
SETTINGS = Settings(1, 1, 0.1, batch_size=2)


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
    "a beta must be at least 0 and finite, not 'a'": lambda: Settings(betas="ab"),
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
    "must be occupancy, from 0 to 1, not 0 to 255: divide": lambda: small_model().revise(255 * drawn(2, 8)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_meant_is_refused_by_name(message):
    with pytest.raises(ValueError, match=message):
        REFUSED[message]()


def test_whole_numbers_and_reals_of_any_kind_are_taken():
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
    with pytest.raises(ShapeError, match=r"this projection made \(4, 1, 4, 4, 4\) of chains \(1, 1, 4, 4, 4\)"):
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

    def draw(self, num_samples, generator=None):
        return torch.zeros(num_samples, 1, 8, 8, 8)


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
