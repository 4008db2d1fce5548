"""Strided 3-D convolutions as PyTorch's own of stride 1, channels last, in float32 or bfloat16.

Strides cost most where a gradient goes back through them. So the input's phases (see `fast.convolutions`) lie apart.
Those along z are channels, next to the voxels' own, so that a row along z stays one piece of memory. Those along x and
y make *groups*, (p_x, p_y), with as many taps and samples as they have: y is a sum over the groups, and the gradient
goes back to each by one convolution with its taps reversed. Where a voxel has a single channel, all phases are channels
of one group.
"""

from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from dnet_lib.fast.convolutions import Choice, Geometry, Piece, cut

LAST = torch.channels_last_3d
ROWS = 2**15  #: Numbers in a chain's map from which on rows in one piece are worth a convolution a group
TOGETHER = 2**20
"""Weights of which one product may be made: more do not stay in a processor's cache, where they are read again and
again."""


def sound(channels: int, taps: int, dtype: torch.dtype) -> int:
    """How many channels to give a convolution of some: more where oneDNN's kernels for AMX are wrong (`findings`)."""
    wrong = dtype == torch.bfloat16 and channels < 16 and channels % 2 == 0
    return 16 if wrong and channels * taps > 32 and channels * taps % 32 == 0 else channels


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None, padding: tuple[int, ...] = (0, 0, 0)) -> Tensor:
    """`conv3d`; of single chains or with single taps by oneDNN, where PyTorch takes slower ways of its own."""
    slow = x.device.type == "cpu" and x.dtype == torch.float32 and (len(x) == 1 or weight[0, 0].numel() == 1)
    if slow and torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled:
        result: Tensor = torch.ops.aten.mkldnn_convolution(x, weight, bias, padding, [1] * 3, [1] * 3, 1)
        return result
    return F.conv3d(x, weight, bias, padding=padding)


