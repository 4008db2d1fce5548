"""The book's panels in JupyterLab, with a kernel behind them, driven in a browser as a reader would."""

import io
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from PIL import Image

from dnet_lib import load_pretrained
from dnet_lib.viz import WIDTH

pytest.importorskip("jupyterlab", reason="JupyterLab is not installed")
pytestmark = [pytest.mark.browser, pytest.mark.slow]
PATIENCE = 90_000  # milliseconds
TOKEN = "reader"

RECOVERY = """
import torch
from dnet_lib import load_pretrained, load_shapes
from dnet_lib.viz.panels import RecoveryPanel
truth = load_shapes("furniture", "sofa", "test").voxels[:2]
panel = RecoveryPanel(load_pretrained("recovery/sofa"), truth)
panel
"""
LATENT = """
import torch
from dnet_lib.generator import GeneratorNet, Layout, latents
from dnet_lib.viz.panels import LatentPanel
seeded = torch.Generator().manual_seed(0)
net = GeneratorNet(Layout(16, 8, (16, 8), (1, 2, 2), batch_norm=False), generator=seeded).requires_grad_(False)
LatentPanel(net, latents(net, 2, seeded), {"part": 3 * torch.eye(8)[0]})
"""

RECORD = """button => {
    const bar = document.querySelector('.progress-bar'), last = (list, x) => list.at(-1) === x || list.push(x);
    window.pressed = [], window.filled = [];
    new MutationObserver(() => last(pressed, button.disabled)).observe(button, {attributeFilter: ['disabled']});
    new MutationObserver(() => last(filled, parseFloat(bar.style.width))).observe(bar, {attributeFilter: ['style']});
}"""  # keeps what the button and the progress bar went through


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """Address and folder of a JupyterLab that knows nothing of its user's settings."""
    home = tmp_path_factory.mktemp("lab")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    places["IPYTHONDIR"] = str(home / "ipython")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1"]
    command += [f"--IdentityProvider.token={TOKEN}", "--LabApp.extension_manager=readonly", f"--notebook-dir={home}"]
    command += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
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
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
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


def settled(element: Any, *, unlike: np.ndarray | None = None) -> np.ndarray:
    """The picture of an element once it no longer changes, is not of one colour, and not that of before."""
    before = picture(element)
    for _ in range(60):
        time.sleep(1)
        now = picture(element)
        old = unlike is not None and now.shape == unlike.shape and np.abs(now - unlike).mean() < 0.5
        if now.shape == before.shape and (now == before).all() and now.std() > 5 and not old:
            return now
        before = now
    raise AssertionError("the view is empty, or never came to rest, or did not change")


def redrawn(page: Any, act: Callable[[], None]) -> Any:
    """Do something that draws anew, and return the one view that then stands."""
    old = page.locator(".k3d-target").element_handle()
    act()
    page.wait_for_function("view => !view.isConnected", arg=old)
    page.locator(".k3d-target canvas").first.wait_for()
    assert page.locator(".k3d-target").count() == 1
    return page.locator(".k3d-target")


def recover(page: Any) -> Any:
    """Press the button of a recovery panel, and wait for its chain's end."""
    button = page.get_by_role("button", name="recover")
    button.evaluate(RECORD)
    view = redrawn(page, button.click)
    page.wait_for_function("() => pressed.at(-1) === false && filled.at(-1) === 100")
    assert page.evaluate("pressed") == [True, False], "the button must rest while the chain runs, and wake after it"
    filled = page.evaluate("filled")
    assert filled == sorted(filled), "the progress bar went back"
    return view


def step(page: Any) -> str:
    """What the chain's slider says."""
    return page.locator(".widget-hslider", has_text="step").locator(".widget-readout").inner_text()


@pytest.mark.parametrize("width", [1280, 700])
def test_the_recovery_panel_hides_recovers_and_plays(browser, lab, width):
    page, steps = open_panel(browser, lab, RECOVERY, width=width), load_pretrained("recovery/sofa").settings.num_steps
    whole = settled(page.locator(".k3d-target"))
    page.get_by_label("hide").select_option("in one half")
    view = recover(page)
    assert step(page) == "step 0"
    hidden = settled(view, unlike=whole)
    page.locator(".widget-play button").first.click()
    page.wait_for_function("last => document.body.innerText.includes(last)", arg=f"step {steps}")
    settled(view, unlike=hidden)
    page.get_by_label("hide").select_option("anywhere")
    page.locator(".widget-hslider", has_text="share").locator(".noUi-handle").press("ArrowRight")
    page.get_by_text("75%", exact=True).wait_for()
    settled(recover(page), unlike=hidden)
    assert view.bounding_box()["width"] >= WIDTH - 1  # nothing is cut off: where there is less room, it scrolls
    slider = page.locator(".widget-hslider", has_text="share").locator(".slider-container").bounding_box()
    assert slider["width"] > 60
    page.close()


def test_the_latent_panel_slides_and_draws_other_ends(browser, lab):
    page = open_panel(browser, lab, LATENT)
    view = page.locator(".k3d-target")
    seen = settled(view)
    for name in ("between", "part"):
        page.locator(".widget-hslider", has_text=name).locator(".noUi-handle").press("PageUp")
        seen = settled(view, unlike=seen)
    page.get_by_role("button", name="other ends").click()
    settled(view, unlike=seen)
    page.close()
