"""Planted bugs: each is written into a copy of the library, where the tests that should notice it must turn red.

    python tests/mutations.py                   all of them, two at a time; writes the table that the book shows
    python tests/mutations.py reflection stale  those whose names hold one of the words; writes nothing
    python tests/mutations.py --file dnet_lib/langevin.py --replace OLD NEW --tests test_langevin
                                                one of your own; OLD must stand in the file exactly once

Takes minutes and is no part of `make test`. The exit status is 1 where a bug went unnoticed.
"""

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "book" / "mutations.csv"
SAMPLER = ("test_samplers", "test_langevin", "test_projections", "test_fast", "test_precision")

# A file and the tests that should notice; then of each bug its name, the text it replaces, and what it puts there.
PLANTED = r"""
dnet_lib/langevin.py test_samplers test_langevin test_projections test_fast test_precision
    drift h in place of h / 2
        drift * (-step_size / 2)
        drift * -step_size
    drift uphill
        drift * (-step_size / 2)
        drift * (step_size / 2)
    temperature on the drift
        drift * (-step_size / 2)
        drift * (-step_size / 2 * temperature)
    noise sqrt(2 h T)
        math.sqrt(step_size * temperature)
        math.sqrt(2 * step_size * temperature)
    noise without the temperature
        math.sqrt(step_size * temperature)
        math.sqrt(step_size)
    acceptance by rounded energies
        precision != "float32"
        precision == "float64"
    one noise for all chains
        return fill(noise, generator=generator)
        return fill(noise[:1], generator=generator).expand_as(noise).clone()
    noise shared by two generators of chains
        np.random.SeedSequence([seed, i])
        np.random.SeedSequence([seed, i // 2])
    generators of chains out of order
        for i in range(first, first + num_chains))
        for i in reversed(range(first, first + num_chains)))
    generators of chains that begin anew in every batch
        for i in range(first, first + num_chains))
        for i in range(num_chains))
    projection of the noise only
        drift = g if projection is None else projection(g.clone())
        drift = g
    projection of the drift only
        noise if projection is None else projection(noise)
        noise
    acceptance without the proposal back
        (e - e_new + work - slope) / temperature
        (e - e_new) / temperature
    acceptance without the squares of the gradients
        e_new + work - slope)
        e_new + work)
    acceptance without the projection on the way back
        drift_new = g_new if projection is None else projection(g_new.clone())
        drift_new = g_new
    acceptance without the temperature
        (drift, drift_new), delta, step_size, temperature)
        (drift, drift_new), delta, step_size, 1.0)
    acceptance by u in place of log u
        uniform_).log() < log_r
        uniform_) < log_r
    acceptance by one u for all chains
        uniform_).log() < log_r
        uniform_)[:1].log() < log_r
    accepted proposals are reverted
        torch.where(pick, proposal, y)
        torch.where(pick, y, proposal)
    stale gradient after an accept
        torch.where(pick, g_new, g)
        g
    stale gradient after a reject
        torch.where(pick, g_new, g)
        g_new
    stale energy after an accept
        torch.where(accepted, e_new, e)
        e
    reflection that clamps
        (low + torch.minimum(phase, 2 * width - phase)).clamp(low, high)
        y.clamp(low, high)
    a start outside that is clamped
        reflect(y.detach(), *bounds)
        y.detach().clamp(*bounds)
    reflection that wraps around
        torch.minimum(phase, 2 * width - phase)
        torch.remainder(phase, width)

dnet_lib/projections.py test_samplers test_langevin test_projections test_fast
    visible voxels move, hidden ones do not
        delta * hidden.to
        delta * ~hidden.to
    the low resolution moves, detail does not
        return delta - up_scale
        return up_scale

dnet_lib/fast/frozen.py test_samplers test_fast
    frozen: the reference's s in place of its square
        1 / s**2, out=out)
        1 / s, out=out)
    frozen: the walls are forgotten
        return self.net.bounds
        return None
    frozen: stale weights
        layer.load(conv.weight
        hasattr(layer, "bias") or layer.load(conv.weight
    frozen: sign of eq. (8)
        up = -(w + p
        up = (w + p
    frozen: taps that meet no voxel, cut one short
        met = taps(conv)
        met = slice(taps(conv).start, max(1, taps(conv).stop - 1))

dnet_lib/fast/convolutions.py test_fast test_precision
    Toom-Cook on two axes: the first tap forgets what it leaves
        self.v[..., self.rows :, :] = 0
        pass
    a tile begins one output too late
        first = tile * choice.m
        first = tile * (choice.m + 1)

dnet_lib/fast/direct.py test_fast test_precision
    bfloat16: sums of groups rounded
        total = total.float()
        pass
    bfloat16: kernels that are wrong
        wrong = dtype == torch.bfloat16 and
        wrong = False and
    a gradient's samples one too early
        first = [(q - 1 - pad) * gradient
        first = [(q - pad) * gradient

dnet_lib/learning.py test_learning test_starts test_completion test_fast
    sign of eq. (8)
        weight[len(observed) :].neg_()
        weight[: len(observed)].neg_()
    gradient divided by N twice
        new_full((n,), 1.0) / count
        new_full((n,), 1 / n) / count
    gradients of iterations pile up
        net.zero_grad(set_to_none=True)
        pass
    moving average with the decay of the new weights
        get_ema_multi_avg_fn(settings.average)
        get_ema_multi_avg_fn(1 - settings.average)
    Adam's betas ignored
        "betas": settings.betas}
        "betas": (0.9, 0.999)}
    learning rate stays the first
        _numbers(wanted | own, self.iteration)
        _numbers(wanted | own, 0)
    temperature stays the first
        settings.temperature(here)
        settings.temperature(0)
    data noise on the synthesized side
        observed = observed + settings.data_noise * white_noise(observed, run.generator)
        y = y + settings.data_noise * white_noise(y, run.generator)
    learning without what chains must keep
        projection=projection,
        projection=None,
    learning without Metropolis
        metropolis=settings.metropolis,
        metropolis=False,
    the same noise in every iteration
        generator=share.noise(run.generator),
        generator=torch.Generator().manual_seed(0),
    a shape twice in a batch
        fresh[~late], fresh[late]
        fresh

dnet_lib/starts.py test_starts test_learning test_completion
    persistent chains not written back
        self.chains[self._slots] = revised
        self.chains[self._slots].copy_(revised)
    persistent chains from other rows than they return to
        y = self.chains[self._slots]
        y = self.chains[:count]
    chains of the data in wrong rows
        self._slots = index
        self._slots = torch.arange(len(index))
    chains renewed that should go on
        torch.where(per_item(again, y)
        torch.where(per_item(~again, y)
    chains overwrite the data they began at
        observed.clone(), None
        observed, None

dnet_lib/generator.py test_generator
    latent: the misfit without its half
        misfit / (2 * self.sigma**2)
        misfit / self.sigma**2
    latent: inferred, and not kept
        run.latent[rows] = infer(
        infer(

dnet_lib/cooperative.py test_cooperative
    teaching: revised shapes of other latent vectors
        self.latent, revised
        self.latent.flip(0), revised

dnet_lib/multigrid.py test_multigrid
    grids: each learns from rows of its own
        None if run is coarsest else lambda: coarsest.index
        None

dnet_lib/pretrained.py test_completion test_checkpoints
    models: recovery moves all, and pastes what was visible
        hidden_voxels(hidden), generator
        None, generator
    models: super-resolution moves all
        missing_detail(scale), generator
        None, generator
"""


