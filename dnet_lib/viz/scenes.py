"""Views of voxel shapes and points that the reader can turn: live k3d, their kernel-free twins, PNG fall-backs.

Shapes are indexed (y, x, z) with z up everywhere in the library; only this package transposes them.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dnet_lib.viz.raster import ANGLE, KEY_LIGHT, LIGHTING, PITCH, YAW, Voxels, grid, rotation
from dnet_lib.viz.shown import MimeBundle, data_uri, figure_png, mime_bundle, small_png
from dnet_lib.viz.style import BLUE, GROUPS, INK, PAPER, SHAPE

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

WIDTH, TALL = 720, 300  # pixels of a page's text column, and of a shape that stands alone
LABEL, BAR = 20, 40  # pixels under each captioned shape, and of a chain's controls or a legend
SCENE_JS = Path(__file__).with_name("scene.js")


def _array(shapes: Any) -> NDArray[Any]:
    """An array or tensor as numpy."""
    return np.asarray(shapes.detach().cpu().numpy() if hasattr(shapes, "detach") else shapes)


def _solid(shape: NDArray[Any], threshold: float) -> Voxels:
    """Voxels at least `threshold` full."""
    if len(set(shape.shape)) != 1 or shape.size == 0:
        raise ValueError(f"a shape must be (R, R, R) voxels, not {shape.shape}")
    if not np.isfinite(shape).all():
        raise ValueError("shapes hold NaN or infinity: look at the chain that made them before drawing it")
    return shape if shape.dtype == bool else shape >= threshold


def _row(shapes: Any, threshold: float) -> tuple[Voxels, ...]:
    """The shapes of one step: (R, R, R), (N, R, R, R), (N, 1, R, R, R) or a list of such, of any resolutions."""
    if isinstance(shapes, (list, tuple)):
        return tuple(itertools.chain.from_iterable(_row(item, threshold) for item in shapes))
    array = _array(shapes)
    if array.ndim == 3:
        array = array[None]
    elif array.ndim == 5 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 4:
        raise ValueError(f"shapes must be (R, R, R), (N, R, R, R) or (N, 1, R, R, R), not {array.shape}")
    return tuple(_solid(shape, threshold) for shape in array)


def show(
    shapes: Any,
    *,
    chain: bool = False,
    labels: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    alt: str | None = None,
    threshold: float = 0.5,
    color: str = SHAPE,
    columns: int | None = None,
    height: int | None = None,
) -> Scene:
    """A view the reader can turn: a shape, a row or grid of shapes, or a chain with a slider and a play button.

    shapes     occupancy in [0, 1], array or tensor: (R, R, R), (N, R, R, R) or (N, 1, R, R, R), or a list of such.
               With `chain` the first axis (or the list) is the step: (T, R, R, R), (T, N, R, R, R), (T, N, 1, R, R, R)
    chain      show one step at a time, all N shapes of it side by side
    labels     one text for each item of the first axis: under each shape, or with `chain` the name of each step
    captions   with `chain`, one text under each of the N shapes
    alt        what a reader who cannot see the picture should know
    threshold  a voxel is drawn where the occupancy is at least this
    color      colour of the shapes, "#rrggbb"
    columns    shapes in a row of the grid; by default as many as let them be drawn largest
    height     pixels of the drawing on a wide page; by default what the shapes need

    Raises `ValueError` for shapes of another form, NaN, no shape at all, or texts that do not match the shapes.
    """
    if not isinstance(shapes, (list, tuple)):
        shapes = _array(shapes)
    steps = tuple(_row(step, threshold) for step in shapes) if chain else (_row(shapes, threshold),)
    if not steps or not steps[0]:
        raise ValueError("there is no shape to show: the batch is empty")
    if any([v.shape for v in step] != [v.shape for v in steps[0]] for step in steps):
        raise ValueError("every step of a chain must hold the same number of shapes, of the same resolution")
    if not chain:
        labels, captions = None, captions or labels
    elif labels is None:
        labels = [f"step {t}" for t in range(len(steps))]
    for texts, count, what in ((labels, len(steps), "steps"), (captions, len(steps[0]), "shapes")):
        if texts is not None and len(texts) != count:
            raise ValueError(f"{len(texts)} labels for {count} {what}")
    sides = " and ".join(f"{side}³" for side in sorted({len(v) for v in steps[0]}))
    many = f"{len(steps[0])} voxel shapes" if len(steps[0]) > 1 else "A voxel shape"
    return Scene(
        steps=steps,
        labels=tuple(map(str, labels)) if labels is not None else None,
        captions=tuple(map(str, captions)) if captions is not None else None,
        alt=alt or f"{many} at {sides}" + (f", a chain of {len(steps)} steps" if chain else ""),
        color=color,
        columns=columns,
        tall=height,
    )


def _upright(shape: Voxels) -> Any:
    """A shape's voxels in the order k3d draws them, z first."""
    return shape.transpose(2, 0, 1).astype(np.uint8)


