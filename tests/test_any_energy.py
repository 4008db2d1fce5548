"""Any module from (N, ...) to (N,) is an energy: it samples and it learns, through every start and option."""

import copy
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from problems import Signal, equal, ring, seeded, signals, three_layers, told
from torch import nn

from dnet_lib import (
    CoarseGaussian,
    Coarser,
    Corrupted,
    Data,
    Decay,
    Fresh,
    LowResolution,
    Noise,
    Persistent,
    PersistentData,
    Run,
    Settings,
    ShapeError,
    Teaching,
    begin_grids,
    learn,
    learn_grids,
    nearest,
    noise,
    sample,
    threshold,
)

POINTS, SIGNALS = ring(), signals()
SETTINGS = Settings(
    num_iterations=6,
    num_steps=3,
    step_size=0.02,
    temperature=lambda iteration: 1.0 if iteration < 4 else 0.0,
    batch_size=20,
    learning_rate=Decay(2e-3, 1e-3, over=6),
    data_noise=0.02,
    max_gradient=5.0,
    average=0.9,
    energy_penalty=0.01,
)


def student(*form: int) -> nn.Module:
    """A generator from three numbers to items of a form."""
    net = nn.Sequential(three_layers(3, 16, math.prod(form)), nn.Unflatten(1, form))
    net.latent = 3
    return net


STARTS = {
    "noise": lambda data, scale: Noise(15, 2.0),
    "data": lambda data, scale: Data(),
    "persistent": lambda data, scale: Persistent(noise(18, data.shape[1:], generator=seeded()), 15, renew=0.2),
    "persistent data": lambda data, scale: PersistentData(data),
    "corrupted": lambda data, scale: Corrupted(0.5),
    "low resolution": lambda data, scale: LowResolution(scale),
    "coarser": lambda data, scale: Coarser(data.shape[-1]),
    "fresh": lambda data, scale: Fresh(CoarseGaussian.fit(data, scale, rank=2, components=2), 15),
    "teaching": lambda data, scale: Teaching.begin_with(student(*data.shape[1:]), num_chains=15),
}
KINDS = {"points": (three_layers, POINTS, 2), "signals": (Signal, SIGNALS, 4)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STARTS)
def test_every_start_teaches_a_strangers_network_and_resumes(kind, name, tmp_path):
    make, data, scale = KINDS[kind]

    def begin() -> Run:
        return Run.begin(make(), STARTS[name](data, scale), SETTINGS, seed=3)

    whole, first = begin(), make()
    records = {r.iteration: told(r) for r in learn(whole, data, SETTINGS)}
    assert not equal(whole.net.state_dict(), first.state_dict()), "nothing was learned"
    assert not equal(whole.kept.state_dict(), whole.net.state_dict()), "the average is the network"
    for stop in (3, None):
        run = begin()
        for r in learn(run, data, SETTINGS, checkpoint=tmp_path / "run.pt", save_every=2):
            assert told(r) == records[r.iteration] and r.synthesized.shape[1:] == data.shape[1:]
            if r.iteration == stop:
                break
    assert equal(run.state_dict(), whole.state_dict())


def test_conditional_starts_keep_what_they_must_on_signals():
    for starts in (Corrupted(0.5), LowResolution(4)):
        y, projection = starts.begin(SIGNALS, torch.arange(len(SIGNALS)), seeded())
        ends = sample(y, Signal(), num_steps=5, step_size=0.05, projection=projection, generator=seeded(1))
        if isinstance(starts, Corrupted):
            moved = (ends != y).flatten(1).sum(1)
            assert (moved == 32).all() and torch.equal(ends[ends == y], y[ends == y])
            assert torch.equal(y[ends == y], SIGNALS[ends == y])
        else:
            means = [t.view(-1, 16, 4).mean(2) for t in (ends, SIGNALS)]
            torch.testing.assert_close(*means, atol=1e-5, rtol=0)


def test_grids_of_strangers_networks_take_turns():
    settings = [replace(SETTINGS, average=None)] * 3
    runs = begin_grids([Signal(4), Signal(16), Signal(64)], settings)
    *_, records = learn_grids(runs, SIGNALS, settings)
    assert [r.synthesized.shape[-1] for r in records] == [4, 16, 64] and all(math.isfinite(r.value) for r in records)
    with pytest.raises(ShapeError, match="must say its `resolution`"):
        begin_grids([three_layers()], settings[:1])


# -- it learns what it should ------------------------------------------------------------------------------------------