class Bug(NamedTuple):
    """One text in one file of the library, and what takes its place."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def room(self) -> str:
        """Where it is planted."""
        return self.file.removeprefix("dnet_lib/").removesuffix(".py")

    def written(self, tree: Path) -> str:
        """The file's text with the bug in it."""
        for file in (self.file, *(f"tests/{name.removesuffix('.py')}.py" for name in self.tests)):
            if not (tree / file).is_file():
                sys.exit(f"{self.name}: there is no {file}")
        text = (tree / self.file).read_text("utf-8")
        if text.count(self.old) != 1:
            sys.exit(f"{self.name}: {self.file} holds {self.old!r} {text.count(self.old)} times, not once")
        return text.replace(self.old, self.new)


def planted() -> list[Bug]:
    """The bugs of `PLANTED`."""
    bugs = []
    for part in PLANTED.strip().split("\n\n"):
        (file, *tests), *lines = (part.splitlines()[0].split(), *map(str.strip, part.splitlines()[1:]))
        for name, old, new in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
            bugs.append(Bug(name, file, *(text.replace(r"\n", "\n") for text in (old, new)), tuple(tests)))
    return bugs


def copied(tree: Path) -> None:
    """A copy of all that the tests need; the weights of networks are a link."""
    for name in ("dnet_lib", "data_prep", "tests", "book"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    (tree / "dnet_lib" / "weights").symlink_to(ROOT / "dnet_lib" / "weights")
    for path in filter(Path.is_file, ROOT.iterdir()):
        shutil.copy(path, tree)


def first_failure(source: Path, tests: tuple[str, ...], bug: Bug | None = None) -> tuple[str, float]:
    """The first test that fails on a copy of the library with a bug ("" where none does), and the seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        tree, began = Path(folder), time.perf_counter()
        shutil.copytree(source, tree, symlinks=True, dirs_exist_ok=True)
        if bug:
            (tree / bug.file).write_text(bug.written(tree), "utf-8")
        files = [f"tests/{name.removesuffix('.py')}.py" for name in tests]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", *files]
        env = os.environ | {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True)
        found = re.search(r"^(?:FAILED|ERROR) tests/(.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
        if (done.returncode != 0) != bool(found):
            sys.exit(f"pytest itself failed:\n{done.stdout}{done.stderr}")
        return found[1] if found else "", time.perf_counter() - began


def sentence(test: str) -> str:
    """A test's name, as a page shows it: "learning: a learning step is adam [None]"."""
    file, _, name = test.replace(".py", "").replace("test_", "").partition("::")
    name, bracket, case = name.partition("[")
    return f"{file}: {name.replace('_', ' ')}{' ' * bool(bracket)}{bracket}{case}" if test else ""


def main() -> int:
    """Plant, run, tell; the table is written only where all bugs were planted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only bugs whose name holds one of these words")
    parser.add_argument("--file", help="where a bug of your own goes")
    parser.add_argument("--replace", nargs=2, metavar=("OLD", "NEW"), help="the text, and what takes its place")
    parser.add_argument("--tests", nargs="+", default=SAMPLER, help="the files of tests that should notice it")
    asked = parser.parse_args()
    if (asked.file is None) != (asked.replace is None):
        parser.error("--file and --replace belong together")
    bugs = [bug for bug in planted() if not asked.words or any(word in bug.name for word in asked.words)]
    if asked.file:
        bugs = [Bug("your bug", asked.file, *asked.replace, tuple(asked.tests))]
    if not bugs:
        parser.error(f"no bug's name holds {' or '.join(asked.words)}")
    for bug in bugs:
        bug.written(ROOT)  # a text that is not there is told at once
    everything = tuple(dict.fromkeys(name for bug in bugs for name in bug.tests))
    rows = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        source = Path(folder)
        copied(source)  # once: what is edited meanwhile does not matter
        red, seconds = first_failure(source, everything)
        if red:
            sys.exit(f"without a bug {red} fails already: no table can be made")
        print(f"without a bug all of {', '.join(everything)} pass ({seconds:.0f} s)", flush=True)
        for bug, found in zip(bugs, pool.map(lambda bug: first_failure(source, bug.tests, bug), bugs), strict=True):
            rows.append([bug.name, bug.room, sentence(found[0]), round(found[1])])
            print(f"{bug.name}: {found[0] or 'UNNOTICED'} ({found[1]:.0f} s)", flush=True)
    missed = sum(not row[2] for row in rows)
    print(f"bugs: {len(rows)}, unnoticed: {missed}")
    if not asked.words and not asked.file:
        with TABLE.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([["planted", "in", "first noticed by", "seconds"], *rows])
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
