"""The book's panels in JupyterLab, with a kernel behind them, driven in a browser as a reader would."""

import io
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from PIL import Image

from dnet_lib import load_pretrained

pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
pytestmark = [pytest.mark.browser, pytest.mark.slow]
PATIENCE = 90_000  # milliseconds
TOKEN = "reader"

RECOVERY = """
import torch
from dnet_lib import load_pretrained, load_shapes
from dnet_lib.widgets import RecoveryPanel
truth = load_shapes("furniture", "sofa", "test").voxels[:2]
panel = RecoveryPanel(load_pretrained("recovery/sofa"), truth)
panel
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """Address and folder of a JupyterLab that knows nothing of its user's settings."""
    home = tmp_path_factory.mktemp("lab")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1"]
    command += [f"--IdentityProvider.token={TOKEN}", "--LabApp.extension_manager=readonly", f"--notebook-dir={home}"]
    log = (home / "server.log").open("wb")
    with subprocess.Popen(command, cwd=home, env=os.environ | places, stdout=log, stderr=log) as server:
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(300):
                try:
                    urllib.request.urlopen(f"{address}/api/status?token={TOKEN}", timeout=5).close()
                    break
                except OSError:
                    assert server.poll() is None, (home / "server.log").read_text()
                    time.sleep(0.2)
            yield address, home
        finally:
            server.terminate()
            server.wait(30)
            log.close()


def open_panel(browser: Any, lab: tuple[str, Path], code: str, *, width: int = 1280) -> Any:
    """A page of JupyterLab whose only cell has run and shows what it returned."""
    address, home = lab
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code.strip())])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, home / "panel.ipynb")
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}/doc/tree/panel.ipynb?token={TOKEN}&reset")
    page.locator(".jp-Cell-inputArea .cm-content").first.click()
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(state="attached")
    page.keyboard.press("Shift+Enter")
    page.locator(".jp-OutputArea-output .widget-button").first.wait_for()
    return page


def picture(element: Any) -> np.ndarray:
    """What an element looks like, (height, width, 3)."""
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB")).astype(int)


def settled(element: Any) -> np.ndarray:
    """The picture of an element once it no longer changes, and is not of one colour."""
    before = picture(element)
    for _ in range(60):
        time.sleep(1)
        now = picture(element)
        if now.shape == before.shape and (now == before).all() and now.std() > 5:
            return now
        before = now
    raise AssertionError("the view is empty, or never came to rest")


def press(page: Any, name: str) -> Any:
    """Press a panel's button, wait for its chain's end, and return the one view that then stands."""
    button, old = page.get_by_role("button", name=name), page.locator(".k3d-target").element_handle()
    button.click()
    page.wait_for_function("view => !view.isConnected", arg=old)
    page.locator(".k3d-target canvas").first.wait_for()
    page.wait_for_function("() => document.querySelector('.progress-bar').style.width === '100%'")
    assert button.is_enabled() and page.locator(".k3d-target").count() == 1
    return page.locator(".k3d-target")


def step(page: Any) -> str:
    """What the chain's slider says."""
    return page.locator(".widget-hslider", has_text="step").locator(".widget-readout").inner_text()


@pytest.mark.parametrize("width", [1280, 700])
def test_the_recovery_panel_hides_recovers_and_plays(browser, lab, width):
    page, steps = open_panel(browser, lab, RECOVERY, width=width), load_pretrained("recovery/sofa").settings.num_steps
    whole = settled(page.locator(".k3d-target"))
    page.get_by_label("hide").select_option("in one half")
    view = press(page, "recover")
    assert step(page) == "step 0"
    hidden = settled(view)
    page.locator(".widget-play button").first.click()
    page.wait_for_function("last => document.body.innerText.includes(last)", arg=f"step {steps}")
    half = settled(view)
    page.get_by_label("hide").select_option("anywhere")
    page.locator(".widget-hslider", has_text="share").locator(".noUi-handle").press("ArrowRight")
    again = settled(press(page, "recover"))
    for one, other in ((whole, hidden), (hidden, half), (hidden, again)):
        assert one.shape != other.shape or np.abs(one - other).mean() > 0.5
    sizes = [page.locator(selector).bounding_box() for selector in (".k3d-target", ".jp-OutputArea-output")]
    assert sizes[0]["width"] <= sizes[1]["width"] + 1 and sizes[0]["height"] > 300
    page.close()
