"""`make book` runs each chapter once: what is reused and what is not, after a failure, an interruption, a kill."""

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from problems import is_gone, until

ROOT = Path(__file__).parent.parent
pytest.importorskip("jupyter_cache", reason="the book's requirements are not installed")
sys.path[:0] = [str(ROOT / "book"), str(ROOT / "book" / "_ext")]
import dnet_book  # noqa: E402
import execute  # noqa: E402
from myst_nb.core.config import NbParserConfig  # noqa: E402
from myst_nb.core.read import MdParserConfig, read_myst_markdown_notebook  # noqa: E402

HEAD = """---
jupytext:
  text_representation:
    format_name: myst
kernelspec:
  display_name: Python 3
  name: python3
---

# A chapter
"""


@dataclass
class Book:
    """A tiny book in a folder of its own; every run of a cell leaves a line in `log`."""

    folder: Path

    @property
    def places(self) -> tuple[Path, Path, Path, Path]:
        return tuple(self.folder / name for name in ("book", "library", "results", "cache"))

    def write(self, name: str, *cells: str) -> None:
        log = f"open({str(self.folder / 'log')!r}, 'a').write('{name} ')"
        cells = (log, *cells)
        text = HEAD + "".join(f"\n```{{code-cell}} ipython3\n:tags: [a-tag]\n\n{cell}\n```\n" for cell in cells)
        (self.folder / "book" / f"{name}.md").write_text(text)

    def execute(self) -> list[str]:
        return execute.execute(*self.places)

    def start(self) -> subprocess.Popen:
        """The same in a process of its own, which hears Ctrl-C even where the tests run in the background."""
        paths = ", ".join(f"Path({str(place)!r})" for place in self.places)
        code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        code += f"from pathlib import Path; import execute; sys.exit(len(execute.execute({paths})))"
        env = {**os.environ, "PYTHONPATH": str(ROOT / "book")}
        return subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, text=True)

    def runs(self) -> list[str]:
        log = self.folder / "log"
        return sorted(log.read_text().split()) if log.exists() else []

    def results(self, name: str = "") -> list[Path]:
        return sorted((self.folder / "results").glob(f"{name}*.ipynb"))

    def cached(self, name: str) -> nbformat.NotebookNode:
        """The page's notebook, found as myst-nb finds it."""
        text = (self.folder / "book" / f"{name}.md").read_text()
        notebook = read_myst_markdown_notebook(text, add_source_map=True)
        return execute.get_cache(str(self.folder / "cache")).merge_match_into_notebook(notebook)[1]


@pytest.fixture
def book(tmp_path: Path) -> Book:
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "plain.md").write_text("# A page without code\n")
    (tmp_path / "library" / "results").mkdir(parents=True)
    (tmp_path / "library" / "__init__.py").write_text("number = 1\n")
    (tmp_path / "library" / "results" / "table.json").write_text("[1]")
    return Book(tmp_path)


def texts(notebook: nbformat.NotebookNode) -> str:
    return "".join(o.text for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "stream")


def test_a_finished_chapter_is_reused_until_something_it_depends_on_changes(book: Book, monkeypatch, capsys):
    book.write("one", "import library; print('number', library.number)")
    assert book.execute() == [] and book.runs() == ["one"]
    assert "1 to run" in capsys.readouterr().out
    assert book.execute() == [] and book.runs() == ["one"]
    assert "all are finished" in capsys.readouterr().out
    assert texts(book.cached("one")) == "number 1\n"
    (before,) = book.results("one")

    def runs_again() -> bool:
        seen = len(book.runs())
        assert book.execute() == []
        return len(book.runs()) == seen + 1

    (book.folder / "library" / "__init__.py").write_text("number = 2\n")
    assert runs_again() and texts(book.cached("one")) == "number 2\n"
    (book.folder / "library" / "results" / "table.json").write_text("[2]")
    assert runs_again()
    (book.folder / "library" / "results" / "table.json").rename(book.folder / "library" / "results" / "other.json")
    assert runs_again()
    book.write("one", "print('another text')")
    assert runs_again() and texts(book.cached("one")) == "another text\n"
    for package in ("torch", "numpy"):
        newer = lambda name, package=package: "99" if name == package else importlib.metadata.version(name)  # noqa: E731
        monkeypatch.setattr(execute, "version", newer)
        assert runs_again()
    assert len(book.results()) == execute.KEPT and before not in book.results()


def test_the_page_s_build_finds_every_result_and_runs_nothing(book: Book):
    book.write("one", "print('from one')")
    book.execute()
    settings = NbParserConfig(execution_cache_path=str(book.folder / "cache"))
    env = SimpleNamespace(doc2path=lambda name: f"{name}.md", myst_config=MdParserConfig(), mystnb_config=settings)
    text = (book.folder / "book" / "one.md").read_text()
    dnet_book.check_executed(SimpleNamespace(env=env), "one", [text])
    dnet_book.check_executed(SimpleNamespace(env=env), "plain", ["# A page without code\n"])
    with pytest.raises(dnet_book.ExtensionError, match="one as it is now has not been run"):
        dnet_book.check_executed(SimpleNamespace(env=env), "one", [text.replace("from", "From")])
    (record,) = execute.get_cache(str(book.folder / "cache")).list_cache_records()
    assert 0 < record.data["execution_seconds"] < 120


