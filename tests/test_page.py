"""The built page in a browser: every shape draws, every chain plays, every flip-book turns; light, dark, on a phone.

The page is taken from the environment variable DNET_PAGE, else from `_build/html`, where `make book` leaves it; the
browser is DNET_BROWSER, else any Chrome or Chromium of this machine, else playwright's own.
"""

from __future__ import annotations

import base64
import functools
import http.server
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from PIL import Image
from problems import until

if TYPE_CHECKING:
    from playwright import sync_api
else:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ROOT = Path(os.environ.get("DNET_PAGE", Path(__file__).parents[1] / "_build" / "html")).resolve()
PAGES = sorted(path.name for path in ROOT.glob("*.html") if path.name != "index.html") or ["intro.html"]
PATIENCE = 120_000  # milliseconds: software WebGL on two busy cores is slow
pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where the page is served."""
    if not (ROOT / "index.html").is_file():
        pytest.skip(f"there is no built page at {ROOT}: run `make book` first")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(ROOT)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


class Visit:
    """A page opened in one theme and size, with the errors of its console."""

    def __init__(self, browser: sync_api.Browser, address: str, *, theme: str, width: int) -> None:
        self.errors: list[str] = []
        self.address = address
        self.context = browser.new_context(viewport={"width": width, "height": 800})
        self.context.add_init_script(f"localStorage.setItem('mode', '{theme}')")
        self.context.route(lambda url: not url.startswith((address, "data:", "blob:")), self._answer)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda entry: self.errors.append(entry.text) if entry.type == "error" else None)

    @staticmethod
    def _answer(route: sync_api.Route) -> None:
        """Nothing outside the page is asked for: MathJax and fonts come from elsewhere and are not what is tested."""
        kinds = {"script": "text/javascript", "stylesheet": "text/css"}
        route.fulfill(status=200, body="", content_type=kinds.get(route.request.resource_type, "text/plain"))

    def open(self, name: str) -> sync_api.Page:
        self.errors.clear()
        self.page.goto(self.address + name)
        return self.page

    def scenes(self) -> list[View]:
        return [View(element) for element in self.page.locator(".dnet-scene iframe").all()]


class View:
    """One 3-D view of a page."""

    def __init__(self, element: sync_api.Locator) -> None:
        self.element = element
        frame = element.element_handle().content_frame()
        assert frame is not None
        self.frame = frame

    def wait(self, state: Literal["attached", "detached"] = "attached") -> None:
        self.frame.wait_for_selector("body[data-ready]", state=state, timeout=PATIENCE)

    def enter(self) -> None:
        self.element.scroll_into_view_if_needed()
        self.wait()

    def pixels(self) -> np.ndarray:
        """What WebGL has drawn, RGBA; where it drew nothing it is transparent."""
        uri = self.frame.evaluate("document.querySelector('canvas').toDataURL()")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGBA"))

    def changes(self, before: np.ndarray) -> bool:
        return until(lambda: (now := self.pixels()).shape == before.shape and bool((now != before).any()))

    def place(self) -> int:
        return int(self.frame.locator("input[type=range]").input_value())


@pytest.fixture(scope="module")
def light(browser: sync_api.Browser, address: str) -> Iterator[Visit]:
    visit = Visit(browser, address, theme="light", width=1280)
    yield visit
    visit.context.close()


@pytest.fixture(scope="module")
def dark_phone(browser: sync_api.Browser, address: str) -> Iterator[Visit]:
    visit = Visit(browser, address, theme="dark", width=390)
    yield visit
    visit.context.close()


@pytest.mark.parametrize("name", PAGES)
def test_everything_on_the_page_is_alive(light: Visit, name: str):
    page = light.open(name)
    for image in page.locator("img").all():
        assert image.get_attribute("alt"), f"no alt text: {(image.get_attribute('src') or '')[:80]}"
    for view in light.scenes():
        view.enter()
        before = view.pixels()
        assert (before[..., 3] > 0).mean() > 0.002, "an empty canvas"
        view.frame.locator("#view").press("ArrowRight")
        assert view.changes(before), "the arrow keys do not turn it"
        if view.frame.locator("input[type=range]").count():
            check_chain(view)
    for book in page.locator(".dnet-flipbook").all():
        check_flipbook(book)
    assert light.errors == []


def check_chain(view: View) -> None:
    """The slider moves the chain to its last step; the play button runs from the first one again."""
    slider, button = view.frame.locator("input[type=range]"), view.frame.locator("button")
    last = int(slider.get_attribute("max") or 0)
    before = view.pixels()
    slider.fill(str(last))
    assert view.changes(before), "the slider does not move the chain"
    assert slider.get_attribute("aria-valuetext") == view.frame.locator("output").inner_text()
    button.click()
    assert button.get_attribute("aria-label") == "Pause"
    assert until(lambda: 0 < view.place() <= last), "the play button does not play"
    pause(button)


def check_flipbook(book: sync_api.Locator) -> None:
    """Every control alone changes the picture and its alt text, at the film's end; the play button moves its slider."""
    image = book.locator("img")

    def turn(control: sync_api.Locator, last: bool) -> None:
        if control.evaluate("node => node.tagName") == "SELECT":
            control.select_option(index=control.locator("option").count() - 1 if last else 0)
        else:
            control.fill(control.get_attribute("max") or "" if last else "0")

    film = book.locator("[data-control][data-play]").all()
    for control in [*film, *book.locator("[data-control]:not([data-play])").all()]:
        before, alt = image.get_attribute("src"), image.get_attribute("alt")
        turn(control, last=True)
        assert image.get_attribute("src") != before, f"{control.get_attribute('data-control')} changes nothing"
        assert image.get_attribute("alt") != alt
        if control not in film:
            turn(control, last=False)
    if book.locator("button").count():
        before = image.get_attribute("src")
        book.locator("button").click()
        assert until(lambda: image.get_attribute("src") != before), "the play button does not play"
        pause(book.locator("button"))


