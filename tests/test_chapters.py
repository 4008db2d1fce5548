"""The chapters as regression tests: as Colab would run them, against stored numbers, and against stored text."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from nbval.plugin import coalesce_streams, get_sanitize_patterns

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
PAGES = sorted((ROOT / "book").glob("*.md"))
REFERENCES = ROOT / "tests" / "chapters" / "reference"
SANITIZER = ROOT / "tests" / "chapters" / "sanitize.cfg"
SANITIZE = get_sanitize_patterns(SANITIZER.read_text())
EXPECTED = json.loads((ROOT / "tests" / "chapters" / "expected.json").read_text())

sys.path.insert(0, str(ROOT / "tests" / "chapters"))
from make_references import key_numbers  # noqa: E402


def code(path: Path) -> list[str]:
    """The code cells of a notebook, without what papermill injects."""
    cells = nbformat.read(path, as_version=4).cells
    return [
        c.source for c in cells if c.cell_type == "code" and "injected-parameters" not in c.metadata.get("tags", [])
    ]


def test_pages_notebooks_and_buttons_are_in_step():
    subprocess.run([sys.executable, ROOT / "book" / "pair.py", "--check"], check=True)


def test_every_chapter_has_a_reference():
    names = {c.name for c in CHAPTERS}
    assert len(names) >= 5
    assert {p.name for p in REFERENCES.glob("*.ipynb")} == names
    assert set(EXPECTED) == {c.stem for c in CHAPTERS}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_reference_is_of_this_chapter(chapter):
    assert code(chapter) == code(REFERENCES / chapter.name), "run `make references` and read what changed"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_chapters_teach_with_the_library_and_leave_reproduce_to_the_command_line(page):
    """Neither cells nor solutions import it."""
    text = page.read_text()
    assert not re.search(r"(from|import)\s+dnet_lib\.reproduce", text)
    for names in re.findall(r"from dnet_lib import (\([^)]*\)|.*)", text):
        assert not re.search(r"\breproduce\b", names)


@pytest.fixture(scope="session")
def site(tmp_path_factory, once):
    """A folder with `dnet_lib` from the built wheel and nothing else."""
    once("wheel")
    folder = tmp_path_factory.mktemp("wheel")
    source, site = folder / "source", folder / "site"
    for name in ("dnet_lib", "data_prep"):  # a copy: setuptools would build among the sources, and keep what it built
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    command = [sys.executable, "-c", "import dnet_lib; print(dnet_lib.__file__)"]
    env = {**os.environ, "PYTHONPATH": str(site)}
    where = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
    assert where.stdout.startswith(str(site)), where
    return site


def compared(notebook: nbformat.NotebookNode) -> list[tuple[str, dict]]:
    """What nbval compares: of each cell tagged `nbval-check-output` its streams and results, by kind and sanitized."""
    cells = [c for c in notebook.cells if "nbval-check-output" in c.metadata.get("tags", [])]
    return [(cell.source, shown(cell.outputs)) for cell in cells]


def shown(outputs: list[nbformat.NotebookNode]) -> dict[str, list]:
    """All values of each kind in their order; pictures and widgets, which differ from run to run, are left out."""
    found: dict[str, list] = {}
    for output in coalesce_streams(copy.deepcopy(outputs)):
        for kind, value in output.get("data", {output.get("name"): output.get("text")}).items():
            if kind in ("image/png", "image/jpeg", "application/vnd.jupyter.widget-view+json"):
                continue
            for pattern, replacement in SANITIZE if isinstance(value, str) else ():
                value = re.sub(pattern, replacement, value)
            found.setdefault(kind, []).append(value)
    return found


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_a_reference_has_text_to_compare(chapter):
    """In every cell that is to be compared, and in at least one: otherwise the comparison could not fail."""
    found = compared(nbformat.read(REFERENCES / chapter.name, as_version=4))
    assert found and all("".join(shown.get("stdout", [])).strip() for _, shown in found)


def test_the_comparison_is_nbvals():
    """Chunks of a stream are one; addresses, pictures and widgets do not count; all else does."""
    output = nbformat.v4.new_output
    first = [output("stream", text="<A at 0x7f"), output("stream", text="01>\n")]
    data = {"text/plain": "1", "image/png": "abc", "application/vnd.jupyter.widget-view+json": {"model_id": "9f"}}
    result = output("execute_result", data)
    assert shown([*first, result]) == shown([output("stream", text="<A at 0x12>\n"), result])
    assert shown([result]) == {"text/plain": ["1"]}
    for other in ([result], [*first, result, result], [output("stream", text="<B at 0x7f>\n"), result], []):
        assert shown(other) != shown([*first, result])
    assert shown([output("stream", name="stderr", text="a")]) != shown([output("stream", text="a")])


@pytest.mark.slow
@pytest.mark.chapters
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_a_chapter_from_the_wheel_in_an_empty_folder(chapter, site, tmp_path, monkeypatch):
    """As Colab would run it, without the sources: its key numbers, and the text that its reference holds."""
    monkeypatch.setenv("PYTHONPATH", str(site))
    empty = tmp_path / "empty"
    empty.mkdir()
    done = tmp_path / chapter.name
    run = papermill.execute_notebook(chapter, done, {"scale": "smoke"}, cwd=empty, progress_bar=False)
    found, expected = key_numbers(run), EXPECTED[chapter.stem]
    assert found.keys() == expected.keys()
    for name, (value, tolerance) in expected.items():
        assert found[name] == pytest.approx(value, rel=tolerance, abs=1e-9), name
    assert compared(run) == compared(nbformat.read(REFERENCES / chapter.name, as_version=4))


@pytest.mark.slow
@pytest.mark.chapters
def test_nbval_runs_a_reference(tmp_path):
    """`pytest --nbval-lax tests/chapters/reference`, on one chapter and on a text gone wrong."""
    wrong = nbformat.v4.new_code_cell("print('one')", execution_count=1, metadata={"tags": ["nbval-check-output"]})
    wrong.outputs = [nbformat.v4.new_output("stream", text="two\n")]
    nbformat.write(nbformat.v4.new_notebook(cells=[wrong]), tmp_path / "wrong.ipynb")
    reference = REFERENCES / "01_shapes_as_voxels.ipynb"
    cells = [c for c in nbformat.read(reference, as_version=4).cells if c.cell_type == "code"]
    options = ["--nbval-lax", "--nbval-sanitize-with", SANITIZER, "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", *options, reference, tmp_path / "wrong.ipynb"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert f"1 failed, {len(cells)} passed" in run.stdout, run.stdout[-6000:] + run.stderr[-2000:]
    assert "+ two" in run.stdout