class Tilted(nn.Module):
    """E = |y|^2 / 2 - theta . y: the likeliest theta is the data's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(2))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return y.square().sum(1) / 2 - y @ self.theta


@pytest.mark.parametrize("starts", ["data", "persistent"])
def test_a_known_answer_is_found_in_the_plane(starts):
    """200 iterations of 400 Metropolis chains; the mean of the last 100 thetas is off by 0.01 at most (5 sigma)."""
    data = torch.randn(400, 2, generator=seeded(5)) * 0.9 + torch.tensor([0.7, -0.4])
    data = (data - data.mean(0)) / data.std(0) + torch.tensor([0.7, -0.4])
    net, path = Tilted(), []
    begun = Data() if starts == "data" else Persistent(noise(400, (2,), generator=seeded()))
    settings = Settings(200, 4, 1.0, metropolis=True, batch_size=400, learning_rate=Decay(0.05, 0.002, over=200))
    for _ in learn(Run.begin(net, begun, settings), data, settings):
        path.append(net.theta.detach().clone())
    assert (torch.stack(path[100:]).mean(0) - data.mean(0)).abs().max() < 0.02


def test_a_network_learns_a_ring():
    """Before: the chains fill a disc. After: the mean radius and its spread are near the data's."""
    settings = Settings(150, 15, 0.02, batch_size=200, learning_rate=2e-3, energy_penalty=1e-3)
    net = three_layers(width=64)
    run = Run.begin(net, Persistent(noise(200, (2,), std=2.0, generator=seeded())), settings)
    *_, last = learn(run, POINTS, settings)
    radius, wanted = last.synthesized.norm(dim=1), POINTS.norm(dim=1)
    assert abs(radius.mean() - wanted.mean()) < 0.3 and radius.std() < 2.5 * wanted.std()


# -- groups of parameters, weights that rest ---------------------------------------------------------------------------


def test_groups_keep_what_is_their_own_and_follow_the_settings_otherwise():
    net, rate = three_layers(), Decay(0.01, 0.0, over=5)
    groups = [
        {"params": net[0].parameters(), "lr": 0.0},
        {"params": net[2].parameters(), "lr": Decay(0.02, 0.01, over=5), "betas": (0.9, 0.99)},
        {"params": net[4].parameters(), "weight_decay": 0.1},
    ]
    settings = replace(SETTINGS, num_iterations=5, learning_rate=rate)
    run, before = Run.begin(net, Noise(10), settings, parameters=groups), copy.deepcopy(net.state_dict())
    for k, _ in enumerate(learn(run, POINTS, settings)):
        found = [(group["lr"], group["betas"]) for group in run.optimizer.param_groups]
        assert found == [(0.0, (0.5, 0.999)), (Decay(0.02, 0.01, over=5)(k), (0.9, 0.99)), (rate(k), (0.5, 0.999))]
    assert [group["weight_decay"] for group in run.optimizer.param_groups] == [0, 0, 0.1]
    still = [name for name, value in net.state_dict().items() if torch.equal(value, before[name])]
    assert still == ["0.weight", "0.bias"]


def test_weights_that_need_no_gradient_rest():
    net = three_layers()
    net[0].requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    run = Run.begin(net, Data(), SETTINGS)
    list(learn(run, POINTS, SETTINGS))
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"2.weight", "2.bias", "4.weight", "4.bias"}
    with pytest.raises(ValueError, match="no weights to learn"):
        Run.begin(net.requires_grad_(False), Data(), SETTINGS)


def test_an_optimizer_of_the_users_own_follows_the_settings():
    net = Tilted()
    run = Run(net, Data(), torch.optim.SGD(net.parameters(), lr=123.0), seeded())
    settings = Settings(1, 1, 0.1, batch_size=200, learning_rate=0.5)
    (record,) = learn(run, POINTS, settings)
    torch.testing.assert_close(net.theta, 0.5 * (POINTS.mean(0) - record.synthesized.mean(0)))


def test_parameters_must_be_the_networks_own():
    net = three_layers()
    for parameters in (copy.deepcopy(net).parameters(), [{"params": three_layers(width=8).parameters()}]):
        with pytest.raises(ValueError, match="must be the network's own"):
            Run.begin(net, Data(), SETTINGS, parameters=parameters)
    run = Run.begin(net, Data(), SETTINGS, parameters=net[4].weight)
    (before, rest), limit = (net[4].weight.clone(), net[0].weight.clone()), replace(SETTINGS, max_gradient=1e-3)
    record = next(learn(run, POINTS, limit))
    size = net[4].weight.grad.norm().item()
    assert record.learning_gradient > 1e-3 and size == pytest.approx(1e-3, rel=1e-2), "clipped by what is not learned"
    assert not torch.equal(net[4].weight, before) and torch.equal(net[0].weight, rest)


# -- what it reads of a network, and what it refuses -------------------------------------------------------------------


