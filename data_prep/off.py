"""Reading OFF meshes, the format of ModelNet: careful with what it accepts, plain about what it refuses."""

import re
import warnings
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class MeshError(ValueError):
    """A mesh that cannot be read or voxelized; the message is one line that names the file, where there is one."""


def load_off(path: str | PathLike[str]) -> tuple[FloatArray, IntArray]:
    """Read an OFF mesh: its vertices and its faces, polygons cut into triangle fans.

    Accepts the glued header of many ModelNet files (`OFF3514 3546 0`), comments, CRLF, a byte-order mark and colours
    (ignored). Warns when vertices that belong to no face widen the bounding box.

    Args:
        path: an OFF file.

    Returns:
        `vertices` (V, 3) float64 in the file's own units, and `faces` (F, 3) int64, indices into the vertices.

    Raises:
        MeshError: anything else: COFF, NOFF, 4OFF and binary files, truncation, NaN, a bad index, nothing to draw.
    """
    return parse_off(Path(path).read_bytes(), str(path))


def parse_off(data: bytes, name: str) -> tuple[FloatArray, IntArray]:
    """The same for a file's bytes; `name` is what errors and warnings call it."""
    text = data.removeprefix(b"\xef\xbb\xbf")
    kind = re.match(rb"\s*(?:#[^\n]*\s+)*((?:ST|C|N|4)*OFF)\s*(BINARY)?", text, re.IGNORECASE)
    if not kind:
        raise MeshError(f"{name}: does not begin with OFF" + (" (the file is empty)" if not text.strip() else ""))
    if kind[2] or b"\0" in text:
        raise MeshError(f"{name}: is a binary OFF file; only text is read: convert it")
    if len(kind[1]) > 3:
        raise MeshError(f"{name}: is a {kind[1].decode()} file; only plain OFF is read (vertices of x y z): convert it")
    text = text[kind.end() :].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"#" in text:
        text = re.sub(rb"#[^\n]*", b"", text)
    counts = re.match(rb"\s*(-?\d{1,18})[ \t]+(-?\d{1,18})(?:[ \t]+-?\d+)?[ \t]*(?:\n|$)", text)
    if not counts:
        raise MeshError(f"{name}: the numbers of vertices and faces do not follow the word OFF")
    num_vertices, num_faces = int(counts[1]), int(counts[2])
    if num_vertices < 1 or num_faces < 1:
        raise MeshError(f"{name}: nothing to draw: {num_vertices} vertices and {num_faces} faces")
    body = text[counts.end() :]
    vertices, faces = _triangles(body, num_vertices, num_faces) or _polygons(body, num_vertices, num_faces, name)
    check_mesh(vertices, faces, name)
    return vertices, faces


def check_mesh(vertices: FloatArray, faces: IntArray, name: str) -> None:
    """Refuse a mesh that has no shape; warn when vertices that no face uses will shrink it."""
    if not np.isfinite(vertices).all():
        raise MeshError(f"{name}: vertex {np.flatnonzero(~np.isfinite(vertices).all(1))[0]} is not finite")
    bad = np.flatnonzero(((faces < 0) | (faces >= len(vertices))).any(1))
    if len(bad):
        raise MeshError(f"{name}: triangle {bad[0]} uses vertices {faces[bad[0]].tolist()} of {len(vertices)}")
    used = np.zeros(len(vertices), bool)
    used[faces.ravel()] = True
    with np.errstate(over="ignore"):
        box = np.ptp(vertices, axis=0).max()
    if box == 0:
        raise MeshError(f"{name}: all vertices are one point")
    if not np.isfinite(box):
        raise MeshError(f"{name}: its bounding box is wider than a float64 can hold")
    if not used.all() and (size := np.ptp(vertices[used], axis=0).max()) < 0.995 * box:
        count = np.count_nonzero(~used)
        warnings.warn(
            f"{name}: {count} stray vertices belong to no face but count in the bounding box: "
            f"the object shrinks to {size / box:.0%} of the grid",
            stacklevel=3,
        )


def _triangles(body: bytes, num_vertices: int, num_faces: int) -> tuple[FloatArray, IntArray] | None:
    """The fast way, for files of three numbers a vertex and triangles without colours; None for any other."""
    line_ends = np.flatnonzero(np.frombuffer(body, np.uint8) == ord("\n"))
    if len(line_ends) < num_vertices + num_faces - 1:
        return None
    cut = int(line_ends[num_vertices - 1]) + 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # numpy's word for "stopped at something not a number"
        try:
            vertices = np.fromstring(body[:cut], np.float64, sep=" ")
            faces = np.fromstring(body[cut:], np.int64, sep=" ")
        except (DeprecationWarning, ValueError):
            return None
    if vertices.size != 3 * num_vertices or faces.size != 4 * num_faces or (faces[::4] != 3).any():
        return None
    return vertices.reshape(-1, 3), np.ascontiguousarray(faces.reshape(-1, 4)[:, 1:])


def _polygons(body: bytes, num_vertices: int, num_faces: int, name: str) -> tuple[FloatArray, IntArray]:
    """The careful way, line by line: polygons, colours, blank lines, and the reason why a file is broken."""
    rows = [row for line in body.split(b"\n") if (row := line.split())]
    if len(rows) < num_vertices + num_faces:
        raise MeshError(f"{name}: truncated: {len(rows)} lines for {num_vertices} vertices and {num_faces} faces")
    if extra := len(rows) - num_vertices - num_faces:
        warnings.warn(f"{name}: {extra} lines after the last face are ignored", stacklevel=4)
    vertices = np.empty((num_vertices, 3))
    triangles: list[list[int]] = []
    line = b""
    try:
        for i, row in enumerate(rows[:num_vertices]):
            line = b" ".join(row)
            vertices[i] = [float(x) for x in row[:3]]
        for row in rows[num_vertices : num_vertices + num_faces]:
            line = b" ".join(row)
            size, corners = int(row[0]), [int(x) for x in row[1 : int(row[0]) + 1]]
            if size < 3 or len(corners) < size:
                raise ValueError
            triangles += [[corners[0], corners[k], corners[k + 1]] for k in range(1, size - 1)]
    except (ValueError, OverflowError):
        raise MeshError(f"{name}: truncated or damaged at the line {line.decode('latin-1')[:60]!r}") from None
    return vertices, np.array(triangles, np.int64)
