"""Which algorithm each convolution of frozen weights takes: a count, no timing, so that runs can be repeated."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from dnet_lib.energy import SameConv3d
from dnet_lib.fast.convolutions import Choice, Geometry, Separable, candidates
from dnet_lib.fast.direct import Direct

BUFFERS, WEIGHTS = 2**29, 2**29
"""Bytes that all buffers, and one layer's transformed weights, may take; in learning, which needs memory of its own,
weights half of that. More chains than fit go through in blocks."""
FLOP, BYTE, CALL, ITEM = 7e-12, 6e-11, 2e-5, (1e-7, 2e-6)
"""Seconds of a multiplication or addition in a product, of a byte that comes from memory or goes there, of a call, and
of each product of a batch, in one piece of memory or not: about 140 GFLOP/s, 17 GB/s, 20, 0.1 and 2 microseconds, as
one thread of a server has them. Only their ratios matter."""
BFLOAT16 = 6.0  #: So many times faster are products of bfloat16 numbers
LANES, ROWS = 16, 16
"""Kernels compute so many channels at a time, be there fewer or not; a product takes the time of so many more rows."""
DOUBT = 0.8  #: An algorithm must count at most this share of the direct convolution: counts err
WORTH, SMALL = 0.02, 0.002
"""Convolutions that take fewer seconds in all steps are left to PyTorch as they are; so are those that take fewer
seconds in one gradient, if less than a quarter of it are products."""


def taps(conv: SameConv3d) -> slice:
    """Which taps of an axis ever meet a voxel: on small grids large kernels have others, too."""
    first = max(0, conv.before - conv.stride * (conv.out_resolution - 1))
    return slice(first, min(conv.weight.shape[2], conv.before + conv.resolution))


def geometry(conv: SameConv3d) -> Geometry:
    """The numbers of a convolution, of the taps that meet voxels."""
    (channels, in_channels), met = conv.weight.shape[:2], taps(conv)
    side, out, before = conv.resolution, conv.out_resolution, conv.before - met.start
    return Geometry(side, in_channels, out, channels, met.stop - met.start, conv.stride, before)


def make(
    g: Geometry,
    choice: Choice,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    scratch: dict[str, Tensor] | None = None,
) -> Direct | Separable:
    """The convolution of a choice, its products of numbers of a type."""
    return Direct(g, device, dtype) if choice == Choice() else Separable(g, choice, device, dtype, scratch)


def cost(g: Geometry, choice: Choice, chains: int, num_steps: int, dtype: torch.dtype = torch.float32) -> float:
    """Seconds that one gradient takes by a count: operations, bytes moved, calls, and its share of the set-up."""
    outputs, inputs = chains * g.channels * g.out**3, chains * g.in_channels * g.side**3
    flop = FLOP / (1 if dtype == torch.float32 else BFLOAT16)
    layer = make(g, choice, "meta", dtype)  # on the meta device buffers have shapes and no memory
    if isinstance(layer, Direct):
        products: int = sum(chains * g.out**3 * math.prod(p.taps) * p.width * _lanes(g.channels) for p in layer.groups)
        for part in layer.parts:
            sides = [g.out + 2 * pad - q + 1 for q, pad in zip(part.taps, part.pads, strict=True)]
            products += chains * math.prod(sides) * math.prod(part.taps) * g.channels * _lanes(part.width)
        calls = len(layer.groups) + len(layer.parts) + 2 * g.stride ** (3 if g.in_channels == 1 else 2)
        return 2 * flop * products + BYTE * (24 * inputs + 24 * outputs) + CALL * calls
    layer.begin(chains)
    once: float = 2 * flop * layer.num_weights * (layer.c * layer.rows + ROWS)
    once += 4 * BYTE * layer.num_weights
    once += (2 * CALL + ITEM[choice.axes < 3] * math.prod(layer.points)) * layer.parts * layer.taps
    once += 2 * BYTE * sum(x.numel() + 2 * layer.sums.numel() for some in layer.operands for x in some)  # half cached
    if layer.c == 2:
        once += 8 * BYTE * layer.gathered.numel()
    for matrix, source, target, _ in layer.analysis + layer.synthesis:
        once += 2 * FLOP * len(matrix) * source.numel() + 4 * BYTE * (source.numel() + target.numel()) + CALL
    return 2 * once + BYTE * (20 * inputs + 12 * outputs) + 12 * BYTE * layer.num_weights / num_steps


def _lanes(channels: int) -> int:
    return LANES * -(-channels // LANES)


@lru_cache(maxsize=256)
def plan(
    geometries: tuple[Geometry, ...],
    chains: int,
    num_steps: int,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    learning: bool = False,
) -> tuple[Choice, ...]:
    """The cheapest choice for each convolution. What is counted holds for CPUs; elsewhere all are direct."""
    block, choices = min(chains, 32), list[Choice]()
    for g in geometries:
        counts = {Choice(): DOUBT * cost(g, Choice(), block, num_steps, dtype)}
        for choice in candidates(g, dtype)[1:] if device == "cpu" else []:
            if 4 * Separable(g, choice, "meta").num_weights <= WEIGHTS >> learning:
                counts[choice] = cost(g, choice, block, num_steps, dtype)
        choices.append(min(counts, key=counts.__getitem__))
    return tuple(choices)


@lru_cache(maxsize=256)
def at_once(geometries: tuple[Geometry, ...], choices: tuple[Choice, ...], chains: int) -> int:
    """How many chains go through at once, so that the buffers have room."""
    room = 0
    for g, choice in zip(geometries, choices, strict=True):
        layer = make(g, choice, "meta")
        layer.begin(1)
        if isinstance(layer, Direct):  # the samples, those of the gradient, and the outputs, which are PyTorch's
            room += 4 * (2 * sum(x.numel() for x in layer.inputs) + 3 * g.channels * g.out**3)
        else:
            room += 4 * sum(buffer.numel() for store in (layer.storage, layer.scratch) for buffer in store.values())
    return min(chains, max(1, BUFFERS // room))


def worth(geometries: tuple[Geometry, ...], chains: int, num_steps: int) -> bool:
    """Whether there is enough to compute in `num_steps` gradients that freezing pays."""
    block = min(chains, 32)
    each = zip(geometries, plan(geometries, chains, num_steps), strict=True)
    once = sum(cost(g, choice, block, num_steps) for g, choice in each) * chains / block
    products = sum(g.in_channels * g.kernel**3 * g.channels * g.out**3 for g in geometries) * chains
    return num_steps * once > WORTH and (once > SMALL or 4 * 4 * FLOP * products > once)