def test_bounds_are_read_where_they_are():
    net = three_layers()
    net.bounds = (-1.0, 1.5)
    *_, last = learn(Run.begin(net, Noise(30, 2.0), SETTINGS), POINTS.clamp(-1, 1.5), SETTINGS)
    assert last.synthesized.min() >= -1 and last.synthesized.max() <= 1.5


@pytest.mark.parametrize(
    ("net", "data", "message"),
    [
        (lambda: nn.Linear(2, 1), POINTS, r"must map \(15, 2\) to \(15,\), but this one returned \(15, 1\)"),
        (Signal, signals(side=32), r"must be 64\^1 voxels, not 32\^1"),
        (three_layers, POINTS[:, 0], r"must be a batch \(N, \.\.\.\), not \(200,\): numbers on a line are \(N, 1\)"),
        (three_layers, POINTS.long(), "int64"),
        (three_layers, POINTS / 0, "NaN or infinite"),
        (three_layers, POINTS[:0], "is empty"),
    ],
)
def test_what_cannot_be_learned_is_named(net, data, message):
    with pytest.raises(ShapeError, match=message):
        next(learn(Run.begin(net(), Noise(15), SETTINGS), data, SETTINGS))


@pytest.mark.slow
def test_two_processes_learn_points_as_torchrun_starts_them(tmp_path):
    """Both hold the same weights at the end, and a run killed half-way goes on as if it had not been."""
    (tmp_path / "both.py").write_text(
        f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch, torch.distributed as dist
from problems import equal, ring, seeded, three_layers
from dnet_lib import Persistent, Run, Settings, Teaching, learn, noise
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
settings = Settings(6, 3, 0.02, batch_size=20, average=0.9)
data = ring(seed=10 * rank)
def own():
    net = three_layers()
    torch.nn.init.normal_(net[0].weight, generator=seeded(100 + rank))  # as unseeded networks begin: each its own
    return net
def begin():
    return Run.begin(own(), Persistent(noise(15 + rank, (2,), generator=seeded(rank))), settings, seed=2)
whole = begin()
values = [r.value for r in learn(whole, data, settings)]
cut = learn(begin(), data, settings, checkpoint={str(tmp_path / "run.pt")!r}, save_every=2)
[next(cut) for _ in range(4)]
again = begin()
list(learn(again, data, settings, checkpoint={str(tmp_path / "run.pt")!r}, save_every=2))
assert equal(again.state_dict(), whole.state_dict())
student = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
student.latent = 3
torch.nn.init.normal_(student[0].weight, generator=seeded(200 + rank))
lesson = Run.begin(own(), Teaching.begin_with(student, num_chains=12 + 3 * rank), settings, seed=2)
values += [r.value for r in learn(lesson, data, settings)]
torch.save([values, student.state_dict(), lesson.net.state_dict()], f"{tmp_path}/student{{rank}}")
torch.save([values, whole.net.state_dict()], f"{tmp_path}/found{{rank}}")
dist.destroy_process_group()
"""
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*command, tmp_path / "both.py"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for what in ("found", "student"):
        assert equal(*(torch.load(tmp_path / f"{what}{rank}") for rank in (0, 1))), what


@pytest.mark.slow
def readme(word: str, **changes: str) -> dict:
    """What the README's block of code with a word in it leaves behind, some of its text changed."""
    text = (Path(__file__).parent.parent / "README.md").read_text()
    (code,) = (part.split("```")[0] for part in text.split("```python\n")[1:] if word in part)
    for old, new in changes.values():
        assert old in code
        code = code.replace(old, new)
    found: dict = {}
    exec(compile(code, "README.md", "exec"), found)
    return found


@pytest.mark.slow
def test_the_readme_learns_chairs():
    """To its end, with a quarter of the chains: V does not run away, and the shapes are as full as chairs, and near."""
    less = {"chains": ("prior, 16", "prior, 4"), "batch": ("batch_size=24", "batch_size=6")}
    found = readme("CoarseGaussian", **less, shown=("sample(8", "sample(1"))
    chairs, record = found["chairs"], found["record"]
    shapes = threshold(record.synthesized + chairs.mean)
    assert record.iteration == 200 and abs(record.value) < 1000 and record.synthesized.abs().max() < 3
    assert 0.5 < shapes.mean() / chairs.mean < 2
    shuffled = shapes.flatten(1)[:, torch.randperm(16**3, generator=seeded())].view_as(shapes)
    near, far = (nearest(y, chairs.voxels).distance.mean() for y in (shapes, shuffled))
    assert near < 0.75 * far


def test_the_readme_learns_a_density():
    """The block of ten lines, as it stands there."""
    found = readme("nn.Sequential")
    radius = found["points"].norm(dim=1)
    assert abs(radius.mean() - 2) < 0.2 and radius.std() < 0.5
