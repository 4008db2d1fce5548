"""Pair the chapters: fill in what derives from the repository's address, and write the .ipynb that Colab opens.

The address stands in one place, `[project.urls] Repository` of pyproject.toml. From it come each chapter's badge line
and its (hidden) install cell. `python book/pair.py` writes, `python book/pair.py --check` only tells what would change.
"""

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path

import jupytext

BOOK = Path(__file__).parent
CHAPTERS = sorted(BOOK.glob("[0-9][0-9]_*.md"))
RUN_TIMES = BOOK / "run_times.json"

SETUP = """\
# On Colab this installs the library; elsewhere it does nothing.
import importlib.util

if importlib.util.find_spec("dnet_lib") is None:
    %pip install --quiet "dnet-lib @ git+{repository}"
"""


def repository() -> str:
    """The project's public address."""
    return tomllib.loads((BOOK.parent / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def filled(chapter: Path) -> str:
    """The chapter's text with its badge line and its install cell derived from the address."""
    text, owner = chapter.read_text(), repository().removeprefix("https://github.com/")
    seconds = json.loads(RUN_TIMES.read_text()).get(chapter.stem) if RUN_TIMES.exists() else None
    notebook = f"book/{chapter.stem}.ipynb"
    colab = f"https://colab.research.google.com/github/{owner}/blob/main/{notebook}"
    binder = f"https://mybinder.org/v2/gh/{owner}/main?urlpath=lab/tree/{notebook}"
    badges = f"[Open in Colab]({colab}) · [Open in Binder]({binder})"
    if seconds is not None:
        badges += f" · about {seconds} s on 2 cores" if seconds < 100 else f" · about {seconds / 60:.0f} minutes on 2 cores"
    text, badge_lines = re.subn(r"^(?:% badges|<!-- badges -->\n.*)$", f"<!-- badges -->\n{badges}", text, flags=re.M)
    cell = re.compile(r"(^```\{code-cell\} ipython3\n(?::tags: \[[^\]]*\bsetup\b[^\]]*\]|---\ntags: \[[^\]]*\bsetup\b[^\]]*\]\n---)\n)(.*?)(^```$)", re.M | re.S)
    text, cells = cell.subn(lambda m: m[1] + "\n" + SETUP.format(repository=repository()) + m[3], text)
    if badge_lines != 1 or cells != 1:
        sys.exit(f"{chapter.name} needs one `% badges` line and one cell tagged `setup`, not {badge_lines} and {cells}")
    return text


def notebook(chapter: Path, text: str) -> str:
    """The paired .ipynb: no outputs, and cell ids that do not change from run to run."""
    paired = jupytext.reads(text, fmt="md:myst")
    for number, cell in enumerate(paired.cells):
        cell["id"] = f"{chapter.stem[:2]}-{number:03d}"
    return jupytext.writes(paired, fmt="ipynb") + "\n"


def main() -> None:
    """Write, or with --check compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a file would change")
    check = parser.parse_args().check
    stale = []
    for chapter in CHAPTERS:
        text = filled(chapter)
        for path, new in ((chapter, text), (chapter.with_suffix(".ipynb"), notebook(chapter, text))):
            if not path.exists() or path.read_text() != new:
                stale.append(path.name)
                if not check:
                    path.write_text(new)
    if stale:
        print(("out of step: " if check else "written: ") + ", ".join(stale))
    if stale and check:
        sys.exit("run `make notebooks`")


if __name__ == "__main__":
    main()
