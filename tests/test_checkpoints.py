"""Models and results on disk: what comes back, what is refused, and what a full disk leaves behind."""

import errno
import json
import math
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from problems import equal, seeded
from safetensors.torch import load_file, save_file

import dnet_lib.checkpoints
from dnet_lib import (
    Architecture,
    DescriptorNet,
    DivergedError,
    Pretrained,
    Run,
    Settings,
    chain_generators,
    load_model,
    load_pretrained,
    load_results,
    sample,
    save_model,
    up_scale,
)
from dnet_lib.checkpoints import WEIGHTS, save_results
from dnet_lib.errors import CheckpointError
from dnet_lib.files import atomic_write
from dnet_lib.generator import GeneratorNet, Layout, Proposals, infer
from dnet_lib.pretrained import Chain, Expanded
from dnet_lib.priors import CoarseGaussian, Histogram
from dnet_lib.resuming import write_state
from dnet_lib.starts import Noise


def model(start: bool | int = True, chain: Chain | None = None, **architecture) -> Pretrained:
    net = DescriptorNet(Architecture(4, ((3, 3, 2),), **architecture), weight_std=0.1, generator=seeded())
    coarse = up_scale(torch.rand(9, 1, 2, 2, 2, generator=seeded(1)), 2)
    options = {"rank": 3, "temperature": 0.64, "components": int(start)}
    first = CoarseGaussian.fit(coarse, 2, **options) if start else None
    return Pretrained(net, 0.3, first, chain or Chain(5, 0.05, 0.5), {"category": "chair", "seed": 3, "who": "Čapek"})


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [True, False, 2], ids=["coarse", "noise", "mixture"])
@pytest.mark.parametrize("architecture", [{}, {"s": None, "bounds": (-0.3, 0.7)}, {"activation": "silu", "s": 0.25}])
def test_a_model_comes_back_to_the_bit(tmp_path, start, architecture):
    saved = model(start, **architecture)
    save_model(tmp_path / "deep" / "m.safetensors", saved)
    loaded = load_model(tmp_path / "deep" / "m.safetensors")
    y = torch.rand(3, 1, 4, 4, 4) * 0.9 - 0.25
    assert torch.equal(loaded.energy(y), saved.energy(y)) and torch.equal(loaded.score(y), saved.score(y))
    assert torch.equal(loaded(y), loaded.energy(y))
    assert loaded.net.architecture == saved.net.architecture and loaded.card == saved.card
    assert (loaded.mean, loaded.settings) == (0.3, saved.settings) and (loaded.prior is None) == (not start)
    assert torch.equal(loaded.sample(4, generator=seeded()), saved.sample(4, generator=seeded()))
    assert not any(p.requires_grad for p in loaded.net.parameters()) and not loaded.net.training
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("start", [True, False])
def test_sampling_is_the_start_and_then_langevin(start):
    m = model(start)
    chain = list(m.chain(3, generator=seeded()))
    generator = seeded()
    y = m.prior.draw(3, generator) if start else torch.randn(3, 1, 4, 4, 4, generator=generator)
    assert len(chain) == 6 and torch.equal(chain[0], y + 0.3)
    y = sample(y, m.net, num_steps=5, step_size=0.05, temperature=0.5, generator=generator)
    assert torch.equal(chain[-1], y + 0.3) and torch.equal(m.sample(3, generator=seeded()), y + 0.3)


def test_a_model_is_an_energy_with_its_walls():
    """It says it can be used wherever an energy is: then the sampler must learn its bounds from it, too."""
    m = model(s=None, bounds=(-0.3, 0.7))
    y = torch.zeros(20, 1, 4, 4, 4)
    options = dict(num_steps=20, step_size=0.1)
    ours, theirs = (sample(y, energy, generator=seeded(), **options) for energy in (m, m.net))
    assert torch.equal(ours, theirs) and ours.max() <= 0.7 + 1e-6


