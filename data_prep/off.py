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

    Accepts the glued header of many ModelNet files (`OFF3514 3546 0`), comments, CRLF, a byte-order mark, colours
    (ignored) and, where there are none, line breaks anywhere. Warns when faces of fewer than three corners are left out
    and when vertices that belong to no face widen the bounding box.

    Args:
        path: an OFF file.

    Returns:
        `vertices` (V, 3) float64 in the file's own units, and `faces` (F, 3) int64, indices into the vertices.

    Raises:
        MeshError: anything else: COFF, NOFF, 4OFF and binary files, truncation, NaN, a bad index, nothing to draw,
            and line breaks so free, beside colours or faces of two corners, that damage would look the same.
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
    edges = rb"(?:[ \t]+-?\d+(?!\S)|\s+-?\d+[ \t]*(?=\n)|(?=[ \t]*(?:\n|$)))"  # may be missing at a line's end
    counts = re.match(rb"\s*(-?\d{1,18})\s+(-?\d{1,18})(?!\S)" + edges + rb"[ \t]*\n?", text)
    if not counts:
        raise MeshError(f"{name}: the numbers of vertices and faces do not follow the word OFF")
    num_vertices, num_faces = int(counts[1]), int(counts[2])
    if num_vertices < 1 or num_faces < 1:
        raise MeshError(f"{name}: nothing to draw: {num_vertices} vertices and {num_faces} faces")
    body = text[counts.end() :]
    vertices, faces = _triangles(body, num_vertices, num_faces) or _polygons(text, body, num_vertices, num_faces, name)
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


def _polygons(text: bytes, body: bytes, num_vertices: int, num_faces: int, name: str) -> tuple[FloatArray, IntArray]:
    """The careful ways: polygons cut into fans; those of fewer than three corners have no area and are left out."""
    rows = [row for line in body.split(b"\n") if (row := line.split())]
    extra = len(rows) - num_vertices - num_faces
    try:
        vertices, faces = _lines(rows, num_vertices, num_faces, name)
        if extra:
            warnings.warn(f"{name}: {extra} lines after the last face are ignored", stacklevel=4)
    except MeshError as error:
        breaks = "line breaks of its own, which cannot be told apart: put each vertex and each face on one line"
        if not (read := _stream(text)):
            if len(body.split()) <= 3 * num_vertices + 4 * num_faces or re.search(rb"[^\s\d.eE+-]", body):
                raise
            raise MeshError(f"{error}, or coloured with {breaks}") from None
        sizes = {*map(len, read[1])}
        large = sizes - {0, 1, 2}
        if (not extra) + (len(large) > 1) + (large != sizes) > 1:  # a lost or wrong number looks so, too
            reason = str(error)[len(name) :].replace("truncated or ", "", 1)
            raise MeshError(f"{name}{reason}, or with faces of other sizes and {breaks}") from None
        vertices, faces = read
    fans = [[face[0], face[k], face[k + 1]] for face in faces for k in range(1, len(face) - 1)]
    if not fans:
        raise MeshError(f"{name}: nothing to draw: its {num_faces} faces have fewer than 3 corners")
    if small := sum(len(face) < 3 for face in faces):
        warnings.warn(f"{name}: {small} of {num_faces} faces have fewer than 3 corners and are left out", stacklevel=4)
    return vertices, np.array(fans, np.int64)


def _lines(rows: list[list[bytes]], num_vertices: int, num_faces: int, name: str) -> tuple[FloatArray, list[list[int]]]:
    """Vertices, and the corners of each face, line by line: with colours, and with the reason why a file is broken."""
    if len(rows) < num_vertices + num_faces:
        count = f"{len(rows)} lines for {num_vertices} vertices and {num_faces} faces"
        raise MeshError(f"{name}: truncated or damaged: {count}")
    vertices = np.empty((num_vertices, 3))
    faces: list[list[int]] = []
    try:
        for i, row in enumerate(rows[:num_vertices]):
            if len(row) != len(rows[0]):
                raise ValueError
            x, y, z = row[:3]
            vertices[i] = float(x), float(y), float(z)
        for row in rows[num_vertices : num_vertices + num_faces]:
            size = int(row[0])
            faces.append([int(x) for x in row[1 : size + 1]])
            rest = len(row) - 1 - size  # a colour, or damage
            if len(faces[-1]) != size or (size < 3 and rest not in ((0, 3, 4) if size == 2 else (0,))):
                raise ValueError
    except (ValueError, OverflowError):
        line = b" ".join(row).decode("latin-1")
        raise MeshError(f"{name}: truncated or damaged at the line {line[:60]!r}") from None
    return vertices, faces


def _stream(text: bytes) -> tuple[FloatArray, list[list[int]]] | None:
    """The same number by number: line breaks anywhere, no colours; None unless every number has its place."""
    words = text.split()
    faces = []
    try:
        at = 3 + 3 * int(words[0])
        vertices = np.array(words[3:at], np.float64).reshape(int(words[0]), 3)
        for _ in range(int(words[1])):
            if (size := int(words[at])) < 0:
                return None
            faces.append([int(x) for x in words[at + 1 : at + 1 + size]])
            at += 1 + size
    except (ValueError, OverflowError, LookupError):
        return None
    return (vertices, faces) if at == len(words) else None
