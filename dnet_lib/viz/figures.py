"""Finished pictures: a matplotlib figure as a small PNG, and every form of it that a front end may ask for."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDGET = "application/vnd.jupyter.widget-view+json"
MimeBundle = tuple[dict[str, Any], dict[str, Any]]  # data and metadata, as IPython asks for them


@dataclass(frozen=True, repr=False)
class Picture:
    """All forms of something to look at, of which a front end chooses one."""

    content: bytes  # a PNG, with twice the pixels that it takes up
    alt: str  # for a reader who cannot see it
    page: str  # HTML
    live: Any = None  # a widget, where there is a kernel

    def __repr__(self) -> str:
        return self.alt

    def html(self) -> str:
        """The picture as part of a page."""
        return self.page

    def _repr_mimebundle_(self, **kwargs: Any) -> MimeBundle:
        bundle: Any = {}
        if hasattr(self.live, "_repr_mimebundle_"):
            bundle = self.live._repr_mimebundle_(**kwargs)
        elif self.live is not None:  # a widget of ipywidgets 7, which Colab has
            bundle = {WIDGET: {"version_major": 2, "version_minor": 0, "model_id": self.live.model_id}}
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        forms = {"text/html": self.page, "image/png": base64.b64encode(self.content).decode(), "text/plain": self.alt}
        size = {"width": int.from_bytes(self.content[16:20], "big") // 2}
        return {**data, **forms}, {**metadata, "image/png": size}


def figure(fig: Figure, alt: str) -> Picture:
    """Finish a matplotlib figure: its picture with `alt`, the text that says what it shows.

    Pyplot forgets the figure, so that a notebook does not draw it a second time.
    """
    from matplotlib import pyplot

    if not alt.strip():
        raise ValueError("a figure needs an alt text: say what it shows")
    content = figure_png(fig)
    pyplot.close(fig)
    page = (
        f'<img class="dnet-figure dark-light" alt="{html.escape(alt)}" src="{data_uri(content)}" style="display:block;'
        f'width:{round(fig.get_figwidth() * 100)}px;max-width:100%;height:auto;margin:.8em auto;border-radius:10px">'
    )
    return Picture(content, alt, page)


def figure_png(fig: Figure, colours: int = 128, *, transparent: bool = False) -> bytes:
    """A matplotlib figure as a PNG with a palette."""
    out = io.BytesIO()
    fig.savefig(out, format="png", transparent=transparent)
    return small_png(Image.open(out).convert("RGBA" if transparent else "RGB"), colours)


def small_png(image: Image.Image, colours: int) -> bytes:
    """A PNG with a palette, a third of the size of the usual one."""
    out = io.BytesIO()
    image.quantize(colours).save(out, "PNG", optimize=True)
    return out.getvalue()


def data_uri(picture: bytes) -> str:
    """The address of a picture that holds all of it."""
    return "data:image/png;base64," + base64.b64encode(picture).decode()
