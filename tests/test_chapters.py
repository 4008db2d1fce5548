"""The chapters as regression tests: as Colab would run them, against stored numbers, and against stored text."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))
PAGES = sorted((ROOT / "book").glob("*.md"))
REFERENCES = ROOT / "tests" / "chapters" / "reference"
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
def wheel_only(tmp_path_factory):
    """An environment in which `dnet_lib` comes from the built wheel alone, and an empty folder."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    site, empty = folder / "site", folder / "empty"
    empty.mkdir()
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    env = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", "import dnet_lib; print(dnet_lib.__file__)"]
    where = subprocess.run(command, env=env, cwd=empty, capture_output=True, text=True)
    assert where.stdout.startswith(str(site)), where
    return site, empty


@pytest.mark.slow
@pytest.mark.chapters
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda c: c.stem)
def test_chapter_from_the_wheel_in_an_empty_folder(chapter, wheel_only, tmp_path, monkeypatch):
    site, empty = wheel_only
    monkeypatch.setenv("PYTHONPATH", str(site))
    alone = empty / chapter.name
    alone.write_text(chapter.read_text())
    run = papermill.execute_notebook(alone, tmp_path / chapter.name, {"scale": "smoke"}, cwd=empty, progress_bar=False)
    found, expected = key_numbers(run), EXPECTED[chapter.stem]
    assert found.keys() == expected.keys()
    for name, (value, tolerance) in expected.items():
        assert found[name] == pytest.approx(value, rel=tolerance, abs=1e-9), name


@pytest.mark.slow
@pytest.mark.chapters
def test_text_of_the_chapters(tmp_path):
    """nbval runs the references again and compares the cells tagged `nbval-check-output`."""
    compared = [c for p in REFERENCES.glob("*.ipynb") for c in nbformat.read(p, as_version=4).cells if c.get("outputs")]
    assert len(compared) >= len(CHAPTERS), "nothing to compare: nbval would pass vacuously"
    sanitize = ROOT / "tests" / "chapters" / "sanitize.cfg"
    options = ["--nbval-lax", "--nbval-sanitize-with", sanitize, "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, REFERENCES], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
