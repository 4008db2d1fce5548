"""Strided 3-D convolutions of frozen weights, exact and cheap: polyphase, then a bilinear algorithm on each axis.

*Polyphase.* With stride s, y[o] = sum_k w[k] x[s o + k - before]. Write k = s j + p with a phase p < s: then

    y[o] = sum_p sum_j w_p[j] x_p[o + j],    w_p[j] = w[s j + p],    x_p[t] = x[s t + p - before],

s correlations of stride 1 with q = ceil(k / s) taps along an axis, s^3 of them in space.

*Bilinear algorithms.* m outputs of a correlation with q taps need not take m q products. There are matrices with

    y = A [(G w) * (B x)],    A (m, P), G (P, q), B (P, n),    n = m + q - 1,

where `*` multiplies element by element and P is as small as n. `toom_cook` evaluates polynomials at small points and at
infinity (real, P = n; m outputs of q taps are Winograd's F(m, q)). `dft` evaluates them at the n-th roots of unity
(complex; on one axis half of them are enough). On a cubic grid the same matrices act on each axis in turn: P^3 products
stand where m^3 q^3 stood. When m is less than the layer's outputs, tiles cover them.

G w is computed once. The rest is products of matrices on buffers that are allocated once, laid out
[phase][point][chain][channel]: the sum over channels is one batched product, and nothing large is permuted. The
gradient is every product transposed, in the opposite order.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from dnet_lib.energy import SameConv3d

Piece = tuple[tuple[slice, ...], Tensor]  #: Which voxels (X, Y, Z) of a map, and where they lie: a view of that form


@dataclass(frozen=True)
class Geometry:
    """One convolution, the same along each axis: (side, in_channels) -> (out, channels)."""

    side: int
    in_channels: int
    out: int
    channels: int
    kernel: int
    stride: int
    before: int

    @property
    def phases(self) -> int:
        """Phases that have taps."""
        return min(self.stride, self.kernel)

    @property
    def taps(self) -> int:
        """Taps of a phase."""
        return -(-self.kernel // self.stride)

    def folded(self) -> "Geometry":
        """The same convolution when its phases are channels: of stride 1, on an input that is padded already."""
        channels = self.in_channels * self.phases**3
        return Geometry(self.out + self.taps - 1, channels, self.out, self.channels, self.taps, 1, 0)


def cut(g: Geometry, p: int, n: int, *, before: int | None = None, side: int | None = None) -> tuple[slice, slice]:
    """Which of n samples of phase p exist, and where they lie in the input (or in one of another side)."""
    side, first = g.side if side is None else side, p - (g.before if before is None else before)
    lo = max(0, -(first // g.stride))
    hi = max(lo, min(n, (side - 1 - first) // g.stride + 1))
    places = range(g.stride * lo + first, g.stride * hi + first, g.stride)[: hi - lo]
    return slice(lo, hi), slice(places[0], places[-1] + 1, g.stride) if places else slice(0)


@dataclass(frozen=True)
class Choice:
    """How a convolution is computed: "direct", or by "Toom-Cook" or "DFT" in tiles of m outputs an axis."""

    method: str = "direct"
    m: int = 0


def toom_cook(m: int, q: int, axis: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A, G, B at the points 0, 1, -1, 2, -2, 1/2, -1/2 and infinity, as many as needed (m + q <= 9)."""
    n = m + q - 1
    points = torch.tensor([0, 1, -1, 2, -2, 0.5, -0.5], dtype=torch.float64)[: n - 1]

    def values(k: int) -> Tensor:  # of the k lowest monomials, at the points and at infinity
        return torch.cat([points[:, None] ** torch.arange(k), torch.eye(k, dtype=torch.float64)[-1:]])

    b = torch.linalg.inv(values(n)).T
    size = b.norm(dim=1, keepdim=True)
    return values(m).T, values(q) * size, b / size


