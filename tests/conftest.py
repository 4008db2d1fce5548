"""What all tests share: one thread, fixed examples, the user's cache out of reach, a browser, all cores."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from problems import seeded

# The tensors here are tiny, so threads only cost time; and with one thread sums have one order, so that "bit-equal"
# does not depend on the machine.
torch.set_num_threads(1)

# The same examples on every run: a red test means a change in the code, never luck.
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=40, database=None)
settings.load_profile("fixed")

ARGUMENTS = [
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
APPLICATIONS = ("Google Chrome.app/Contents/MacOS/Google Chrome", "Chromium.app/Contents/MacOS/Chromium")


# Files whose tests one process runs together, for what they share: the wheel, the browser.
GROUPS = {"test_chapters.py": "chapters", "test_page.py": "browser", "test_live_widgets.py": "browser"}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """With `-n auto` a process for every core that may be used, however many the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadgroup` by `GROUPS`: with pytest 9.2, pytest-xdist 3.8 is blind to its mark (its issue 1386)."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return GROUPS.get(nodeid.partition("::")[0].rpartition("/")[2], nodeid)

    return Groups(config, log) if config.getvalue("dist") == "loadgroup" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where processes share the tests, those marked slow begin: the last one of all must not keep others waiting."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str], None]:
    """Says that something is done; where a second process of the same tests says so, too, it fails."""

    def say(name: str) -> None:
        if "PYTEST_XDIST_WORKER" in os.environ:
            (tmp_path_factory.getbasetemp().parent / name).touch(exist_ok=False)

    return say


@pytest.fixture(autouse=True)
def _same_everywhere(tmp_path_factory, monkeypatch):
    """The same random numbers for every test; the archives of the person who runs it are neither read nor written."""
    torch.manual_seed(0)
    monkeypatch.setenv("DNET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def generator() -> torch.Generator:
    return seeded(20260)


@pytest.fixture(scope="session")
def browser(once) -> Iterator[Any]:
    """One Chromium for all tests, a `playwright.sync_api.Browser`."""
    once("browser")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    places = [os.environ.get("DNET_BROWSER"), *map(shutil.which, BROWSERS)]
    places += [str(path) for name in APPLICATIONS if (path := Path("/Applications") / name).exists()]
    found = next((place for place in places if place), None)
    with sync_api.sync_playwright() as playwright:
        if found is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("there is no Chrome or Chromium here, nor playwright's own: run `playwright install chromium`")
        instance = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield instance
        instance.close()
