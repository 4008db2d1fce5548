"""Procedural furniture: the ten categories of ModelNet10 as parametric solids, drawn at any resolution from a seed.

A solid answers one question, "is this point inside?", and combines with `|`, `&` and `-`. A category is a function that
throws the dice for every measure first and returns a solid in metres; only then is the solid tested at the centres of a
grid's cells. The same seed therefore gives the same piece of furniture at 16^3, 32^3 and 64^3. Parts thinner than a cell
are drawn one cell thick, so that a thin leg never vanishes.

Inside this module a piece stands on z = 0 and faces -y, with x across; lengths are in metres. Only additions, products
and quotients of numbers rounded to 1/1024 decide what is inside, so that every platform draws the same voxels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

CATEGORIES = ("bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet")
FACING_Y = ("bed", "chair", "toilet")  # these face -y in ModelNet10, the others -x
SMALLEST = 12  # cells a side below which legs and gaps run together

T = TypeVar("T")
Point = tuple[float, float, float]
Span = float | tuple[float, float]  # an interval; a number a is (-a, a)
SHARP, ROUND, SOFT = 0, 2, 4  # cross-sections: a box, an ellipse, the superellipse |u|^4 + |v|^4 <= 1 between them


class Grid(NamedTuple):
    """Cell centres as three axes that broadcast against one another, and the sides of a cell, in metres."""

    axes: tuple[NDArray[np.float64], ...]
    step: tuple[float, ...]


@dataclass(frozen=True)
class Solid:
    """A set of points, `inside`, and a box from `lo` to `hi` that holds it."""

    inside: Callable[[Grid], NDArray[np.bool_]]
    lo: Point
    hi: Point

    def __or__(self, other: Solid) -> Solid:
        lo, hi = map(min, self.lo, other.lo), map(max, self.hi, other.hi)
        return Solid(lambda g: self.inside(g) | other.inside(g), _point(lo), _point(hi))

    def __and__(self, other: Solid) -> Solid:
        lo, hi = map(max, self.lo, other.lo), map(min, self.hi, other.hi)
        return Solid(lambda g: self.inside(g) & other.inside(g), _point(lo), _point(hi))

    def __sub__(self, other: Solid) -> Solid:
        return Solid(lambda g: self.inside(g) & ~other.inside(g), self.lo, self.hi)


@dataclass(frozen=True)
class Dice:
    """The random choices of one piece of furniture; measures are rounded to 1/1024 of a metre."""

    rng: np.random.Generator

    def __call__(self, low: float, high: float) -> float:
        return _grid_point(low + (high - low) * self.rng.random())

    def pick(self, *options: T) -> T:
        return options[int(self.rng.random() * len(options))]

    def odds(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)


def _grid_point(value: float) -> float:
    return round(value * 1024) / 1024


def _point(values: Iterable[float]) -> Point:
    x, y, z = values
    return x, y, z


def _within(offsets: list[NDArray[np.float64]], power: int) -> NDArray[np.bool_]:
    if power == SHARP:
        return reduce(np.logical_and, (np.abs(u) <= 1 for u in offsets))
    squares = [u * u for u in offsets]
    return sum(s * s if power == SOFT else s for s in squares) <= 1  # type: ignore[return-value]


def box(x: Span, y: Span, z: Span, power: int = SHARP) -> Solid:
    """A box, a rounded box (SOFT) or an ellipsoid (ROUND) that fills three intervals."""
    spans = [s if isinstance(s, tuple) else (-s, s) for s in (x, y, z)]
    thinnest = 0.75 if power else 0.5

    def inside(g: Grid) -> NDArray[np.bool_]:
        halves = [max((b - a) / 2, thinnest * step) for (a, b), step in zip(spans, g.step, strict=True)]
        return _within([(c - (a + b) / 2) / r for c, (a, b), r in zip(g.axes, spans, halves, strict=True)], power)

    return Solid(inside, _point(s[0] for s in spans), _point(s[1] for s in spans))


def limb(
    p: Point, q: Point, half: Span, end: Span | None = None, power: int = SHARP, inset: float | None = None
) -> Solid:
    """A bar from p to q whose cross-section, normal to its longest axis, has half-widths `half` at p and `end` at q.

    A pair gives the half-widths along the two other axes in order. With `inset` the section is drawn in by that much,
    and by at least a cell: subtracting it from the same limb leaves a wall that no grid is too coarse for.
    """
    along = max(range(3), key=lambda k: abs(q[k] - p[k]))
    others = [k for k in range(3) if k != along]
    start = half if isinstance(half, tuple) else (half, half)
    stop = start if end is None else end if isinstance(end, tuple) else (end, end)

    def inside(g: Grid) -> NDArray[np.bool_]:
        reach = max(abs(q[along] - p[along]), g.step[along]) / 2
        t = np.clip((g.axes[along] - p[along]) / (q[along] - p[along]), 0, 1)
        offsets = []
        for k, a, b in zip(others, start, stop, strict=True):
            width = a + (b - a) * t
            if inset is None:
                width = np.maximum(width, g.step[k] * (0.72 if power else 0.5))
            else:
                width = np.maximum(width - max(inset, 1.1 * g.step[k]), 1e-6)
            offsets.append((g.axes[k] - (p[k] + (q[k] - p[k]) * t)) / width)
        return (np.abs(g.axes[along] - (p[along] + q[along]) / 2) <= reach) & _within(offsets, power)

    lo, hi = [min(ends) for ends in zip(p, q, strict=True)], [max(ends) for ends in zip(p, q, strict=True)]
    for k, a, b in zip(others, start, stop, strict=True):
        lo[k], hi[k] = min(p[k] - a, q[k] - b), max(p[k] + a, q[k] + b)
    return Solid(inside, _point(lo), _point(hi))


def column(
    at: tuple[float, float], z: tuple[float, float], half: Span, end: Span | None = None, power: int = ROUND
) -> Solid:
    """An upright limb over the point `at`: a disc, a cylinder, a cone, a tapered bowl."""
    return limb((*at, z[0]), (*at, z[1]), half, end, power)


def mirror(solid: Solid, axis: int = 0) -> Solid:
    """The reflection of a solid in the plane where `axis` is 0."""
    sign = [-1 if k == axis else 1 for k in range(3)]
    ends = [sorted((s * a, s * b)) for s, a, b in zip(sign, solid.lo, solid.hi, strict=True)]

    def inside(g: Grid) -> NDArray[np.bool_]:
        return solid.inside(Grid(tuple(s * c for s, c in zip(sign, g.axes, strict=True)), g.step))

    return Solid(inside, _point(e[0] for e in ends), _point(e[1] for e in ends))


def both(solid: Solid, axis: int = 0) -> Solid:
    """A solid and its reflection: the left and the right arm."""
    return solid | mirror(solid, axis)


def join(solids: Iterable[Solid]) -> Solid:
    """The union of many solids."""
    return reduce(or_, solids)


def spaced(low: float, high: float, count: int) -> list[float]:
    """The middles of `count` equal pieces of an interval."""
    return [low + (high - low) * (k + 0.5) / count for k in range(count)]


def turned(at: tuple[float, float], height: float, *radii: float) -> Solid:
    """A lathe-turned post: cones between radii at equal heights."""
    n = len(radii) - 1
    return join(
        column(at, (height * k / n, height * (k + 1) / n), radii[k], radii[k + 1]) for k in range(n)
    )


def star(arms: int, reach: float, low: float, high: float, half: float) -> Solid:
    """Arms that run down and out from an axis to feet on the floor."""
    corners = [(math.cos(a), math.sin(a)) for a in (math.tau * (k + 0.25) / arms for k in range(arms))]
    feet = [(_grid_point(reach * c), _grid_point(reach * s)) for c, s in corners]
    return join(limb((0, 0, high), (*f, low + half), half) | column(f, (0, low + 2 * half), half) for f in feet)


def legs(d: Dice, x: float, y: float, top: float, half: float, style: str) -> Solid:
    """Four legs under the corners (+-x, +-y): straight, tapered, splayed or turned."""
    out = d(0.04, 0.14) * top
    leg = {
        "straight": limb((x, y, 0), (x, y, top), half),
        "tapered": limb((x, y, 0), (x, y, top), 0.5 * half, 1.2 * half),
        "splayed": limb((x + out, y + out, 0), (x - half, y - half, top), 0.6 * half, half, ROUND),
        "turned": turned((x, y), top, *(half * r for r in (0.8, 0.8, 1.4, 1, 1.3, 1.3))),
    }[style]
    return both(both(leg), 1)


def pedestal(d: Dice, top: float, reach: float) -> Solid:
    """One central support: a disc, a plate, a turned baluster or a star of three to five feet."""
    thin = d(0.12, 0.22) * reach
    foot = d.pick("disc", "plate", "baluster", "star", "trumpet")
    if foot == "star":
        return star(d.pick(3, 4, 5), reach, 0, d(0.1, 0.35) * top, 0.7 * thin) | column((0, 0), (0.05 * top, top), thin)
    if foot == "baluster":
        return column((0, 0), (0, 0.06 * top), reach) | turned((0, 0), top, *(thin * r for r in (2.5, 1, 2, 1.6, 1, 1.6)))
    if foot == "trumpet":
        return turned((0, 0), top, reach, 0.35 * reach, thin, thin, 1.5 * thin)
    base = column((0, 0), (0, d(0.04, 0.09) * top), reach, power=ROUND if foot == "disc" else SHARP)
    return base | column((0, 0), (0, top), thin, power=ROUND if foot == "disc" else SHARP)


def arch(x: float, y: Span, z: tuple[float, float], rise: float) -> Solid:
    """An upright panel whose top is half an ellipse of height `rise`."""
    y0, y1 = y if isinstance(y, tuple) else (-y, y)
    crown = z[1] - rise
    return box(x, y, (z[0], crown)) | limb((0, y0, crown), (0, y1, crown), (x, rise), power=ROUND)


def shelves(x: float, y: Span, z: tuple[float, float], count: int, board: float) -> Solid:
    """An open case: sides, back, top and bottom, with `count` compartments one above the other."""
    y0, y1 = y if isinstance(y, tuple) else (-y, y)
    levels = [z[0] + board / 2 + (z[1] - z[0] - board) * k / count for k in range(count + 1)]
    flats = [box(x, y, (level - board / 2, level + board / 2)) for level in levels]
    return both(box((x - board, x), y, z)) | box(x, (y1 - board, y1), z) | join(flats)


def fronts(d: Dice, body: Solid, x: Span, z: tuple[float, float], face: float, rows: int, cols: int) -> Solid:
    """A body with drawers, or doors where there is one row, on its face at y = `face`: grooves and handles."""
    x0, x1 = x if isinstance(x, tuple) else (-x, x)
    (z0, z1), deep = z, 0.045 * max(b - a for a, b in zip(body.lo, body.hi, strict=True))
    for k in range(1, rows):
        body -= box((x0, x1), (face - deep, face + deep), (z0 + (z1 - z0) * k / rows,) * 2)
    for k in range(1, cols):
        body -= box((x0 + (x1 - x0) * k / cols,) * 2, (face - deep, face + deep), z)
    wide, high = (x1 - x0) / cols, (z1 - z0) / rows
    door = rows == 1
    w, h = (0.0, 0.16 * high) if door else d.pick((0.0, 0.0), (0.28 * wide, 0.0), (0.12 * wide, 0.12 * high))
    if d.odds(0.2):
        return body
    for k, cx in enumerate(spaced(x0, x1, cols)):
        at = cx + (0.32 * wide if k % 2 == 0 else -0.32 * wide) * door
        body |= join(box((at - w, at + w), (face - deep, face + deep), (c - h, c + h)) for c in spaced(z0, z1, rows))
    return body


def bathtub(d: Dice) -> Solid:
    """Boxed with a square, soft or oval basin, or free-standing on the floor, claw feet or a plinth; rim, slope, tap."""
    x, y, top = d(0.72, 0.92), d(0.34, 0.48), d(0.46, 0.66)
    kind, wall, floor = d.pick("boxed", "boxed", "oval", "claw", "plinth"), d(0.05, 0.08), d(0.08, 0.16)
    section, slope, rise, lift = d.pick(ROUND, SOFT), d(0.7, 0.95), d.pick(0, 0, d(0.12, 0.25)), 0.0
    if kind == "boxed":
        section, rise, shelf, lip = d.pick(SHARP, SOFT, ROUND), 0, d(0, 0.2), d.pick(0, 0.07)
        tub = box(x, y, (0, top)) | box(x + lip, y + lip, (0.78 * top, top))
        middle, long = -shelf / 2, x - shelf / 2
    else:
        lift, middle, long = 0 if kind == "oval" else d(0.1, 0.18), 0, x
        tub = limb((0, 0, lift), (0, 0, top), (slope * x, slope * y), (x, y), section)
        if not rise and d.odds(0.6):  # a rolled rim
            tub |= limb((0, 0, top - 0.05), (0, 0, top), (x + 0.05, y + 0.05), power=section)
    if rise:  # a slipper: one end rises
        tub |= column((0, 0), (top, top + rise), (x, y), power=section)
        tub -= limb((x, 0, top + 0.5), (-x, 0, top + rise + 0.5), (y, 0.5))
        tub -= limb((0, 0, top), (0, 0, top + rise + 0.1), (x, y), power=section, inset=wall)
    hollow = ((slope * long, slope * y), (long, y), section, wall)
    tub -= limb((middle, 0, lift + floor), (middle, 0, top + 0.02), *hollow)
    if kind == "plinth":
        tub |= box(d(0.5, 0.8) * x, 0.7 * y, (0, lift + 0.06))
    if kind == "claw":
        tub |= both(both(limb((0.8 * x, 0.66 * y, 0), (0.55 * x, 0.4 * y, lift + 0.1), 0.04, 0.08)), 1)
    if d.odds(0.5):
        tub |= box((x - 0.05, x), 0.03, (top - 0.12, top + 0.16)) | box((x - 0.2, x), 0.03, (top + 0.12, top + 0.16))
    return tub


def bed(d: Dice) -> Solid:
    """Single to king: legs, box or drawers below; headboards and footboards, pillows, a quilt; four-posters and bunks."""
    x, y, deck, soft = d(0.46, 0.95), d(0.98, 1.08), d(0.2, 0.4), d(0.12, 0.26)
    top, head, thick = deck + soft, d(0.35, 0.75), d(0.04, 0.1)
    kind = d.pick("plain", "plain", "plain", "plain", "plain", "plain", "posts", "bunk")
    shape = box(x, y, (deck - 0.1, deck)) | box(x - 0.03, (0.03 - y, y), (deck, top))
    if d.odds(0.5):
        shape |= legs(d, x - 0.05, y - 0.05, deck, d(0.03, 0.06), d.pick("straight", "tapered", "turned"))
    else:
        shape |= box(x - d(0, 0.1), y - d(0, 0.1), (0, deck))
    board = d.pick("panel", "panel", "arch", "slats", "wings", "none" if kind == "plain" else "panel")
    for far, high in ((y, top + head), (-y, top + d(0.05, 0.3))):
        span = (far - thick, far + thick)
        if far < 0 and d.odds(0.6):
            continue
        if board == "panel" or board == "wings":
            shape |= box(x + 0.02, span, (0, high))
        elif board == "arch":
            shape |= arch(x + 0.02, span, (0, high), d(0.4, 0.7) * (high - top))
        elif board == "slats":
            shape |= both(box((x - 0.06, x + 0.02), span, (0, high + 0.06))) | box(x, span, (high - 0.1, high))
            shape |= join(box((c - 0.03, c + 0.03), span, (deck, high)) for c in spaced(-x, x, d.pick(4, 5, 6)))
    if board == "wings":
        shape |= both(box((x - 0.06, x + 0.02), (y - 0.3, y), (0, top + head)))
    pillow, count = d(0.09, 0.14), 1 if x < 0.62 else 2
    for c in spaced(0.06 - x, x - 0.06, count):
        wide = (x - 0.06) / count - 0.03
        shape |= box((c - wide, c + wide), (y - 0.52, y - 0.08), (top - pillow, top + pillow), SOFT)
    if d.odds(0.5):  # a quilt
        shape |= box(x + 0.03, (-y, d(-0.3, 0.3)), (deck + 0.05, top + 0.05))
    if kind == "posts":
        post, high = d(0.03, 0.05), top + d(1.1, 1.4)
        shape |= legs(d, x - post, y - post, high, post, "straight")
        shape |= both(box((x - 2 * post, x), y, (high - 0.08, high))) | both(box(x, (y - 2 * post, y), (high - 0.08, high)), 1)
    if kind == "bunk":
        high = top + d(0.75, 0.95)
        shape |= box(x, y, (high, high + 0.22)) | legs(d, x - 0.04, y - 0.04, high + 0.4, 0.04, "straight")
        shape |= box((x - 0.06, x), (-0.3 * y, y), (high + 0.3, high + 0.38)) | box((x - 0.06, x), 0.03, (high, high + 0.38))
        shape |= join(box((x - 0.04, x), (-y, -0.6 * y), (z - 0.02, z + 0.02)) for z in spaced(0, high, 5))
        shape |= box((x - 0.04, x), (-0.62 * y, -0.57 * y), (0, high))
    return shape


def chair(d: Dice) -> Solid:
    """Four legs, sled, cantilever, pedestal or office star below; panel, arched, slatted, ladder or tub backs; arms."""
    x, y, seat, thick = d(0.21, 0.28), d(0.21, 0.27), d(0.36, 0.5), d(0.035, 0.08)
    tall, lean, half, base = d(0.36, 0.6), d(0, 0.14), d(0.018, 0.034), seat + 0.02
    top, under = seat + thick + tall, d.pick("four", "four", "four", "sled", "cantilever", "pedestal", "star")
    back = d.pick("panel", "arch", "slats", "ladder", "hoop", "tub" if under not in ("sled", "cantilever") else "panel")
    shape = column((0, 0), (seat, seat + thick), (x, y), power=ROUND if back == "tub" else d.pick(SHARP, SHARP, SOFT))
    if under == "four":
        inner = 0.68 if back == "tub" else 1
        shape |= legs(d, inner * (x - half), inner * (y - half), base, half, d.pick("straight", "tapered", "splayed", "turned"))
        if d.odds(0.4):  # stretchers
            z = d(0.25, 0.5) * seat
            shape |= both(box((x - 2 * half, x), y - half, (z, z + half))) if back != "tub" else box(0, 0, (seat, base))
    elif under == "star":
        shape |= star(5, d(0.24, 0.3), 0, d(0.1, 0.16), 0.028) | column((0, 0), (0.08, base), d(0.025, 0.04))
    elif under == "pedestal":
        shape |= pedestal(d, base, d(0.2, 0.26))
    else:
        rail = box((x - 2 * half, x), y, (0, 1.5 * half)) | box((x - 2 * half, x), (-y, 2 * half - y), (0, base))
        rear = box((x - 2 * half, x), (y - 2 * half, y), (0, base)) if under == "sled" else box(x, (y - 2 * half, y), (0, 1.5 * half))
        shape |= both(rail | rear)

    def spine(at: float, wide: float, low: float, high: float) -> Solid:
        """A piece of the leaning back, from one height to another."""
        y0, y1 = (y - half + lean * (z - seat) / (top - seat) for z in (low, high))
        return limb((at, y0, low), (at, y1, high), (wide, half))

    if back == "tub":
        rim = seat + thick + d(0.4, 0.7) * tall
        shell = limb((0, 0, seat), (0, 0, rim), (x, y), (x + 0.05, y + 0.05), ROUND)
        shell -= limb((0, 0, seat), (0, 0, rim + 0.1), (x, y), (x + 0.05, y + 0.05), ROUND, inset=0.045)
        return shape | (shell - box(1, (-1, d(-0.1, 0.1)), (seat + thick, 2)))
    if back in ("panel", "arch", "hoop"):
        sheet = spine(0, x, seat if d.odds(0.6) else seat + 0.3 * tall, top) | spine(0, 0.4 * x, seat, top)
        oval = ((0, -1, seat), (0, 1, seat), (x, top - seat))
        if back != "panel":
            sheet &= limb(*oval, power=ROUND if back == "hoop" else SOFT)
        if back == "hoop":
            sheet -= limb(*oval, power=ROUND, inset=2.2 * half)
            sheet |= join(spine(c, 0.4 * half, seat, top - 0.06) for c in spaced(-0.6 * x, 0.6 * x, d.pick(2, 3)))
        shape |= sheet
    else:
        shape |= both(spine(x - half, half, seat, top)) | spine(0, x, top - d(0.05, 0.14), top)
        if back == "slats":
            shape |= join(spine(c, 0.5 * half, seat, top) for c in spaced(-x, x, d.pick(3, 4, 5)))
        else:
            rungs = spaced(seat + 0.2 * tall, top - 0.1, d.pick(1, 2, 3))
            shape |= join(spine(0, x, z - 0.03, z + 0.03) for z in rungs)
    if d.odds(0.45):
        arm, out = seat + thick + d(0.16, 0.24), d.pick(0, 0.03)
        shape |= both(box((x - half + out, x + half + out), (-0.8 * y, y), (arm - 0.03, arm)))
        shape |= both(box((x - half, x + half + out), (-0.8 * y, 2 * half - 0.8 * y), (seat if d.odds(0.5) else seat, arm)))
    return shape


def desk(d: Dice) -> Solid:
    """Legs, panels, trestles or drawers under each end; modesty panel, L-shaped return, hutch, raised shelf."""
    x, y, top, board = d(0.6, 0.85), d(0.3, 0.4), d(0.68, 0.8), d(0.03, 0.06)
    shape = box(x, y, (top - board, top))
    ends = d.pick(("legs", "legs"), ("drawers", "drawers"), ("drawers", "legs"), ("drawers", "panel"), ("trestle", "trestle"))
    rows, wide, inset = d.pick(2, 3, 4), d(0.34, 0.46), d(0.0, 0.05)
    for side, end in zip((1, -1), ends, strict=True):
        if end == "drawers":
            low = d.pick(0, 0.08)
            span = (x - inset - wide, x - inset)
            part = fronts(d, box(span, y - inset, (low, top)), span, (low, top - board), inset - y, rows, 1)
            part |= box((span[0] + 0.04, span[1] - 0.04), y - inset - 0.06, (0, top)) if low else part
        elif end == "panel":
            part = box((x - inset - 0.05, x - inset), y - inset, (0, top))
        elif end == "legs":
            half = d(0.025, 0.04)
            part = both(limb((x - half, y - half, 0), (x - half, y - half, top), half), 1)
        else:
            spread = limb((x - 0.2, y - 0.05, 0), (x - 0.2, 0.1, top), 0.04)
            part = both(spread, 1) | box((x - 0.24, x - 0.16), 0.6 * y, (0.25 * top, 0.25 * top + 0.05))
        shape |= part if side > 0 else mirror(part)
    if "trestle" not in ends and d.odds(0.6):
        shape |= box(x - 0.04, (y - 0.06, y - 0.03), (d(0.05, 0.5) * top, top))
    if d.odds(0.35):  # a drawer under the top
        shape |= box(x - 0.03, y - 0.03, (top - d(0.1, 0.16), top))
    extra = d.pick("none", "none", "return", "hutch", "riser")
    if extra == "return":
        far, deep = -y - d(0.4, 0.7), d(0.4, 0.5)
        shape |= box((x - deep, x), (far, y), (top - board, top)) | box((x - deep, x), (far, far + 0.05), (0, top))
    elif extra == "hutch":
        high = top + d(0.35, 0.6)
        shape |= shelves(x, (0.25 * y, y), (top - board, high), d.pick(1, 2), 0.035)
        shape |= join(box((c - 0.02, c + 0.02), (0.25 * y, y), (top, high)) for c in spaced(-x, x, d.pick(1, 2, 3))[:2])
    elif extra == "riser":
        shape |= box(x - 0.03, (0.4 * y, y), (top, top + d(0.12, 0.2)))
    return mirror(shape) if d.odds(0.5) else shape


def dresser(d: Dice) -> Solid:
    """Low and wide or tall and narrow: one to three columns of drawers, wardrobe doors, legs or plinth, mirror, shelves."""
    kind = d.pick("low", "chest", "chest", "tall", "wardrobe")
    x, high = {"low": (d(0.6, 0.85), d(0.7, 0.9)), "chest": (d(0.4, 0.6), d(0.85, 1.15)),
               "tall": (d(0.25, 0.36), d(1.1, 1.45)), "wardrobe": (d(0.42, 0.6), d(1.2, 1.5))}[kind]  # fmt: skip
    y, lift, foot = d(0.2, 0.3), d(0.06, 0.2), d.pick("legs", "plinth", "bracket", "floor")
    low = 0 if foot == "floor" else lift
    body = box(x, y, (low, high))
    rows = {"low": d.pick(2, 3), "chest": d.pick(3, 4, 5), "tall": d.pick(5, 6), "wardrobe": 1}[kind]
    cols = {"low": d.pick(2, 3), "chest": d.pick(1, 2), "tall": 1, "wardrobe": 2}[kind]
    split = low + (d(0.25, 0.4) * (high - low) if kind in ("wardrobe", "chest") and d.odds(0.4) else 0)
    body = fronts(d, body, x, (split, high), -y, rows, cols)
    if split > low:
        body = fronts(d, body - box(x, (-1, 0.045 - y), (split, split)), x, (low, split), -y, 1 if rows > 1 else 2, 3 - cols)
    if foot == "plinth":
        body |= box(x - 0.04, y - 0.04, (0, low))
    elif foot == "bracket":
        body |= both(both(box((x - 0.14, x), (y - 0.12, y), (0, low))), 1)
    elif foot == "legs":
        body |= legs(d, x - 0.04, y - 0.04, low + 0.01, 0.035, d.pick("straight", "tapered", "splayed"))
    if d.odds(0.5):
        body |= box(x + 0.04, y + 0.04, (high - 0.04, high))
    crown = d.pick("none", "none", "mirror", "rail")
    if crown == "mirror" and kind in ("low", "chest"):
        glass, rise = d(0.5, 0.8) * x, d(0.5, 0.75)
        pane = (y - 0.08, y - 0.02)
        body |= arch(glass, pane, (high, high + rise), d(0.1, 0.3)) if d.odds(0.5) else box(glass, pane, (high, high + rise))
    elif crown == "rail":
        body |= box(x, (y - 0.04, y), (high, high + d(0.06, 0.14)))
    return body


def monitor(d: Dice) -> Solid:
    """Flat, curved or tube screens with a bezel on a foot, V, arm, bridge, ring or pair of feet; tilt and thickness vary."""
    x, high, thick, lift = d(0.25, 0.36), d(0.28, 0.42), d(0.018, 0.04), d(0.06, 0.15)
    kind, top, tilt = d.pick("flat", "flat", "flat", "flat", "curved", "tube"), lift + high, d(0, 0.05)
    bezel = d(0.02, 0.04)

    def slab(x0: float, x1: float, z0: float, z1: float, front: float, rear: float) -> Solid:
        """A piece of the tilted panel."""
        y0, y1 = ((front + rear) / 2 + tilt * (z - lift) / high for z in (z0, z1))
        return limb(((x0 + x1) / 2, y0, z0), ((x0 + x1) / 2, y1, z1), ((x1 - x0) / 2, (rear - front) / 2))

    shape = slab(-x, x, lift, top, -thick, thick)
    if kind == "curved":
        bend = d(0.05, 0.1)
        far = _grid_point((x * x + bend * bend) / (2 * bend))
        arc = ((0, -far, lift), (0, -far, top), far + thick)
        shape = (limb(*arc, power=ROUND) - limb(*arc, power=ROUND, inset=2 * thick)) & box(x, (-bend, thick), (lift, top))
    elif kind == "tube":
        deep = d(0.25, 0.4)
        shape |= limb((0, 0, lift + high / 2), (0, deep, lift + 0.45 * high), (x, high / 2), (0.5 * x, 0.3 * high))
    else:
        front = -thick - 0.025
        shape |= both(slab(x - bezel, x, lift, top, front, thick)) | slab(-x, x, top - bezel, top, front, thick)
        shape |= slab(-x, x, lift, lift + d(1, 2.5) * bezel, front, thick)
        if d.odds(0.5):
            shape |= slab(-0.5 * x, 0.5 * x, lift + 0.2 * high, lift + d(0.6, 0.8) * high, -thick, thick + 0.03)
    neck, behind, deep = d(0.025, 0.06), thick + 0.02, d(0.08, 0.14)
    stand = d.pick("disc", "plate", "v", "bridge", "feet", "slant", "arm")
    post = box(neck, (0, behind + 0.03), (0, lift + 0.5 * high))
    if stand == "feet":
        foot = limb((0.7 * x, -deep, 0), (0.7 * x, 0, lift + 0.02), 0.018)
        shape |= both(foot | limb((0.7 * x, deep, 0), (0.7 * x, 0, lift + 0.02), 0.018))
        shape |= both(box((0.7 * x - 0.02, 0.7 * x + 0.02), deep, (0, 0.02)))
    elif stand == "slant":
        shape |= limb((0, deep, 0), (0, 0.02, lift + 0.5 * high), (2 * neck, 0.02)) | box(0.12, deep, (0, 0.025))
    elif stand == "v":
        shape |= post | both(limb((0, behind, 0.015), (0.7 * x, -deep, 0.015), 0.025)) | box(neck, (-0.01, 0.1), (0, 0.03))
    elif stand == "bridge":
        frame = both(box((0.45 * x, 0.45 * x + 0.03), (-0.02, behind), (0, lift + 0.1))) | box(0.5 * x, deep, (0, 0.022))
        shape |= frame
    elif stand == "arm":
        shape |= box(0.02, (0, 0.16), (lift + 0.45 * high, lift + 0.55 * high)) | box(0.025, (0.13, 0.18), (0, lift + 0.6 * high))
        shape |= box(0.1, (0.02, 0.2), (0, 0.025))
    else:
        shape |= post | column((0, 0.02), (0, 0.025), (d(0.12, 0.2), deep), power=ROUND if stand == "disc" else SHARP)
    return shape


def night_stand(d: Dice) -> Solid:
    """Chests of one to three drawers, open shelves, a drawer on tall legs, doors, drums and pedestals; top and gallery."""
    x, y, high, board = d(0.2, 0.29), d(0.17, 0.25), d(0.44, 0.68), d(0.025, 0.045)
    kind = d.pick("chest", "chest", "case", "table", "raised", "raised", "drum")
    if kind == "drum":
        shape = column((0, 0), (high - board, high), (x, x)) | column((0, 0), (0, high), 0.02)
        if d.odds(0.5):
            shape |= column((0, 0), (d(0.45, 0.6) * high, high), (0.85 * x, 0.85 * x)) | pedestal(d, 0.6 * high, 0.8 * x)
        else:
            shape |= join([column((0, 0), (0.25 * high, 0.25 * high + board), 0.8 * x), legs(d, 0.6 * x, 0.6 * x, high, 0.02, "straight")])
        return shape
    if kind == "chest":
        lift = d(0.03, 0.1)
        shape = fronts(d, box(x, y, (lift, high)), x, (lift, high - board), -y, d.pick(1, 2, 3), 1)
        shape |= box(x - 0.02, y - 0.02, (0, lift)) if d.odds(0.5) else both(both(box((x - 0.06, x), (y - 0.06, y), (0, lift + 0.01))), 1)
    elif kind == "case":
        shape = shelves(x, y, (0.04, high), d.pick(1, 2, 2, 3), board) | both(box((x - 0.05, x), y, (0, 0.06)))
        if d.odds(0.5):
            shape |= fronts(d, box(x, y, (0.65 * high, high)), x, (0.65 * high, high), -y, 1, 1)
    else:
        box_low = (d(0.55, 0.78) if kind == "table" else d(0.3, 0.5)) * high
        style = "straight" if kind == "table" and d.odds(0.5) else d.pick("tapered", "splayed", "turned")
        shape = fronts(d, box(x, y, (box_low, high)), x, (box_low, high - board), -y, d.pick(1, 2) if kind == "raised" else 1, 1)
        shape |= legs(d, x - 0.035, y - 0.035, box_low + 0.02, d(0.018, 0.03), style)
        if kind == "table" and style == "straight" and d.odds(0.7):
            z = d(0.12, 0.3) * high
            shape |= box(x - 0.02, y - 0.02, (z, z + board))
    if d.odds(0.6):
        shape |= box(x + 0.03, y + 0.03, (high - board, high))
    if d.odds(0.25):
        shape |= box(x, (y - 0.03, y), (high, high + d(0.05, 0.1))) | both(box((x - 0.03, x), (0, y), (high, high + 0.04)))
    return shape


def sofa(d: Dice) -> Solid:
    """Two to four seats: box, rolled, sloping or no arms; straight or camel backs; cushions; legs; chaise and corner."""
    x, y, seat, top = d(0.75, 1.2), d(0.38, 0.5), d(0.36, 0.46), d(0.7, 0.95)
    lift, arm, high, deep = d.pick(0, d(0.08, 0.16)), d(0.1, 0.24), d(0.52, 0.68), d(0.14, 0.24)
    arms, kind = d.pick("box", "box", "rolled", "slope", "none"), d.pick(*["plain"] * 4, "chaise", "corner")
    inner, soft = x - (0 if arms == "none" else arm), d(0.08, 0.14)
    shape = box(x, y, (lift, seat - soft))
    back = (y - deep, y)
    rise = d.pick(0.0, 0.0, d(0.08, 0.2))
    shape |= arch(x, back, (lift, top), rise) if rise else box(x, back, (lift, top))
    count = d.pick(2, 3) if x < 1 else d.pick(3, 4)
    half = inner / count
    for c in spaced(-inner, inner, count):
        shape |= box((c - 0.86 * half, c + 0.86 * half), (-y, y), (seat - soft - 0.04, seat))
        if not rise:
            shape |= box((c - half, c + half), (y - deep - 0.16, y), (seat - 0.2, top + 0.06), SOFT)
    if arms == "box":
        shape |= both(box((inner, x), y, (lift, high)))
    elif arms == "rolled":
        roll = arm / 2 + 0.02
        shape |= both(box((inner, x), y, (lift, high - roll)) | limb((x - arm / 2, -y, high - roll), (x - arm / 2, y, high - roll), roll, power=ROUND))
    elif arms == "slope":
        shape |= both(box((inner, x), y, (lift, seat)) | limb(((inner + x) / 2, -y, seat - 0.1), ((inner + x) / 2, y, top - 0.2), (arm / 2, 0.15)))
    if kind != "plain":
        far, wide = -y - d(0.4, 0.8), d(0.6, 0.75)
        span = (x - wide, x)
        shape |= box(span, (far, y), (lift, seat - 0.02)) | box((x - wide + 0.04, x), (far + 0.02, y), (seat - soft, seat))
        if kind == "corner":
            shape |= box((x - deep, x), (far, y), (lift, top))
        if lift:
            shape |= box((x - 0.08, x - 0.02), (far + 0.02, far + 0.08), (0, lift)) | box((x - wide, x - wide + 0.06), (far + 0.02, far + 0.08), (0, lift))
    if lift:
        shape |= legs(d, x - 0.06, y - 0.06, lift + 0.02, 0.04, d.pick("straight", "tapered", "splayed"))
    if d.odds(0.25):
        c = d(-0.7, 0.7) * inner
        shape |= box((c - 0.2, c + 0.2), (y - deep - 0.25, y - deep), (seat - 0.02, seat + 0.36), SOFT)
    return mirror(shape) if d.odds(0.5) else shape


def table(d: Dice) -> Solid:
    """Round, oval, soft or square tops on four legs, pedestals, trestles, panels or crossed legs; apron, shelf; low to high."""
    section = d.pick(SHARP, SHARP, SHARP, ROUND, ROUND, SOFT)
    x, board, shape_of = d(0.5, 0.95), d(0.025, 0.06), d.pick(1.0, d(0.45, 0.9), d(0.45, 0.9))
    y, high = x * shape_of, d.pick(d(0.38, 0.5), d(0.68, 0.8), d(0.68, 0.8), d(0.9, 1.05))
    shape, half = column((0, 0), (high - board, high), (x, y), power=section), d(0.025, 0.05)
    inner = {SHARP: 0.94, SOFT: 0.78, ROUND: 0.62}[section]
    under = d.pick("legs", "legs", "legs", "pedestal" if shape_of > 0.6 else "pair", "trestle", "cross", "panels")
    if under == "legs":
        style = d.pick("straight", "tapered", "splayed", "turned")
        shape |= legs(d, inner * x - half, inner * y - half, high - board / 2, half, style)
        if d.odds(0.4):
            shape |= box(inner * x - half, inner * y - half, (high - d(0.1, 0.16), high))
        if style in ("straight", "turned") and d.odds(0.4):
            z = d(0.12, 0.4) * high
            shape |= box(inner * x - half, inner * y - half, (z, z + board))
    elif under == "pedestal":
        shape |= pedestal(d, high - board / 2, 0.6 * y)
    elif under == "pair":
        wide = box((0.5 * x - 0.05, 0.5 * x + 0.05), 0.05, (0, high)) | box((0.5 * x - 0.06, 0.5 * x + 0.06), 0.7 * y, (0, 0.07))
        shape |= both(wide) | box(0.5 * x, 0.025, (0.3 * high, 0.3 * high + 0.06))
    elif under == "trestle":
        at, beam = 0.8 * inner * x, (0.4 * high, 0.4 * high + 0.07)
        shape |= both(both(limb((at, 0.85 * inner * y, 0), (at, 0.12 * y, high), half), 1))
        shape |= box(at, half, beam) | both(box((at - half, at + half), 0.55 * inner * y, beam))
    elif under == "cross":
        at = 0.85 * inner * x
        shape |= both(both(limb((at, 0.85 * inner * y, 0), (at, -0.85 * inner * y, high - board), half), 1)) | box(at, half, (0.47 * high, 0.53 * high))
    else:
        shape |= both(box((inner * x - 2 * half, inner * x), inner * y, (0, high)))
        shape |= box(inner * x, half, (d(0.1, 0.3) * high, d(0.5, 0.9) * high))
    return shape


def toilet(d: Dice) -> Solid:
    """Close-coupled, one-piece or with a high cistern; round, long or square bowls on a foot or skirt; lid up, down or off."""
    x, y, rim, wall = d(0.17, 0.22), d(0.22, 0.3), d(0.36, 0.44), d(0.03, 0.045)
    kind, lid = d.pick(*["coupled"] * 6, "one", "one", "high"), d.pick("up", "up", "down", "off")
    section, rear, deep, wide = d.pick(ROUND, ROUND, SOFT), y + d(0.14, 0.22), d(0.15, 0.22), d(0.18, 0.25)
    tank, belly, foot = rim + d(0.32, 0.42), d(0.5, 0.75) * rim, d(0.5, 0.75)
    ring = column((0, 0), (rim - 0.05, rim + 0.03), (x, y), power=section)
    shape = ring | box(x, y, (rim - belly, rim + belly), section) & box(x, y, (0, rim))
    shape |= box(0.7 * x, (0, rear), (rim - d(0.1, 0.2), rim))
    if kind == "one":
        shape |= limb((0, 0, 0), (0, 0, rim), (0.7 * x, 0.7 * y), (x, y), section) | box(0.7 * x, (0, rear), (0, rim))
    else:
        shape |= limb((0, 0.25 * y, 0), (0, 0.2 * y, 0.5 * rim), (foot * x, 0.85 * y), (0.4 * x, 0.5 * y), section)
        shape |= box(0.4 * x, (0, rear - d(0.03, 0.12)), (0, rim))
    if lid == "down":
        shape |= column((0, 0), (rim, rim + 0.06), (x, y), power=section) | box(0.6 * x, (0, y + 0.03), (rim, rim + 0.06))
    else:
        shape -= limb((0, 0, rim - 0.7 * belly), (0, 0, rim + 0.04), (0.5 * x, 0.5 * y), (x, y), section, inset=wall)
    low, front = rim - (0.0 if kind == "coupled" else 0.1), rear - deep
    if kind == "high":
        low, tank = rim + d(0.4, 0.5), rim + d(0.65, 0.8)
        shape |= box(0.03, (rear - 0.08, rear - 0.02), (rim - 0.05, tank))
    shape |= column((0, rear - deep / 2), (low, tank), (d(0.8, 1) * wide, deep / 2), (wide, deep / 2), d.pick(SHARP, SHARP, SOFT))
    if d.odds(0.7):
        shape |= box(wide + 0.02, (front - 0.02, rear + 0.02), (tank, tank + 0.035))
    if d.odds(0.5):
        shape |= box((wide - 0.1, wide - 0.03), (front - 0.05, front), (tank - 0.09, tank - 0.05))
    else:
        shape |= box(0.03, (front + deep / 2 - 0.03, front + deep / 2 + 0.03), (tank, tank + 0.07))
    if lid == "up":
        high = d(0.75, 0.95) * y * 2
        shape |= limb((0, front - 0.06, rim), (0, front - 0.02, rim), (x, high), power=section) & box(1, 1, (rim, 2))
    return shape


MAKERS: dict[str, Callable[[Dice], Solid]] = {f.__name__: f for f in (
    bathtub, bed, chair, desk, dresser, monitor, night_stand, sofa, table, toilet)}  # fmt: skip


def rasterise(solid: Solid, resolution: int) -> NDArray[np.bool_]:
    """The cells (x, y, z) whose centres lie in a solid, its longest side filling all but the padding, centred."""
    room = resolution - 2 * max(1, 3 * resolution // 32)
    size = [b - a for a, b in zip(solid.lo, solid.hi, strict=True)]
    cells = [max(1, round(s * room / max(size))) for s in size]
    axes = []
    for k, (n, a, b) in enumerate(zip(cells, solid.lo, solid.hi, strict=True)):
        centres = (a + b) / 2 + (np.arange(n) + (0.5 - n / 2)) * ((b - a) / n)
        axes.append(centres.reshape([-1 if k == j else 1 for j in range(3)]))
    shape = solid.inside(Grid(tuple(axes), tuple(s / n for s, n in zip(size, cells, strict=True))))
    grid = np.zeros((resolution,) * 3, dtype=bool)
    grid[tuple(slice((resolution - n) // 2, (resolution - n) // 2 + n) for n in cells)] = shape
    return grid


def make_shape(category: str, resolution: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    if category not in MAKERS:
        raise ValueError(f"there is no furniture {category!r}: choose one of {', '.join(CATEGORIES)}")
    if resolution < SMALLEST:
        raise ValueError(f"furniture needs a grid of at least {SMALLEST} cells a side, not {resolution}")
    grid = rasterise(MAKERS[category](Dice(rng)), resolution)
    return grid.transpose(1, 0, 2) if category in FACING_Y else grid