def test_a_model_that_runs_away_says_so():
    with pytest.raises(DivergedError, match="step size"):
        model(chain=Chain(30, 1e6)).sample(2, generator=seeded())


def test_what_is_no_model_is_refused_by_name(tmp_path):
    save_model(tmp_path / "good.safetensors", model())
    whole = (tmp_path / "good.safetensors").read_bytes()
    for name, content in {
        "empty": b"",
        "text": b"these are no weights",
        "cut": whole[:-40],
        "head": whole[:100],
        "long": b"\xff" * 8 + whole[8:],
    }.items():
        (tmp_path / name).write_bytes(content)
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign")
    for name in ("empty", "text", "cut", "head", "long", "foreign"):
        with pytest.raises(CheckpointError, match=rf"{name}\b.*(broken|not one of)"):
            load_model(tmp_path / name)
    with pytest.raises(IsADirectoryError, match=tmp_path.name):  # what is no damage is not called so
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match=r"no weights at .*missing\.safetensors"):
        load_model(tmp_path / "missing.safetensors")


@pytest.mark.parametrize(
    "edit",
    [
        lambda about: about.pop("architecture"),
        lambda about: about.update(architecture=3),
        lambda about: about["architecture"].update(layers=[1, 2]),
        lambda about: about["architecture"].update(activation="tanh"),
        lambda about: about["architecture"].update(surprise=1),
        lambda about: about["architecture"].update(resolution=5, layers=[[3, 3, 1]]),
        lambda about: about["architecture"].update(layers=[[3, 5, 2]]),
        lambda about: about.update(chain={"num_steps": 3}),
        lambda about: about.update(start={"scale": 2}),
        lambda about: about.pop("mean"),
    ],
)
def test_metadata_of_another_make_is_refused_by_name(tmp_path, edit):
    from safetensors import safe_open

    path = tmp_path / "m.safetensors"
    save_model(path, model())
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    about = json.loads(metadata["model"])
    edit(about)
    save_file(tensors, path, metadata | {"model": json.dumps(about)})
    with pytest.raises(CheckpointError, match=r"m\.safetensors is broken"):
        load_model(path)


def test_a_network_that_claims_the_moon_allocates_nothing(tmp_path):
    """10^13 weights in the metadata, none in the file: refused at once."""
    from safetensors import safe_open

    path = tmp_path / "m.safetensors"
    save_model(path, model())
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    about = json.loads(metadata["model"])
    about["architecture"]["layers"] = [[10**7, 100, 2]]
    save_file(tensors, path, metadata | {"model": json.dumps(about)})
    with pytest.raises(CheckpointError, match=r"m\.safetensors"):
        load_model(path)


# -- models of Algorithms 2 and 3 --------------------------------------------------------------------------------------


def generator_start(batch_norm: bool) -> Proposals:
    """A generator that has seen some batches, so that its statistics are not those it began with."""
    net = GeneratorNet(Layout(4, 3, (5, 4), (1, 2, 2), 3, batch_norm), generator=seeded(2))
    for k in range(3):
        net(torch.randn(6, 3, generator=seeded(k)) + 1)
    return Proposals(net.eval(), 0.3, 0.05)


def pyramid(kind: str = "histogram") -> Pretrained:
    """Three grids, the coarsest started in one of several ways."""
    y = torch.rand(9, 1, 4, 4, 4, generator=seeded(1))
    start = {
        "histogram": lambda: Histogram.fit(y, 4, bins=4),
        "mixture": lambda: CoarseGaussian.fit(y, 2, rank=3, components=2),
        "generator": lambda: generator_start(True),
        "noise": lambda: None,
    }[kind]()
    m = None
    for resolution, steps in ((4, 3), (6, 2), (9, 4)):
        net = DescriptorNet(Architecture(resolution, ((3, 3, 2),)), weight_std=0.1, generator=seeded(resolution))
        m = Pretrained(net, 0.3, Expanded(m, resolution) if m else start, Chain(steps, 0.05, 0.5), {"category": "sofa"})
    return m


