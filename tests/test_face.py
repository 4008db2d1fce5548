"""The library as PyTorch users hold it: copies, pickles, loaders, devices, compilers, and what a print shows."""

import copy
import inspect
import pickle
import shutil

import pytest
import torch
from problems import drawn, equal, seeded, told
from torch.utils.data import DataLoader

import dnet_lib
from dnet_lib import (
    Architecture,
    DescriptorNet,
    DnetError,
    GeneratorNet,
    Noise,
    Persistent,
    Run,
    Settings,
    freeze,
    hidden_voxels,
    learn,
    load_pretrained,
    load_shapes,
    missing_detail,
    noise,
    sample,
    starts,
)
from dnet_lib.fast import FrozenNet

DATA = drawn(10, 8, 0.3) - 0.3
Y = torch.randn(4, 1, 8, 8, 8, generator=seeded(1))
SETTINGS = Settings(3, 3, 0.02, batch_size=4, average=0.9)
CHAIN = {"num_steps": 5, "step_size": 0.02}


def small(**options) -> DescriptorNet:
    return DescriptorNet(Architecture(8, ((8, 4, 2), (8, 2, 1)), "silu"), weight_std=0.1, generator=seeded(), **options)


def learned(net: torch.nn.Module) -> tuple[Run, list[tuple]]:
    run = Run.begin(net, Persistent(noise(4, 8, generator=seeded(2))), SETTINGS, seed=3)
    return run, [told(r) for r in learn(run, DATA, SETTINGS)]


# -- what is offered ---------------------------------------------------------------------------------------------------


def test_every_start_every_error_and_the_chain_are_at_the_door():
    for room in (starts, dnet_lib.errors, dnet_lib.priors):
        for name, thing in vars(room).items():
            mine = inspect.isclass(thing) and thing.__module__ == room.__name__ and name[0] != "_"
            if mine and not getattr(thing, "_is_protocol", False):
                assert name in dnet_lib.__all__, f"{name} is not exported"
    assert {"Chain", "Pretrained", "freeze", "Teaching", "Proposals", "begin_grids"} <= set(dnet_lib.__all__)


def test_errors_have_one_base_and_stay_what_they_were():
    errors = [v for v in vars(dnet_lib.errors).values() if inspect.isclass(v) and issubclass(v, Exception)]
    assert len(errors) >= 6 and all(issubclass(error, DnetError) for error in errors)
    assert issubclass(dnet_lib.ShapeError, ValueError) and issubclass(dnet_lib.DivergedError, RuntimeError)
    with pytest.raises(DnetError):
        load_shapes("no such data")


# -- copies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_everything_can_be_copied(again):
    net, generator = small(), GeneratorNet(dnet_lib.generator.Layout(8, 3, (4,), (2, 2)), generator=seeded())
    assert torch.equal(again(net)(Y), net(Y))
    z = torch.randn(2, 3)
    assert torch.equal(again(generator.eval())(z), generator(z))
    frozen = FrozenNet(net, num_chains=4)
    other = again(frozen)
    assert torch.equal(other(Y), frozen(Y)) and other.net is not net
    shapes = load_shapes("furniture", "sofa", resolution=16)
    assert torch.equal(again(shapes).centred, shapes.centred) and again(shapes).names == shapes.names
    for projection in (hidden_voxels(Y > 0), missing_detail(2)):
        assert torch.equal(again(projection)(Y), projection(Y))


@pytest.mark.parametrize("name", ["synthesis/table", "multigrid/sofa", "cooperative/sofa", "recovery/sofa"])
def test_a_pretrained_model_can_be_copied_and_moved(name):
    model = load_pretrained(name)
    assert model.device == torch.device("cpu")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.to("cpu")):
        assert other.net is not model.net and other.card == model.card
        starts = [m.starts(2, generator=seeded()) for m in (model.grids[0], other.grids[0])]
        assert torch.equal(*starts) and torch.equal(model.energy(Y32), other.energy(Y32))


Y32 = torch.randn(1, 1, 32, 32, 32, generator=seeded(4))


def test_a_pretrained_model_moves_whole():
    """To the meta device, where nothing is computed: every tensor of it must have moved."""
    for name in ("synthesis/table", "multigrid/sofa", "cooperative/sofa"):
        model = load_pretrained(name).to("meta")
        tensors, _ = model.pack()
        assert {t.device.type for t in tensors.values()} == {"meta"} and model.device.type == "meta"


