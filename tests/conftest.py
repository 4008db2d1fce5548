"""What all tests share: one thread, fixed examples, the user's cache out of reach, one browser."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

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


@pytest.fixture(autouse=True)
def _same_everywhere(tmp_path_factory, monkeypatch):
    """The same random numbers for every test; the archives of the person who runs it are neither read nor written."""
    torch.manual_seed(0)
    monkeypatch.setenv("DNET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20260)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One Chromium for all tests, a `playwright.sync_api.Browser`."""
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