def pause(button: sync_api.Locator) -> None:
    """Press pause, unless the film has come to its end in the meantime."""
    button.evaluate("node => { if (node.getAttribute('aria-label') === 'Pause') node.click(); }")
    assert button.get_attribute("aria-label") == "Play"


@pytest.mark.parametrize("name", PAGES)
def test_in_the_dark_and_on_a_phone_nothing_overflows_or_glares(dark_phone: Visit, name: str):
    page = dark_phone.open(name)
    views = dark_phone.scenes()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for box in page.locator(".dnet-scene, .dnet-flipbook, .dnet-figure").all():
        place = box.bounding_box()
        assert place is None or (place["x"] >= 0 and place["x"] + place["width"] <= 390)
    for box in page.locator(".dnet-scene").all():
        colour = box.evaluate("node => getComputedStyle(node).backgroundColor")
        red, green, blue = (int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))  # no alpha
        assert max(red, green, blue) < 100
    for view in views[:1]:
        view.enter()
        assert (view.pixels()[..., 3] > 0).mean() > 0.002
        picture = page.locator(".dnet-scene img").first.bounding_box()
        drawing = view.frame.locator("#view").bounding_box()
        assert picture["y"] + picture["height"] <= drawing["y"] + drawing["height"] + 1  # not behind the slider
    assert dark_phone.errors == []


def page_with(text: str) -> str:
    """The first page that contains a text."""
    for name in PAGES:
        if text in (ROOT / name).read_text("utf-8"):
            return name
    return pytest.skip(f"no page contains {text!r}")


def test_a_view_off_the_screen_gives_its_context_back_and_returns_to_its_step(light: Visit):
    page = light.open(page_with("&quot;steps&quot;: ["))
    view = next(view for view in light.scenes() if view.frame.locator("input[type=range]").count())
    view.enter()
    before = view.pixels()
    view.frame.locator("input[type=range]").fill("2")
    assert view.changes(before)
    page.evaluate("document.body.style.paddingTop = '3000px'; scrollTo(0, 0)")
    view.wait(state="detached")
    assert view.frame.locator("canvas").count() == 0
    view.enter()
    assert view.place() == 2
    again = view.pixels()
    assert (again[..., 3] > 0).any()
    assert (again != before).any()


def test_the_wheel_over_a_view_scrolls_the_page(light: Visit):
    page = light.open(page_with("dnet-scene"))
    view = light.scenes()[0]
    view.enter()
    box = view.element.bounding_box()
    assert box is not None
    before = page.evaluate("scrollY")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, 120)
    assert until(lambda: page.evaluate("scrollY") > before, seconds=20)