class Group:
    """The phases (a slice on each axis) of a convolution that are read together: their taps, samples and weights."""

    def __init__(self, g: Geometry, phases: tuple[slice, slice, slice]):
        self.g, self.phases = g, phases
        self.taps = tuple(max(1, -(-(g.kernel - p.start) // g.stride)) for p in phases)
        self.cuts = [
            [cut(g, p, g.out + q - 1) for p in range(*axis.indices(g.stride))]
            for q, axis in zip(self.taps, phases, strict=True)
        ]
        needed = [[inside for inside, _ in axis if inside.start < inside.stop] for axis in self.cuts]
        self.read = all(needed)  # there are such voxels
        self.pads = tuple(  # so far beyond the outputs the gradient's samples reach
            max([0, *(q - 1 - i.start for i in axis), *(i.stop - g.out for i in axis)])
            for q, axis in zip(self.taps, needed, strict=True)
        )
        self.width = len(self.cuts[0]) * len(self.cuts[1]) * len(self.cuts[2]) * g.in_channels

    def pieces(self, samples: Tensor, *, gradient: bool = False) -> Iterator[Piece]:
        """Which voxels of the input lie where in samples (chains, x, y, z, channels)."""
        g = self.g
        first = [(q - 1 - pad) * gradient for q, pad in zip(self.taps, self.pads, strict=True)]
        along = [
            [(slice(i.start - f, i.stop - f), place) for i, place in axis]
            for f, axis in zip(first, self.cuts, strict=True)
        ]
        samples = samples[..., : self.width]
        if self.width == g.stride * g.in_channels > g.stride and samples.is_contiguous():  # rows along z in one piece
            start = g.before - g.stride * first[2]
            along[2] = [(slice(start, start + g.side), slice(None))]
            samples = samples.flatten(3).unflatten(3, (-1, g.in_channels))
        parts = samples.unflatten(4, (-1, g.in_channels))
        for k, ((x, to_x), (y, to_y), (z, to_z)) in enumerate(product(*along)):
            yield (to_x, to_y, to_z), parts[:, x, y, z, k].permute(1, 2, 3, 0, 4)

    def of(self, w: Tensor) -> Tensor:
        """Its part of what lies as (out, p_x, p_y, p_z, in, q, q, q), a view."""
        return w[:, *self.phases][..., : self.taps[0], : self.taps[1], : self.taps[2]]


class Direct:
    """One convolution. Maps are (X, Y, Z, chains, channels), with any strides; groups are summed in float32."""

    choice = Choice()

    def __init__(self, g: Geometry, device: torch.device | str, dtype: torch.dtype = torch.float32):
        self.g = g
        self.device, self.dtype, self.given = torch.device(device), dtype, 0
        phases = min(g.stride, g.kernel)  # that have taps
        whole, each = slice(0, phases), [slice(p, p + 1) for p in range(phases)]
        together = [Group(g, (whole, whole, whole))]
        apart = [group for x in each for y in each if (group := Group(g, (x, y, whole))).read]
        few, small = g.in_channels * g.channels * (g.taps * g.stride) ** 3 <= TOGETHER, g.in_channels * g.side**3 < ROWS
        exact = g.kernel % phases == 0  # else the phases together have taps of nothing
        self.groups = together if g.in_channels == 1 or (few and (exact or small)) else apart  # of the sum
        self.parts = together if g.in_channels == 1 or (few and small) else apart  # of the gradient

    def begin(self, chains: int) -> None:
        """Lay out the buffers of the input for a number of chains."""
        if chains == self.given:
            return
        self.given, self.inputs, self.slots = chains, list[Tensor](), list[Piece]()
        for group in self.groups:
            sides = [self.g.out + q - 1 for q in group.taps]
            width = sound(group.width, group.taps[2], self.dtype)
            samples = torch.zeros(chains, *sides, width, dtype=self.dtype, device=self.device)
            self.inputs.append(samples.permute(0, 4, 1, 2, 3))
            self.slots += group.pieces(samples)

    def load(self, weight: Tensor, bias: Tensor) -> None:
        """Take the weights as they are now."""
        g, self.bias = self.g, bias.to(self.dtype)
        w = F.pad(weight, (0, g.taps * g.stride - g.kernel) * 3).to(self.dtype)
        w = w.view(g.channels, g.in_channels, *[g.taps, g.stride] * 3).permute(0, 3, 5, 7, 1, 2, 4, 6)
        self.weights = [self._last(group.of(w).flatten(1, 4), group.taps[2]) for group in self.groups]
        flipped = [group.of(w).flatten(1, 4).flip(2, 3, 4).transpose(0, 1) for group in self.parts]
        self.reversed = [self._last(w, part.taps[2]) for w, part in zip(flipped, self.parts, strict=True)]

    def forward(self) -> Tensor:
        """conv(x) + bias, of what lies in the slots."""
        total = convolve(self.inputs[0], self.weights[0], self.bias)
        if len(self.groups) > 1:
            total = total.float()
            for samples, weight in zip(self.inputs[1:], self.weights[1:], strict=True):
                total += convolve(samples, weight)
        return total.to(self.dtype).permute(2, 3, 4, 0, 1)

    def backward(self, da: Tensor) -> Iterator[Piece]:
        """The gradient with respect to x, piece by piece, from the gradient with respect to conv(x)."""
        da = da.permute(3, 4, 0, 1, 2)
        for part, weight in zip(self.parts, self.reversed, strict=True):
            samples = self._last(da, part.taps[2])
            if self.g.out < max(2, *part.taps):  # there bfloat16 kernels read past what they pad themselves
                around = [pad for pad in reversed(part.pads) for _ in (0, 1)]
                dx = convolve(F.pad(samples, around).contiguous(memory_format=LAST), weight)
            else:
                dx = convolve(samples, weight, padding=part.pads)
            yield from part.pieces(dx.permute(0, 2, 3, 4, 1), gradient=True)
        g, nothing = self.g, torch.zeros((), dtype=self.dtype, device=self.device)
        for phases in product(range(g.stride), repeat=3) if g.stride > g.kernel else ():
            if max(phases) >= g.kernel:  # no output reads these voxels
                places = [cut(g, p, g.out)[1] for p in phases]
                shape = [len(range(*place.indices(g.side))) for place in places]
                yield tuple(places), nothing.expand(*shape, len(da), g.in_channels)

    def weight_gradient(self, da: Tensor) -> Tensor:
        """The gradient with respect to the weights; after `forward`."""
        g, da = self.g, self._last(da.permute(3, 4, 0, 1, 2))
        total = torch.zeros(
            g.channels, *[g.stride] * 3, g.in_channels, *[g.taps] * 3, dtype=torch.float32, device=self.device
        )
        ones, zeros, which, backward = [1] * 3, [0] * 3, (False, True, False), torch.ops.aten.convolution_backward
        for group, x, weight in zip(self.groups, self.inputs, self.weights, strict=True):
            _, dw, _ = backward(da, x, weight, None, ones, zeros, ones, False, zeros, 1, which)
            part = group.of(total)
            part += dw[:, : group.width].reshape(part.shape)
        w = total.permute(0, 4, 5, 1, 6, 2, 7, 3).reshape(g.channels, g.in_channels, *[g.taps * g.stride] * 3)
        return w[..., : g.kernel, : g.kernel, : g.kernel]

    def _last(self, x: Tensor, taps: int = 0) -> Tensor:
        """Channels last in memory, in the type of the products, and for `taps` taps along z as many as are sound."""
        more = sound(x.shape[1], taps, self.dtype) - x.shape[1]
        x = x.to(self.dtype)
        return (F.pad(x, (0, 0, 0, 0, 0, 0, 0, more)) if more else x).contiguous(memory_format=LAST)
