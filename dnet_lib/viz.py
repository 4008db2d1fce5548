"""Pictures of voxel shapes: live k3d views, their kernel-free twins, PNG fall-backs; figures with alt text.

Shapes are indexed (y, x, z) with z up everywhere in the library; only this module transposes them, for k3d.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

Voxels = NDArray[np.bool_]  # one thresholded shape, (R, R, R), axes (y, x, z)
MimeBundle = tuple[dict[str, Any], dict[str, Any]]  # data and metadata, as IPython asks for them

BLUE, ORANGE, GREEN, PINK, SKY, RUST, INK = "#3d7ab8", "#e08e1b", "#2f9e77", "#c7709f", "#62b0e0", "#cf5f26", "#2b3440"
PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, RUST, INK)  # told apart by colour-blind readers, in this order
GROUPS = (*PALETTE[:6], "#8a929b", "#8e5bb5", "#8fa12a", "#e0607e")  # for the groups of `points`, on light and dark
PAPER, SHAPE = "#f6f7f9", "#6ca0d6"
YAW, PITCH = 35.0, 22.0  # degrees: every shape first shows its front (-y), seen from above
ANGLE = 12.0  # degrees of view across the longer side: nearly parallel, so that all shapes of a row look alike
KEY_LIGHT, LIGHTING = (-0.3, 1.0, 0.4), 1.8  # from the upper left; axes right, up, towards the reader
WIDTH, TALL = 720, 300  # pixels of a page's text column, and of a shape that stands alone
LABEL, BAR = 20, 40  # pixels under each captioned shape, and of a chain's controls or a legend
SCENE_JS, FLIPBOOK_JS = (Path(__file__).with_name(name) for name in ("scene.js", "flipbook.js"))


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
        placed[:3, :3] = _rotation(YAW, 0)
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
            f'<img class="dark-light" alt="{alt}" src="{_data_uri(self._poster())}" '
            f'style="{fill};height:calc(100% - {self._foot}px);object-fit:contain;margin:0">'
            f'<iframe title="3-D view: {alt}" style="{fill};height:100%;border:0;color-scheme:light" '
            f'srcdoc="{html.escape(self._document(library))}"></iframe></div>'
        )

    def _poster(self) -> bytes:
        """The first step as the page shows it before WebGL starts: a PNG without background, about 15 kB at most."""
        for detail in (1.0, 0.7, 0.5, 0.35):
            columns, scale, across, down = self._layout(detail)
            pixels = _grid(self.steps[0], columns, scale, across, down, detail * self._label, self.color)
            spare = round(detail * self.height) - len(pixels)
            pixels = np.pad(pixels, ((max(0, spare // 2), max(0, spare - spare // 2)), (0, 0), (0, 0)))
            picture = _png(pixels, colours=16)
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
        pixels = _grid(shapes, columns, scale, across, down, label, self.color)
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
        return _figure_png(fig)

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
        placed[:3, :3] = _rotation(YAW, 0)
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
        right, away, up = _rotation(YAW, PITCH) @ np.concatenate(self.clouds).T
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

        return _png(np.asarray(Image.open(out).convert("RGBA")), colours=48)

    def png(self) -> bytes:
        return _figure_png(self._drawing(2.0, legend=True))


def _rotation(yaw: float, pitch: float) -> NDArray[np.float64]:
    """Turn about z by `yaw`, then about the screen's horizontal by `pitch`, degrees; the reader looks along +y."""
    a, b = math.radians(yaw), math.radians(pitch)
    about_z = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    return about_x @ about_z


def _grid(
    shapes: Sequence[Voxels], columns: int, scale: float, across: float, down: float, label: float, color: str
) -> NDArray[np.uint8]:
    """Shapes side by side, RGBA, at `scale` pixels a grid's side: each `across` x `down`, the last `label` empty."""
    wide, high, drawn = max(1, round(across)), max(1, round(down)), max(1, round(down - label))
    canvas = np.zeros((math.ceil(len(shapes) / columns) * high, columns * wide, 4), np.uint8)
    for i, shape in enumerate(shapes):
        top, left = i // columns * high, i % columns * wide
        canvas[top : top + drawn, left : left + wide] = _draw(shape, wide, drawn, scale, color)
    return canvas


