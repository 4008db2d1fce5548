"""Pictures of voxel shapes: live k3d views, their kernel-free twins for the page, PNG fall-backs, and figures with alt text.

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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

Voxels = NDArray[np.bool_]  # one thresholded shape, (R, R, R), axes (y, x, z)

BLUE, ORANGE, GREEN, PINK, SKY, RUST, INK = "#3d7ab8", "#e08e1b", "#2f9e77", "#c7709f", "#62b0e0", "#cf5f26", "#2b3440"
PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, RUST, INK)  # told apart by colour-blind readers, in this order
PAPER = "#f6f7f9"
YAW, PITCH = 35.0, 22.0  # degrees: every shape first shows its front (-y), seen from above
ANGLE = 12.0  # degrees of view across the longer side: nearly parallel, so that all shapes of a row look alike
KEY_LIGHT = (-0.3, 1.0, 0.4)  # from the upper left, in camera axes (right, up, towards the reader)
LIGHTING = 1.8
WIDTH = 720  # pixels of a page's text column
LABEL = 20  # pixels under each shape, where shapes have captions
SHAPE = "#6ca0d6"


def _array(shapes: Any) -> NDArray[Any]:
    """An array or tensor as numpy."""
    if hasattr(shapes, "detach"):
        shapes = shapes.detach().cpu().numpy()
    return np.asarray(shapes)


def _solid(shape: NDArray[Any], threshold: float) -> Voxels:
    """Voxels at least `threshold` full."""
    if shape.shape[0] != shape.shape[1] or shape.shape[1] != shape.shape[2] or shape.shape[0] == 0:
        raise ValueError(f"a shape must be (R, R, R) voxels, not {shape.shape}")
    if not np.isfinite(shape).all():
        raise ValueError("shapes hold NaN or infinity: look at the chain that made them before drawing it")
    return shape.astype(bool) if shape.dtype == bool else shape >= threshold


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
    height: int | None = None,
    columns: int | None = None,
) -> Scene:
    """A view the reader can turn: one shape, a row or grid of shapes, or a chain of steps with a slider and a play button.

    Args:
        shapes: occupancy in [0, 1], array or tensor: (R, R, R), (N, R, R, R) or (N, 1, R, R, R), or a list of such.
            With `chain` the first axis (or the list) is the step: (T, R, R, R), (T, N, R, R, R) or (T, N, 1, R, R, R).
        chain: show one step at a time, all N shapes of it side by side.
        labels: one text for each item of the first axis: under each shape, or with `chain` the name of each step.
        captions: with `chain`, one text under each of the N shapes.
        alt: what a reader who cannot see the picture should know.
        threshold: a voxel is drawn where the occupancy is at least this.
        color: colour of the shapes, "#rrggbb".
        height: of the drawing, pixels.
        columns: of the grid; by default as many as let the shapes be drawn largest.

    Raises:
        ValueError: shapes of another form, NaN, no shape at all, or texts that do not match the shapes.
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
    sides = sorted({f"{v.shape[0]}³" for v in steps[0]}, key=lambda side: int(side[:-1]))
    many = f"{len(steps[0])} voxel shapes" if len(steps[0]) > 1 else "A voxel shape"
    plain = f"{many} at {' and '.join(sides)}" + (f", a chain of {len(steps)} steps" if chain else "")
    across = min(columns or 8, len(steps[0]))
    rows = math.ceil(len(steps[0]) / across)
    return Scene(
        steps=steps,
        labels=tuple(map(str, labels)) if labels is not None else None,
        captions=tuple(map(str, captions)) if captions is not None else None,
        alt=alt or plain,
        color=color,
        height=height or rows * (min(320, max(110, 800 // across)) + (LABEL if captions else 0)),
        columns=columns,
    )


@dataclass(frozen=True, eq=False, repr=False)
class Scene:
    """What `show` returns: a live k3d widget where there is a kernel, a turnable view on the static page, else a PNG."""

    steps: tuple[tuple[Voxels, ...], ...]
    labels: tuple[str, ...] | None  # one for each step; None: not a chain
    captions: tuple[str, ...] | None  # one for each shape
    alt: str
    color: str
    height: int
    columns: int | None

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        live = self.widget()._repr_mimebundle_(**kwargs)
        data, metadata = live if isinstance(live, tuple) else (live, {})
        picture = self.png()
        metadata = {**metadata, "image/png": {"width": int.from_bytes(picture[16:20]) // 2}}
        encoded = base64.b64encode(picture).decode()
        return {**data, "text/html": self.html(), "image/png": encoded, "text/plain": self.alt}, metadata

    @cached_property
    def cell(self) -> tuple[float, float]:
        """Width and height that one shape needs however it is turned about its axis, in sides of its grid."""
        across = up = 0.0
        for shape in itertools.chain.from_iterable(self.steps):
            side = shape.shape[0]
            y, x = np.nonzero(shape.any(axis=2))
            z = np.flatnonzero(shape.any(axis=(0, 1)))
            if len(z):
                corner = np.abs(np.stack([y, x]) + 0.5 - side / 2) + 0.5
                across = max(across, float(np.hypot(*corner).max()) / side)
                up = max(up, 0.5 - z[0] / side, (z[-1] + 1) / side - 0.5)
        across, up = (across, float(up)) if across else (0.5, 0.5)
        pitch = math.radians(PITCH)
        return 2.1 * across, 2.1 * (up * math.cos(pitch) + across * math.sin(pitch))

    def _layout(self, width: float, height: float) -> tuple[int, float, float, float]:
        """Columns, pixels of a grid's side, and pixels from shape to shape across and down (as in scene.js)."""
        count, label, cell = len(self.steps[0]), LABEL if self.captions else 0, self.cell
        options = [min(self.columns, count)] if self.columns else range(1, count + 1)

        def scale(columns: int) -> float:
            return min(width / columns / cell[0], (height / math.ceil(count / columns) - label) / cell[1])

        columns = max(options, key=lambda columns: (round(scale(columns), 3), -columns))
        best = scale(columns)
        return columns, best, min(width / columns, best * cell[0] * 1.25), best * cell[1] + label

    def widget(self) -> Any:
        """The live view: a k3d plot, for a chain under a play button and a slider."""
        plot = self._plot(captions=True)
        if self.labels is None:
            return plot
        from ipywidgets import HBox, Play, SelectionSlider, VBox, jslink

        play = Play(max=len(self.labels) - 1, interval=self._delay)
        slider = SelectionSlider(options=[(label, t) for t, label in enumerate(self.labels)], description="chain")
        jslink((play, "value"), (slider, "index"))
        jslink((slider, "index"), (plot, "time"))
        return VBox([plot, HBox([play, slider])])

    @property
    def _delay(self) -> int:
        """Milliseconds a step is shown for."""
        return max(80, min(400, 4000 // len(self.steps)))

    def _plot(self, captions: bool) -> Any:
        import k3d

        columns, scale, across, down = self._layout(WIDTH, self.height)
        rows = math.ceil(len(self.steps[0]) / columns)
        distance = max(rows * down, columns * across / 2) / scale / 2 / math.tan(math.radians(ANGLE / 2))
        pitch = math.radians(PITCH)
        plot = k3d.plot(
            height=self.height,
            background_color=int(PAPER[1:], 16),
            grid_visible=False,
            menu_visibility=False,
            axes_helper=0,
            lighting=LIGHTING,
            camera_auto_fit=False,
            camera_fov=ANGLE,
            camera_mode="orbit",
            camera=[0, -distance * math.cos(pitch), distance * math.sin(pitch), 0, 0, 0, 0, 0, 1],
        )
        centres = [
            ((i % columns - (columns - 1) / 2) * across / scale, ((rows - 1) / 2 - i // columns) * down / scale)
            for i in range(len(self.steps[0]))
        ]
        turn = np.eye(4, dtype=np.float32)
        turn[:3, :3] = _rotation(YAW, 0)
        for t, step in enumerate(self.steps):
            for shape, (x, z) in zip(step, centres, strict=True):
                turn[:3, 3] = x, 0, z
                voxels = k3d.voxels(
                    shape.transpose(2, 0, 1).astype(np.uint8),
                    color_map=[int(self.color[1:], 16)],
                    outlines=False,
                    bounds=[-0.5, 0.5] * 3,
                    model_matrix=turn.copy(),
                    compression_level=9,
                    name=self.labels[t] if self.labels else "shape",
                )
                voxels.roughness = 1.0
                if self.labels:
                    seen = {str(t): True, str(t + 1): False} if t + 1 < len(self.steps) else {str(t): True}
                    voxels.visible = {"0": False, **seen} if t else seen
                plot += voxels
        for caption, (x, z) in zip(self.captions or () if captions else (), centres, strict=False):
            below = [x, 0, z - self.cell[1] / 2]
            plot += k3d.text(
                html.escape(caption),
                below,
                color=int(INK[1:], 16),
                size=0.9,
                reference_point="ct",
                label_box=False,
                is_html=True,
            )
        return plot

    def _snapshot(self) -> bytes:
        """k3d's binary snapshot with ids 1, 2, ... instead of memory addresses: the same bytes at every run."""
        import msgpack

        content = msgpack.unpackb(zlib.decompress(self._plot(captions=False).get_binary_snapshot()))
        for number, item in enumerate(content["objects"], start=1):
            item["id"] = number
        content["plot"]["camera"] = []  # scene.js places it, for the page's width
        return zlib.compress(msgpack.packb(content, use_bin_type=True), 9)

    def _document(self, library: str) -> str:
        """The iframe's document; `library` is what brings k3d's bundle and scene.js."""
        width, height = self.cell
        settings = {
            "alt": self.alt,
            "steps": self.labels,
            "captions": self.captions,
            "shapes": len(self.steps[0]),
            "columns": self.columns,
            "cell": [round(width, 4), round(height, 4)],
            "color": self.color,
            "yaw": YAW,
            "pitch": PITCH,
            "angle": ANGLE,
            "label": LABEL,
            "light": KEY_LIGHT,
            "delay": self._delay,
            "data": base64.b64encode(self._snapshot()).decode(),
        }
        text = json.dumps(settings, ensure_ascii=False).replace("</", "<\\/")
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>3-D view</title><body>'
            f'<script type="application/json" id="scene">{text}</script>{library}</body></html>'
        )

    def html(self) -> str:
        """The view as part of a built page: a picture under an iframe that k3d's bundle, beside the page, brings to life."""
        library = (
            "<script>window.dnetRoot='./_static/k3d/';try{window.dnetRoot=(parent.document.documentElement.dataset"
            ".content_root||'./')+'_static/k3d/'}catch(e){}document.body.append(Object.assign(document.createElement"
            "('script'),{src:dnetRoot+'scene.js'}))</script>"
        )
        bar = 40 if self.labels else 0
        fill = "position:absolute;top:0;left:0;width:100%"
        return (
            f'<div class="dnet-scene" style="position:relative;height:{self.height + bar}px;'
            f'background:var(--dnet-paper,{PAPER});border-radius:10px;overflow:hidden;margin:.8em 0">'
            f'<img class="dark-light" alt="{html.escape(self.alt)}" src="data:image/png;base64,{base64.b64encode(self._poster()).decode()}" '
            f'style="{fill};height:{self.height}px;object-fit:contain;margin:0">'
            f'<iframe title="3-D view: {html.escape(self.alt)}" style="{fill};height:100%;border:0;color-scheme:light" '
            f'srcdoc="{html.escape(self._document(library))}"></iframe></div>'
        )

    def _poster(self) -> bytes:
        """The first step as the page shows it before WebGL has started: a PNG without background."""
        columns, scale, across, down = self._layout(WIDTH, self.height)
        pixels = _grid(self.steps[0], columns, scale, across, down, self.cell, self.color)
        canvas = np.zeros((self.height, *pixels.shape[1:]), np.uint8)
        top = max(0, (self.height - len(pixels)) // 2)
        canvas[top : top + len(pixels)] = pixels[: self.height - top]
        return _png(canvas, colours=24)

    def png(self) -> bytes:
        """The picture for places without JavaScript; of a chain, six of its steps side by side."""
        from matplotlib.figure import Figure

        if self.labels is None:
            columns, scale, across, down = self._layout(2 * WIDTH, 2 * self.height)
            captions, shapes = self.captions, self.steps[0]
        else:
            chosen = np.unique(np.linspace(0, len(self.steps) - 1, 6).round().astype(int))
            columns, captions = len(chosen), tuple(self.labels[t] for t in chosen)
            shapes = tuple(self.steps[t][i] for i in range(len(self.steps[0])) for t in chosen)
            scale = min(2 * WIDTH / columns / self.cell[0], 480 / self.cell[1])
            across, down = scale * self.cell[0], scale * self.cell[1]
        pixels = _grid(shapes, columns, scale, across, down, self.cell, self.color)
        high, wide = pixels.shape[:2]
        figure = Figure(figsize=(wide / 144, high / 144 + 0.3), dpi=144, facecolor=PAPER)
        axes = figure.add_axes((0, 0.3 / (high / 144 + 0.3), 1, high / 144 / (high / 144 + 0.3)))
        axes.imshow(pixels)
        axes.axis("off")
        first = len(shapes) - columns if self.labels else 0  # a chain's steps are named once, under its last row
        for i, caption in enumerate(captions or (), start=first):
            place = ((i % columns + 0.5) * across, (i // columns + 1) * down)
            axes.text(*place, caption, ha="center", va="center", color=INK, fontsize=10)
        return _figure_png(figure)

    def save(self, path: str | Path) -> Path:
        """Write the scene as a picture (.png) or as one page that needs nothing else (.html)."""
        path = Path(path)
        if path.suffix not in (".png", ".html"):
            raise ValueError(f"a scene is saved as .png or .html, not {path.name!r}")
        content = self.png() if path.suffix == ".png" else self._standalone().encode()
        part = path.with_name(path.name + ".part")
        part.write_bytes(content)
        return part.replace(path)

    def _standalone(self) -> str:
        import k3d

        bundle = (Path(k3d.__file__).parent / "static" / "standalone.js").read_text("utf-8")
        define = "window.define=function(name,_,make){window.k3dLibrary=make()};"
        player = SCENE_JS.read_text("utf-8")
        style = f"<style>html{{background:{PAPER}}}</style>"
        return self._document(f"{style}<script>{define}</script><script>{bundle}</script><script>{player}</script>")


SCENE_JS = Path(__file__).with_name("scene.js")


def _rotation(yaw: float, pitch: float) -> NDArray[np.float64]:
    """Turn about z by `yaw`, then about the screen's horizontal by `pitch`, degrees; the reader looks along +y."""
    a, b = math.radians(yaw), math.radians(pitch)
    about_z = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    return about_x @ about_z


def _grid(
    shapes: Sequence[Voxels],
    columns: int,
    scale: float,
    across: float,
    down: float,
    cell: tuple[float, float],
    color: str,
) -> NDArray[np.uint8]:
    """Shapes drawn side by side, RGBA; each has `across` x `down` pixels, at `scale` pixels a grid's side."""
    wide, high = max(1, round(across)), max(1, round(down))
    label = down - scale * cell[1]
    rows = math.ceil(len(shapes) / columns)
    canvas = np.zeros((rows * high, columns * wide, 4), np.uint8)
    for i, shape in enumerate(shapes):
        top, left = i // columns * high, i % columns * wide
        canvas[top : top + high, left : left + wide] = _draw(shape, wide, high, scale, label, color)
    return canvas


def _draw(shape: Voxels, wide: int, high: int, scale: float, label: float, color: str) -> NDArray[np.uint8]:
    """One shape as RGBA pixels, by parallel projection: voxel faces drawn as dense points, from the back to the front."""
    fine = 2  # drawn twice as fine, then averaged
    side, turn = shape.shape[0], _rotation(YAW, PITCH)
    paint = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    towards = np.where(turn[1] < 0, 1, -1)  # the sign of the face that looks at the reader, for each axis
    voxels = np.pad(shape.transpose(1, 0, 2)[:: towards[0], :: towards[1], :: towards[2]], 1)  # x, y, z; far voxels first
    screen = fine * scale / side * turn[[0, 2]] * towards * [[1], [-1]]  # voxels to pixels right and down
    spacing = (np.arange(n := math.ceil(1.1 * fine * scale / side) + 1) + 0.5) / n - 0.5
    faces, pieces, shades = [], [], []
    for axis in range(3):
        bare = np.argwhere(voxels & ~np.roll(voxels, -1, axis))
        face = np.insert(np.stack(np.meshgrid(spacing, spacing), -1).reshape(-1, 2), axis, 0.5, axis=1)
        faces.append(bare)
        pieces.append(np.full(len(bare), axis))
        shades.append((face @ screen.T, _shade(towards[axis] * turn[[0, 2, 1], axis] * (1, 1, -1))))
    corner, kind = np.concatenate(faces), np.concatenate(pieces)
    order = np.lexsort(corner.T[::-1])
    corner, kind = corner[order], kind[order]
    middle = (corner - (side + 1) / 2) @ screen.T + [fine * wide / 2, fine * (high - label) / 2]
    points = np.stack([offsets for offsets, _ in shades]).astype(np.float32)
    where = np.floor(middle[:, None].astype(np.float32) + points[kind]).astype(np.int32)
    column, row = np.clip(where[..., 0], 0, fine * wide - 1), np.clip(where[..., 1], 0, fine * high - 1)
    pixels = np.zeros((fine * high * fine * wide, 4), np.float32)
    levels = np.array([np.append(np.minimum(shade * paint, 255), 255) for _, shade in shades], np.float32)
    pixels[row * (fine * wide) + column] = levels[kind][:, None]  # a pixel keeps what was drawn last, the nearest
    pixels = pixels.reshape(high, fine, wide, fine, 4).mean(axis=(1, 3))
    pixels[..., :3] *= 255 / np.maximum(pixels[..., 3:], 1)
    return np.rint(pixels).astype(np.uint8)


def _shade(normal: NDArray[np.float64]) -> float:
    """Brightness of a matt face under k3d's lights; axes right, up, towards the reader."""
    lights = ((KEY_LIGHT, 0.4), ((0, 0, 1), 0.15), ((-0.25, -1, 1), 0.15), ((-2.5, 0.4, -1), 0.1))
    return 0.2 + LIGHTING * sum(power * max(0.0, float(normal @ light) / math.hypot(*light)) for light, power in lights)


def _png(pixels: NDArray[np.uint8], colours: int) -> bytes:
    """RGBA pixels as a small PNG with a palette."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).quantize(colours, method=Image.Quantize.FASTOCTREE).save(out, "PNG", optimize=True)
    return out.getvalue()


def _figure_png(figure: MatplotlibFigure, colours: int = 128) -> bytes:
    """A matplotlib figure as an opaque PNG with a palette, a third of the size of the usual one."""
    from PIL import Image

    out = io.BytesIO()
    figure.savefig(out, format="png")
    picture = Image.open(out).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return out.getvalue()


def plot_style() -> None:
    """Set matplotlib up for the book: opaque paper, colours that colour-blind readers can tell apart, readable text."""
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update(
        {
            "figure.figsize": (7.0, 3.4),
            "figure.dpi": 144,
            "figure.facecolor": PAPER,
            "savefig.facecolor": PAPER,
            "figure.constrained_layout.use": True,
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
    """A finished figure with the text a reader who cannot see it gets instead."""

    content: bytes
    alt: str
    width: int

    def __repr__(self) -> str:
        return self.alt

    def html(self) -> str:
        return (
            f'<img class="dnet-figure dark-light" alt="{html.escape(self.alt)}" src="{_data_uri(self.content)}" '
            f'style="display:block;width:{self.width}px;max-width:100%;height:auto;margin:.8em auto;border-radius:10px">'
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        picture = base64.b64encode(self.content).decode()
        return {"text/html": self.html(), "image/png": picture, "text/plain": self.alt}


def _data_uri(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def figure(fig: MatplotlibFigure, alt: str) -> Picture:
    """Finish a matplotlib figure: its picture with `alt`, the text that says what it shows."""
    if not alt.strip():
        raise ValueError("a figure needs an alt text: say what it shows")
    content, width = _figure_png(fig), round(fig.get_figwidth() * 100)
    _close(fig)
    return Picture(content, alt, width)


def _close(fig: MatplotlibFigure) -> None:
    """Take a figure out of pyplot's hands, so that a notebook does not draw it a second time."""
    from matplotlib import pyplot

    pyplot.close(fig)
