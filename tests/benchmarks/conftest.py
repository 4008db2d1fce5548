"""Timings run only when asked for: pytest tests/benchmarks --benchmark-only."""

import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch

from dnet_lib import __version__
from dnet_lib.checkpoints import RESULTS, load_results, save_results

BEFORE = "8b9b0c7"  #: The last commit before products of bfloat16 numbers
ROWS: list[dict] = []
LIMITS: dict[str, float] = {}


def pytest_addoption(parser):
    parser.addoption("--keep", action="store_true", help="write the table to dnet_lib/results/performance/cpu.json")


def pytest_collection_modifyitems(config, items):
    if config.getoption("benchmark_only", default=False):
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="a timing: run with --benchmark-only"))


@pytest.fixture
def threads():
    """Sets the number of threads for one test: threads(2)."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def compare(benchmark):
    """compare(case, {name: call}, rounds): time all calls in turn, round by round, and keep the medians in seconds.

    `per` divides the times: how many steps a call makes.
    """

    def run(case: dict, calls: dict, *, rounds: int = 5, per: dict | None = None) -> dict[str, float]:
        times: dict[str, list[float]] = {name: [] for name in calls}

        def once():
            for name, call in calls.items():
                began = time.perf_counter()
                call()
                times[name].append((time.perf_counter() - began) / (per or {}).get(name, 1))

        benchmark.pedantic(once, rounds=rounds, warmup_rounds=1 if rounds > 1 else 0)
        medians = {name: sorted(own)[len(own) // 2] for name, own in times.items()}
        ROWS.append(case | {"threads": torch.get_num_threads(), "seconds": medians})
        return medians

    return run


@pytest.fixture(scope="session")
def before(tmp_path_factory):
    """before(name, *arguments): a call of `calls` by this library as it was, in a process of its own.

    None where the repository's history is not at hand.
    """
    root, folder = Path(__file__).parents[2], tmp_path_factory.mktemp("before")
    packed = subprocess.run(["git", "-C", root, "archive", BEFORE, "dnet_lib"], capture_output=True)
    if packed.returncode:
        yield None
        return
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    command = [sys.executable, Path(__file__).with_name("calls.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(folder)}, **pipes) as process:

        def say(line: str = ""):
            print(line, file=process.stdin, flush=True)
            assert process.stdout.readline(), "the process of the library as it was has died"

        def prepare(name: str, *arguments, **options):
            say(json.dumps((name, torch.get_num_threads(), arguments, options)))
            return say

        yield prepare
        process.stdin.close()


@pytest.fixture
def limits() -> dict[str, float]:
    """What the machine can do at most: filled by its own test, reported beside the table."""
    return LIMITS


def pytest_terminal_summary(terminalreporter, config):
    if not ROWS:
        return
    say = terminalreporter.write_line
    say("\nTimes the plain way takes, in units of each way's own (interleaved runs, medians), then milliseconds:")
    for row in ROWS:
        seconds = dict(row["seconds"])
        plain = seconds.get("plain")
        ratios = [f"{name} {plain / s:.2f}x" for name, s in seconds.items() if plain and name != "plain"]
        own = [f"{name} {1e3 * s:.4g}" for name, s in seconds.items()]
        what = ", ".join(f"{key} {row[key]}" for key in row if key not in ("seconds", "name"))
        say(f"  {row['name']}, {what}: {'  '.join(ratios)}  |  {'  '.join(own)}")
    say("  " + ", ".join(f"{name} {value:.4g}" for name, value in LIMITS.items()))
    if config.getoption("keep"):  # what was measured again replaces what was kept
        kept = load_results("performance")["cpu"]["metrics"] if (RESULTS / "performance").exists() else {}
        rows = {_key(row): row for row in [*kept.get("rows", []), *ROWS]}
        facts = {
            "metrics": {"rows": list(rows.values()), "limits": kept.get("limits", {}) | LIMITS},
            "paper": {},
            "preset": {},
            "dataset": {},
            "seed": 0,
            "seconds": sum(sum(row["seconds"].values()) for row in rows.values()),
            "hardware": _processor(),
            "versions": {"dnet_lib": __version__, "torch": torch.__version__, "python": platform.python_version()},
        }
        say(f"written: {save_results('performance', 'cpu', json.loads(json.dumps(facts)))}")


def _key(row: dict) -> tuple:
    return row["name"], row["chains"], row["threads"]


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"