@dataclass(frozen=True, eq=False, repr=False)
class Scene:
    """What `show` returns: a live k3d widget where there is a kernel, a turnable view on the page, else a PNG."""

    steps: tuple[tuple[Voxels, ...], ...]
    labels: tuple[str, ...] | None  # one for each step; None: not a chain
    captions: tuple[str, ...] | None  # one for each shape
    alt: str
    color: str
    columns: int | None
    tall: int | None  # the author's height
    _corner: ClassVar[float] = -0.5  # where an object's own coordinates begin, from its centre

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(self, **kwargs: Any) -> MimeBundle:
        return mime_bundle(self.widget(), self.html(), self.png(), self.alt, kwargs)

    @cached_property
    def cell(self) -> tuple[float, float]:
        """Width and height that one shape needs however it is turned about its axis, in sides of its grid."""
        across = up = 0.0
        for shape in itertools.chain.from_iterable(self.steps):
            side = len(shape)
            y, x = np.nonzero(shape.any(axis=2))
            z = np.flatnonzero(shape.any(axis=(0, 1)))
            if len(z):
                across = max(
                    across, (np.hypot(abs(x + 0.5 - side / 2) + 0.5, abs(y + 0.5 - side / 2) + 0.5) / side).max()
                )
                up = max(up, 0.5 - z[0] / side, (z[-1] + 1) / side - 0.5)
        across, up = (float(across), float(up)) if across else (0.5, 0.5)
        pitch = math.radians(PITCH)
        return round(2.1 * across, 4), round(2.1 * (up * math.cos(pitch) + across * math.sin(pitch)), 4)

    @cached_property
    def height(self) -> int:
        """Pixels of the drawing, without a chain's controls (as in scene.js)."""
        columns = min(self.columns or 8, len(self.steps[0]))
        scale = min(WIDTH / columns / self.cell[0], TALL / self.cell[1])
        rows = math.ceil(len(self.steps[0]) / columns)
        return self.tall or math.ceil(rows * (scale * self.cell[1] + self._label)) + 12

    @property
    def _label(self) -> int:
        """Pixels under each shape for its caption."""
        return LABEL if self.captions else 0

    def _layout(self, detail: float = 1.0) -> tuple[int, float, float, float]:
        """Columns, pixels of a grid's side, and pixels from shape to shape across and down (as in scene.js)."""
        count, width, height, label = len(self.steps[0]), detail * WIDTH, detail * self.height, detail * self._label
        options = [min(self.columns, count)] if self.columns else range(1, count + 1)

        def scale(columns: int) -> float:
            return min(width / columns / self.cell[0], (height / math.ceil(count / columns) - label) / self.cell[1])

        columns = max(options, key=lambda columns: (round(scale(columns), 3), -columns))
        best = scale(columns)
        return columns, best, min(width / columns, best * self.cell[0] * 1.25), best * self.cell[1] + label

    @property
    def _foot(self) -> int:
        """Pixels under the drawing for a chain's controls."""
        return BAR if self.labels else 0

    @property
    def _delay(self) -> int:
        """Milliseconds for which a step is shown."""
        return max(80, min(400, 4000 // len(self.steps)))

    def widget(self) -> Any:
        """The live view: a k3d plot, for a chain above a play button and a slider."""
        plot = self._plot()
        if self.labels is None:
            return plot
        from ipywidgets import HBox, Play, SelectionSlider, VBox, jslink

        play = Play(max=len(self.labels) - 1, interval=self._delay)
        slider = SelectionSlider(options=[(label, t) for t, label in enumerate(self.labels)], description="step")
        jslink((play, "value"), (slider, "index"))
        jslink((slider, "index"), (plot, "time"))
        return VBox([plot, HBox([play, slider])])

    def redraw(self, plot: Any) -> None:
        """Put this scene's shapes into a live view of as many others, which stays as the reader turned it."""
        solids = [item for item in plot.objects if hasattr(item, "voxels")]
        for solid, shape in zip(solids, self.steps[0], strict=True):
            solid.voxels = _upright(shape)

    def _plot(self, captions: bool = True) -> Any:
        """The scene as a k3d plot; a chain's shapes are seen at the time of their step only."""
        import k3d

        columns, scale, across, down = self._layout()
        rows = math.ceil(len(self.steps[0]) / columns)
        distance = self.height / scale / 2 / math.tan(math.radians(ANGLE / 2))
        pitch = math.radians(PITCH)
        plot = k3d.plot(
            height=self.height,
            background_color=int(PAPER[1:], 16),
            lighting=LIGHTING,
            grid_visible=False,
            menu_visibility=False,
            axes_helper=0,
            camera_auto_fit=False,
            camera_fov=ANGLE,
            camera_mode="orbit",
            camera=[0, -distance * math.cos(pitch), distance * math.sin(pitch), 0, 0, 0, 0, 0, 1],
        )
        centres = [
            ((i % columns - (columns - 1) / 2) * across / scale, ((rows - 1) / 2 - i // columns) * down / scale)
            for i in range(len(self.steps[0]))
        ]
        plot.layout.min_width = f"{WIDTH}px"  # the camera's view: a narrower notebook scrolls instead of cutting it off
        for item in self._objects(centres):
            plot += item
        for caption, (x, z) in zip(self.captions or (), centres, strict=False) if captions else ():
            plot += k3d.text(
                html.escape(caption),
                [x, 0, z - self.cell[1] / 2],
                color=int(INK[1:], 16),
                size=0.9,
                reference_point="ct",
                label_box=False,
                is_html=True,
            )
        return plot

    def _objects(self, centres: Sequence[tuple[float, float]]) -> Iterator[Any]:
        """What the plot holds, turned as it is first seen."""
        import k3d

        placed = np.eye(4, dtype=np.float32)
        placed[:3, :3] = rotation(YAW, 0)
        for t, step in enumerate(self.steps):
            for shape, (x, z) in zip(step, centres, strict=True):
                placed[:3, 3] = x, 0, z
                voxels = k3d.voxels(
                    _upright(shape),
                    color_map=[int(self.color[1:], 16)],
                    outlines=False,
                    bounds=[-0.5, 0.5] * 3,
                    model_matrix=placed.copy(),
                    compression_level=9,
                    name=self.labels[t] if self.labels else "shape",
                )
                voxels.roughness = 1.0
                if self.labels:
                    times = {0: t == 0, t: True, t + 1: False}
                    voxels.visible = {str(time): seen for time, seen in times.items() if time < len(self.steps)}
                yield voxels

    def _snapshot(self) -> bytes:
        """k3d's binary snapshot with ids 1, 2, ... instead of memory addresses: the same bytes at every run."""
        import msgpack

        content = msgpack.unpackb(zlib.decompress(self._plot(captions=False).get_binary_snapshot()))
        for number, item in enumerate(content["objects"], start=1):
            item["id"] = number
        content["plot"]["camera"] = []  # scene.js places it for the page's width
        return zlib.compress(msgpack.packb(content, use_bin_type=True), 9)

    def _document(self, library: str) -> str:
        """The iframe's document; `library` brings k3d's bundle and scene.js."""
        settings = {
            "alt": self.alt,
            "steps": self.labels,
            "captions": self.captions,
            "shapes": len(self.steps[0]),
            "columns": self.columns,
            "cell": self.cell,
            "label": LABEL,
            "tall": TALL,
            "bar": self._foot,
            "corner": self._corner,
            "accent": BLUE,
            "yaw": YAW,
            "pitch": PITCH,
            "angle": ANGLE,
            "light": KEY_LIGHT,
            "delay": self._delay,
            "data": base64.b64encode(self._snapshot()).decode(),
        }
        text = json.dumps(settings, ensure_ascii=False).replace("</", "<\\/")
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>3-D view</title><body>'
            f'<script type="application/json" id="scene">{text}</script>{self._legend()}{library}</body></html>'
        )

    def _legend(self) -> str:
        """HTML under the drawing."""
        return ""

    def html(self) -> str:
        """The view as part of a built page: a picture under an iframe that k3d's bundle, beside the page, fills."""
        library = (
            "<script>window.dnetRoot='./_static/k3d/';try{window.dnetRoot=(parent.document.documentElement.dataset"
            ".content_root||'./')+'_static/k3d/'}catch(e){}document.body.append(Object.assign(document.createElement"
            "('script'),{src:dnetRoot+'scene.js'}))</script>"
        )
        alt, fill = html.escape(self.alt), "position:absolute;top:0;left:0;width:100%"
        return (
            f'<div class="dnet-scene" style="position:relative;height:{self.height + self._foot}px;'
            f'background:var(--dnet-paper,{PAPER});border-radius:10px;overflow:hidden;margin:.8em 0">'
            f'<img class="dark-light" alt="{alt}" src="{data_uri(self._poster())}" '
            f'style="{fill};height:calc(100% - {self._foot}px);object-fit:contain;margin:0">'
            f'<iframe title="3-D view: {alt}" style="{fill};height:100%;border:0;color-scheme:light" '
            f'srcdoc="{html.escape(self._document(library))}"></iframe></div>'
        )

    def _poster(self) -> bytes:
        """The first step as the page shows it before WebGL starts: a PNG without background, about 15 kB at most."""
        for detail in (1.0, 0.7, 0.5, 0.35):
            columns, scale, across, down = self._layout(detail)
            pixels = grid(self.steps[0], columns, scale, across, down, detail * self._label, self.color)
            spare = round(detail * self.height) - len(pixels)
            pixels = np.pad(pixels, ((max(0, spare // 2), max(0, spare - spare // 2)), (0, 0), (0, 0)))
            picture = small_png(pixels, colours=16)
            if len(picture) < 15_000:
                break
        return picture

    def png(self) -> bytes:
        """The picture for places without JavaScript, drawn for fine screens; of a chain, six steps side by side."""
        from matplotlib.figure import Figure

        if self.labels is None:
            columns, scale, across, down = self._layout(detail=2)
            shapes, captions = self.steps[0], self.captions or ()
        else:
            chosen = np.unique(np.linspace(0, len(self.steps) - 1, 6).round().astype(int))
            shapes = tuple(self.steps[t][i] for i in range(len(self.steps[0])) for t in chosen)
            columns, captions = len(chosen), tuple(self.labels[t] for t in chosen)
            scale = min(2 * WIDTH / columns / self.cell[0], 480 / self.cell[1])
            across, down = scale * self.cell[0], scale * self.cell[1]
        label = 0 if self.labels else 2 * self._label
        pixels = grid(shapes, columns, scale, across, down, label, self.color)
        margin, (high, wide) = 44 if self.labels else 0, pixels.shape[:2]
        fig = Figure(figsize=(wide / 144, (high + margin) / 144), dpi=144, facecolor=PAPER)
        fig.set_layout_engine("none")  # whatever `plot_style` says
        axes = fig.add_axes((0, margin / (high + margin), 1, high / (high + margin)))
        axes.imshow(pixels)
        axes.axis("off")
        row = len(shapes) // columns if self.labels else 0  # a chain's steps are named once, under its last row
        for i, caption in enumerate(captions):
            below = row * down + margin / 2 if self.labels else (i // columns + 1) * down - label / 2
            axes.text((i % columns + 0.5) * across, below, caption, ha="center", va="center", color=INK, fontsize=10)
        return figure_png(fig)

    def save(self, path: str | Path) -> Path:
        """Write the scene as a picture (.png) or as one page that needs nothing else (.html)."""
        path = Path(path)
        if path.suffix not in (".png", ".html"):
            raise ValueError(f"a scene is saved as .png or .html, not {path.name!r}")
        part = path.with_name(path.name + ".part")
        part.write_bytes(self.png() if path.suffix == ".png" else self._page().encode())
        return part.replace(path)

    def _page(self) -> str:
        """The view as a page of its own, k3d's bundle included."""
        import k3d

        bundle = (Path(k3d.__file__).parent / "static" / "standalone.js").read_text("utf-8")
        define = "window.define=function(name,_,make){if(name==='k3d')window.k3dLibrary=make()};"
        scripts = "".join(f"<script>{text}</script>" for text in (define, bundle, SCENE_JS.read_text("utf-8")))
        return self._document(f"<style>html{{background:{PAPER}}}</style>{scripts}")


def points(
    xyz: Any,
    groups: Any,
    *,
    names: Sequence[str] | None = None,
    alt: str | None = None,
    height: int = 420,
) -> Points:
    """A cloud of points that the reader can turn, coloured by group; a click on a legend's name shows that group alone.

    xyz     (N, 3) coordinates; they are moved and scaled to fill the view
    groups  (N,) whole numbers from 0
    names   one text a group for the legend, ten at most
    alt     what a reader who cannot see the picture should know
    height  pixels of the drawing

    Raises `ValueError` for points of another form, NaN, no point at all, or groups that do not match.
    """
    xyz, groups = _array(xyz), _array(groups)
    if xyz.ndim != 2 or xyz.shape[1] != 3 or not len(xyz):
        raise ValueError(f"points must be (N, 3) coordinates of at least one point, not {xyz.shape}")
    if not np.isfinite(xyz).all():
        raise ValueError("points hold NaN or infinity")
    if groups.shape != (len(xyz),) or not np.issubdtype(groups.dtype, np.integer):
        raise ValueError(f"{len(xyz)} points need as many whole numbers as groups, not {groups.dtype} {groups.shape}")
    names = [f"group {i}" for i in range(int(groups.max()) + 1)] if names is None else names
    if groups.min() < 0 or groups.max() >= len(names) or len(names) > len(GROUPS):
        raise ValueError(f"groups must be 0 to {len(names) - 1}, one for each name, and {len(GROUPS)} at most")
    centred = xyz - (xyz.min(axis=0) + xyz.max(axis=0)) / 2
    length = np.linalg.norm(centred, axis=1).max() or 1.0
    return Points(
        steps=((np.zeros((1, 1, 1), bool),),),
        labels=None,
        captions=None,
        alt=alt or f"{len(xyz)} points in {len(names)} groups",
        color=SHAPE,
        columns=1,
        tall=height,
        clouds=tuple((centred[groups == i] / length / 2).astype(np.float32) for i in range(len(names))),
        names=tuple(map(str, names)),
    )


@dataclass(frozen=True, eq=False, repr=False)
class Points(Scene):
    """What `points` returns: a scene whose one shape is a cloud of small balls."""

    clouds: tuple[NDArray[np.float32], ...]  # (n, 3) for each group, within 1/2 of the origin; x right, y back, z up
    names: tuple[str, ...]
    _corner: ClassVar[float] = 0.0

    @cached_property
    def cell(self) -> tuple[float, float]:
        """Width and height that the cloud needs however it is turned about its axis, in sizes of the cloud."""
        x, y, z = np.abs(np.concatenate(self.clouds)).T
        across, up, pitch = float(np.hypot(x, y).max()), float(z.max()), math.radians(PITCH)
        return 2 * across + self._size, 2 * (up * math.cos(pitch) + across * math.sin(pitch)) + self._size

    @property
    def _size(self) -> float:
        """Diameter of a ball, in sizes of the cloud."""
        return min(0.035, 0.55 / math.sqrt(sum(map(len, self.clouds))))

    @property
    def _foot(self) -> int:
        """Pixels under the drawing for the legend."""
        return BAR * math.ceil(sum(len(name) + 5 for name in self.names) / 100)

    def _objects(self, centres: Sequence[tuple[float, float]]) -> Iterator[Any]:
        import k3d

        placed = np.eye(4, dtype=np.float32)
        placed[:3, :3] = rotation(YAW, 0)
        for cloud, color, name in zip(self.clouds, GROUPS, self.names, strict=False):
            yield k3d.points(
                cloud,
                color=int(color[1:], 16),
                point_size=self._size,
                shader="mesh",
                mesh_detail=1,
                model_matrix=placed,
                compression_level=9,
                name=name,
            )

    def widget(self) -> Any:
        """The live view: a k3d plot above the legend."""
        from ipywidgets import HTML, VBox

        return VBox([self._plot(), HTML(self._legend())])

    def _legend(self) -> str:
        spots = "".join(
            f'<button type="button" data-group="{i}" aria-pressed="false" style="font:inherit;color:inherit;border:0;'
            f'background:none;padding:0;cursor:pointer"><span style="color:{color}">&#9679;</span> {html.escape(name)}'
            "</button>"
            for i, (name, color) in enumerate(zip(self.names, GROUPS, strict=False))
        )
        return (
            '<div style="order:1;flex:none;display:flex;flex-wrap:wrap;justify-content:center;gap:.2em 1.2em;'
            f'padding:.3em 1em .8em">{spots}</div>'
        )

    def _drawing(self, detail: float, legend: bool) -> MatplotlibFigure:
        """The points as they are first seen, by parallel projection, the nearest drawn last."""
        from matplotlib.figure import Figure

        foot = self._foot if legend else 0
        size = (detail * WIDTH / 144, detail * (self.height + foot) / 144)
        fig = Figure(figsize=size, dpi=144, facecolor=PAPER)
        fig.set_layout_engine("none")
        drawn = self.height / (self.height + foot)
        axes = fig.add_axes((0, 1 - drawn, 1, drawn))
        right, away, up = rotation(YAW, PITCH) @ np.concatenate(self.clouds).T
        colours = np.repeat(GROUPS[: len(self.clouds)], [len(cloud) for cloud in self.clouds])
        order = np.argsort(-away)
        _, scale, _, _ = self._layout(detail)
        half_wide, half_high = detail * WIDTH / scale / 2, detail * self.height / scale / 2
        area = (self._size * scale / 2) ** 2  # a pixel is half a typographic point
        axes.scatter(right[order], up[order], s=area, c=colours[order], edgecolors="#00000040", linewidths=0.4)
        axes.set(xlim=(-half_wide, half_wide), ylim=(-half_high, half_high))
        axes.axis("off")
        if legend:
            dots = [axes.scatter([], [], s=30, color=color) for color in GROUPS[: len(self.names)]]
            fig.legend(dots, self.names, loc="lower center", ncols=5, frameon=False, labelcolor=INK, handletextpad=0.2)
        return fig

    def _poster(self) -> bytes:
        out = io.BytesIO()
        self._drawing(1.0, legend=False).savefig(out, format="png", transparent=True)
        from PIL import Image

        return small_png(np.asarray(Image.open(out).convert("RGBA")), colours=48)

    def png(self) -> bytes:
        return figure_png(self._drawing(2.0, legend=True))
