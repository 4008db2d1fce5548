"""Pair the chapters: fill in their install cell, and write the .ipynb that Colab opens.

The project's address stands in one place, `[project.urls] Repository` of pyproject.toml: the install cell derives from
it here, the page's buttons and badges do when the page is built. `python book/pair.py` writes, `--check` only compares.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path

import jupytext

BOOK = Path(__file__).parent
CHAPTERS = sorted(path for path in BOOK.glob("*.md") if path.read_text().startswith("---\njupytext:"))

TAGS = r"(?::tags: \[[^\]]*\bsetup\b[^\]]*\]|---\ntags: \[[^\]]*\bsetup\b[^\]]*\]\n---)"
SETUP_CELL = re.compile(rf"(^```\{{code-cell\}} ipython3\n{TAGS}\n)(.*?)(^```$)", re.MULTILINE | re.DOTALL)
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
    """The chapter's text with its (hidden) install cell derived from the address."""
    text = chapter.read_text()
    text, cells = SETUP_CELL.subn(lambda m: m[1] + "\n" + SETUP.format(repository=repository()) + m[3], text)
    if cells != 1:
        sys.exit(f"{chapter.name} needs one cell tagged `setup`, not {cells}")
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