def grown(kind: str) -> Pretrained:
    """A model whose chains start in one of the new ways."""
    if kind.startswith("grids"):
        return pyramid(kind.removeprefix("grids from "))
    if kind == "histogram":
        start = Histogram.fit(torch.rand(9, 1, 4, 4, 4, generator=seeded(1)), 4, bins=4)
    else:
        start = generator_start(kind == "generator")
    net = DescriptorNet(Architecture(4, ((3, 3, 2),)), weight_std=0.1, generator=seeded())
    return Pretrained(net, 0.3, start, Chain(5, 0.05, 0.5), {"category": "sofa"})


KINDS = ("histogram", "generator", "generator without batch norm")
KINDS += tuple(f"grids from {start}" for start in ("histogram", "mixture", "generator", "noise"))


def networks(m: Pretrained) -> list[torch.nn.Module]:
    """All networks inside a model."""
    start = m.grids[0].prior
    return [*(g.net for g in m.grids), *([start.net] if isinstance(start, Proposals) else [])]


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_grids_and_generators_come_back_to_the_bit(kind, tmp_path):
    saved = grown(kind)
    save_model(tmp_path / "m.safetensors", saved)
    loaded = load_model(tmp_path / "m.safetensors")
    assert torch.equal(loaded.sample(4, generator=seeded()), saved.sample(4, generator=seeded()))
    whole, again = (list(m.chain(2, generator=seeded())) for m in (saved, loaded))
    assert len(whole) == len(again) and all(map(torch.equal, whole, again))
    assert len(loaded.grids) == len(saved.grids) == (3 if kind.startswith("grids") else 1)
    for ours, theirs in zip(loaded.grids, saved.grids, strict=True):
        assert (
            equal(ours.net.state_dict(), theirs.net.state_dict()) and ours.net.architecture == theirs.net.architecture
        )
        assert (ours.mean, ours.settings, ours.card) == (theirs.mean, theirs.settings, theirs.card)
        assert type(ours.prior) is type(theirs.prior)
    for net in networks(loaded):
        assert not net.training and not any(p.requires_grad for p in net.parameters())
    save_model(tmp_path / "again.safetensors", loaded)
    assert equal(load_file(tmp_path / "again.safetensors"), load_file(tmp_path / "m.safetensors"))


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_rounds_the_weights_of_every_network_and_nothing_else(kind, tmp_path):
    saved, rounded = grown(kind), grown(kind)
    for net in networks(rounded):
        net.load_state_dict({k: t.half().to(t.dtype) for k, t in net.state_dict().items()})
    assert not all(equal(a.state_dict(), b.state_dict()) for a, b in zip(*map(networks, (saved, rounded)), strict=True))
    save_model(tmp_path / "m.safetensors", saved, half=True)
    loaded = load_model(tmp_path / "m.safetensors")
    assert all(p.dtype == torch.float32 for net in networks(loaded) for p in net.parameters())
    assert torch.equal(loaded.sample(4, generator=seeded()), rounded.sample(4, generator=seeded()))
    kept = load_file(tmp_path / "m.safetensors")
    assert all(kept[name].dtype == torch.half for name in kept if name.endswith("weight"))
    assert all(t.dtype != torch.half for name, t in kept.items() if name.endswith((".edges", ".counts", ".factor")))


def test_weights_beyond_half_precision_are_kept_as_they_are(tmp_path):
    """And an infinity that was there stays, in half precision, what it was."""
    saved = model()
    with torch.no_grad():
        saved.net.dense.weight.fill_(7e4)
        saved.net.dense.bias.fill_(math.inf)
    save_model(tmp_path / "m.safetensors", saved, half=True)
    kept, net = load_file(tmp_path / "m.safetensors"), load_model(tmp_path / "m.safetensors").net
    assert torch.equal(net.dense.weight, saved.net.dense.weight) and torch.equal(net.dense.bias, saved.net.dense.bias)
    assert kept["net.dense.weight"].dtype == torch.float32 and kept["net.layers.0.weight"].dtype == torch.half
    assert kept["net.dense.bias"].dtype == torch.half


