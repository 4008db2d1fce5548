"""What an archive holds, in words and pictures."""

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .archive import CATEGORIES, Archive, replacing

NEAR_EMPTY = 50  # voxels: below, a shape has lost what made it one
_DOTS = np.array([[1, 8], [2, 16], [4, 32], [64, 128]])  # the bits of a braille character, 4 x 2


def describe(archive: Archive) -> str:
    """Counts and occupancy by category and split, and the shapes that are empty or nearly so."""
    manifest, counts = archive.manifest, archive.counts()
    lines = [
        f"dataset     {printable(str(manifest['dataset']))}, {len(counts)} shapes",
        f"grid        {archive.resolution}^3, padding {manifest['padding']}",
        f"source      {printable(str(manifest['source']))}",
        f"filled      {printable(str(manifest['fill_rule']))}",
        "",
        f"{'':12}{'train':>7}{'test':>7}{'occupancy':>11}{'voxels, least .. most':>24}",
    ]
    for i, category in enumerate((*CATEGORIES, "all")):
        of = (archive.labels == i) | (i == len(CATEGORIES))
        if of.any():
            train = np.count_nonzero(archive.split[of] == "train")
            share, span = counts[of].mean() / archive.resolution**3, f"{counts[of].min()} .. {counts[of].max()}"
            lines.append(f"{category:12}{train:7}{np.count_nonzero(of) - train:7}{share:11.1%}{span:>24}")
    for words, chosen in (
        ("empty", counts == 0),
        (f"with under {NEAR_EMPTY} voxels", (counts > 0) & (counts < NEAR_EMPTY)),
    ):
        if chosen.any():
            lines += ["", f"{np.count_nonzero(chosen)} {words}:", *at_most(archive.names[chosen].tolist())]
    return "\n".join(lines)


def at_most(items: list[str], limit: int = 20) -> list[str]:
    """Indented lines that a terminal can be trusted with, and how many more there are."""
    more = [f"... and {len(items) - limit} more"] if len(items) > limit else []
    return [f"  {printable(item)}" for item in [*items[:limit], *more]]


def printable(text: str) -> str:
    """Text of unknown origin on one line, without control characters."""
    return "".join(c if c.isprintable() else "?" for c in text)


def shaded(grid: NDArray[np.bool_], size: int, azimuth: float = -40.0, elevation: float = 25.0) -> NDArray[np.float64]:
    """A shape seen from the front, the side and above: light in [0, 1] of `size` x `size` pixels, NaN where it is not.

    Args:
        grid: bool (R, R, R), indexed (y, x, z).
        azimuth, elevation: where the eye is, degrees from the -y axis (towards +x) and from the floor; furniture of
            ModelNet faces -y or -x, so that an eye between them sees its front.
    """
    a, e = np.deg2rad([azimuth, elevation])
    right = np.array([np.sin(a), np.cos(a), 0])  # (y, x, z)
    away = np.array([np.cos(e) * np.cos(a), -np.cos(e) * np.sin(a), -np.sin(e)])
    up = np.cross(right, away)
    up *= np.sign(up[2])
    r = len(grid)
    span = (np.arange(size) + 0.5) / size - 0.5
    depth = np.linspace(-0.9 * r, 0.9 * r, 4 * r)
    start = (r - 1) / 2 - 1.15 * r * span[:, None, None] * up + 1.15 * r * span[None, :, None] * right
    padded = np.pad(grid, 1)
    hit = np.full((size, size), -1)
    for t in range(len(depth) - 1, -1, -1):  # from far to near
        cell = np.clip(np.rint(start + depth[t] * away).astype(int) + 1, 0, r + 1)
        hit[padded[tuple(np.moveaxis(cell, -1, 0))]] = t
    where = hit >= 0
    points = (start + depth[hit][..., None] * away)[where].T
    smooth = ndimage.gaussian_filter(grid.astype(float), 1.0)
    normal = -np.array([ndimage.map_coordinates(g, points, order=1) for g in np.gradient(smooth)])
    normal /= np.linalg.norm(normal, axis=0) + 1e-9
    light = 0.75 * up - 0.5 * away - 0.45 * right
    image = np.full((size, size), np.nan)
    image[where] = 0.35 + 0.65 * np.clip(light @ normal, 0, 1)
    return image


def text_picture(archive: Archive, columns: int | None = None) -> str:
    """One training shape a category, the one of median size, in braille dots."""
    counts = archive.counts()
    pictures, dither = [], np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) / 16 + 1 / 32
    for i in np.unique(archive.labels):
        of = np.flatnonzero(archive.labels == i)
        shape = of[np.argsort(counts[of], kind="stable")[len(of) // 2]]
        dots = np.nan_to_num(shaded(archive.grids([shape])[0], 40)) > np.tile(dither, (10, 10))
        codes = 0x2800 + (dots.reshape(10, 4, 20, 2).transpose(0, 2, 1, 3) * _DOTS).sum((2, 3))
        pictures.append([f"{CATEGORIES[i]:20}", *("".join(map(chr, row)) for row in codes)])
    across = max(1, (columns or shutil.get_terminal_size().columns) // 20)
    rows = [pictures[k : k + across] for k in range(0, len(pictures), across)]
    return "\n".join("".join(parts).rstrip() for row in rows for parts in zip(*row, strict=True))


def contact_sheet(archive: Archive, path: Path, across: int = 10) -> None:
    """A PNG with a row of shapes a category, evenly chosen."""
    from matplotlib.figure import Figure

    present = np.unique(archive.labels)
    figure = Figure(figsize=(across + 1.2, len(present)), dpi=100, facecolor="white")
    axes = figure.subplots(len(present), across, squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.02})
    figure.subplots_adjust(left=0.1, right=0.995, bottom=0.005, top=0.995)
    for row, label in zip(axes, present, strict=True):
        of = np.flatnonzero(archive.labels == label)
        chosen = np.unique(np.linspace(0, len(of) - 1, min(across, len(of))).astype(int))
        row[0].text(-0.08, 0.5, CATEGORIES[label], transform=row[0].transAxes, ha="right", va="center")
        for ax in row:
            ax.axis("off")
        for ax, i in zip(row, of[chosen], strict=False):
            ax.imshow(shaded(archive.grids([i])[0], 96), cmap="bone", vmin=0, vmax=1.05)
    with replacing(path) as file:
        figure.savefig(file, format="png")
