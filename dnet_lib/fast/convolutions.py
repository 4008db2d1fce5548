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

Piece = tuple[tuple[slice, ...], Tensor]  #: Which voxels (X, Y, Z) of a map, and where they lie: a view of that form
Step = tuple[Tensor, Tensor, Tensor, int]  #: target = matrix @ source in a batch, and whether to add where parts meet


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
    def taps(self) -> int:
        """Taps of a phase."""
        return -(-self.kernel // self.stride)


def cut(g: Geometry, p: int, n: int, *, before: int | None = None, side: int | None = None) -> tuple[slice, slice]:
    """Which of n samples of phase p exist, and where they lie in the input (or in one of another side)."""
    side, first = g.side if side is None else side, p - (g.before if before is None else before)
    lo = max(0, -(first // g.stride))
    hi = max(lo, min(n, (side - 1 - first) // g.stride + 1))
    places = range(g.stride * lo + first, g.stride * hi + first, g.stride)[: hi - lo]
    return slice(lo, hi), slice(places[0], places[-1] + 1, g.stride) if places else slice(0)


@dataclass(frozen=True)
class Choice:
    """How a convolution is computed: "direct", or by "Toom-Cook" or "DFT" in tiles of m outputs, on so many axes."""

    method: str = "direct"
    m: int = 0
    axes: int = 3


def toom_cook(m: int, q: int, axis: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A, G, B at the points 0, 1, -1, 2, -2, 1/2, -1/2 and infinity, as many as needed (m + q <= 9)."""
    n = m + q - 1
    points = torch.tensor([0, 1, -1, 2, -2, 0.5, -0.5], dtype=torch.float64, device="cpu")[: n - 1]

    def values(k: int) -> Tensor:  # of the k lowest monomials, at the points and at infinity
        powers = torch.arange(k, device="cpu")
        return torch.cat([points[:, None] ** powers, torch.eye(k, dtype=torch.float64, device="cpu")[-1:]])

    b = torch.linalg.inv(values(n)).T
    size = b.norm(dim=1, keepdim=True)
    return values(m).T, values(q) * size, b / size


def dft(m: int, q: int, axis: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A, G, B by a cyclic DFT of length m + q - 1. Along axis 0 signals are real: half the frequencies are kept."""
    n = m + q - 1
    f = torch.arange(n // 2 + 1 if axis == 0 else n, dtype=torch.float64, device="cpu")
    turn = torch.exp(2j * math.pi * f[:, None] * torch.arange(n, device="cpu") / n)
    twice = torch.where((f == 0) | (2 * f == n) | (axis > 0), 1.0, 2.0)
    return (turn[:, :m] * twice[:, None] / n).T, turn[:, :q], turn.conj()


METHODS = {"Toom-Cook": (toom_cook, 8), "DFT": (dft, 64)}
"""Each algorithm, and its most points an axis (Toom-Cook's rounding errors grow with them)."""
AXES = {"Toom-Cook": (2, 3), "DFT": (3,)}
"""On how many axes: fewer take more products, and fewer bytes."""


def candidates(g: Geometry, dtype: torch.dtype = torch.float32) -> list[Choice]:
    """All choices worth considering for a convolution; "direct" is the first. Toom-Cook magnifies rounding."""
    fits = {
        Choice(method, m, axes)
        for method, (_, most) in METHODS.items()
        for axes in AXES[method]
        if method == "DFT" or dtype == torch.float32
        for m in {-(-g.out // tiles) for tiles in range(1, g.out)}
        if g.taps > 1 and m + g.taps - 1 <= most
    }
    return [Choice(), *sorted(fits, key=lambda choice: (choice.method, choice.axes, choice.m))]


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
    """One convolution by a bilinear algorithm on each axis, or on x and y and direct along z.

    `forward` fills the buffer a from what lies in `slots`, `backward` fills those, now with a gradient, from a. `load`
    transforms the weights, `begin` lays out the buffers. Phases of few channels are channels; so are those along an
    axis that stays direct. `dtype` is that of all buffers and matrices; sums within a product are float32. What lies in
    `scratch` is needed from one product to the next only, and may be shared with other convolutions.
    """

    def __init__(
        self,
        g: Geometry,
        choice: Choice,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        scratch: dict[str, Tensor] | None = None,
    ):
        self.g, self.choice, self.device, self.dtype = g, choice, torch.device(device), dtype
        self.scratch = dict[str, Tensor]() if scratch is None else scratch
        self.given, self.storage = 0, dict[str, Tensor]()
        algorithm, _ = METHODS[choice.method]
        matrices = [[as_real(t) for t in algorithm(choice.m, g.taps, axis)] for axis in range(choice.axes)]
        self.c = c = matrices[1][0].shape[1]
        self.points = [a.shape[2] for a, _, _ in matrices]
        self.tiles, samples = -(-g.out // choice.m), g.out + g.taps - 1
        self.taps = g.taps if choice.axes == 2 else 1  # of the products
        few = g.stride > 1 and g.in_channels < 128
        self.fold = [few or axis >= choice.axes for axis in range(3)]  # whose phases are channels
        self.sides = [samples if fold else g.side for fold in self.fold]
        self.width = g.in_channels * g.stride ** sum(self.fold)
        # Complex numbers: the phases are summed over as channels are. Otherwise each phase is a product of its own.
        apart, along = ([axis for axis in range(3) if self.fold[axis] == fold] for fold in (False, True))
        lead, inner = ([], apart[::-1] + along) if c == 2 else (apart[::-1], along)
        self.order = (*(2 * axis + 3 for axis in lead), 2, 4, 6, *(2 * axis + 3 for axis in inner), 1, 0)
        self.parts = g.stride ** len(lead)

        def put(t: Tensor, kind: torch.dtype = dtype) -> Tensor:
            return t.to(self.device, kind).contiguous()

        self.into, self.spread, self.back = [], [], []  # B and its samples' places for each phase; G; A
        for axis, (a, w, b) in enumerate(matrices):
            real = 1 if axis == 0 else c
            tiled = b.new_zeros(real, *b.shape[:2], self.tiles, samples + choice.m)
            whole = a.new_zeros(real, self.tiles * choice.m, *a.shape[2:], self.tiles)
            for tile in range(self.tiles):
                first = tile * choice.m
                tiled[:, :, :, tile, first : first + b.shape[2]] = b[..., :real].movedim(-1, 0)
                whole[:, first : first + choice.m, :, :, tile] = a[:, :real].transpose(0, 1)
            phases = [(slice(0, samples), slice(0, samples))]
            if not self.fold[axis]:
                phases = [cut(g, p, samples) for p in range(g.stride)]
            self.into.append([(put(tiled[..., inside].flatten(1, 3)), where) for inside, where in phases])
            self.spread.append(put(w[..., :real].transpose(2, 3).flatten(2).flatten(0, 1), torch.float32))
            self.back.append(put(whole[:, : g.out].flatten(2)))

    def _buffer(self, name: str, *shape: int) -> Tensor:
        size, where = math.prod(shape), self.scratch if name in ("odd", "even") else self.storage
        if name not in where or where[name].numel() < size:
            where[name] = torch.empty(size, dtype=self.dtype, device=self.device)
        return where[name][:size].view(shape)

    def begin(self, chains: int) -> None:
        """Lay out the buffers for a number of chains, and list the products to be done."""
        if chains == self.given:
            return
        self.given, g, c, axes, points = chains, self.g, self.c, self.choice.axes, math.prod(self.points)
        x = self._buffer("x", *self.sides, chains, self.width).zero_()
        dx = self._buffer("odd", *x.shape)
        self.slots, self.gradient = list(self._pieces(x)), list(self._pieces(dx))
        lines = self.tiles**axes * math.prod(self.sides[axes:]) * chains
        self.v = self._buffer("v", g.stride ** (3 - sum(self.fold)), points, c, lines, self.width)
        self.analysis, self.adjoint = list(self._analysis(x)), list(self._analysis(dx))
        self.rows = lines - (self.taps - 1) * chains  # behind those the later taps have nothing to read
        if c == 2:
            self.gathered = self._buffer("gathered", points, c, lines, c, len(self.v), self.width)
            self.operands = [[self.gathered.view(points, c * lines, -1)]]
        else:
            first = [chains * tap for tap in range(self.taps)]
            self.operands = [[part[:, 0, f : f + self.rows] for f in first] for part in self.v]
        self.mixed = self._buffer("even", points, c * lines, g.channels)
        self.sums = self.mixed[:, : c * self.rows]
        self.covering = self._buffer("a", *[g.out] * axes, *self.sides[axes:], chains, g.channels)
        self.a = self.covering[:, :, : g.out]
        self.synthesis = list(self._synthesis())

    def _pieces(self, x: Tensor) -> Iterator[Piece]:
        """Where the input's voxels lie in x."""
        g, whole = self.g, (slice(None), slice(None))
        cuts = [
            [cut(g, p, side) for p in range(g.stride)] if fold else [whole]
            for fold, side in zip(self.fold, self.sides, strict=True)
        ]
        for k, axes in enumerate(product(*cuts)):
            own = slice(k * g.in_channels, (k + 1) * g.in_channels)
            yield tuple(place for _, place in axes), x[*(inside for inside, _ in axes), :, own]

    def _analysis(self, x: Tensor) -> Iterator[Step]:
        """B along each axis: from x to v. Tiles are rows of B, as points are."""
        v, batch = x, 1
        for axis, phases in enumerate(self.into):
            parts, rows, _ = phases[0][0].shape
            before, rest = self.tiles**axis, math.prod(self.sides[axis + 1 :]) * self.given * self.width
            source = v.view(batch, parts, before, self.sides[axis], rest)
            shape = len(phases), batch, rows, before, rest
            v = self.v.view(shape) if axis == self.choice.axes - 1 else self._buffer(("even", "odd")[axis], *shape)
            for (p, (b, where)), tile, i in product(enumerate(phases), range(before), range(parts)):
                yield b[i], source[:, i, tile, where], v[p, :, :, tile], min(i, 1)
            batch *= len(phases) * self.points[axis]

    def _synthesis(self) -> Iterator[Step]:
        """A along each axis, the last one first: from `mixed` to a."""
        u = self.mixed
        for axis in reversed(range(self.choice.axes)):
            parts, out, rows = self.back[axis].shape
            before, batch = self.tiles**axis, math.prod(self.points[:axis])
            source = u.view(batch, rows, before, -1)
            shape = batch, parts, before, out, source.shape[3]
            name = "odd" if axis == self.choice.axes - 1 else "even"
            u = self._buffer(name, *shape) if axis else self.covering.view(shape)
            together = [slice(0, parts)] if before == 1 else [slice(i, i + 1) for i in range(parts)]
            for tile, part in product(range(before), together):
                target = u[:, part, tile].view(batch, -1, shape[-1])
                yield self.back[axis][part].flatten(0, 1), source[:, :, tile], target, int(part.stop < parts)

    @property
    def num_weights(self) -> int:
        """How many numbers the transformed weights are."""
        g = self.g
        return math.prod(self.points) * self.taps * self.c * g.in_channels * int(g.stride**3) * g.channels

    def load(self, weight: Tensor, bias: Tensor) -> None:
        """Transform the weights as they are now: G along each axis."""
        self.bias = bias
        g, q, s = self.g, self.g.taps, self.g.stride
        w = F.pad(weight, (0, s * q - g.kernel) * 3).view(g.channels, g.in_channels, *[q, s] * 3)
        w = w.permute(self.order).reshape(self.parts, -1)
        shape = self.parts, math.prod(self.points), self.taps, -1, g.channels
        self.transformed = self._buffer("weights", self.num_weights).view(shape)
        for part, out in zip(w, self.transformed, strict=True):
            for axis, matrix in enumerate(self.spread):
                part = part.view(math.prod(self.points[:axis]), matrix.shape[1], -1)
                target = (len(part), len(matrix), part.shape[2])
                last = axis == len(self.spread) - 1 and self.dtype == torch.float32
                part = apply(matrix, part, out.view(target) if last else part.new_empty(target))
            if self.dtype != torch.float32:
                out.copy_(part.view_as(out))

    def forward(self) -> Tensor:
        """conv(x) + bias, of what lies in the slots, in the buffer a."""
        for matrix, source, target, add in self.analysis:
            apply(matrix, source, target, add)
        if self.c == 2:  # rows (re, -im) and (im, re), to meet columns (w_re, w_im)
            v, rows = self.v.permute(2, 1, 3, 0, 4), self.gathered.permute(1, 3, 0, 2, 4, 5)
            rows[0, 0], rows[1, 1], rows[1, 0] = v[0], v[0], v[1]
            torch.neg(rows[1, 0], out=rows[0, 1])
        for k, (operand, weights) in enumerate(self._products()):
            torch.baddbmm(self.sums, operand, weights, beta=min(k, 1), out=self.sums)
        n = self.points[-1]
        if self.c == 2:  # a constant is all in frequency 0, or at the point (1, 1, 1)
            self.mixed[0, : self.rows] += self.bias * n**3
        else:
            self.mixed[sum(n**axis for axis in range(self.choice.axes))] += self.bias
        for matrix, source, target, _ in self.synthesis:
            apply(matrix, source, target)
        return self.a

    def _products(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What meets what: samples (points, rows, width), weights (points, width, channels)."""
        for operands, weights in zip(self.operands, self.transformed, strict=True):
            yield from zip(operands, weights.unbind(1), strict=True)

    def backward(self, da: Tensor) -> Iterator[Piece]:
        """The gradient with respect to x, piece by piece, in a buffer."""
        self._mix(da)
        self.v[..., self.rows :, :] = 0  # where the first tap of the products reads nothing
        for k, (operand, weights) in enumerate(self._products()):
            add = min(k % self.taps, 1)
            torch.baddbmm(operand, self.sums, weights.transpose(1, 2), beta=add, out=operand)
        if self.c == 2:
            v, rows = self.v.permute(2, 1, 3, 0, 4), self.gathered.permute(1, 3, 0, 2, 4, 5)
            torch.add(rows[0, 0], rows[1, 1], out=v[0])
            torch.sub(rows[1, 0], rows[0, 1], out=v[1])
        for matrix, source, target, _ in reversed(self.adjoint):
            apply(matrix.T, target, source)
        yield from self.gradient

    def _mix(self, da: Tensor) -> None:
        """The gradient with respect to `mixed`."""
        if da.data_ptr() != self.a.data_ptr():
            self.a.copy_(da)
        self.covering[:, :, self.g.out :] = 0
        for matrix, source, target, add in reversed(self.synthesis):
            apply(matrix.T, target, source, add)

    def weight_gradient(self, da: Tensor) -> Tensor:
        """The gradient with respect to the weights; to be called before `backward` overwrites what `forward` left."""
        g, s, q, parts = self.g, self.g.stride, self.g.taps, []
        self._mix(da)
        for operands in self.operands:  # `load`, transposed; a few channels at a time, for what it takes of memory
            columns = list[Tensor]()
            for some in self.sums.split(64, dim=2):
                part = torch.stack([torch.bmm(x.transpose(1, 2), some) for x in operands], 1).float()
                for axis, matrix in reversed([*enumerate(self.spread)]):
                    part = part.view(math.prod(self.points[:axis]), len(matrix), -1)
                    part = apply(matrix.T, part, part.new_empty(len(part), matrix.shape[1], part.shape[2]))
                columns.append(part.view(-1, some.shape[2]))
            parts.append(torch.cat(columns, 1).flatten())
        sizes = (g.channels, g.in_channels, *[q, s] * 3)
        w = torch.stack(parts).view([sizes[axis] for axis in self.order])
        w = w.permute([self.order.index(axis) for axis in range(8)])
        return w.reshape(g.channels, g.in_channels, *[s * q] * 3)[..., : g.kernel, : g.kernel, : g.kernel]
