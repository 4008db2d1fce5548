"""The book's Sphinx extension: the repository's one address, k3d's bundle, and a line of run time and launch links.

The address of the repository stands in `[project.urls] Repository` of pyproject.toml and nowhere else; the theme's
buttons, the links under each chapter's title and the check of the chapters' install cells derive from it.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

from docutils import nodes
from jupyter_cache import get_cache
from myst_nb.core.read import create_nb_reader
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

logger = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]


def repository() -> str:
    """The address of the repository, from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return project["urls"]["Repository"].rstrip("/").removesuffix(".git")


def set_repository(app: Sphinx, config: Config) -> None:
    """Give the theme the address, and with it the buttons that need one."""
    config.html_theme_options.update(
        repository_url=repository(),
        use_repository_button=True,
        use_issues_button=True,
        logo={"text": config.html_title, "alt_text": f"{config.html_title}: first page"},
    )


def check_addresses(app: Sphinx, docname: str, source: list[str]) -> None:
    """Warn where a page installs the project from another address than pyproject.toml's."""
    for address in re.findall(r"git\+(https?://[^\s\"'`@#]+)", source[0]):
        if address.rstrip("/").removesuffix(".git") != repository():
            logger.warning("installs from %s, but pyproject.toml says %s", address, repository(), location=docname)


def check_executed(app: Sphinx, docname: str, source: list[str]) -> None:
    """Sphinx runs no chapter: `book/execute.py` has done so, and left the results in the cache that myst-nb reads."""
    settings = app.env.mystnb_config
    reader = create_nb_reader(app.env.doc2path(docname), app.env.myst_config, settings, source[0])
    if reader is not None:
        try:
            get_cache(settings.execution_cache_path).match_cache_notebook(reader.read(source[0]))
        except KeyError:
            raise ExtensionError(f"{docname} as it is now has not been run: `make book` does that") from None


def read_docstring(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Read plain text: aligned columns describe arguments, an indented paragraph is a formula, |Y|^2 is a norm."""
    argument = re.compile(r"(\w+(?:, \w+)*) {2,}(\S.*)")
    read: list[str] = []
    for paragraph in "\n".join(lines).split("\n\n"):
        rows = paragraph.split("\n")
        if all(row.startswith("  ") or not row for row in rows):
            read += [".. code-block:: text", "", *("  " + row for row in rows)]
        elif argument.match(rows[0]):
            for row in map(escape_bars, rows):
                found = argument.match(row)
                read.append(f":param {found[1]}: {found[2]}" if found else "   " + row.strip())
        else:
            read += map(escape_bars, rows)
        read.append("")
    lines[:] = read


def escape_bars(row: str) -> str:
    """Keep |Y| from being read as a reStructuredText substitution, except in `code`."""
    return "".join(part if part.startswith("`") else part.replace("|", "\\|") for part in re.split(r"(`[^`]*`)", row))


def drop_widget_state(app: Sphinx, env: BuildEnvironment) -> None:
    """A page has no kernel, so it does not carry the state of the notebook's widgets either."""
    for data in getattr(env, "nb_metadata", {}).values():
        data.get("js_files", {}).pop("ipywidgets_state", None)


class DropWidgets(SphinxPostTransform):
    """A widget with no HTML of its own (a progress bar, a slider) needs a kernel: on the page it would be its repr."""

    default_priority = 3  # before myst-nb chooses among the forms of an output
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        for bundle in list(self.document.findall(nodes.container)):
            kinds = {form.get("mime_type") for form in bundle.children if isinstance(form, nodes.Element)}
            if "application/vnd.jupyter.widget-view+json" in kinds and "text/html" not in kinds:
                bundle.parent.remove(bundle)


def drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Jupyter Book declares the settings of Thebe, which this book does not use, twice: an error on every page."""
    scripts = context.get("script_files", [])
    context["script_files"] = [script for script in scripts if "thebe" not in f"{script} {script.attributes}".lower()]


def copy_bundle(app: Sphinx, exception: Exception | None) -> None:
    """Put k3d's bundle and the scenes' script beside the pages, once, without a <script> on every page."""
    if exception is not None or app.builder.format != "html":
        return
    import k3d

    from dnet_lib.viz.views import SCENE_JS

    target = Path(app.outdir) / "_static" / "k3d"
    target.mkdir(parents=True, exist_ok=True)
    bundle = Path(k3d.__file__).parent / "static" / "standalone.js"
    for source in (bundle, bundle.with_name("standalone.js.LICENSE.txt"), SCENE_JS):
        shutil.copyfile(source, target / source.name)


class BadgeLine(SphinxPostTransform):
    """Under the title of every page that has run: the measured time of computing, and where to run it."""

    default_priority = 900
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        page = self.env.docname
        measured = getattr(self.env, "nb_metadata", {}).get(page, {}).get("exec_data") or {}
        title = next(self.document.findall(nodes.title), None)
        if not measured.get("runtime") or title is None:
            return
        name = re.sub(r"https?://[^/]+/", "", repository())
        links = {
            "Open in Colab": f"https://colab.research.google.com/github/{name}/blob/main/book/{page}.ipynb",
            "Open in Binder": f"https://mybinder.org/v2/gh/{name}/main?urlpath=lab/tree/book/{page}.ipynb",
        }
        seconds = measured["runtime"]  # what one thread computed, however busy the machine was: see book/execute.py
        time = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} minutes"
        line = nodes.paragraph(classes=["badge-line"])
        line += nodes.inline(text=f"Runs in {time} on one CPU core", classes=["badge"])
        for text, address in links.items():
            line += nodes.reference("", "", nodes.inline(text=text), refuri=address, classes=["badge"], internal=False)
        title.parent.insert(title.parent.index(title) + 1, line)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", set_repository, priority=100)
    app.connect("source-read", check_addresses)
    app.connect("source-read", check_executed, priority=900)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("env-updated", drop_widget_state)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("build-finished", copy_bundle)
    app.add_post_transform(BadgeLine)
    app.add_post_transform(DropWidgets)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