def _draw(shape: Voxels, wide: int, high: int, scale: float, color: str) -> NDArray[np.uint8]:
    """One shape as RGBA pixels, by parallel projection: voxel faces as dense points, from the back to the front."""
    fine = 2  # drawn twice as fine, then averaged
    side, turn = len(shape), _rotation(YAW, PITCH)
    towards = np.where(turn[1] < 0, 1, -1)  # the sign of the face that looks at the reader, for each axis
    voxels = np.pad(shape.transpose(1, 0, 2)[:: towards[0], :: towards[1], :: towards[2]], 1)  # x, y, z; far ones first
    screen = fine * scale / side * turn[[0, 2]] * towards * [[1], [-1]]  # voxels to pixels right and down
    spacing = (np.arange(n := math.ceil(1.1 * fine * scale / side) + 1) + 0.5) / n - 0.5
    patch = np.stack(np.meshgrid(spacing, spacing), -1).reshape(-1, 2)
    bare = [np.argwhere(voxels & ~np.roll(voxels, -1, axis)) for axis in range(3)]
    place, axis = np.concatenate(bare), np.repeat(range(3), [len(faces) for faces in bare])
    order = np.lexsort(place.T[::-1])
    place, axis = place[order], axis[order]
    middle = (place - (side + 1) / 2) @ screen.T + [fine * wide / 2, fine * high / 2]
    points = np.stack([np.insert(patch, a, 0.5, axis=1) @ screen.T for a in range(3)])
    where = np.floor(middle[:, None].astype(np.float32) + points.astype(np.float32)[axis]).astype(np.int32)
    column, row = np.clip(where[..., 0], 0, fine * wide - 1), np.clip(where[..., 1], 0, fine * high - 1)
    paint = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    shades = [_shade(towards[a] * turn[[0, 2, 1], a] * (1, 1, -1)) for a in range(3)]
    colours = np.array([[*np.minimum(shade * paint, 255), 255] for shade in shades], np.float32)
    pixels = np.zeros((fine * high * fine * wide, 4), np.float32)
    pixels[row * (fine * wide) + column] = colours[axis][:, None]  # a pixel keeps what was drawn last, the nearest
    pixels = pixels.reshape(high, fine, wide, fine, 4).mean(axis=(1, 3))
    pixels[..., :3] *= 255 / np.maximum(pixels[..., 3:], 1)
    return np.rint(pixels).astype(np.uint8)


def _shade(normal: NDArray[np.float64]) -> float:
    """Brightness of a matt face under k3d's lights; axes right, up, towards the reader."""
    lights = ((KEY_LIGHT, 0.4), ((0, 0, 1), 0.15), ((-0.25, -1, 1), 0.15), ((-2.5, 0.4, -1), 0.1))
    return 0.2 + LIGHTING * sum(p * max(0.0, float(normal @ light) / math.hypot(*light)) for light, p in lights)


def _png(pixels: NDArray[np.uint8], colours: int) -> bytes:
    """RGBA pixels as a small PNG with a palette."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).quantize(colours, method=Image.Quantize.FASTOCTREE).save(out, "PNG", optimize=True)
    return out.getvalue()


def _figure_png(fig: MatplotlibFigure) -> bytes:
    """A matplotlib figure as an opaque PNG with a palette, a third of the size of the usual one."""
    from PIL import Image

    out = io.BytesIO()
    fig.savefig(out, format="png")
    small = Image.open(out).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    out = io.BytesIO()
    small.save(out, "PNG", optimize=True)
    return out.getvalue()


def _data_uri(picture: bytes) -> str:
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


def plot_style() -> None:
    """Set matplotlib up for the book: opaque paper, colours that colour-blind readers can tell apart, readable text."""
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update(
        {
            "figure.figsize": (7.0, 3.4),
            "figure.dpi": 144,
            "savefig.dpi": 144,
            "figure.facecolor": PAPER,
            "savefig.facecolor": PAPER,
            "figure.constrained_layout.use": True,
            "figure.constrained_layout.h_pad": 0.12,
            "figure.constrained_layout.w_pad": 0.12,
            "axes.facecolor": PAPER,
            "axes.edgecolor": "#8a94a0",
            "axes.labelcolor": INK,
            "axes.titlecolor": INK,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.prop_cycle": cycler(color=PALETTE),
            "grid.color": "#dfe3e8",
            "grid.linewidth": 0.8,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "font.size": 10,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "lines.linewidth": 1.8,
        }
    )


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
            f'<img class="dnet-figure dark-light" alt="{html.escape(self.alt)}" src="{_data_uri(self.content)}" style="'
            f'display:block;width:{self.width}px;max-width:100%;height:auto;margin:.8em auto;border-radius:10px">'
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> MimeBundle:
        return mime_bundle(None, self.html(), self.content, self.alt, kwargs)


def figure(fig: MatplotlibFigure, alt: str) -> Picture:
    """Finish a matplotlib figure: its picture with `alt`, the text that says what it shows."""
    if not alt.strip():
        raise ValueError("a figure needs an alt text: say what it shows")
    return Picture(_finish(fig), alt, round(fig.get_figwidth() * 100))


def _finish(fig: MatplotlibFigure) -> bytes:
    """The figure's PNG; pyplot forgets the figure, so that a notebook does not draw it a second time."""
    from matplotlib import pyplot

    content = _figure_png(fig)
    pyplot.close(fig)
    return content


