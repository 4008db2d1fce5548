"""The house keeps its order: who may import whom, and nothing happens on import."""

import ast
import csv
import inspect
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import mutations
import pytest

import dnet_lib

ROOT = Path(__file__).parent.parent
LIBRARY, PREPARATION = ROOT / "dnet_lib", ROOT / "data_prep"

# Each room imports only rooms above it.
ROOMS = (
    *("errors", "checks", "schedules", "processes", "files", "voxels", "data", "resuming"),  # the ground
    *("energy", "fast", "projections", "langevin"),  # the mathematics
    *("priors", "starts", "learning", "generator", "cooperative", "multigrid"),  # the one loop, and what joins it
    *("pretrained", "checkpoints", "metrics", "diagnostics", "features", "judges", "baselines"),  # is it good
    *("paper", "presets", "tables", "viz", "reproduce"),
)


def imports(source: Path | str, package: str = "") -> set[str]:
    """Absolute names of all modules that a file or text imports, wherever in it."""
    text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                module = f"{package}.{module}".rstrip(".")
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


LIBRARY_FILES = sorted(LIBRARY.rglob("*.py"))


def test_every_room_has_its_place():
    rooms = {room_of(path) for path in LIBRARY_FILES} - {"__init__"}
    assert rooms <= set(ROOMS), f"say in ROOMS where {sorted(rooms - set(ROOMS))} stand"


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_rooms_above_it(path):
    room = room_of(path)
    if room == "__init__":
        return
    parts = [name.split(".") for name in imports(path, "dnet_lib")]
    used = {p[1] for p in parts if p[0] == "dnet_lib" and len(p) > 1} & set(ROOMS)
    assert not any(p == ["dnet_lib"] for p in parts) or "__version__" in path.read_text(), "import from the room itself"
    allowed = set(ROOMS[: ROOMS.index(room)]) | ({room} if path.parent != LIBRARY else set())
    assert used <= allowed, f"{room} must not import {sorted(used - allowed)}"


def test_the_two_packages_do_not_know_each_other():
    for path in LIBRARY_FILES:
        assert not {n.split(".")[0] for n in imports(path, "dnet_lib")} & {"data_prep"}, path.name
    for path in PREPARATION.rglob("*.py"):
        assert not {n.split(".")[0] for n in imports(path, "data_prep")} & {"torch", "dnet_lib"}, path.name


def test_pictures_know_no_models():
    """Of `viz` the live panels alone import other rooms, or torch."""
    for path in (LIBRARY / "viz").glob("*.py"):
        used = {name for name in imports(path, "dnet_lib.viz") if name.split(".")[0] in ("dnet_lib", "torch")}
        strange = {name for name in used if not name.startswith("dnet_lib.viz.") or ".panels" in name}
        assert path.name == "panels.py" or not strange, f"{path.name} must not import {sorted(strange)}"


def test_the_library_prints_nothing():
    """`reproduce` is a command and may speak; the rest hands back values."""
    for path in LIBRARY_FILES:
        if room_of(path) == "reproduce":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{path.name}:{node.lineno}"