def test_a_loaded_generator_still_infers(tmp_path):
    save_model(tmp_path / "m.safetensors", grown("generator"))
    net, own = load_model(tmp_path / "m.safetensors").prior.net, grown("generator").prior.net
    y, options = torch.rand(3, 1, 4, 4, 4, generator=seeded()), {"num_steps": 4, "step_size": 0.01}
    assert torch.equal(infer(net, y, generator=seeded(), **options), infer(own, y, generator=seeded(), **options))
    assert net.layout == own.layout


def test_a_file_of_grids_holds_weights_and_a_histogram_and_no_shape(tmp_path):
    save_model(tmp_path / "m.safetensors", grown("grids from histogram"))
    held = load_file(tmp_path / "m.safetensors")
    names = {name for name in held if ".net." not in name and not name.startswith("net.")}
    assert names == {"below.below.start.edges", "below.below.start.counts"}
    assert [held[name].numel() for name in sorted(names)] == [4, 5]
    weights = sum(p.numel() for net in networks(grown("grids from histogram")) for p in net.parameters())
    assert sum(t.numel() for t in held.values()) == weights + 9


@pytest.mark.parametrize("kind", ["histogram", "generator", "grids from histogram"])
def test_truncated_files_of_the_new_kinds_are_refused_by_name(kind, tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(path, grown(kind))
    whole = path.read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"m\.safetensors is broken"):
            load_model(path)


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        ("histogram", lambda about, held: about["histogram"].pop("centre")),
        ("histogram", lambda about, held: about["histogram"].update(surprise=1)),
        ("histogram", lambda about, held: about.update(histogram=3)),
        ("histogram", lambda about, held: held.pop("start.edges")),
        ("generator", lambda about, held: about["generator"].pop("layout")),
        ("generator", lambda about, held: about["generator"]["layout"].update(latent=4)),
        ("generator", lambda about, held: about["generator"]["layout"].update(factors=[1, 2])),
        ("generator", lambda about, held: about["generator"]["layout"].update(channels=5)),
        ("generator", lambda about, held: about["generator"]["layout"].update(channels=[10**7, 4])),
        ("generator", lambda about, held: about["generator"]["layout"].update(surprise=1)),
        ("generator", lambda about, held: about["generator"].pop("centre")),
        ("generator", lambda about, held: held.pop("start.norms.0.running_mean")),
        ("generator", lambda about, held: held.update({"start.dense.weight": torch.zeros(2, 2)})),
        ("grids from histogram", lambda about, held: about["below"].pop("architecture")),
        ("grids from histogram", lambda about, held: about["below"]["below"].pop("mean")),
        ("grids from histogram", lambda about, held: about.update(below=[])),
        ("grids from histogram", lambda about, held: held.pop("below.net.dense.bias")),
        ("grids from histogram", lambda about, held: held.pop("below.below.start.counts")),
    ],
)
def test_new_kinds_of_another_make_are_refused_by_name(kind, edit, tmp_path):
    from safetensors import safe_open

    path = tmp_path / "m.safetensors"
    save_model(path, grown(kind))
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    held, about = load_file(path), json.loads(metadata["model"])
    edit(about, held)
    save_file(held, path, metadata | {"model": json.dumps(about)})
    with pytest.raises(CheckpointError, match=r"m\.safetensors is broken"):
        load_model(path)


