"""Procedural furniture: the ten categories of ModelNet10 as parametric solids, drawn at any resolution from a seed.

A solid answers one question, "is this point inside?", and combines with `|`, `&` and `-`. A category is a function that
throws the dice for every measure and returns a solid in metres; only then are the centres of a grid's cells tested. So
one seed gives one piece of furniture, at 16^3, 32^3 and 64^3 alike. What is thinner than a cell is drawn one cell
thick: no grid loses a leg. Inside this module a piece stands on z = 0 and faces -y, with x across.

Dice are rounded to 1/1024 and only sums, products and quotients decide what is inside: every platform draws the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

T = TypeVar("T")
Field = NDArray[np.bool_]
Array = NDArray[np.float64]
Span = float | tuple[float, float]  # an interval; a number a stands for (-a, a)
SHARP, ROUND, SOFT = 0, 2, 4  # sections: a rectangle, an ellipse, and |u|^4 + |v|^4 <= 1 between the two
FACING_Y = ("bed", "chair", "toilet")  # these face -y in ModelNet10, the others -x
EDGE = 1 + 2**-30  # what lies on a surface is inside, whatever the last bit of a quotient
SMALLEST = 16  # cells a side; on smaller grids legs and gaps run together


class Grid(NamedTuple):
    """Cell centres, as three axes that broadcast against one another, and the sides of a cell."""

    axes: tuple[Array, ...]
    step: Array


@dataclass(frozen=True)
class Solid:
    """A set of points, as a test of cell centres, inside the box from `lo` to `hi`."""

    inside: Callable[[Grid], Field]
    lo: Array
    hi: Array

    def __or__(self, other: Solid) -> Solid:
        lo, hi = np.minimum(self.lo, other.lo), np.maximum(self.hi, other.hi)
        return Solid(lambda g: self.inside(g) | other.inside(g), lo, hi)

    def __and__(self, other: Solid) -> Solid:
        lo, hi = np.maximum(self.lo, other.lo), np.minimum(self.hi, other.hi)
        return Solid(lambda g: self.inside(g) & other.inside(g), lo, hi)

    def __sub__(self, other: Solid) -> Solid:
        return Solid(lambda g: self.inside(g) & ~other.inside(g), self.lo, self.hi)


@dataclass(frozen=True)
class Dice:
    """The random choices of one piece of furniture."""

    rng: np.random.Generator

    def __call__(self, low: float, high: float) -> float:
        return rounded(low + (high - low) * self.rng.random())

    def pick(self, *options: T) -> T:
        return options[int(self.rng.random() * len(options))]

    def odds(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)


def rounded(length: float) -> float:
    """A length to the nearest 1/1024."""
    return round(length * 1024) / 1024


def spaced(low: float, high: float, count: int) -> list[float]:
    """The middles of `count` equal pieces of an interval."""
    return [low + (high - low) * (k + 0.5) / count for k in range(count)]


def _within(offsets: Iterable[Array], section: int) -> Field:
    if section == SHARP:
        return reduce(np.logical_and, (np.abs(u) <= EDGE for u in offsets))
    squares = [u * u for u in offsets]
    return reduce(np.add, [s * s for s in squares] if section == SOFT else squares) <= EDGE


def box(x: Span, y: Span, z: Span, section: int = SHARP) -> Solid:
    """A box, a rounded box (SOFT) or an ellipsoid (ROUND) that fills three intervals."""
    lo, hi = np.transpose([s if isinstance(s, tuple) else (-s, s) for s in (x, y, z)])

    def inside(g: Grid) -> Field:
        half = np.maximum((hi - lo) / 2, g.step * (0.75 if section else 0.5))
        return _within(((c - m) / h for c, m, h in zip(g.axes, (lo + hi) / 2, half, strict=True)), section)

    return Solid(inside, lo, hi)


def limb(
    start: Sequence[float], stop: Sequence[float], half: Span, end: Span | None = None, section: int = SHARP,
    inset: float | None = None,
) -> Solid:  # fmt: skip
    """A bar between two points, its section (normal to its longest axis) of half-widths `half` that become `end`.

    With `inset` the section is drawn in by so much, and by a cell at least: a limb less its inset is always a wall.
    """
    p, q = np.array(start, float), np.array(stop, float)
    along = int(np.argmax(np.abs(q - p)))
    a, b = (np.insert(np.broadcast_to(h, 2).astype(float), along, 0) for h in (half, half if end is None else end))

    def inside(g: Grid) -> Field:
        t, offsets = np.clip((g.axes[along] - p[along]) / (q[along] - p[along]), 0, 1), []
        for k in {0, 1, 2} - {along}:
            width = a[k] + (b[k] - a[k]) * t
            if inset is None:
                slant = abs((q[k] - p[k]) / (q[along] - p[along])) * g.step[along]  # sideways from cell to cell
                width = np.maximum(width, max(g.step[k], slant) * (0.72 if section else 0.5))
            else:
                width = np.maximum(width - max(inset, 1.1 * g.step[k]), 1e-6)
            offsets.append((g.axes[k] - (p[k] + (q[k] - p[k]) * t)) / width)
        reach = max(abs(q[along] - p[along]), g.step[along]) / 2 * EDGE
        near: Field = np.abs(g.axes[along] - (p[along] + q[along]) / 2) <= reach
        return near & _within(offsets, section)

    return Solid(inside, np.minimum(p - a, q - b), np.maximum(p + a, q + b))


def disc(z: tuple[float, float], half: Span, section: int = ROUND, inset: float | None = None) -> Solid:
    """A slab, a drum or a post on the z axis."""
    return limb((0, 0, z[0]), (0, 0, z[1]), half, None, section, inset)


def arch(x: float, y: tuple[float, float], z: tuple[float, float], rise: float) -> Solid:
    """An upright panel whose top is half an ellipse of height `rise`."""
    crown = z[1] - rise
    return box(x, y, (z[0], crown)) | limb((0, y[0], crown), (0, y[1], crown), (x, rise), section=ROUND)


def join(parts: Iterable[Solid]) -> Solid:
    """The union of parts."""
    return reduce(or_, parts)


def mirror(solid: Solid, axis: int = 0) -> Solid:
    """The reflection of a solid in the plane where the axis is 0."""
    sign = np.where(np.arange(3) == axis, -1.0, 1.0)
    lo, hi = np.sort([sign * solid.lo, sign * solid.hi], axis=0)
    return Solid(lambda g: solid.inside(Grid(tuple(s * c for s, c in zip(sign, g.axes, strict=True)), g.step)), lo, hi)


def pair(*parts: Solid) -> Solid:
    """Parts and their reflections: right and left."""
    return join(parts) | mirror(join(parts))


def four(*parts: Solid) -> Solid:
    """Parts at all four corners."""
    return pair(*parts) | mirror(pair(*parts), 1)


def lean(solid: Solid, slope: float, z: float) -> Solid:
    """A solid that leans back above the height z: y grows by `slope` times the height."""
    shift = [np.array([0, slope * (end[2] - z), 0]) for end in (solid.lo, solid.hi)]

    def inside(g: Grid) -> Field:
        x, y, up = g.axes
        return solid.inside(Grid((x, y - slope * (up - z), up), g.step))

    return Solid(inside, solid.lo + shift[0], solid.hi + shift[1])


def legs(d: Dice, x: float, y: float, top: float, half: float, *styles: str) -> Solid:
    """Four legs under the corners (+-x, +-y), straight, tapered, splayed or turned; bracket feet; a plinth."""
    style, out = d.pick(*styles), d(0.04, 0.14) * top
    if style == "plinth":
        return box(x, y, (0, top))
    if style == "bracket":
        return four(box((x - 3 * half, x + half), (y - 3 * half, y + half), (0, top)))
    if style == "turned":
        return four(turned(x, y, top, *(half * r for r in (0.8, 0.8, 1.4, 1, 1.3, 1.3))))
    if style == "splayed":
        return four(limb((x + out, y + out, 0), (x - half, y - half, top), 0.6 * half, half, ROUND))
    return four(limb((x, y, 0), (x, y, top), (0.5 if style == "tapered" else 1) * half, half))


def turned(x: float, y: float, top: float, *radii: float) -> Solid:
    """A post turned on a lathe: cones between radii at equal heights."""
    z = [top * k / (len(radii) - 1) for k in range(len(radii))]
    cones = zip(pairwise(z), pairwise(radii), strict=True)
    return join(limb((x, y, low), (x, y, high), a, b, ROUND) for (low, high), (a, b) in cones)


def star(arms: int, reach: float, high: float, half: float) -> Solid:
    """Arms that run from a hub at height `high` out and down to feet on the floor."""
    turns = [math.tau * (k + 0.25) / arms for k in range(arms)]
    feet = [(rounded(reach * math.cos(a)), rounded(reach * math.sin(a))) for a in turns]
    return join(limb((0, 0, high), (*f, half), half) | limb((*f, 0), (*f, 2 * half), half) for f in feet)


def pedestal(d: Dice, top: float, reach: float) -> Solid:
    """One support in the middle: a post on a disc or a plate, a baluster, a trumpet, a star of three to five feet."""
    thin, foot = d(0.12, 0.22) * reach, d.pick("disc", "plate", "baluster", "trumpet", "star")
    if foot == "star":
        return star(d.pick(3, 4, 5), reach, d(0.1, 0.35) * top, 0.7 * thin) | disc((0.05 * top, top), thin)
    if foot == "trumpet":
        return turned(0, 0, top, reach, 0.35 * reach, thin, thin, 1.5 * thin)
    profile = (2.5, 1, 2, 1.6, 1, 1.6) if foot == "baluster" else (1, 1)
    base = disc((0, d(0.04, 0.09) * top), reach, SHARP if foot == "plate" else ROUND)
    return base | turned(0, 0, top, *(thin * r for r in profile))


def shelves(x: float, y: tuple[float, float], z: tuple[float, float], count: int, board: float) -> Solid:
    """An open case with `count` compartments one above the other."""
    levels = [z[0] + (z[1] - z[0] - board) * k / count for k in range(count + 1)]
    case = pair(box((x - board, x), y, z)) | box(x, (y[1] - board, y[1]), z)
    return case | join(box(x, y, (level, level + board)) for level in levels)


def fronts(d: Dice, body: Solid, x: Span, z: tuple[float, float], face: float, rows: int, cols: int = 1) -> Solid:
    """A body with drawers (doors, where there is one row) at y = `face`: grooves between them, and handles or none."""
    (x0, x1), deep = x if isinstance(x, tuple) else (-x, x), rounded(0.045 * max(body.hi - body.lo))
    wide, high, cut = (x1 - x0) / cols, (z[1] - z[0]) / rows, (face - deep, face + deep)
    for k in range(1, rows):
        body -= box((x0, x1), cut, (z[0] + high * k,) * 2)
    for k in range(1, cols):
        body -= box((x0 + wide * k,) * 2, cut, z)
    w, h = d.pick((0.0, 0.0), (0.28, 0.0), (0.12, 0.12)) if rows > 1 else (0.0, 0.16)
    if d.odds(0.2):
        return body
    for k, c in enumerate(spaced(x0, x1, cols)):
        at = c if rows > 1 else c + (-0.32 if k % 2 else 0.32) * wide
        grip = (at - w * wide, at + w * wide)
        body |= join(box(grip, cut, (c - h * high, c + h * high)) for c in spaced(*z, rows))
    return body


def bathtub(d: Dice) -> Solid:
    """Boxed with a square, soft or oval basin, or free-standing on the floor, claws or a plinth; slipper, rim, tap."""
    x, y, top, slope, shelf = d(0.72, 0.92), d(0.34, 0.48), d(0.46, 0.66), d(0.7, 0.95), d(0, 0.1)
    wall, floor, lip, foot, rise = d(0.05, 0.08), d(0.06, 0.12), d.pick(0, 0.06), "box", 0.0
    if d.odds(0.4):
        section, low = d.pick(SHARP, SOFT, ROUND), 0.0
        tub = box(x, y, (0, top)) | box(x + lip, y + lip, (0.78 * top, top))
    else:
        section, foot, shelf = d.pick(ROUND, SOFT), d.pick("floor", "claws", "plinth"), 0.0
        rise, low = d.pick(0, 0, d(0.12, 0.25)), 0 if foot == "floor" else d(0.08, 0.16)
        tub = limb((0, 0, low), (0, 0, top), (slope * x, slope * y), (x, y), section)
        tub |= disc((top - 0.05, top), (x + lip, y + lip), section)
    if rise:  # a slipper: one end stands higher
        tub |= disc((top, top + rise), (x, y), section)
        tub -= limb((x, 0, top + 0.56), (-x, 0, top + rise + 0.5), (y, 0.5))
    basin, rim = (slope * (x - shelf), slope * y), (x - shelf, y)
    tub -= limb((-shelf, 0, low + floor), (-shelf, 0, top), basin, rim, section, wall)
    tub -= limb((-shelf, 0, top - 0.05), (-shelf, 0, top + 0.5), rim, None, section, wall)
    tub |= disc((low, low + floor), basin, section)
    if foot == "plinth":
        tub |= box(d(0.5, 0.8) * x, 0.7 * y, (0, low + 0.06))
    elif foot == "claws":
        tub |= four(limb((0.8 * x, 0.66 * y, 0), (0.55 * x, 0.4 * y, low + 0.1), 0.04, 0.08))
    tap = box((x - 0.05, x), 0.03, (top - 0.12, top + 0.16)) | box((x - 0.2, x), 0.03, (top + 0.12, top + 0.16))
    return tub | tap if d.odds(0.5) else tub


def bed(d: Dice) -> Solid:
    """Single to king on legs or a base; panel, arched, slatted, winged boards; pillows, quilt; four-posters, bunks."""
    x, y, deck, soft, half = d(0.46, 0.95), d(0.98, 1.08), d(0.2, 0.4), d(0.12, 0.26), d(0.03, 0.055)
    top, head, kind, slats = deck + soft, d(0.35, 0.75), d.pick(*["plain"] * 6, "posts", "bunk"), d.pick(4, 5, 6)
    board = d.pick("panel", "panel", "arch", "arch", "slats", "slats", "wings", "none" if kind == "plain" else "panel")
    shape = box(x, y, (deck - 0.1, deck)) | box(x - 0.03, (0.03 - y, y), (deck, top))
    shape |= legs(d, x - 0.05, y - 0.05, deck, half, "straight", "tapered", "turned", "plinth", "plinth")
    for far, high in ((y, top + head), (-y, top + d(0.05, 0.3)))[: 2 if d.odds(0.4) else 1]:
        span = (far - half, far + half)
        if board == "arch":
            shape |= arch(x + 0.02, span, (0, high), d(0.4, 0.8) * (high - top))
        elif board == "slats":
            shape |= pair(box((x - 0.06, x + 0.02), span, (0, high + 0.06))) | box(x, span, (high - 0.1, high))
            shape |= join(box((c - 0.03, c + 0.03), span, (deck, high)) for c in spaced(-x, x, slats))
        elif board != "none":
            shape |= box(x + 0.02, span, (0, high))
    if board == "wings":
        shape |= pair(box((x - 0.06, x + 0.02), (y - 0.3, y), (0, top + head)))
    edge, plump = x - 0.06, d(0.09, 0.14)
    for c in spaced(-edge, edge, 1 if x < 0.62 else 2):
        wide = edge - abs(c) - 0.03
        shape |= box((c - wide, c + wide), (y - 0.52, y - 0.08), (top - plump, top + plump), SOFT)
    if d.odds(0.5):  # a quilt
        shape |= box(x + 0.03, (-y, d(-0.3, 0.3)), (deck + 0.05, top + 0.05))
    if kind == "posts":
        high, rail = top + d(1.1, 1.4), 2 * half
        shape |= four(box((x - rail, x), (y - rail, y), (0, high)), box(x, (y - rail, y), (high - rail, high)))
        shape |= pair(box((x - rail, x), y, (high - rail, high)))
    elif kind == "bunk":
        high, side = top + d(0.75, 0.95), (x - 0.06, x)
        shape |= box(x, y, (high, high + 0.22)) | four(box(side, (y - 0.08, y), (0, high + 0.4)))
        shape |= box(side, (-0.3 * y, y), (high + 0.3, high + 0.38)) | box(side, (-0.6 * y, -0.55 * y), (0, high))
        shape |= join(box(side, (-y, -0.55 * y), (z - 0.02, z + 0.02)) for z in spaced(0, high, 5))
    return shape


def chair(d: Dice) -> Solid:
    """Legs, sled, cantilever, pedestal or star; panel, arched, hooped, slatted, ladder or tub back; lean, arms."""
    x, y, seat, pad, half = d(0.21, 0.28), d(0.21, 0.27), d(0.36, 0.5), d(0.035, 0.08), d(0.018, 0.034)
    tall, slope, under = d(0.36, 0.6), d(0, 0.25), d.pick(*["legs"] * 4, "sled", "cantilever", "pedestal", "star")
    back = d.pick("panel", "arch", "hoop", "slats", "ladder", "panel" if under in ("sled", "cantilever") else "tub")
    top, base, inner, count = seat + pad + tall, seat + 0.02, 0.68 if back == "tub" else 1.0, d.pick(2, 3, 4)
    side, rear, rise = (x - 2 * half, x), (y - 2 * half, y), (seat, seat + pad + tall)
    shape = disc((seat, seat + pad), (x, y), ROUND if back == "tub" else d.pick(SHARP, SHARP, SOFT))
    if under == "legs":
        style, z = d.pick("straight", "tapered", "splayed", "turned"), d(0.25, 0.5) * seat
        shape |= legs(d, inner * (x - half), inner * (y - half), base, half, style)
        if back != "tub" and style != "splayed" and d.odds(0.5):  # stretchers
            shape |= pair(box(side, y - half, (z, z + half)))
    elif under == "star":
        shape |= star(5, d(0.24, 0.3), d(0.1, 0.16), 0.028) | disc((0.08, base), d(0.025, 0.04))
    elif under == "pedestal":
        shape |= pedestal(d, base, d(0.2, 0.26))
    else:
        shape |= pair(box(side, y, (0, 1.5 * half)), box(side, (-y, 2 * half - y), (0, base)))
        shape |= pair(box(side, rear, (0, base))) if under == "sled" else box(x, rear, (0, 1.5 * half))
    if back == "tub":
        rim, wide = (seat, seat + pad + d(0.4, 0.7) * tall), (x + 0.02, y + 0.02)
        shell = disc(rim, wide) - disc(rim, wide, inset=0.045)
        return shape | disc((seat, seat + pad), wide) | shell & box(1, (d(-0.1, 0.1), 1), rim)
    if back in ("slats", "ladder"):
        panel = pair(box(side, rear, rise)) | box(x, rear, (top - d(0.05, 0.14), top))
        slats = [box((c - 0.5 * half, c + 0.5 * half), rear, rise) for c in spaced(-x, x, count + 1)]
        rungs = [box(x, rear, (z - 0.03, z + 0.03)) for z in spaced(seat + 0.2 * tall, top - 0.1, count - 1)]
        panel |= join(slats if back == "slats" else rungs)
    else:
        panel = box(x, rear, (seat + d.pick(0, 0, 0.3) * tall, top)) | box(0.4 * x, rear, rise)
    if back in ("arch", "hoop"):
        oval = ((0, -1, seat), (0, 1, seat), (x, top - seat), None, SOFT if back == "arch" else ROUND)
        panel &= limb(*oval)
        if back == "hoop":
            panel -= limb(*oval, inset=2.2 * half)
            spindles = spaced(-0.6 * x, 0.6 * x, count)
            panel |= join(box((c - 0.4 * half, c + 0.4 * half), rear, (seat, top - 0.06)) for c in spindles)
    shape |= lean(panel, slope, seat)
    if d.odds(0.45):
        arm, rail = seat + pad + d(0.16, 0.24), (x - half, x + half + d.pick(0, 0.03))
        shape |= pair(box(rail, (-0.8 * y, y), (arm - 0.03, arm)))
        shape |= pair(box(rail, (-0.8 * y, 2 * half - 0.8 * y), (seat, arm)))
    return shape


def desk(d: Dice) -> Solid:
    """Legs, panels, trestles or drawers at either end; modesty panel, drawer, L-shaped return, hutch, raised shelf."""
    x, y, top, board, inset = d(0.6, 0.85), d(0.3, 0.4), d(0.68, 0.8), d(0.03, 0.06), d(0, 0.05)
    ends = d.pick("legs legs", "drawers drawers", "drawers legs", "drawers panel", "trestle trestle").split()
    rows, wide, half, extra = d.pick(2, 3, 4), d(0.34, 0.46), d(0.02, 0.06), d.pick("", "return", "hutch", "riser")
    shape, taper = box(x, y, (top - board, top)), d(0.5, 1)
    for k, end in enumerate(ends):
        if end == "drawers":
            span, low = (x - inset - wide, x - inset), d.pick(0, 0.08)
            part = fronts(d, box(span, y - inset, (low, top)), span, (low, top - board), inset - y, rows)
            part |= box((span[0] + 0.04, span[1] - 0.04), y - inset - 0.06, (0, top))
        elif end == "trestle":
            at, bar = x - wide / 2, taper * 0.4 * top
            part = limb((at, y - inset - half, 0), (at, 0.3 * y, top - board), half)
            part |= mirror(part, 1) | box((at - half, at + half), 0.7 * y, (bar, bar + 0.05))
        elif end == "legs":
            corner = (x - inset - half, y - inset - half)
            part = limb((*corner, 0), (*corner, top), taper * half, half)
            part |= mirror(part, 1)
        else:
            part = box((x - inset - 0.05, x - inset), y - inset, (0, top))
        shape |= mirror(part) if k else part
    if "trestle" not in ends and d.odds(0.6):  # a modesty panel
        shape |= box(x - 0.04, (y - 0.06, y - 0.03), (d(0.05, 0.5) * top, top))
    if d.odds(0.35):  # a drawer under the top
        shape |= box(x - 0.03, y - 0.03, (top - d(0.1, 0.16), top))
    if extra == "return":
        side, far = (x - d(0.4, 0.5), x), -y - d(0.4, 0.7)
        shape |= box(side, (far, y), (top - board, top)) | box(side, (far, far + 0.05), (0, top))
    elif extra == "hutch":
        high = top + d(0.35, 0.6)
        shape |= shelves(x, (0.25 * y, y), (top - board, high), d.pick(1, 2), 0.035)
        shape |= join(box((c - 0.02, c + 0.02), (0.25 * y, y), (top, high)) for c in spaced(-x, x, d.pick(1, 2, 3)))
    elif extra == "riser":
        shape |= box(x - 0.03, (0.4 * y, y), (top, top + d(0.12, 0.2)))
    return mirror(shape) if d.odds(0.5) else shape


def dresser(d: Dice) -> Solid:
    """Sideboards, chests, tallboys and wardrobes; one to three columns of drawers, doors; feet; mirror, rail."""
    y, low, kind = d(0.2, 0.3), d(0.06, 0.2), d.pick("side", "chest", "chest", "tall", "wardrobe")
    crown, styles = d.pick(0, 0, 1, 2), ("straight", "tapered", "splayed", "plinth", "plinth", "bracket")
    x, high, rows, cols = {
        "side": (d(0.6, 0.85), d(0.7, 0.9), d.pick(2, 3), d.pick(2, 3)),
        "chest": (d(0.4, 0.6), d(0.85, 1.15), d.pick(3, 4, 5), d.pick(1, 2)),
        "tall": (d(0.25, 0.36), d(1.1, 1.45), d.pick(5, 6), 1),
        "wardrobe": (d(0.42, 0.6), d(1.2, 1.5), 1, 2),
    }[kind]
    body, split = box(x, y, (low, high)), low
    if kind in ("wardrobe", "chest") and d.odds(0.4):  # drawers below doors, or doors below drawers
        split = low + d(0.25, 0.4) * (high - low)
        body -= box(x, (-1, 0.045 - y), (split, split))
        body = fronts(d, body, x, (low, split), -y, 1 if rows > 1 else 2, 3 - cols)
    body = fronts(d, body, x, (split, high), -y, rows, cols)
    body |= legs(d, x - 0.04, y - 0.04, low + 0.01, 0.035, *styles)
    if d.odds(0.5):
        body |= box(x + 0.04, y + 0.04, (high - 0.04, high))
    if crown == 1:
        body |= box(x, (y - 0.04, y), (high, high + d(0.06, 0.14)))
    elif crown and kind in ("side", "chest"):  # a mirror
        tip, rise = high + d(0.5, 0.75), d(0.02, 0.3)
        body |= arch(d(0.5, 0.8) * x, (y - 0.08, y - 0.02), (high, tip), rise)
    return body


def monitor(d: Dice) -> Solid:
    """Flat screens with a bezel, curved screens, tubes; tilt; on a disc, a plate, a V, a bridge, two feet, a slant."""
    x, high, thick, low = d(0.25, 0.36), d(0.28, 0.42), d(0.018, 0.04), d(0.06, 0.15)
    top, kind, bezel = low + high, d.pick("flat", "flat", "flat", "flat", "curved", "tube"), d(0.02, 0.04)
    neck, rear, deep, mid = d(0.025, 0.06), thick + 0.05, d(0.08, 0.14), low + 0.5 * high
    panel = box(x, thick, (low, top))
    if kind == "curved":
        wing = limb((0.35 * x, 0, mid), (x, -d(0.05, 0.1), mid), (thick, high / 2))
        panel = box(0.35 * x, thick, (low, top)) | pair(wing)
    elif kind == "tube":
        panel |= limb((0, 0, mid), (0, d(0.25, 0.4), mid), (x, high / 2), (0.5 * x, 0.3 * high))
    else:
        front, bulge = (-thick - 0.025, thick), d.pick(0, 0.03)
        panel |= pair(box((x - bezel, x), front, (low, top)))
        panel |= box(x, front, (top - bezel, top)) | box(x, front, (low, low + d(1, 2.5) * bezel))
        panel |= box(0.5 * x, (-thick, thick + bulge), (low + 0.2 * high, low + 0.7 * high))
    tilt = d.pick(0.0, d(0.04, 0.12)) if kind == "flat" else 0.0
    shape, stand = lean(panel, tilt, low), d.pick("disc", "plate", "v", "bridge", "feet", "slant")
    if stand == "feet":
        feet = [limb((0.7 * x, y, 0), (0.7 * x, 0, low + 0.06), 0.018) for y in (-deep, deep)]
        return shape | pair(*feet, box((0.7 * x - 0.02, 0.7 * x + 0.02), deep, (0, 0.02)))
    if stand == "slant":
        return shape | limb((0, deep, 0), (0, 0.02, mid), (2 * neck, 0.02)) | box(0.12, deep, (0, 0.025))
    if stand == "bridge":
        return shape | pair(box((0.45 * x, 0.55 * x), (0, rear), (0, low + 0.1))) | box(0.6 * x, deep, (0, 0.022))
    post = box(neck, (0, rear), (0, mid))
    if stand == "v":
        return shape | post | pair(limb((0, rear, 0.015), (0.7 * x, -deep, 0.015), 0.025))
    return shape | post | disc((0, 0.025), (d(0.12, 0.2), deep), SHARP if stand == "plate" else ROUND)


def night_stand(d: Dice) -> Solid:
    """Chests, open cases, drawers raised on legs, small tables with a shelf, drums; doors, overhanging top, gallery."""
    x, y, high, board, half = d(0.2, 0.29), d(0.17, 0.25), d(0.44, 0.68), d(0.025, 0.045), d(0.018, 0.03)
    kind, z = d.pick("chest", "chest", "case", "case", "table", "raised", "raised", "drum"), d(0.12, 0.3) * high
    if kind == "drum":
        shape, inner = disc((high - board, high), x), d(0.7, 0.95) * x
        if d.odds(0.5):
            return shape | disc((d(0.45, 0.6) * high, high), inner) | pedestal(d, 0.6 * high, inner)
        return shape | disc((z, z + board), inner) | legs(d, 0.7 * inner, 0.7 * inner, high, half, "straight", "turned")
    if kind == "case":
        shape = shelves(x, (-y, y), (0.04, high), d.pick(1, 2, 2, 3), board) | pair(box((x - 0.05, x), y, (0, 0.06)))
        if d.odds(0.5):
            shape |= fronts(d, box(x, y, (0.65 * high, high)), x, (0.65 * high, high), -y, 1)
    else:
        low, rows, styles = {
            "chest": (d(0.03, 0.1), d.pick(1, 2, 3), ("plinth", "bracket")),
            "table": (d(0.55, 0.78) * high, 1, ("straight",)),
            "raised": (d(0.3, 0.5) * high, d.pick(1, 2), ("straight", "tapered", "splayed", "turned")),
        }[kind]
        shape = fronts(d, box(x, y, (low, high)), x, (low, high - board), -y, rows)
        if kind == "table" and d.odds(0.7):
            shape |= box(x - 0.02, y - 0.02, (z, z + board))
        shape |= legs(d, x - 0.035, y - 0.035, low + 0.02, half, *styles)
    if d.odds(0.6):
        shape |= box(x + 0.03, y + 0.03, (high - board, high))
    if d.odds(0.25):  # a gallery
        shape |= box(x, (y - 0.03, y), (high, high + d(0.05, 0.1)))
        shape |= pair(box((x - 0.03, x), (0, y), (high, high + 0.04)))
    return shape


def sofa(d: Dice) -> Solid:
    """Two to four seats; box, rolled, sloping or no arms; straight or camel back; cushions, legs; chaise or corner."""
    x, y, seat, top, deep = d(0.75, 1.2), d(0.38, 0.5), d(0.36, 0.46), d(0.7, 0.95), d(0.14, 0.24)
    low, arm, high, soft = d(0.04, 0.16), d(0.1, 0.24), d(0.52, 0.68), d(0.08, 0.14)
    arms, kind = d.pick("box", "box", "rolled", "slope", "none"), d.pick(*["plain"] * 4, "chaise", "corner")
    rise, inner, at = d.pick(0, 0, d(0.08, 0.2)), x - (arm if arms != "none" else 0), x - arm / 2
    shape = box(x, y, (low, seat - soft)) | arch(x, (y - deep, y), (low, top), rise or 0.01)
    shape |= legs(d, x - 0.06, y - 0.06, low + 0.02, 0.04, "straight", "tapered", "splayed", "plinth", "plinth")
    count = d.pick(2, 3) if x < 1 else d.pick(3, 4)
    for c in spaced(-inner, inner, count):
        half = inner / count
        shape |= box((c - 0.86 * half, c + 0.86 * half), (-y, y), (seat - soft - 0.04, seat))
        if not rise:
            shape |= box((c - half, c + half), (y - deep - 0.16, y), (seat - 0.2, top + 0.06), SOFT)
    if arms == "rolled":
        z = high - arm / 2
        shape |= pair(box((inner, x), y, (low, z)), limb((at, -y, z), (at, y, z), arm / 2 + 0.02, section=ROUND))
    elif arms == "slope":
        shape |= pair(box((inner, x), y, (low, seat)), limb((at, -y, seat - 0.1), (at, y, top - 0.2), (arm / 2, 0.15)))
    elif arms == "box":
        shape |= pair(box((inner, x), y, (low, high)))
    if kind != "plain":
        far, end = -y - d(0.4, 0.8), x - d(0.6, 0.75)
        shape |= box((end, x), (far, y), (low, seat - 0.02))
        shape |= box((end + 0.04, x), (far + 0.02, y), (seat - soft, seat))
        shape |= join(box((c, c + 0.08), (far + 0.02, far + 0.1), (0, low + 0.02)) for c in (end + 0.02, x - 0.1))
    if kind == "corner":
        shape |= box((x - deep, x), (far, y), (low, top))
    if d.odds(0.25):  # a loose cushion
        c = d(-0.7, 0.7) * inner
        shape |= box((c - 0.2, c + 0.2), (y - deep - 0.25, y - deep), (seat - 0.02, seat + 0.36), SOFT)
    return mirror(shape) if d.odds(0.5) else shape


def table(d: Dice) -> Solid:
    """Square, soft, round and oval tops, from low to bar height; legs, pedestals, trestles, panels; apron, shelf."""
    x, board, half, edge = d(0.5, 0.95), d(0.025, 0.06), d(0.025, 0.06), d(0.86, 1)
    section, high = d.pick(SHARP, SHARP, ROUND, SOFT), d.pick(d(0.38, 0.5), d(0.68, 0.8), d(0.68, 0.8), d(0.9, 1.05))
    y, inner = x * d.pick(d(0.95, 1), d(0.45, 0.9), d(0.45, 0.9)), edge * {SHARP: 1, SOFT: 0.82, ROUND: 0.66}[section]
    u, v, shape = inner * x - half, inner * y - half, disc((high - board, high), (x, y), section)
    under = d.pick("legs", "legs", "legs", "pedestal" if y > 0.6 * x else "twin", "trestle", "cross", "panels")
    if under == "legs":
        style, z = d.pick("straight", "tapered", "splayed", "turned"), d(0.12, 0.4) * high
        shape |= legs(d, u, v, high - board / 2, half, style)
        if d.odds(0.4):  # an apron
            shape |= box(u, v, (high - d(0.1, 0.16), high))
        if style != "splayed" and d.odds(0.4):  # a shelf
            shape |= box(u, v, (z, z + board))
    elif under == "pedestal":
        shape |= pedestal(d, high - board / 2, 0.6 * y)
    elif under == "twin":
        at = d(0.4, 0.6) * x
        shape |= pair(box((at - half, at + half), half, (0, high)), box((at - half, at + half), 0.7 * y, (0, 0.07)))
        shape |= box(at, 0.025, (0.3 * high, 0.3 * high + 0.06))
    elif under == "panels":
        shape |= pair(box((u - half, u + half), v, (0, high))) | box(u, half, (d(0.1, 0.3) * high, d(0.5, 0.9) * high))
    else:
        at, tip, z = 0.9 * u, 0.12 * y if under == "trestle" else -0.9 * v, 0.42 * high
        side, batten = (at - half, at + half), high - board - 2 * half
        shape |= four(limb((at, 0.9 * v, 0), (at, tip, batten + half), half)) | box(at, half, (z, z + 0.07))
        shape |= pair(box(side, abs(tip) + half, (batten, high)), box(side, 0.55 * v, (z, z + 0.07)))
    return shape


def toilet(d: Dice) -> Solid:
    """Close-coupled, one-piece or with a high cistern; round or square bowl, foot or skirt; lid up, down or off."""
    x, y, rim, wall = d(0.17, 0.22), d(0.22, 0.3), d(0.36, 0.44), d(0.03, 0.045)
    kind, lid = d.pick(*["coupled"] * 6, "one", "one", "high"), d.pick("up", "up", "down", "off")
    section, rear, deep, wide = d.pick(ROUND, ROUND, SOFT), y + d(0.14, 0.22), d(0.15, 0.22), d(0.18, 0.25)
    low, tank, belly, foot = rim, rim + d(0.32, 0.42), d(0.5, 0.75) * rim, d(0.5, 0.75)
    shape = disc((rim - 0.05, rim + 0.03), (x, y), section) | box(0.7 * x, (0, rear), (rim - d(0.1, 0.2), rim))
    shape |= box(x, y, (rim - belly, rim + belly), section) & box(x, y, (0, rim))
    if kind == "one":
        shape |= limb((0, 0, 0), (0, 0, rim), (0.7 * x, 0.7 * y), (x, y), section) | box(0.7 * x, (0, rear), (0, rim))
    else:
        shape |= limb((0, 0.25 * y, 0), (0, 0.2 * y, 0.5 * rim), (foot * x, 0.85 * y), (0.4 * x, 0.5 * y), section)
        shape |= box(0.4 * x, (0, rear - d(0.03, 0.12)), (0, rim))
    if lid == "down":
        shape |= disc((rim, rim + 0.06), (x, y), section) | box(0.6 * x, (0, y + 0.03), (rim, rim + 0.06))
    else:
        shape -= limb((0, 0, rim - 0.7 * belly), (0, 0, rim + 0.04), (0.5 * x, 0.5 * y), (x, y), section, wall)
    if kind == "one":
        low -= 0.1
    elif kind == "high":
        low, tank = rim + d(0.4, 0.5), rim + d(0.65, 0.8)
        shape |= box(0.03, (rear - 0.08, rear - 0.02), (rim - 0.05, tank))
    back, at, rounding = rear - deep, rear - deep / 2, d.pick(SHARP, SHARP, SOFT)
    shape |= limb((0, at, low), (0, at, tank), (d(0.8, 1) * wide, deep / 2), (wide, deep / 2), rounding)
    if d.odds(0.7):
        shape |= box(wide + 0.02, (back - 0.02, rear + 0.02), (tank, tank + 0.035))
    lever = box((0.4 * wide, 0.75 * wide), (back - 0.05, back + 0.04), (tank - 0.09, tank - 0.05))
    shape |= lever if d.odds(0.5) else box(0.03, (at - 0.03, at + 0.03), (tank, tank + 0.07))
    if lid == "up":
        size = (x, 2 * y * d(0.75, 0.95))
        shape |= limb((0, back - 0.06, rim), (0, back - 0.02, rim), size, section=section) & box(1, 1, (rim, 2))
    return shape


MAKERS = {f.__name__: f for f in (bathtub, bed, chair, desk, dresser, monitor, night_stand, sofa, table, toilet)}
CATEGORIES = tuple(MAKERS)


def rasterise(solid: Solid, resolution: int) -> Field:
    """The cells (x, y, z) whose centres lie in a solid: centred, the longest side filling all but 3/32 at each end."""
    size, room = solid.hi - solid.lo, resolution - 2 * max(1, 3 * resolution // 32)
    cells = [max(1, round(s)) for s in size * room / max(size)]
    step, middle, grid = size / cells, (solid.lo + solid.hi) / 2, np.zeros((resolution,) * 3, dtype=bool)
    axes = np.ix_(*(m + (np.arange(n) + 0.5 - n / 2) * s for m, n, s in zip(middle, cells, step, strict=True)))
    grid[tuple(slice((resolution - n) // 2, (resolution + n) // 2) for n in cells)] = solid.inside(Grid(axes, step))
    for k, others in enumerate(((1, 2), (0, 2), (0, 1))):  # the box around a cut or leaning solid may be loose
        occupied = np.flatnonzero(grid.any(axis=others))
        grid = np.roll(grid, int((resolution - 1 - occupied[0] - occupied[-1]) / 2), axis=k)
    return grid


def make_shape(category: str, resolution: int, rng: np.random.Generator) -> Field:
    """One piece of furniture as occupied voxels (R, R, R), axes (y, x, z), z up.

    Raises `ValueError` for a category that is not one of `CATEGORIES` and for a grid below 16^3.
    """
    if category not in MAKERS:
        raise ValueError(f"there is no furniture called {category!r}: choose one of {', '.join(CATEGORIES)}")
    if resolution < SMALLEST:
        raise ValueError(f"furniture needs at least {SMALLEST} cells a side, not {resolution}: choose a finer grid")
    grid = rasterise(MAKERS[category](Dice(rng)), resolution)
    return np.ascontiguousarray(grid.swapaxes(0, 1)) if category in FACING_Y else grid


def make_furniture(
    resolution: int = 32, *, train: int = 100, test: int = 20, seed: int = 0
) -> tuple[Field, NDArray[np.int64], NDArray[np.str_], NDArray[np.str_]]:
    """`train` + `test` shapes of every category: voxels (N, R, R, R), labels (N,), split (N,), names (N,).

    A shape depends on the seed, its category and its number alone, not on how many are made. Category by category,
    first train, then test. Raises `ValueError` where nothing is asked for.
    """
    count = train + test
    if min(train, test) < 0 or count == 0:
        raise ValueError(f"cannot make {train} train and {test} test shapes: ask for at least one in all")
    labels = np.repeat(np.arange(len(CATEGORIES)), count)
    numbers = np.tile(np.arange(1, count + 1), len(CATEGORIES))
    voxels = np.empty((len(labels), *(resolution,) * 3), dtype=bool)
    for i in tqdm(range(len(labels)), desc="furniture", unit="shape", disable=None, leave=False):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, int(labels[i]), int(numbers[i])])))
        voxels[i] = make_shape(CATEGORIES[labels[i]], resolution, rng)
    names = np.array([f"{CATEGORIES[label]}_{number:04d}" for label, number in zip(labels, numbers, strict=True)])
    return voxels, labels, np.where(numbers <= train, "train", "test"), names
