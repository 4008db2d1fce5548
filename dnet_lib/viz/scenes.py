"""Views of voxel shapes, one or many or a chain of them, and of clouds of points.

Shapes are indexed (y, x, z) with z up everywhere in the library; only `viz` transposes them, to draw them.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dnet_lib.viz.figures import figure_png, small_png
from dnet_lib.viz.raster import PITCH, YAW, Layout, Voxels, grid, rotation
from dnet_lib.viz.style import GROUPS, INK, PAPER, SHAPE
from dnet_lib.viz.views import BAR, LABEL, WIDTH, View

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    steps = tuple(_row(step, threshold) for step in (shapes if chain else [shapes]))
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
        color=color,
        alt=alt or f"{many} at {sides}" + (f", a chain of {len(steps)} steps" if chain else ""),
        cell=_cell(itertools.chain.from_iterable(steps)),
        tall=height,
        count=len(steps[0]),
        columns=columns,
        captions=() if captions is None else tuple(map(str, captions)),
        labels=() if labels is None else tuple(map(str, labels)),
        label=LABEL if captions is not None else 0,
        foot=BAR if chain else 0,
        delay=max(80, min(400, 4000 // len(steps))),
    )


def _row(shapes: Any, threshold: float) -> tuple[Voxels, ...]:
    """The shapes of one step: (R, R, R), (N, R, R, R), (N, 1, R, R, R) or a list of such, of any resolutions."""
    if isinstance(shapes, (list, tuple)):
        return tuple(itertools.chain.from_iterable(_row(item, threshold) for item in shapes))
    values = _array(shapes)
    channel = values.ndim == 5 and values.shape[1] == 1
    batch = values[None] if values.ndim == 3 else values[:, 0] if channel else values
    if batch.ndim != 4:
        raise ValueError(f"shapes must be (R, R, R), (N, R, R, R) or (N, 1, R, R, R), not {values.shape}")
    if len(set(batch.shape[1:])) != 1 or 0 in batch.shape[1:]:
        raise ValueError(f"a shape must be (R, R, R) voxels, not {batch.shape[1:]}")
    if not np.isfinite(batch).all():
        raise ValueError("shapes hold NaN or infinity: look at the chain that made them before drawing it")
    return tuple(batch if batch.dtype == bool else batch >= threshold)


def _cell(shapes: Iterable[Voxels]) -> tuple[float, float]:
    """Width and height that each shape needs however it is turned about its axis, in sides of its grid."""
    across = up = 0.0
    for shape in shapes:
        far = (abs(np.arange(len(shape)) + 0.5 - len(shape) / 2) + 0.5) / len(shape)  # voxels' outer faces
        y, x = np.nonzero(shape.any(axis=2))
        across = max(across, float(np.hypot(far[x], far[y]).max(initial=0)))
        up = max(up, float(far[shape.any(axis=(0, 1))].max(initial=0)))
    across, up, pitch = across or 0.5, up or 0.5, math.radians(PITCH)
    return round(2.1 * across, 4), round(2.1 * (up * math.cos(pitch) + across * math.sin(pitch)), 4)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Scene(View):
    """What `show` returns: voxel shapes, or a chain of them."""

    steps: tuple[tuple[Voxels, ...], ...]
    color: str
    corner: ClassVar[float] = -0.5

    def _objects(self, centres: list[tuple[float, float]]) -> Iterator[Any]:
        import k3d

        look = {"color_map": [int(self.color[1:], 16)], "outlines": False, "compression_level": 9}
        for t, step in enumerate(self.steps):
            for shape, centre in zip(step, centres, strict=True):
                name, place = self.labels[t] if self.labels else "shape", _placed(*centre)
                voxels = k3d.voxels(_upright(shape), name=name, bounds=[-0.5, 0.5] * 3, model_matrix=place, **look)
                voxels.roughness = 1.0
                if self.labels:
                    times = {0: t == 0, t: True, t + 1: False}
                    voxels.visible = {str(time): seen for time, seen in times.items() if time < len(self.steps)}
                yield voxels

    def redraw(self, plot: Any) -> None:
        """Put this scene's shapes into a live view of as many others, which stays as the reader turned it."""
        solids = [item for item in plot.objects if hasattr(item, "voxels")]
        for solid, shape in zip(solids, self.steps[0], strict=True):
            solid.voxels = _upright(shape)

    def _poster(self) -> bytes:
        for detail in (1.0, 0.7, 0.5, 0.35):
            pixels = grid(self.steps[0], self._layout(detail), self.color)
            spare = max(0, round(detail * self.height) - len(pixels))
            pixels = np.pad(pixels, ((spare // 2, spare - spare // 2), (0, 0), (0, 0)))
            picture = small_png(Image.fromarray(pixels), colours=16)
            if len(picture) < 15_000:
                break
        return picture

    def png(self) -> bytes:
        """The shapes; of a chain, six steps side by side."""
        shapes, captions, layout, foot = self.steps[0], self.captions, self._layout(detail=2), 0
        if self.labels:  # the steps are named once, under the last row
            chosen = np.unique(np.linspace(0, len(self.steps) - 1, 6).round().astype(int))
            shapes = tuple(self.steps[t][i] for i in range(self.count) for t in chosen)
            captions, foot = tuple(self.labels[t] for t in chosen), 44
            scale = min(2 * WIDTH / len(chosen) / self.cell[0], 480 / self.cell[1])
            layout = Layout(len(chosen), scale, scale * self.cell[0], scale * self.cell[1], label=0)
        pixels = grid(shapes, layout, self.color)
        fig = _canvas(pixels.shape[1], pixels.shape[0], foot)
        (axes,) = fig.axes
        axes.imshow(pixels)
        for i, caption in enumerate(captions, start=len(shapes) - len(captions)):
            x, y = (i % layout.columns + 0.5) * layout.across, (i // layout.columns + 1) * layout.down
            axes.text(x, y + (foot - layout.label) / 2, caption, ha="center", va="center", color=INK, fontsize=10)
        return figure_png(fig)


def points(
    xyz: Any, groups: Any, *, names: Sequence[str] | None = None, alt: str | None = None, height: int = 420
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
    names = [f"group {i}" for i in range(int(groups.max()) + 1)] if names is None else list(map(str, names))
    if groups.min() < 0 or groups.max() >= len(names) or len(names) > len(GROUPS):
        raise ValueError(f"groups must be 0 to {len(names) - 1}, one for each name, and {len(GROUPS)} at most")
    centred = xyz - (xyz.min(axis=0) + xyz.max(axis=0)) / 2
    centred = (centred / (np.linalg.norm(centred, axis=1).max() or 1.0) / 2).astype(np.float32)
    x, y, z = np.abs(centred).T
    across, up, pitch = float(np.hypot(x, y).max()), float(z.max()), math.radians(PITCH)
    size = min(0.035, 0.55 / math.sqrt(len(xyz)))
    return Points(
        clouds=tuple(centred[groups == i] for i in range(len(names))),
        names=tuple(names),
        size=size,
        alt=alt or f"{len(xyz)} points in {len(names)} groups",
        cell=(2 * across + size, 2 * (up * math.cos(pitch) + across * math.sin(pitch)) + size),
        tall=height,
        foot=BAR * math.ceil(sum(len(name) + 5 for name in names) / 100),
        legend=_legend(names),
    )


def _legend(names: Sequence[str]) -> str:
    """HTML: a button for each group."""
    spots = "".join(
        f'<button type="button" data-group="{i}" aria-pressed="false" style="font:inherit;color:inherit;border:0;'
        f'background:none;padding:0;cursor:pointer"><span style="color:{color}">&#9679;</span> {html.escape(name)}'
        "</button>"
        for i, (name, color) in enumerate(zip(names, GROUPS, strict=False))
    )
    return (
        '<div style="order:1;flex:none;display:flex;flex-wrap:wrap;justify-content:center;gap:.2em 1.2em;'
        f'padding:.3em 1em .8em">{spots}</div>'
    )


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Points(View):
    """What `points` returns: one cloud of small balls."""

    clouds: tuple[NDArray[np.float32], ...]  # (n, 3) for each group, within 1/2 of the origin; x right, y back, z up
    names: tuple[str, ...]
    size: float  # of a ball

    def _objects(self, centres: list[tuple[float, float]]) -> Iterator[Any]:
        import k3d

        place = _placed(*centres[0])
        look = {"point_size": self.size, "shader": "mesh", "mesh_detail": 1, "compression_level": 9}
        for cloud, name, color in zip(self.clouds, self.names, GROUPS, strict=False):
            yield k3d.points(cloud, name=name, color=int(color[1:], 16), model_matrix=place, **look)

    def _poster(self) -> bytes:
        return figure_png(self._drawing(1.0), colours=48, transparent=True)

    def png(self) -> bytes:
        """The points and the legend."""
        fig = self._drawing(2.0, foot=2 * self.foot)
        dots = [fig.axes[0].scatter([], [], s=30, color=color) for color in GROUPS[: len(self.names)]]
        fig.legend(dots, self.names, loc="lower center", ncols=5, frameon=False, labelcolor=INK, handletextpad=0.2)
        return figure_png(fig)

    def _drawing(self, detail: float, foot: int = 0) -> Figure:
        """The points as they are first seen, by parallel projection, the nearest drawn last."""
        wide, high, scale = detail * WIDTH, detail * self.height, self._layout(detail).scale
        fig = _canvas(wide, high, foot)
        right, away, up = rotation(YAW, PITCH) @ np.concatenate(self.clouds).T
        colours = np.repeat(GROUPS[: len(self.clouds)], [len(cloud) for cloud in self.clouds])
        order = np.argsort(-away)
        area = (self.size * scale / 2) ** 2  # a pixel is half a typographic point
        (axes,) = fig.axes
        axes.scatter(right[order], up[order], s=area, c=colours[order], edgecolors="#00000040", linewidths=0.4)
        axes.set(xlim=(-wide / scale / 2, wide / scale / 2), ylim=(-high / scale / 2, high / scale / 2))
        return fig


def _array(values: Any) -> NDArray[Any]:
    """An array or tensor as numpy."""
    return np.asarray(values.detach().cpu().numpy() if hasattr(values, "detach") else values)


def _upright(shape: Voxels) -> NDArray[np.uint8]:
    """A shape's voxels in the order k3d draws them, z first."""
    return shape.transpose(2, 0, 1).astype(np.uint8)


def _placed(x: float, z: float) -> NDArray[np.float32]:
    """The model matrix of a thing at (x, z), turned as it is first seen."""
    matrix = np.eye(4, dtype=np.float32)
    matrix[:3, :3], matrix[:3, 3] = rotation(YAW, 0), (x, 0, z)
    return matrix


def _canvas(wide: float, high: float, foot: float) -> Figure:
    """A figure of so many pixels for fine screens, with a foot under its axes, whatever `plot_style` says."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(wide / 144, (high + foot) / 144), dpi=144, facecolor=PAPER)
    fig.set_layout_engine("none")
    fig.add_axes((0, foot / (high + foot), 1, high / (high + foot))).axis("off")
    return fig
