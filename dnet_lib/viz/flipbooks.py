"""Flip-books: a picture for every combination of some controls' values, which the reader changes without a kernel."""

from __future__ import annotations

import html
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnet_lib.viz.figures import Picture, data_uri, figure
from dnet_lib.viz.style import BLUE, INK, PAPER

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLIPBOOK_JS = Path(__file__).with_name("flipbook.js")
PLAY = (
    '<button type="button" aria-label="Play" style="width:30px;height:30px;border:0;border-radius:50%;'
    f'padding:0;background:{BLUE};color:#fff;font-size:12px;cursor:pointer">&#9654;</button>'
)


def frames(figures: Iterable[Figure], labels: Sequence[object], alt: str, *, name: str = "step") -> Picture:
    """A film of figures, one for each of `labels`, which the reader scrubs and plays on the static page.

    Give every figure the same size and the same axis limits. A generator is welcome: each figure is closed in turn.
    """
    pictures = iter(figures)
    book = flipbook(lambda _: next(pictures, None), {name: labels}, alt, play=name)
    if next(pictures, None) is not None:
        raise ValueError(f"there are more figures than the {len(labels)} labels")
    return book


def flipbook(
    draw: Callable[..., Figure | None],
    controls: Mapping[str, Sequence[object]],
    alt: str,
    *,
    play: str | None = None,
    live: Any = None,
) -> Picture:
    """Every combination of the controls' values as a picture: a panel that needs no kernel.

    draw      makes the figure for one value of each control, in their order; all figures must have one size
    controls  name and values of each control: a slider for three or more numbers, else a menu
    alt       what a reader who cannot see the figures should know; the chosen values are added to it
    play      the control that a play button runs through
    live      a widget that takes the panel's place where there is a kernel

    Raises `ValueError` for a control without values, figures of different sizes, too few figures, or no alt text.
    """
    if not alt.strip():
        raise ValueError("a flip-book needs an alt text: say what it shows")
    if not controls or not all(len(values) for values in controls.values()):
        raise ValueError("a flip-book needs at least one control, and every control at least one value")
    if play is not None and play not in controls:
        raise ValueError(f"there is no control {play!r} to play; the controls are {', '.join(controls)}")
    pictures: list[bytes] = []
    sizes = set()
    for values in itertools.product(*controls.values()):
        fig = draw(*values)
        if fig is None:
            raise ValueError(f"there are only {len(pictures)} figures for the labels")
        sizes.add(tuple(fig.get_size_inches().round(3)))
        pictures.append(figure(fig, alt).content)
    if len(sizes) > 1:
        raise ValueError(f"all figures of a flip-book must have one size, not {sorted(sizes)} inches")
    bar = "".join(_control(name, values, name == play) for name, values in controls.items())
    page = _page(pictures, alt, (PLAY if play else "") + bar, width=round(100 * sizes.pop()[0]))
    return Picture(pictures[0], alt, page, live)


def _page(pictures: Sequence[bytes], alt: str, bar: str, width: int) -> str:
    """The flip-book as part of a page, with nothing outside it; any number of them may share the page."""
    return (
        f'<div class="dnet-flipbook" style="width:{width}px;max-width:100%;margin:.8em auto;overflow:hidden;'
        f'border-radius:10px;background:{PAPER};color:{INK};color-scheme:light;font:14px/1.3 system-ui,sans-serif">'
        f'<img class="dark-light" alt="{html.escape(alt)}" src="{data_uri(pictures[0])}" '
        'style="display:block;width:100%;height:auto;margin:0">'
        f'<div style="display:flex;flex-wrap:wrap;gap:.4em 1.4em;align-items:center;padding:.2em 1em .8em">{bar}</div>'
        f'<script type="application/json">{json.dumps([data_uri(picture) for picture in pictures])}</script>'
        f"<script>{FLIPBOOK_JS.read_text('utf-8')}</script></div>"
    )


def _control(name: str, values: Sequence[object], play: bool) -> str:
    """A slider for the control that plays and for three or more numbers, else a menu."""
    texts = [_text(value) for value in values]
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    about = f'data-control="{html.escape(name)}" data-texts="{html.escape(json.dumps(texts))}"'
    if play or len(numbers) == len(values) > 2:
        about += " data-play" if play else ""
        wide, grow = 0.6 * max(map(len, texts)), "1 1 14em"
        field = (
            f'<input type="range" {about} min="0" max="{len(texts) - 1}" value="0" step="1" '
            f'style="flex:1;min-width:5em;accent-color:{BLUE}">'
            f'<output style="min-width:{wide:.1f}em">{html.escape(texts[0])}</output>'
        )
    else:
        options = "".join(f'<option value="{i}">{html.escape(text)}</option>' for i, text in enumerate(texts))
        field, grow = f'<select {about} style="font:inherit;padding:.15em .3em">{options}</select>', "0 1 auto"
    style = f"display:flex;gap:.6em;align-items:center;margin:0;flex:{grow}"
    return f'<label style="{style}">{html.escape(name)} {field}</label>'


def _text(value: object) -> str:
    """A control's value as the reader sees it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