def frames(figures: Iterable[MatplotlibFigure], labels: Sequence[object], alt: str, *, name: str = "step") -> Flipbook:
    """A film of figures, one for each of `labels`, which the reader scrubs and plays on the static page.

    Give every figure the same size and the same axis limits. A generator is welcome: each figure is closed in turn.
    """
    pictures = iter(figures)
    book = flipbook(lambda _: next(pictures, None), {name: labels}, alt, play=name)
    if next(pictures, None) is not None:
        raise ValueError(f"there are more figures than the {len(labels)} labels")
    return book


def flipbook(
    draw: Callable[..., MatplotlibFigure | None],
    controls: Mapping[str, Sequence[object]],
    alt: str,
    *,
    play: str | None = None,
    live: Any = None,
) -> Flipbook:
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
        pictures.append(_finish(fig))
    if len(sizes) > 1:
        raise ValueError(f"all figures of a flip-book must have one size, not {sorted(sizes)} inches")
    named = {name: tuple(map(_text, values)) for name, values in controls.items()}
    sliders = frozenset(name for name, values in controls.items() if name == play or _numeric(values))
    return Flipbook(tuple(pictures), named, sliders, alt, play, live, round(100 * sizes.pop()[0]))


def _numeric(values: Sequence[object]) -> bool:
    """Whether a control's values are worth a slider: three or more numbers."""
    return len(values) > 2 and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def _text(value: object) -> str:
    """A control's value as the reader sees it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, repr=False)
class Flipbook:
    """What `frames` and `flipbook` return: a picture for every combination of the controls, the last one fastest."""

    pictures: tuple[bytes, ...]
    controls: dict[str, tuple[str, ...]]
    sliders: frozenset[str]  # the other controls are menus
    alt: str
    play: str | None
    live: Any
    width: int

    def __repr__(self) -> str:
        return self.alt

    def html(self) -> str:
        """The flip-book as part of a page, with nothing outside it; any number of them may share the page."""
        button = (
            '<button type="button" aria-label="Play" style="width:30px;height:30px;border:0;border-radius:50%;'
            f'padding:0;background:{BLUE};color:#fff;font-size:12px;cursor:pointer">&#9654;</button>'
        )
        controls = "".join(self._control(name, texts) for name, texts in self.controls.items())
        return (
            f'<div class="dnet-flipbook" style="width:{self.width}px;max-width:100%;margin:.8em auto;overflow:hidden;'
            f'border-radius:10px;background:{PAPER};color:{INK};color-scheme:light;font:14px/1.3 system-ui,sans-serif">'
            f'<img class="dark-light" alt="{html.escape(self.alt)}" src="{_data_uri(self.pictures[0])}" '
            'style="display:block;width:100%;height:auto;margin:0">'
            '<div style="display:flex;flex-wrap:wrap;gap:.4em 1.4em;align-items:center;padding:.2em 1em .8em">'
            f"{button if self.play else ''}{controls}</div>"
            f'<script type="application/json">{json.dumps([_data_uri(picture) for picture in self.pictures])}</script>'
            f"<script>{FLIPBOOK_JS.read_text('utf-8')}</script></div>"
        )

    def _control(self, name: str, texts: tuple[str, ...]) -> str:
        about = f'data-control="{html.escape(name)}" data-texts="{html.escape(json.dumps(texts))}"'
        if name in self.sliders:
            about += " data-play" if name == self.play else ""
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

    def _repr_mimebundle_(self, **kwargs: Any) -> MimeBundle:
        return mime_bundle(self.live, self.html(), self.pictures[0], self.alt, kwargs)