LOOK = """
import json, os, random, sys
before = set(os.listdir())
import numpy, torch
state = torch.random.get_rng_state(), random.getstate(), str(numpy.random.get_state())
threads, grad, dtype = torch.get_num_threads(), torch.is_grad_enabled(), str(torch.get_default_dtype())
import dnet_lib
same = [
    torch.equal(state[0], torch.random.get_rng_state()), state[1] == random.getstate(),
    state[2] == str(numpy.random.get_state()), threads == torch.get_num_threads(), grad == torch.is_grad_enabled(),
    dtype == str(torch.get_default_dtype()), before == set(os.listdir()), not torch.distributed.is_initialized(),
]
sys.stderr.write(json.dumps([same, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def run(code: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-W", "error::DeprecationWarning:dnet_lib", "-c", code], cwd=folder,
                          capture_output=True, text=True, timeout=300)  # fmt: skip


def test_importing_the_library_does_no_work(tmp_path):
    done = run(LOOK, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    same, modules = json.loads(done.stderr)
    assert all(same), same
    assert not set(modules) & {"k3d", "matplotlib", "sklearn", "skimage", "IPython", "ipywidgets", "data_prep"}


def test_preparing_data_needs_no_torch(tmp_path):
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in PREPARATION.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    ]
    done = run(f"import sys, {', '.join(names)}; sys.stderr.write(str('torch' in sys.modules))", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "False")


TOML = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = TOML["project"]
BROUGHT = packages_distributions()


def declared(*extras: str) -> set[str]:
    """Names of the required distributions, with those of extras."""
    lines = [*PROJECT["dependencies"], *(line for name in extras for line in PROJECT["optional-dependencies"][name])]
    return {normal(re.match(r"[\w.-]+", line)[0]) for line in lines}


def normal(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required(sources: dict[str, str], ours: set[str]) -> set[str]:
    """Names of the distributions whose modules sources import, wherever in the source."""
    found = {name.split(".")[0] for text in sources.values() for name in imports(text)}
    strange = found - sys.stdlib_module_names - ours - {""}  # nothing stands before a relative import's dot
    return {normal(BROUGHT.get(name, [name])[0]) for name in strange}


def texts(*folders: Path) -> dict[str, str]:
    """The Python files below folders."""
    paths = [path for folder in folders for path in folder.rglob("*.py")]
    return {str(path): path.read_text(encoding="utf-8") for path in paths}


def test_the_declared_requirements_are_those_that_are_imported():
    """Neither fewer, though another requirement happens to bring them, nor more."""
    needed, said = required(texts(LIBRARY, PREPARATION), {"dnet_lib", "data_prep"}), declared()
    assert needed == said, f"undeclared: {sorted(needed - said)}; declared, but not imported: {sorted(said - needed)}"


def test_chapters_need_no_more_than_the_library():
    """They install it on Colab, and nothing else."""
    cells = {}
    for path in (ROOT / "book").glob("*.ipynb"):
        code = [c["source"] for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
        lines = "".join("".join(source) + "\n" for source in code).splitlines()
        cells[path.name] = "\n".join(re.sub(r"^(\s*)%.*", r"\1pass", line) for line in lines)
    assert len(cells) >= 5
    needed = required(cells, {"dnet_lib"})
    assert needed <= declared(), f"chapters import {sorted(needed - declared())}"


def test_what_the_book_s_build_and_the_tests_import_is_declared_with_them():
    """By the extras that are installed for them; these may hold more, for a build needs what it does not import."""
    ours = {"dnet_lib", "data_prep", *(path.stem for path in (ROOT / "tests").rglob("*.py"))}
    ours |= {path.stem for path in (ROOT / "book").rglob("*.py")}
    for folder, extras in (("book", ("book",)), ("tests", ("book", "test", "benchmarks"))):
        needed = required(texts(ROOT / folder), ours)
        assert needed <= declared(*extras), f"{folder} imports {sorted(needed - declared(*extras))}"


def test_the_package_is_typed_and_has_one_version():
    assert (LIBRARY / "py.typed").is_file()
    assert PROJECT["version"] == dnet_lib.__version__
    assert "py.typed" in TOML["tool"]["setuptools"]["package-data"]["dnet_lib"]


def test_what_the_library_offers_is_there_and_told():
    assert len(set(dnet_lib.__all__)) == len(dnet_lib.__all__) == len(sorted(dnet_lib.__all__))
    for name in dnet_lib.__all__:
        thing = getattr(dnet_lib, name)
        text = inspect.getdoc(thing) or ""
        assert len(text) > 20 and not text.startswith(f"{name}("), f"{name} needs a docstring of its own"
        assert text.splitlines()[0].endswith((".", ":", "]")) or len(text.splitlines()) > 1, f"{name}: {text!r}"


PROMISED = (
    *("load_shapes", "DescriptorNet", "langevin_step", "langevin", "sample"),
    *("hidden_voxels", "missing_detail", "load_pretrained", "load_results"),
)


@pytest.mark.parametrize("name", PROMISED)
def test_names_that_others_call(name):
    assert name in dnet_lib.__all__ and callable(getattr(dnet_lib, name))


def test_their_arguments():
    def arguments(thing):
        return list(inspect.signature(thing).parameters)

    assert arguments(dnet_lib.load_shapes) == ["name", "category", "split", "resolution"]
    step = inspect.signature(dnet_lib.langevin_step).parameters
    assert list(step)[:7] == ["y", "energy", "step_size", "temperature", "metropolis", "projection", "generator"]
    assert all(step[name].kind is inspect.Parameter.KEYWORD_ONLY for name in list(step)[2:])
    assert step["temperature"].default == 1.0 and step["metropolis"].default is False
    assert arguments(dnet_lib.sample)[:4] == ["y", "energy", "num_steps", "step_size"]
    assert arguments(dnet_lib.hidden_voxels) == ["hidden"] and arguments(dnet_lib.missing_detail) == ["scale"]
    assert {"score", "energy", "paper"} <= set(dir(dnet_lib.DescriptorNet))


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_functions_and_classes_have_docstrings(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or not tree.body, "a room says what it is for"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_equations_named_in_docstrings_exist():
    """Equation numbers point into the paper, which has (1) to (24) at most: no typing slips."""
    for path in LIBRARY_FILES:
        for numbers in re.findall(r"eqs?\. \((\d+)\)", path.read_text(encoding="utf-8")):
            assert 1 <= int(numbers) <= 24, f"{path.name}: eq. ({numbers})"


def test_no_machine_paths():
    for path in [*LIBRARY_FILES, *PREPARATION.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        for word in ("/" + "work/", "/" + "root/", ".." + "/shared", "/" + "home/"):
            assert word not in text, f"{path.name} mentions {word}"


BUGS = mutations.planted()


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_still_fits_the_library(bug):
    ast.parse(bug.written(ROOT))
    assert all((ROOT / "tests" / f"{name}.py").is_file() for name in bug.tests)
    with pytest.raises(SystemExit, match=f"{bug.file} holds 'no such text' 0 times, not once"):
        bug._replace(old="no such text").written(ROOT)


@pytest.mark.parametrize("what", ["file", "tests"])
def test_a_bug_of_one_s_own_that_does_not_fit_is_told_before_any_test_runs(what, monkeypatch):
    monkeypatch.setattr(mutations, "first_failure", lambda *_: pytest.fail("the tests ran"))
    words = {"file": "dnet_lib/nosuch.py", "tests": "test_nosuch"}[what]
    given = {"--file": "dnet_lib/langevin.py", "--replace": "drift * (-step_size / 2)", "--tests": "test_langevin"}
    given |= {f"--{what}": words}
    arguments = [word for name, value in given.items() for word in (name, value, *["0"] * (name == "--replace"))]
    monkeypatch.setattr(sys, "argv", ["mutations.py", *arguments])
    with pytest.raises(SystemExit, match=f"your bug: there is no .*{words}"):
        mutations.main()


def test_the_book_s_table_is_of_these_bugs_and_every_one_was_noticed():
    """By a test that exists; `python tests/mutations.py` writes it."""
    head, *rows = csv.reader(mutations.TABLE.read_text("utf-8").splitlines())
    assert [row[:2] for row in rows] == [[bug.name, bug.room] for bug in BUGS] and len(BUGS) >= 20
    for bug, row in zip(BUGS, rows, strict=True):
        file, test = re.fullmatch(r"(.+?): ([^[]+?)( \[.+\])?", row[head.index("first noticed by")]).groups()[:2]
        assert f"test_{file}" in bug.tests
        tests = (ROOT / "tests" / f"test_{file}.py").read_text("utf-8")
        assert f"def test_{test.replace(' ', '_')}(" in tests, f"{bug.name} was noticed by {test!r}"