def test_files_written_before_there_were_grids_and_generators_are_read(tmp_path):
    """The format written out by hand, as it was when only coarse Gaussians and noise were starts."""
    net = DescriptorNet(Architecture(4, ((3, 3, 2),)), weight_std=0.1, generator=seeded())
    about = {
        "architecture": {"resolution": 4, "layers": [[3, 3, 2]], "activation": "relu", "s": 0.5, "bounds": None},
        "mean": 0.3,
        "chain": {"num_steps": 5, "step_size": 0.05, "temperature": 0.5},
        "start": None,
    }
    held = {f"net.{name}": t for name, t in net.state_dict().items()}
    y = torch.rand(9, 1, 4, 4, 4, generator=seeded(1))
    gaussian = CoarseGaussian.fit(y, 2, rank=3, temperature=0.64)
    for start in (None, gaussian):
        if start is not None:
            held |= {"start.mean": start.mean, "start.factor": start.factor}
            about["start"] = {"num_chains": 4, "scale": 2, "centre": start.centre, "temperature": 0.64}
        metadata = {"format": "dnet_lib 1", "model": json.dumps(about), "card": '{"category": "chair"}'}
        save_file(held, tmp_path / "old.safetensors", metadata)
        loaded = load_model(tmp_path / "old.safetensors")
        expected = Pretrained(net, 0.3, start, Chain(5, 0.05, 0.5), {})
        assert torch.equal(loaded.sample(3, generator=seeded()), expected.sample(3, generator=seeded()))
        assert loaded.card == {"category": "chair"}


def test_a_start_that_cannot_be_written_is_named(tmp_path):
    m = Pretrained(grown("histogram").net, 0.3, Noise(3), Chain(1, 0.1), {})
    with pytest.raises(TypeError, match="start from a Noise cannot be written"):
        save_model(tmp_path / "m.safetensors", m)
    assert not list(tmp_path.iterdir())


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "library" / "weights"
    monkeypatch.setattr(dnet_lib.checkpoints, "WEIGHTS", folder)
    save_model(folder / "synthesis" / "chair.safetensors", model())
    save_model(folder / "synthesis" / "toilet.safetensors", model())
    save_model(tmp_path / "library" / "secret.safetensors", model())
    return folder


def test_pretrained_models_go_by_name(weights):
    assert load_pretrained("synthesis/chair").card["category"] == "chair"
    with pytest.raises(CheckpointError, match=r"'synthesis/chiar'.*synthesis/chair, synthesis/toilet"):
        load_pretrained("synthesis/chiar")


@pytest.mark.parametrize(
    "name", ["../secret", "synthesis/../../secret", "ABSOLUTE", "", ".", "synthesis", "a\0b", None]
)
def test_names_lead_nowhere_else(weights, name):
    if name == "ABSOLUTE":
        name = str(weights.parent / "secret")
    with pytest.raises(CheckpointError, match="choose from synthesis/chair"):
        load_pretrained(name)


@pytest.mark.skipif(not any(WEIGHTS.rglob("*.safetensors")), reason="no weights have been trained yet")
def test_every_model_that_ships_can_be_sampled():
    for path in WEIGHTS.rglob("*.safetensors"):
        assert path.stat().st_size < 5_000_000, f"{path.name} is too large to ship"
        if path.parent.name in ("judges", "baselines"):
            continue
        m = load_pretrained(path.relative_to(WEIGHTS).with_suffix("").as_posix())
        assert 0 < m.mean < 0.5 and m.card
        last = None
        for step, last in enumerate(m.chain(1, generator=seeded())):  # noqa: B007
            if step == 2:
                break
        assert torch.isfinite(last).all()


# -- results -----------------------------------------------------------------------------------------------------------


def test_results_come_back(tmp_path):
    results = {"metrics": {"distance": 0.1 + 0.2, "spread": [1.5, None]}, "seed": 3, "paper": {"Čapek": 1}}
    path = save_results("synthesis", "chair", results, folder=tmp_path)
    assert path == tmp_path / "synthesis" / "chair.json"
    save_results("synthesis", "all", {"seed": 4}, folder=tmp_path)
    assert load_results("synthesis", folder=tmp_path) == {"all": {"seed": 4}, "chair": results}
    first = path.read_bytes()
    assert save_results("synthesis", "chair", results, folder=tmp_path).read_bytes() == first


