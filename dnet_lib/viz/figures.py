"""Figures with a text for readers who cannot see them."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dnet_lib.viz.shown import MimeBundle, data_uri, figure_png, mime_bundle

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure


@dataclass(frozen=True, repr=False)
class Picture:
    """A finished figure with the text that a reader who cannot see it gets instead."""

    content: bytes
    alt: str
    width: int

    def __repr__(self) -> str:
        return self.alt

    def html(self) -> str:
        """The picture as part of a page."""
        return (
            f'<img class="dnet-figure dark-light" alt="{html.escape(self.alt)}" src="{data_uri(self.content)}" style="'
            f'display:block;width:{self.width}px;max-width:100%;height:auto;margin:.8em auto;border-radius:10px">'
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> MimeBundle:
        return mime_bundle(None, self.html(), self.content, self.alt, kwargs)


def figure(fig: MatplotlibFigure, alt: str) -> Picture:
    """Finish a matplotlib figure: its picture with `alt`, the text that says what it shows."""
    if not alt.strip():
        raise ValueError("a figure needs an alt text: say what it shows")
    return Picture(finish(fig), alt, round(fig.get_figwidth() * 100))


def finish(fig: MatplotlibFigure) -> bytes:
    """The figure's PNG; pyplot forgets the figure, so that a notebook does not draw it a second time."""
    from matplotlib import pyplot

    content = figure_png(fig)
    pyplot.close(fig)
    return content
