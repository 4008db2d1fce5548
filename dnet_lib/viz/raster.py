"""Voxel shapes as pixels: their faces in parallel projection, under the lights that k3d has."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Voxels = NDArray[np.bool_]  # one thresholded shape, (R, R, R), axes (y, x, z)

YAW, PITCH = 35.0, 22.0  # degrees: every shape first shows its front (-y), seen from above
KEY_LIGHT, LIGHTING = (-0.3, 1.0, 0.4), 1.8  # from the upper left; axes right, up, towards the reader


class Layout(NamedTuple):
    """Where the shapes of a grid stand, in pixels."""

    columns: int
    scale: float  # of a shape's side
    across: float  # from shape to shape
    down: float
    label: float  # of `down`, the empty part under a shape


def rotation(yaw: float, pitch: float) -> NDArray[np.float64]:
    """Turn about z by `yaw`, then about the screen's horizontal by `pitch`, degrees; the reader looks along +y."""
    a, b = math.radians(yaw), math.radians(pitch)
    about_z = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    return np.asarray(about_x @ about_z)


def grid(shapes: Sequence[Voxels], layout: Layout, color: str) -> NDArray[np.uint8]:
    """Shapes side by side as RGBA pixels."""
    wide, high, drawn = (max(1, round(size)) for size in (layout.across, layout.down, layout.down - layout.label))
    canvas = np.zeros((math.ceil(len(shapes) / layout.columns) * high, layout.columns * wide, 4), np.uint8)
    for i, shape in enumerate(shapes):
        top, left = i // layout.columns * high, i % layout.columns * wide
        canvas[top : top + drawn, left : left + wide] = draw(shape, wide, drawn, layout.scale, color)
    return canvas


def draw(shape: Voxels, wide: int, high: int, scale: float, color: str) -> NDArray[np.uint8]:
    """One shape as RGBA pixels, by parallel projection: voxel faces as dense points, from the back to the front."""
    fine = 2  # drawn twice as fine, then averaged
    side, turn = len(shape), rotation(YAW, PITCH)
    towards = np.where(turn[1] < 0, 1, -1)  # the sign of the face that looks at the reader, for each axis
    voxels = np.pad(shape.transpose(1, 0, 2)[:: towards[0], :: towards[1], :: towards[2]], 1)  # x, y, z; far ones first
    screen = fine * scale / side * turn[[0, 2]] * towards * [[1], [-1]]  # voxels to pixels right and down
    spacing = (np.arange(n := math.ceil(1.1 * fine * scale / side) + 1) + 0.5) / n - 0.5
    patch = np.stack(np.meshgrid(spacing, spacing), -1).reshape(-1, 2)
    bare = np.argwhere(np.stack([voxels & ~np.roll(voxels, -1, axis) for axis in range(3)], axis=-1))
    place, axis = bare[:, :3], bare[:, 3]
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
    return np.asarray(np.rint(pixels), np.uint8)


def _shade(normal: NDArray[np.float64]) -> float:
    """Brightness of a matt face under k3d's lights; axes right, up, towards the reader."""
    lights = ((KEY_LIGHT, 0.4), ((0, 0, 1), 0.15), ((-0.25, -1, 1), 0.15), ((-2.5, 0.4, -1), 0.1))
    return 0.2 + LIGHTING * sum(p * max(0.0, float(normal @ light) / math.hypot(*light)) for light, p in lights)
