"""Processes that work as one: the same numbers as one process, one voice, and a run that outlives a death."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from problems import TINY, drawn, equal, seeded, small_model, small_net

from dnet_lib import (
    Corrupted,
    GeneratorNet,
    Persistent,
    Run,
    Settings,
    Teaching,
    chain_generators,
    hidden_voxels,
    learn,
    load_judge,
    load_model,
    processes,
)
from dnet_lib.energy import GaussianEnergy
from dnet_lib.files import atomic_write
from dnet_lib.generator import Layout
from dnet_lib.langevin import sample, white_noise
from dnet_lib.presets import CPU, CoarseStart
from dnet_lib.processes import Share, as_one
from dnet_lib.reproduce import __main__, experiments, lessons
from dnet_lib.reproduce.experiments import EXPERIMENTS

# Float32 sums of a share and of the whole differ in their last bits, 6e-8 of a number; a few iterations make that more.
# Where a weight's gradient is zero but for rounding, Adam's step has the learning rate's length all the same: so goes
# the bias of the last layer, on which neither chains nor V depend.
ROUNDING: dict[str, float] = {"rtol": 1e-4, "atol": 1e-5}
SETTINGS = Settings(5, 4, 0.02, batch_size=6, data_noise=0.1, average=0.9)
DATA = drawn(9) - 0.5


def jobs() -> dict[str, Any]:
    """Learning, sampling and judging; what each found."""
    found: dict[str, Any] = {}
    student = GeneratorNet(Layout(4, 6, (8,), (1, 1)), generator=seeded(3))
    starts = {
        "persistent": Persistent(drawn(7, seed=1) - 0.5, per_iteration=6, renew=0.2),
        "corrupted": Corrupted(0.7),
        "taught": Teaching.begin_with(student, num_chains=5),
        "single": Persistent(drawn(1) - 0.5),
    }
    for name, start in starts.items():
        run = Run.begin(small_net(), start, SETTINGS, seed=4)
        *_, last = learn(run, DATA, SETTINGS)
        weights = [p for way in (run.net, run.averaged) for n, p in way.named_parameters() if n != "dense.bias"]
        found[name] = [last.value, last.gradient_norm, last.acceptance, last.synthesized, run.generator.get_state()]
        found[name] += [p.detach() for p in weights]
    model, shapes = small_model(), drawn(5, 8)
    for name, generator in {"one": seeded(5), "many": chain_generators(5, 5)}.items():
        warm: Any = {"num_steps": 6, "step_size": 0.05, "generator": generator}
        found[name] = [
            replace(model, settings=replace(model.settings, temperature=1.0)).sample(5, generator=generator),
            sample(shapes, model.net, metropolis=True, **warm),
            sample(shapes, model.net, projection=hidden_voxels(drawn(5, 8, seed=9) > 0), **warm),
            sample(shapes[:1], model.net, **warm | {"generator": seeded()}),
            sample(shapes, GaussianEnergy(shapes, 0.5), **warm),  # an energy of these rows only: nobody splits them
            model.recover(shapes, drawn(5, 8, seed=9) > 0),
            white_noise(shapes, generator),
        ]
    found["judged"] = [load_judge("views").probabilities(drawn(3, 32, 0.2))]
    return found


def reproduce(folder: str) -> None:
    """The command line, of a model small enough for a test."""
    settings = Settings(num_iterations=5, num_steps=4, step_size=0.02, temperature=0.01, batch_size=8)
    preset = replace(CPU, architecture=TINY, settings=settings, start=CoarseStart(rank=8), num_chains=6)
    small = replace(EXPERIMENTS["synthesis"], presets={"cpu": preset})
    places = [word for name in ("runs", "weights", "results") for word in (f"--{name}", f"{folder}/{name}")]
    words = ["reproduce", "synthesis", "--category", "toilet", "--data", "furniture", *places]
    with (
        mock.patch.dict(experiments.EXPERIMENTS, synthesis=small),
        mock.patch.object(lessons, "SAVE_EVERY", 1),
        mock.patch.object(sys, "argv", words),
    ):
        __main__.main()


def one_of_two(folder: str, dies: bool) -> None:
    """What each process of torchrun does; the second may be killed at the fourth iteration."""
    torch.set_num_threads(1)
    near, seen = lessons.near, []

    def fatal(*given: Any) -> dict[str, float]:
        seen.append(given)
        if dies and len(seen) == 4 and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return near(*given)

    lessons.near = fatal
    reproduce(folder)
    Path(folder, f"iterations{os.environ['RANK']}").write_text(str(len(seen)))
    with as_one():
        torch.save(jobs(), f"{folder}/found{os.environ['RANK']}")


def torchrun(folder: Path, *, dies: bool) -> subprocess.CompletedProcess[str]:
    """Two processes of one thread."""
    script = folder / "script.py"
    here = str(Path(__file__).parent)
    script.write_text(f"import sys; sys.path.insert(0, {here!r})\nimport test_processes as t\n")
    with script.open("a") as file:
        file.write(f"t.one_of_two({str(folder)!r}, {dies})\n")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_two_processes_work_as_one_and_what_one_leaves_when_it_dies_is_resumed(tmp_path, capfd):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    died = torchrun(tmp_path / "two", dies=True)
    assert died.returncode != 0 and "SIGKILL" in died.stderr
    assert not (tmp_path / "two" / "weights").exists() and len(list((tmp_path / "two" / "runs").glob("*.pt"))) == 1
    resumed = torchrun(tmp_path / "two", dies=False)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert sum(line.startswith("toilet ") for line in resumed.stdout.splitlines()) == 1
    assert resumed.stderr.count("sampling toilet:   0%") == 1
    assert {(tmp_path / "two" / f"iterations{rank}").read_text() for rank in (0, 1)} <= {"2", "3"}  # of five
    reproduce(str(tmp_path / "one"))
    results, models = [], []
    for folder in (tmp_path / "one", tmp_path / "two"):
        (path,) = folder.rglob("results/**/toilet.json")
        (weights,) = folder.rglob("toilet.safetensors")
        results.append(json.loads(path.read_text()))
        models.append(load_model(weights))
    alone, both = results
    assert both["hardware"] == alone["hardware"].replace("2 threads", "1 threads") + ", 2 processes"
    for name, value in alone["metrics"].items():
        assert name.startswith("seconds") or both["metrics"][name] == pytest.approx(value, rel=1e-3), name
    for name in ("value", "gradient_norm", "nearest"):
        assert both["curve"][name] == pytest.approx(alone["curve"][name], rel=1e-4, abs=0.02), name
    y = drawn(4, 16, 0.1) - models[0].mean
    level = [model.energy(y) - model.energy(y[:1]) for model in models]  # whatever the last bias is
    torch.testing.assert_close(level[0], level[1], rtol=1e-3, atol=0.01)

    found = [torch.load(tmp_path / "two" / f"found{rank}") for rank in (0, 1)]
    assert equal(*found)
    for name, values in jobs().items():
        for i, (ours, theirs) in enumerate(zip(values, found[0][name], strict=True)):
            torch.testing.assert_close(theirs, ours, **ROUNDING, msg=lambda text: f"{name} {i}: {text}")  # noqa: B023


def of(number: int, count: int) -> Any:
    """As the process of a number finds things, where `count` work as one."""
    names = {"_count": lambda: count, "_number": lambda: number, "_AS_ONE": [True], "meet": lambda: None}
    return mock.patch.multiple(processes, **names)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_shares_are_all_rows_once_and_each_has_the_noise_of_its_rows(count):
    whole, mask, rows = white_noise(torch.empty(7, 1, 2, 2, 2), seeded()), drawn(7, 2), []
    own = white_noise(whole, chain_generators(1, 7))
    for number in range(count):
        with of(number, count):
            share = Share(7)
            like = torch.empty(7, 1, 2, 2, 2)[share.rows]
            assert torch.equal(white_noise(like, share.noise(seeded())), whole[share.rows])
            assert torch.equal(white_noise(like, share.noise(chain_generators(1, 7))), own[share.rows])
            projection = share.within(hidden_voxels(mask > 0))
            assert torch.equal(projection(whole[share.rows]), (whole * mask)[share.rows])
            rows += range(7)[share.rows]
            assert max(len(range(7)[share.rows]) - 7 // count, 0) <= 1
            assert Share(count - 1).rows == slice(0, count - 1) and not Share(7, split=False).split
    assert rows == list(range(7))


def test_the_first_writes_for_all(tmp_path):
    for number in (1, 0):
        with of(number, 2), mock.patch("dnet_lib.files.meet") as met, atomic_write(tmp_path / "file") as part:
            part.write_text(str(number))
        assert met.call_count == 2 and (tmp_path / "file").exists() == (number == 0)
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "0"


def test_what_many_processes_cannot_do_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for device in ("cuda", "cuda:0"):
        with pytest.raises(ValueError, match="this machine has 1: give the device as cuda"), as_one(device):
            pass
    with of(0, 2), pytest.raises(ValueError, match="without torchrun"):
        EXPERIMENTS["budget"].reproduce(None)
