"""What a front end may show: pictures, HTML and widgets, and the text in their place."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

MimeBundle = tuple[dict[str, Any], dict[str, Any]]  # data and metadata, as IPython asks for them


def small_png(pixels: NDArray[np.uint8], colours: int) -> bytes:
    """RGBA pixels as a small PNG with a palette."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).quantize(colours, method=Image.Quantize.FASTOCTREE).save(out, "PNG", optimize=True)
    return out.getvalue()


def figure_png(fig: MatplotlibFigure) -> bytes:
    """A matplotlib figure as an opaque PNG with a palette, a third of the size of the usual one."""
    from PIL import Image

    out = io.BytesIO()
    fig.savefig(out, format="png")
    small = Image.open(out).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    out = io.BytesIO()
    small.save(out, "PNG", optimize=True)
    return out.getvalue()


def data_uri(picture: bytes) -> str:
    """A PNG as the address of a picture."""
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def mime_bundle(live: Any, page: str, picture: bytes, alt: str, kwargs: dict[str, Any]) -> MimeBundle:
    """What a front end may choose from: the live widget, the page's HTML, a PNG at half its pixels, the alt text."""
    data, metadata = {}, {}
    if live is not None:
        bundle = live._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
    size = {"width": int.from_bytes(picture[16:20], "big") // 2}
    data = {**data, "text/html": page, "image/png": base64.b64encode(picture).decode(), "text/plain": alt}
    return data, {**metadata, "image/png": size}