def test_a_run_goes_on_from_its_copy():
    run = Run.begin(small(), Persistent(noise(4, 8, generator=seeded(2))), SETTINGS, seed=3)
    steps = learn(run, DATA, SETTINGS)
    next(steps)
    other = pickle.loads(pickle.dumps(run))
    assert [told(r) for r in learn(other, DATA, SETTINGS)] == [told(r) for r in steps]


def test_state_dicts_are_pytorchs_own():
    run, _ = learned(small())
    other = Run.begin(small(), Persistent(torch.zeros(4, 1, 8, 8, 8)), SETTINGS)
    other.load_state_dict(run.state_dict())
    assert equal(other.state_dict(), run.state_dict())
    for thing in (run, run.starts, Noise(3), small()):
        assert callable(thing.state_dict) and callable(thing.load_state_dict)


# -- loaders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_takes_a_shape_set(workers):
    shapes = load_shapes("furniture", None, "test", 16)
    batches = list(DataLoader(shapes, batch_size=64, num_workers=workers))
    voxels, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    assert torch.equal(voxels, shapes.voxels) and torch.equal(labels, shapes.labels)
    shuffled = DataLoader(shapes, batch_size=len(shapes), shuffle=True, generator=seeded())
    ((voxels, labels),) = shuffled
    assert sorted(labels.tolist()) == sorted(shapes.labels.tolist()) and not torch.equal(labels, shapes.labels)


def test_a_shape_set_is_a_sequence():
    shapes = load_shapes("furniture", "sofa", "test", 16)
    y, label = shapes[3]
    assert y.shape == (1, 16, 16, 16) and shapes.categories[label] == "sofa" and len(list(shapes)) == len(shapes)
    assert shapes[2:5][0].shape == (3, 1, 16, 16, 16)
    with pytest.raises(IndexError):
        shapes[len(shapes)]


# -- numbers of other kinds, compilers ---------------------------------------------------------------------------------


def test_double_precision_by_argument_and_by_call():
    net = small(dtype=torch.float64)
    assert {p.dtype for p in net.parameters()} == {torch.float64}
    assert torch.equal(net(Y.double()), small().double()(Y.double()))
    y = sample(Y.double(), net, **CHAIN, generator=seeded())
    assert y.dtype == torch.float64 and y.isfinite().all()
    run, records = learned(small())
    assert len(records) == 3 and run.kept(Y).dtype == torch.float32


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler is here")
def test_a_compiled_network_samples_and_learns():
    net = small()
    ours, theirs = (sample(Y, n, **CHAIN, generator=seeded()) for n in (net, torch.compile(net)))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    run, records = learned(torch.compile(small()))
    plain, expected = learned(small())
    for record, value in zip(records, expected, strict=True):
        assert record[1] == pytest.approx(value[1], rel=1e-4)
    assert run.kept(Y).shape == plain.kept(Y).shape == (4,)


def test_autocast_lowers_the_networks_precision_and_nothing_else():
    """Chains and weights stay float32; energies agree to the three digits that bfloat16 has."""
    with torch.autocast("cpu", torch.bfloat16):
        y = sample(Y, small(), **CHAIN, generator=seeded())
        run, records = learned(small())
    plain = sample(Y, small(), **CHAIN, generator=seeded())
    assert y.dtype == torch.float32 and 0 < (y - plain).abs().max() < 1e-2
    assert {p.dtype for p in run.net.parameters()} == {torch.float32}
    for record, value in zip(records, learned(small())[1], strict=True):
        assert record[1] == pytest.approx(value[1], rel=1e-2)


# -- what a print shows ------------------------------------------------------------------------------------------------


def test_prints_tell_sizes_not_tensors():
    shapes, model = load_shapes("furniture"), load_pretrained("synthesis/table")
    for thing, words in (
        (shapes, ("furniture", "1000 shapes", "32^3", "10 categories")),
        (model, ("32^3", "532,673 weights", "CoarseGaussian", "num_steps=20")),
        (load_pretrained("multigrid/sofa"), ("Expanded",)),
        (load_pretrained("cooperative/sofa").prior.net, ("Z of 100", "32^3 voxels")),
        (small(), ("8^3 voxels", "kernel 4^3, stride 2", "silu", "s = 0.5")),
        (freeze(small(), Y, num_steps=20, fast=True), ("FrozenNet",)),
    ):
        text = repr(thing)
        assert len(text) < 1500 and "tensor(" not in text, text[:300]
        assert all(word in text for word in words), text