def dft(m: int, q: int, axis: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A, G, B by a cyclic DFT of length m + q - 1. Along axis 0 signals are real: half the frequencies are kept."""
    n = m + q - 1
    f = torch.arange(n // 2 + 1 if axis == 0 else n, dtype=torch.float64)
    turn = torch.exp(2j * math.pi * f[:, None] * torch.arange(n) / n)
    twice = torch.where((f == 0) | (2 * f == n) | (axis > 0), 1.0, 2.0)
    return (turn[:, :m] * twice[:, None] / n).T, turn[:, :q], turn.conj()


METHODS = {"Toom-Cook": (toom_cook, 8), "DFT": (dft, 64)}
"""Each algorithm, and its most points an axis (Toom-Cook's rounding errors grow with them)."""


def candidates(g: Geometry, dtype: torch.dtype = torch.float32) -> list[Choice]:
    """All choices worth considering for a convolution; "direct" is the first. Toom-Cook magnifies rounding."""
    fits = {
        Choice(method, m)
        for method, (_, most) in METHODS.items()
        if method == "DFT" or dtype == torch.float32
        for m in {-(-g.out // tiles) for tiles in range(1, g.out)}
        if g.taps > 1 and m + g.taps - 1 <= most
    }
    return [Choice(), *sorted(fits, key=lambda choice: (choice.method, choice.m))]


def as_real(matrix: Tensor) -> Tensor:
    """(rows, columns) -> (rows, c, columns, c): c = 2, real and imaginary part, for a complex matrix, else 1."""
    if not matrix.is_complex():
        return matrix[:, None, :, None]
    re, im = matrix.real, matrix.imag
    return torch.stack([torch.stack([re, -im], -1), torch.stack([im, re], -1)], 1)


def apply(matrix: Tensor, x: Tensor, out: Tensor, beta: int = 0) -> Tensor:
    """out = matrix @ x + beta out, in place, for a batch: (rows, k), (N, k, rest) -> (N, rows, rest)."""
    if len(x) == 1:
        torch.addmm(out[0], matrix, x[0], beta=beta, out=out[0])
    elif x.shape[2] < 1024 and not out.is_contiguous():  # PyTorch would go through the batch one by one
        out.copy_(torch.baddbmm(out, matrix.expand(len(x), *matrix.shape), x, beta=beta))
    else:
        torch.baddbmm(out, matrix.expand(len(x), *matrix.shape), x, beta=beta, out=out)
    return out


class Separable:
    """One convolution by a bilinear algorithm on each axis.

    `x` and `a` are the buffers of input and output: `forward` fills a from x, `backward` fills x, now a gradient, from
    a. `load` transforms the weights, `begin` lays out the buffers. Few channels are folded: their phases become
    channels. `dtype` is that of all buffers and matrices; sums within a product are float32. What lies in `scratch` is
    needed from one product to the next only, and may be shared with other convolutions.
    """

    def __init__(
        self,
        g: Geometry,
        choice: Choice,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        scratch: dict[str, Tensor] | None = None,
    ):
        self.whole, self.choice, self.device, self.dtype = g, choice, torch.device(device), dtype
        self.scratch = dict[str, Tensor]() if scratch is None else scratch
        self.fold = 1 < g.stride <= g.kernel and g.in_channels < 128
        self.g = g = g.folded() if self.fold else g
        self.given, self.storage = 0, dict[str, Tensor]()
        algorithm, _ = METHODS[choice.method]
        axes = [[as_real(t) for t in algorithm(choice.m, g.taps, axis)] for axis in range(3)]
        self.c = c = axes[1][0].shape[1]
        self.points, self.tiles = [a.shape[2] for a, _, _ in axes], -(-g.out // choice.m)
        self.n, parts = choice.m + g.taps - 1, g.phases**3
        self.length = g.side if self.tiles == 1 else self.n * g.stride
        tile = {} if self.tiles == 1 else {"before": 0, "side": self.length}
        self.cuts = [cut(g, p, self.n, **tile) for p in range(g.phases)]
        self.covered = sum(len(range(*x.indices(self.length))) for _, x in self.cuts) == self.length
        # Complex numbers: the phases are summed over as channels are. Otherwise each phase is a product of its own.
        self.parts, self.width = (1, parts * g.in_channels) if c == 2 else (parts, g.in_channels)

        def put(t: Tensor, kind: torch.dtype = dtype) -> Tensor:
            return t.to(self.device, kind).contiguous()

        self.into, self.spread, self.back = [], [], []  # B for each phase and part of a complex number; G; A
        for axis, (a, w, b) in enumerate(axes):
            real = 1 if axis == 0 else c
            self.into.append([[put(b[:, :, t, i].flatten(0, 1)) for i in range(real)] for t, _ in self.cuts])
            self.spread.append(put(w[..., :real].transpose(2, 3).flatten(2).flatten(0, 1), torch.float32))
            self.back.append(put(a[:, :real].transpose(0, 1).flatten(2).flatten(0, 1)))

    def _buffer(self, name: str, *shape: int) -> Tensor:
        size, where = math.prod(shape), self.scratch if name in ("odd", "even") else self.storage
        if name not in where or where[name].numel() < size:
            where[name] = torch.empty(size, dtype=self.dtype, device=self.device)
        return where[name][:size].view(shape)

    def begin(self, chains: int) -> None:
        """Lay out the buffers for a number of chains, and list the products to be done."""
        if chains == self.given:
            if self.fold:
                self.x.zero_()  # a gradient lay there, in the padding too
            return
        self.given, g, c, m, side = chains, self.g, self.c, self.choice.m, self.length
        self.chains = tiled = chains * self.tiles**3  # tiles go side by side, as chains do
        self.x: Tensor = self._buffer("x", *[g.side] * 3, chains, g.in_channels)
        self.a = self._buffer("a", *[g.out] * 3, chains, g.channels)
        self.x.zero_()
        self.slots = list(self._pieces())
        self.tile_x = self.x if self.tiles == 1 else self._buffer("tile x", *[side] * 3, tiled, g.in_channels)
        self.tile_a = self.a if self.tiles == 1 else self._buffer("tile a", *[m] * 3, tiled, g.channels)
        self.analysis, self.synthesis = [], []  # (matrix, source, target, whether to add)
        self.between = list[Tensor]()
        v, batch = self.tile_x, 1
        for axis, matrices in enumerate(self.into):
            rest = side ** (2 - axis) * tiled * g.in_channels
            source = v.view(batch, len(matrices[0]), side, rest)
            name = ("even", "odd", "v")[axis]
            v = self._buffer(name, g.phases, batch, matrices[0][0].shape[0], rest)
            self.between.append(v)
            for p, (_, where) in enumerate(self.cuts):
                self.analysis += [(t, source[:, i, where], v[p], min(i, 1)) for i, t in enumerate(matrices[p])]
            batch *= g.phases * self.points[axis]
        points = math.prod(self.points)
        self.v = v.view(-1, points, c, tiled, g.in_channels)
        if c == 2:
            v = self._buffer("gathered", points, c, tiled, c, len(self.v), g.in_channels)
        self.gathered, self.operand = v, v.view(self.parts, points, c * tiled, c * self.width)
        u = self.mixed = self._buffer("even", points, c * tiled, g.channels)
        for axis in (2, 1, 0):
            source = u.view(math.prod(self.points[:axis]), self.back[axis].shape[1], -1)
            shape = (len(source), len(self.back[axis]), source.shape[2])
            u = self._buffer(("", "even", "odd")[axis], *shape) if axis else self.tile_a.view(shape)
            self.synthesis.append((self.back[axis], source, u, 0))

    def _pieces(self) -> Iterator[Piece]:
        if not self.fold:
            yield (slice(None),) * 3, self.x
            return
        g = self.whole
        cuts = [cut(g, p, self.g.side) for p in range(g.phases)]
        for k, axes in enumerate(product(cuts, repeat=3)):
            own = slice(k * g.in_channels, (k + 1) * g.in_channels)
            yield tuple(place for _, place in axes), self.x[*(inside for inside, _ in axes), :, own]

    @property
    def num_weights(self) -> int:
        """How many numbers the transformed weights are."""
        return self.parts * math.prod(self.points) * self.c * self.width * self.g.channels

    def load(self, conv: SameConv3d) -> None:
        """Transform the weights as they are now: G along each axis."""
        self.bias = conv.bias.detach()
        g, q, s = self.whole, self.whole.taps, self.whole.phases
        w = F.pad(conv.weight.detach(), (0, s * q - g.kernel) * 3).view(g.channels, g.in_channels, *[q, s] * 3)
        if self.c == 2 or self.fold:  # taps, phases and channels; otherwise phases, taps, channels
            w = w.permute(2, 4, 6, *((3, 5, 7) if self.fold else (7, 5, 3)), 1, 0)
        else:
            w = w.permute(7, 5, 3, 2, 4, 6, 1, 0)
        shape = (self.parts, math.prod(self.points), self.c * self.width, g.channels)
        self.transformed = self._buffer("weights", *shape)
        for part, out in zip(w.reshape(self.parts, -1), self.transformed, strict=True):
            for axis, matrix in enumerate(self.spread):
                part = part.view(math.prod(self.points[:axis]), matrix.shape[1], -1)
                target = (len(part), len(matrix), part.shape[2])
                last = axis == 2 and self.dtype == torch.float32
                part = apply(matrix, part, out.view(target) if last else part.new_empty(target))
            if self.dtype != torch.float32:
                out.copy_(part.view_as(out))

    def forward(self) -> Tensor:
        """conv(x) + bias, of what lies in the slots, in the buffer a."""
        if self.tiles > 1:
            for inside, place, _, _, *beyond in self._tiles():
                self.tile_x[inside] = self.x[place]
                for where in beyond:
                    self.tile_x[where] = 0
        for matrix, source, target, add in self.analysis:
            apply(matrix, source, target, add)
        if self.c == 2:  # rows (re, -im) and (im, re), to meet columns (w_re, w_im)
            v, rows = self.v.permute(2, 1, 3, 0, 4), self.gathered.permute(1, 3, 0, 2, 4, 5)
            rows[0, 0], rows[1, 1], rows[1, 0] = v[0], v[0], v[1]
            torch.neg(rows[1, 0], out=rows[0, 1])
        for p, weights in enumerate(self.transformed):
            torch.baddbmm(self.mixed, self.operand[p], weights, beta=min(p, 1), out=self.mixed)
        if self.c == 2:  # a constant is all in frequency 0, or at the point (1, 1, 1)
            self.mixed[0, : self.chains] += self.bias * self.n**3
        else:
            self.mixed[(self.n + 1) * self.n + 1] += self.bias
        for matrix, source, target, add in self.synthesis:
            apply(matrix, source, target, add)
        if self.tiles > 1:
            for _, _, done, to, *_ in self._tiles():
                self.a[to] = self.tile_a[done]
        return self.a

    def backward(self, da: Tensor) -> Iterator[Piece]:
        """The gradient with respect to x, piece by piece, in the buffer x."""
        self._mix(da)
        for p, weights in enumerate(self.transformed):
            torch.bmm(self.mixed, weights.transpose(1, 2), out=self.operand[p])
        if self.c == 2:
            v, rows = self.v.permute(2, 1, 3, 0, 4), self.gathered.permute(1, 3, 0, 2, 4, 5)
            torch.add(rows[0, 0], rows[1, 1], out=v[0])
            torch.sub(rows[1, 0], rows[0, 1], out=v[1])
        if not self.covered:  # what no output reads
            for buffer in (self.tile_x, *self.between):
                buffer.zero_()
        for matrix, source, target, _ in reversed(self.analysis):
            apply(matrix.T, target, source)
        if self.tiles > 1:
            self.x.zero_()
            for inside, place, *_ in self._tiles():
                self.x[place] += self.tile_x[inside]
        yield from self.slots

    def _mix(self, da: Tensor) -> None:
        """The gradient with respect to `mixed`."""
        if da.data_ptr() != self.a.data_ptr():
            self.a.copy_(da)
        if self.tiles > 1:
            self.tile_a.zero_()
            for _, _, done, to, *_ in self._tiles():
                self.tile_a[done] = self.a[to]
        for matrix, source, target, _ in reversed(self.synthesis):
            apply(matrix.T, target, source)

    def weight_gradient(self, da: Tensor) -> Tensor:
        """The gradient with respect to the weights; to be called before `backward` overwrites what `forward` left."""
        g, s, q, parts = self.whole, self.whole.phases, self.whole.taps, []
        self._mix(da)
        for operand in self.operand:  # `load`, transposed; a few channels at a time, for what it takes of memory
            columns = list[Tensor]()
            for some in self.mixed.split(64, dim=2):
                part = torch.bmm(operand.transpose(1, 2), some).float()
                for axis in (2, 1, 0):
                    matrix = self.spread[axis]
                    part = part.view(math.prod(self.points[:axis]), len(matrix), -1)
                    part = apply(matrix.T, part, part.new_empty(len(part), matrix.shape[1], part.shape[2]))
                columns.append(part.view(-1, some.shape[2]))
            parts.append(torch.cat(columns, 1).flatten())
        w, channels = torch.stack(parts), (g.in_channels, g.channels)
        if self.fold or self.c == 2:
            x, z = (3, 5) if self.fold else (5, 3)
            w = w.view(q, q, q, s, s, s, *channels).permute(7, 6, 0, x, 1, 4, 2, z)
        else:
            w = w.view(s, s, s, q, q, q, *channels).permute(7, 6, 3, 2, 4, 1, 5, 0)
        return w.reshape(g.channels, g.in_channels, *[s * q] * 3)[..., : g.kernel, : g.kernel, : g.kernel]

    def _tiles(self) -> Iterator[tuple[tuple[slice, ...], ...]]:
        """Of each tile: its parts of `tile_x`, `x`, `tile_a` and `a`; then, one by one, those of `tile_x` beyond."""
        g, m, n, length = self.g, self.choice.m, self.given, self.length
        for k, tile in enumerate(product(range(self.tiles), repeat=3)):
            first = [i * m * g.stride - g.before for i in tile]
            lo = [max(0, f) for f in first]
            hi = [max(a, min(g.side, f + length)) for f, a in zip(first, lo, strict=True)]
            end, own = [min(g.out, (i + 1) * m) for i in tile], slice(k * n, (k + 1) * n)
            inside = tuple(slice(a - f, b - f) for f, a, b in zip(first, lo, hi, strict=True))
            done = (*(slice(0, e - i * m) for i, e in zip(tile, end, strict=True)), own)
            to = tuple(slice(i * m, e) for i, e in zip(tile, end, strict=True))
            beyond = [
                (*[slice(None)] * axis, part, *[slice(None)] * (2 - axis), own)
                for axis, box in enumerate(inside)
                for part in (slice(0, box.start), slice(box.stop, length))
                if part.start < part.stop
            ]
            yield (*inside, own), tuple(map(slice, lo, hi)), done, to, *beyond