def test_a_kernel_has_one_thread_runs_beside_its_chapter_and_meets_no_time_limit(book: Book, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    book.write("one", "import os, sys, time; time.sleep(6)", "print(os.environ['OMP_NUM_THREADS'], os.getcwd())")
    assert book.execute() == []
    assert texts(book.cached("one")).split() == ["1", str(book.folder / "book")]
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_no_time_limit_is_left_to_a_default(book: Book, monkeypatch):
    """nbclient waits 60 s for a kernel, and 4 s for the rest of a cell's output before it goes on without."""
    book.write("one", "pass")
    asked = {}

    class Client(execute.NotebookClient):
        def __init__(self, *arguments, **options):
            asked.update(options)
            super().__init__(*arguments, **options)

    monkeypatch.setattr(execute, "NotebookClient", Client)
    assert book.execute() == []
    assert asked["timeout"] is None and asked["startup_timeout"] > 3600 and asked["iopub_timeout"] > 600
    assert asked["raise_on_iopub_timeout"]


def test_a_failed_chapter_is_shown_and_the_others_are_kept(book: Book, capsys):
    book.write("bad", "one = 1", "print('so far')\none / 0")
    book.write("good", "print('fine')")
    book.write("dead", "import os\nos._exit(3)")
    assert sorted(book.execute()) == ["bad", "dead"]
    shown = capsys.readouterr().out
    assert "bad.md, the cell at line 24" in shown and "ZeroDivisionError" in shown and "one / 0" in shown
    assert "dead.md, the cell at line" in shown and "Kernel died" in shown
    assert [path.name.split(".")[0] for path in book.results()] == ["good"]
    assert not (book.folder / "cache").exists()
    book.write("bad", "print('mended')")
    (book.folder / "book" / "dead.md").unlink()
    assert book.execute() == [] and book.runs() == ["bad", "bad", "dead", "good"]
    assert texts(book.cached("bad")) == "mended\n" and texts(book.cached("good")) == "fine\n"
    failing = book.folder / "book" / "bad.md"
    failing.write_text(failing.read_text().replace("print('mended')", "raise ValueError"))
    assert book.start().wait() == 1


def test_a_chapter_that_changes_while_it_runs_is_not_stored(book: Book, capsys):
    change = book.folder / "library" / "__init__.py"
    book.write("one", f"open({str(change)!r}, 'a').write('# another line')")
    assert book.execute() == ["one"] and book.results() == []
    assert "changed while it ran" in capsys.readouterr().out


SLOW = "import os, pathlib, time; pathlib.Path({!r}).write_text(str(os.getpid())); time.sleep(300)"


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_build_that_was_stopped_goes_on_where_it_was(book: Book, way: signal.Signals):
    pid = book.folder / "pid"
    book.write("one", "print('quick')")
    book.write("two", SLOW.format(str(pid)))
    building = book.start()
    assert until(lambda: bool(book.results("one")) and pid.exists() and pid.read_text() != "")
    building.send_signal(way)
    said = building.communicate(timeout=60)[1]
    assert building.returncode != 0 and ("Interrupted" in said) == (way == signal.SIGINT), said
    assert until(lambda: is_gone(int(pid.read_text())), 30), "the kernel outlives the build"
    (result,) = book.results()
    json.loads(result.read_text())
    book.write("two", "print('quick, too')")
    assert book.execute() == [] and book.runs() == ["one", "two", "two"]
    assert texts(book.cached("one")) == "quick\n" and texts(book.cached("two")) == "quick, too\n"


def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path):
    pid = tmp_path / "pid"
    child = f"import execute; execute.stop_with_parent(); {SLOW.format(str(pid))}"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "book")}
    make = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    parent = subprocess.Popen([sys.executable, "-c", make], env=env)
    assert until(lambda: pid.exists() and pid.read_text() != "")
    parent.kill()
    parent.wait()
    assert until(lambda: is_gone(int(pid.read_text())), 30)


def test_the_longest_chapters_begin_first_and_one_that_never_ran_before_them(book: Book):
    for size, name in enumerate("abcd"):
        book.write(name, *["pass"] * size)
    found = execute.chapters(*book.places[:3])
    (book.folder / "results").mkdir()
    for chapter, seconds in zip(found, (5, 50), strict=False):
        notebook = json.dumps({"metadata": {"seconds": seconds}})
        chapter.result.with_name(f"{chapter.path.stem}.0123456789ab.ipynb").write_text(notebook)
    order = sorted(found, key=execute.expected_seconds, reverse=True)
    assert [chapter.path.stem for chapter in order] == ["d", "c", "b", "a"]


def test_as_many_processes_as_this_one_may_use_cores():
    if not hasattr(os, "sched_getaffinity"):
        assert execute.usable_cores() == os.cpu_count()
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert execute.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_the_book_s_chapters_are_those_that_are_paired():
    found = execute.chapters(ROOT / "book", ROOT / "dnet_lib", Path("results"))
    assert {chapter.path.stem for chapter in found} == {path.stem for path in (ROOT / "book").glob("*.ipynb")}