def test_results_that_are_missing_or_broken_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no results of 'synthesis'.*none yet"):
        load_results("synthesis", folder=tmp_path)
    path = save_results("recovery", "chair", {}, folder=tmp_path)
    with pytest.raises(CheckpointError, match=r"no results of 'synthesis'.*recovery"):
        load_results("synthesis", folder=tmp_path)
    path.write_text('{"metrics": ')
    with pytest.raises(CheckpointError, match=r"chair\.json is broken"):
        load_results("recovery", folder=tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf, torch.zeros(1), {1, 2}])
def test_results_that_are_no_json_leave_the_old_file(tmp_path, value):
    path = save_results("synthesis", "chair", {"seed": 1}, folder=tmp_path)
    with pytest.raises((ValueError, TypeError)):
        save_results("synthesis", "chair", {"seed": value}, folder=tmp_path)
    assert load_results("synthesis", folder=tmp_path) == {"chair": {"seed": 1}}
    assert [p.name for p in path.parent.iterdir()] == ["chair.json"]


# -- whole or absent ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (ValueError("no"), ValueError, "no"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (SystemExit(1), SystemExit, "1"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            OSError,
            r"could not write .*f\.txt: No space left.*unchanged",
        ),
        (PermissionError(errno.EACCES, "Permission denied"), OSError, r"could not write .*f\.txt: Permission denied"),
    ],
)
@pytest.mark.parametrize("old", [None, "old"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, error, expected, message, old):
    path = tmp_path / "f.txt"
    if old:
        path.write_text(old)
    with pytest.raises(expected, match=message), atomic_write(path) as part:
        part.write_text("half")
        raise error
    assert [p.name for p in tmp_path.iterdir()] == (["f.txt"] if old else [])
    assert not old or path.read_text() == old


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "deep" / "f.txt"
    for text in ("one", "two"):
        with atomic_write(path) as part:
            assert part.parent == path.parent, "a rename across file systems is not atomic"
            part.write_text(text)
            assert not path.exists() or path.read_text() == "one"
        assert path.read_text() == text
    assert [p.name for p in path.parent.iterdir()] == ["f.txt"]


def test_a_block_that_writes_nothing_is_named(tmp_path):
    with pytest.raises(OSError, match=r"could not write .*f\.txt"), atomic_write(tmp_path / "f.txt"):
        pass


def test_a_path_below_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"could not write .*f\.txt"), atomic_write(tmp_path / "file" / "f.txt") as part:
        part.write_text("y")


@contextmanager
def files_of_at_most(size: int):
    """The kernel refuses to let any file of this process grow beyond `size` bytes, as a full disk would."""
    resource = pytest.importorskip("resource", reason="needs POSIX limits")
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("what", ["model", "run", "results"])
def test_a_full_disk_is_named_and_the_old_file_kept(tmp_path, what):
    path = tmp_path / "synthesis" / "big.json"
    path.parent.mkdir()
    path.write_text("old")
    net = DescriptorNet(Architecture(8, ((8, 6, 1),)))
    write = {
        "model": lambda: save_model(path, Pretrained(net, 0.3, None, Chain(1, 0.1), {})),
        "run": lambda: write_state(Run.begin(net, Noise(1), Settings()).state_dict(), path, {}),
        "results": lambda: save_results("synthesis", "big", {"x": list(range(10_000))}, folder=tmp_path),
    }[what]
    with files_of_at_most(4000), pytest.raises(OSError, match=r"could not write .*big\.json.*unchanged"):
        write()
    assert path.read_text() == "old" and [p.name for p in path.parent.iterdir()] == ["big.json"]
    write()
    assert path.stat().st_size > 4000


@pytest.mark.parametrize("made", ["gaussian", "pyramid"])
def test_samples_do_not_depend_on_how_they_are_batched(made):
    m = model() if made == "gaussian" else pyramid()
    whole = m.sample(5, generator=chain_generators(2, 5))
    parts = [m.sample(b - a, generator=chain_generators(2, b - a, first=a)) for a, b in ((0, 2), (2, 5))]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=0, atol=1e-5)
