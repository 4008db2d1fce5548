"""What the reader can turn: live in k3d, in a page without a kernel, or, where nothing turns, as a picture."""

import base64
import html
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from dnet_lib.viz.figures import MimeBundle, Picture, data_uri
from dnet_lib.viz.raster import KEY_LIGHT, LIGHTING, PITCH, YAW, Layout
from dnet_lib.viz.style import BLUE, INK, PAPER

ANGLE = 12.0  # degrees of view across the longer side: nearly parallel, so that all shapes of a row look alike
WIDTH, TALL = 720, 300  # pixels of a page's text column, and of a shape that stands alone
LABEL, BAR = 20, 40  # pixels under each captioned shape, and of a chain's controls or a legend
SCENE_JS = Path(__file__).with_name("scene.js")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class View(ABC):
    """Things side by side, each turned about its own centre; what they are, `Scene` and `Points` say."""

    alt: str
    cell: tuple[float, float]  # width and height that a thing needs however it is turned, in its own size
    tall: int | None  # the author's height
    count: int = 1
    columns: int | None = 1
    captions: tuple[str, ...] = ()  # one for each thing, or none
    labels: tuple[str, ...] = ()  # one for each step of a chain; none: not a chain
    label: int = 0  # pixels under each thing for its caption
    foot: int = 0  # pixels under the drawing for a chain's controls or the legend
    delay: int = 400  # milliseconds for which a step is shown
    legend: str = ""  # HTML
    corner: ClassVar[float] = 0.0  # where an object's own coordinates begin, from its centre

    @abstractmethod
    def _objects(self, centres: list[tuple[float, float]]) -> Iterator[Any]:
        """What k3d draws: of each step the things, at their centres right and up."""

    @abstractmethod
    def _poster(self) -> bytes:
        """The first step as the page shows it before WebGL starts: a PNG without background, about 15 kB at most."""

    @abstractmethod
    def png(self) -> bytes:
        """The picture for places without JavaScript, drawn for fine screens."""

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(self, **kwargs: Any) -> MimeBundle:
        return Picture(self.png(), self.alt, self.html(), self.widget())._repr_mimebundle_(**kwargs)

    @cached_property
    def height(self) -> int:
        """Pixels of the drawing, without its foot (as in scene.js)."""
        columns = min(self.columns or 8, self.count)
        scale = min(WIDTH / columns / self.cell[0], TALL / self.cell[1])
        rows = math.ceil(self.count / columns)
        return self.tall or math.ceil(rows * (scale * self.cell[1] + self.label)) + 12

    def _layout(self, detail: float = 1.0) -> Layout:
        """Where things stand at `detail` times the page's pixels: drawn as large as can be (as in scene.js)."""
        width, height, label, (wide, high) = detail * WIDTH, detail * self.height, detail * self.label, self.cell
        options = [min(self.columns, self.count)] if self.columns else range(1, self.count + 1)
        scales = {n: min(width / n / wide, (height / math.ceil(self.count / n) - label) / high) for n in options}
        columns = max(scales, key=lambda n: (round(scales[n], 3), -n))
        scale = scales[columns]
        return Layout(columns, scale, min(width / columns, scale * wide * 1.25), scale * high + label, label)

    def widget(self) -> Any:
        """The live view: a k3d plot, above the legend or a chain's play button and slider."""
        from ipywidgets import HTML, HBox, Play, SelectionSlider, VBox, jslink

        plot = self._plot()
        if self.legend:
            return VBox([plot, HTML(self.legend)])
        if not self.labels:
            return plot
        play = Play(max=len(self.labels) - 1, interval=self.delay)
        slider = SelectionSlider(options=[(label, t) for t, label in enumerate(self.labels)], description="step")
        jslink((play, "value"), (slider, "index"))
        jslink((slider, "index"), (plot, "time"))
        return VBox([plot, HBox([play, slider])])

    def _plot(self, captions: bool = True) -> Any:
        """The view as a k3d plot; a chain's things are seen at the time of their step only."""
        import k3d

        columns, scale, across, down, _ = self._layout()
        rows = math.ceil(self.count / columns)
        distance, pitch = self.height / scale / 2 / math.tan(math.radians(ANGLE / 2)), math.radians(PITCH)
        camera = [0, -distance * math.cos(pitch), distance * math.sin(pitch), 0, 0, 0, 0, 0, 1]
        bare = {"grid_visible": False, "menu_visibility": False, "axes_helper": 0, "camera_auto_fit": False}
        look = {"background_color": int(PAPER[1:], 16), "lighting": LIGHTING, "camera_fov": ANGLE}
        plot = k3d.plot(height=self.height, camera=camera, camera_mode="orbit", **bare, **look)
        plot.layout.min_width = f"{WIDTH}px"  # the camera's view: a narrower notebook scrolls instead of cutting it off
        centres = [
            ((i % columns - (columns - 1) / 2) * across / scale, ((rows - 1) / 2 - i // columns) * down / scale)
            for i in range(self.count)
        ]
        for item in self._objects(centres):
            plot += item
        text = {"color": int(INK[1:], 16), "size": 0.9, "reference_point": "ct", "label_box": False, "is_html": True}
        for caption, (x, z) in zip(self.captions if captions else (), centres, strict=False):
            plot += k3d.text(html.escape(caption), [x, 0, z - self.cell[1] / 2], **text)
        return plot

    def _snapshot(self) -> bytes:
        """k3d's binary snapshot with ids 1, 2, ... instead of memory addresses: the same bytes at every run."""
        plot = self._plot(captions=False)
        plot.close()  # no front end shows it
        plot.camera = []  # scene.js places it for the page's width
        for i, item in enumerate(plot.objects, start=1):
            item.close()
            item.id = i
        content: bytes = plot.get_binary_snapshot()
        return content

    def html(self) -> str:
        """The view as part of a built page: a picture under an iframe that k3d's bundle, beside the page, fills."""
        library = (
            "<script>window.dnetRoot='./_static/k3d/';try{window.dnetRoot=(parent.document.documentElement.dataset"
            ".content_root||'./')+'_static/k3d/'}catch(e){}document.body.append(Object.assign(document.createElement"
            "('script'),{src:dnetRoot+'scene.js'}))</script>"
        )
        alt, fill = html.escape(self.alt), "position:absolute;top:0;left:0;width:100%"
        return (
            f'<div class="dnet-scene" style="position:relative;height:{self.height + self.foot}px;'
            f'background:var(--dnet-paper,{PAPER});border-radius:10px;overflow:hidden;margin:.8em 0">'
            f'<img class="dark-light" alt="{alt}" src="{data_uri(self._poster())}" '
            f'style="{fill};height:calc(100% - {self.foot}px);object-fit:contain;margin:0">'
            f'<iframe title="3-D view: {alt}" style="{fill};height:100%;border:0;color-scheme:light" '
            f'srcdoc="{html.escape(self._document(library))}"></iframe></div>'
        )

    def _document(self, library: str) -> str:
        """The iframe's document; `library` brings k3d's bundle and scene.js."""
        texts = {"alt": self.alt, "steps": self.labels or None, "captions": self.captions or None}
        places = {"shapes": self.count, "columns": self.columns, "cell": self.cell, "label": LABEL, "tall": TALL}
        look = {"bar": self.foot, "corner": self.corner, "accent": BLUE, "yaw": YAW, "pitch": PITCH, "angle": ANGLE}
        data = {"light": KEY_LIGHT, "delay": self.delay, "data": base64.b64encode(self._snapshot()).decode()}
        settings = json.dumps({**texts, **places, **look, **data}, ensure_ascii=False).replace("</", "<\\/")
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>3-D view</title><body>'
            f'<script type="application/json" id="scene">{settings}</script>{self.legend}{library}</body></html>'
        )

    def save(self, path: str | Path) -> Path:
        """Write the view as a picture (.png) or as one page that needs nothing else (.html)."""
        path = Path(path)
        if path.suffix not in (".png", ".html"):
            raise ValueError(f"a scene is saved as .png or .html, not {path.name!r}")
        part = path.with_name(path.name + ".part")
        part.write_bytes(self.png() if path.suffix == ".png" else self._whole().encode())
        return part.replace(path)

    def _whole(self) -> str:
        """The view as a page of its own, k3d's bundle included."""
        import k3d

        bundle = (Path(k3d.__file__).parent / "static" / "standalone.js").read_text("utf-8")
        define = "window.define=function(name,_,make){if(name==='k3d')window.k3dLibrary=make()};"
        scripts = "".join(f"<script>{text}</script>" for text in (define, bundle, SCENE_JS.read_text("utf-8")))
        return self._document(f"<style>html{{background:{PAPER}}}</style>{scripts}")
