"""The frozen-weight fast path: a `DescriptorNet` whose weights stand still, with the same energy and gradient for less.

During a chain the weights do not change, so whatever is done to them once is shared by all its steps. `FrozenNet`
transforms the weights of each convolution once and then evaluates it, and its gradient, as `fast.convolutions`
explains: by Toom-Cook, by DFT, or directly, whichever `cost` counts as cheapest. There is no autograd in it, and no
large tensor is allocated from step to step.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import lru_cache, partial, wraps
from threading import RLock
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from dnet_lib.energy import DescriptorNet, Energy, SameConv3d
from dnet_lib.errors import ShapeError, StaleError
from dnet_lib.fast.convolutions import Choice, Direct, Geometry, Separable, candidates

P = ParamSpec("P")
R = TypeVar("R")
aten = torch.ops.aten
BUFFERS, WEIGHTS = 2**29, 2**29
"""Bytes that all buffers, and one layer's transformed weights, may take. More chains than fit go through in blocks."""
GEMM, CONV, MOVE, CALL, THIN, TURN = 1e-11, 1.15e-11, 5.4e-11, 2e-5, 2e-10, 6e-9
"""Seconds of an operation in a matrix product and in a convolution, of a byte moved, of a call, and, where PyTorch is
slow, of a tap whose gradient goes to a single unfolded channel and of a number that passes from a direct layer's layout
to another's or back. Fitted to 300 timed layers; only ratios matter."""
DOUBT = 0.75  #: An algorithm must count at most this share of the direct convolution: counts err
FEW_STEPS, WORTH = 4, 0.05
"""Fewer steps, or a convolution that takes fewer seconds in all of them, are not worth the count."""


def geometry(conv: SameConv3d) -> Geometry:
    """The numbers of a convolution."""
    channels, in_channels, kernel = conv.weight.shape[:3]
    return Geometry(conv.resolution, in_channels, conv.out_resolution, channels, kernel, conv.stride, conv.before)


def make(g: Geometry, choice: Choice, device: torch.device | str) -> Direct | Separable:
    """The convolution of a choice."""
    return Direct(g) if choice == Choice() else Separable(g, choice, device)


def cost(g: Geometry, choice: Choice, chains: int, num_steps: int) -> float:
    """Seconds that one gradient takes by a count: operations, bytes moved, calls, and its share of the set-up."""
    outputs, inputs = chains * g.channels * g.out**3, chains * g.in_channels * g.side**3
    layer = make(g, choice, "meta")  # on the meta device buffers have shapes and no memory
    if not isinstance(layer, Separable):
        thin = g.in_channels == 1 and (g.stride == 1 or g.kernel % g.stride > 0)
        each = 4 * CONV * g.in_channels * g.kernel**3 + 16 * MOVE + THIN * thin * min(g.kernel**3, 128)
        return each * outputs + 16 * MOVE * inputs + 4 * CALL
    layer.begin(chains)
    if 4 * layer.num_weights > WEIGHTS:
        return math.inf
    rows = max(layer.c * layer.chains, 16)  # a product of fewer rows takes as long
    once = 2 * GEMM * layer.num_weights * rows + 4 * MOVE * layer.num_weights + 2 * CALL * layer.parts
    once += 8 * MOVE * layer.gathered.numel() * layer.gather
    for matrix, source, target, _ in layer.analysis + layer.synthesis:
        once += 2 * GEMM * len(matrix) * source.numel() + 4 * MOVE * (source.numel() + target.numel()) + CALL
    if layer.tiles > 1:
        once += 12 * MOVE * (layer.tile_x.numel() + layer.tile_a.numel()) + 3 * CALL * layer.tiles**3
    return 2 * once + 12 * MOVE * layer.num_weights / num_steps


@lru_cache(maxsize=256)
def plan(geometries: tuple[Geometry, ...], chains: int, num_steps: int) -> tuple[tuple[Choice, ...], int]:
    """The cheapest choice for each convolution, and how many chains go through at once."""
    block, room = min(chains, 32), 0
    choices: list[Choice] = []
    for g in geometries:
        turn = TURN * block * g.in_channels * g.side**3
        direct_before = not choices or choices[-1] == Choice()
        counts = {Choice(): DOUBT * (cost(g, Choice(), block, num_steps) + turn * (not direct_before))}
        if counts[Choice()] * num_steps > WORTH:
            others = candidates(g)[1:]
            counts |= {choice: cost(g, choice, block, num_steps) + turn * direct_before for choice in others}
        choices.append(min(counts, key=counts.__getitem__))
        layer = make(g, choices[-1], "meta")
        layer.begin(1)
        kept = sum(buffer.numel() for buffer in layer.storage.values()) if isinstance(layer, Separable) else 0
        room += 4 * (kept or 3 * (g.in_channels * g.side**3 + g.channels * g.out**3))
    return tuple(choices), min(chains, max(1, BUFFERS // room))


ACTIVATE: dict[str, Callable[..., Tensor]] = {
    "relu": lambda a, out: torch.clamp_min(a, 0, out=out),
    "silu": lambda a, out: aten.silu.out(a, out=out),
}
SLOPE: dict[str, Callable[..., Tensor]] = {  # the gradient with respect to a, written over a
    "relu": lambda g, a: aten.threshold_backward.grad_input(g, a, 0, grad_input=a),
    "silu": lambda g, a: aten.silu_backward.grad_input(g, a, grad_input=a),
}


def _alone(method: Callable[Concatenate["FrozenNet", P], R]) -> Callable[Concatenate["FrozenNet", P], R]:
    """A method that shares the buffers: no two threads at once; float32 and no graph, whatever the context."""

    @wraps(method)
    def call(self: "FrozenNet", /, *args: P.args, **kwargs: P.kwargs) -> R:
        kind = self.net.device.type
        known = torch.amp.is_autocast_available(kind)
        with self.lock, torch.no_grad(), torch.autocast(kind, enabled=False) if known else nullcontext():
            return method(self, *args, **kwargs)

    return call


class FrozenNet:
    """A frozen view of a `DescriptorNet`: same score, energy and gradient (float32), weights transformed once.

    net         the network, which stays as it is; its device and its memory format do not matter
    num_chains  how many shapes are expected at a time (any number is served)
    num_steps   how many gradients will share one transform of the weights
    choices     one `Choice` a convolution, in place of the count's

    An energy like any other for `langevin` and `sample`. Once the network's weights have changed, everything but
    `refresh` raises `StaleError`. (PyTorch counts changes in place; those made through `.data` go unseen.)
    """

    def __init__(
        self, net: DescriptorNet, *, num_chains: int, num_steps: int = 20, choices: Sequence[Choice] | None = None
    ):
        if any(p.dtype != torch.float32 for p in net.parameters()):
            raise ShapeError("only a float32 network can be frozen: use the network itself, or net.float()")
        geometries = tuple(map(geometry, net.convolutions))
        planned, self.block = plan(geometries, num_chains, num_steps)
        device, self.net, self.num_steps = net.device, net, num_steps
        self.layers = [make(g, choice, device) for g, choice in zip(geometries, choices or planned, strict=True)]
        self.activation, self.lock = net.architecture.activation, RLock()
        self.refresh()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, by pickle or deepcopy, freezes its own copy of the network."""
        choices = [layer.choice for layer in self.layers]
        return partial(FrozenNet, num_chains=self.block, num_steps=self.num_steps, choices=choices), (self.net,)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The network's."""
        return self.net.bounds

    def describe(self) -> str:
        """How each convolution is computed, and what the count expects of it."""
        lines = []
        for layer in self.layers:
            g, how = layer.g, layer.choice.method
            if isinstance(layer, Separable):
                how += f", {layer.tiles}^3 tiles of {layer.choice.m}^3 outputs, {math.prod(layer.points)} points"
                counts = [cost(g, choice, self.block, self.num_steps) for choice in (Choice(), layer.choice)]
                ratio = counts[0] / counts[1]
                how += f", {ratio:.1f} x the speed of direct by the count"
            shapes = f"{g.in_channels} x {g.side}^3 -> {g.channels} x {g.out}^3"
            lines.append(f"{shapes}, {g.kernel}^3 stride {g.stride}: {how}")
        return "\n".join(lines)

    @_alone
    def refresh(self) -> "FrozenNet":
        """Transform the weights as they are now; nothing is done when they have not changed."""
        if getattr(self, "versions", None) != self._versions():
            for layer, conv in zip(self.layers, self.net.convolutions, strict=True):
                layer.load(conv)
            g = self.layers[-1].g
            self.dense = self.net.dense.weight.detach().view(g.channels, *[g.out] * 3).permute(1, 2, 3, 0)
            self.versions = self._versions()
        return self

    def _versions(self) -> list[tuple[int, int]]:
        return [(0 if p.is_inference() else p._version, p.data_ptr()) for p in self.net.parameters()]

    @_alone
    def score(self, y: Tensor) -> Tensor:
        """f(Y; theta) of eq. (2): (N, 1, R, R, R), centred -> (N,)."""
        return torch.cat([self._forward(part)[0] for part in self._blocks(y)])

    def energy(self, y: Tensor) -> Tensor:
        """E(Y; theta) of eq. (3): (N, 1, R, R, R), centred -> (N,). No graph: for autograd there is the network."""
        return self.net.reference(y.detach()) - self.score(y)

    __call__ = energy

    @_alone
    def energy_and_gradient(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """E(Y) (N,) and dE/dY (like y)."""
        s, gradient = self.net.architecture.s, torch.empty_like(y)
        scores: list[Tensor] = []
        for part, out in zip(self._blocks(y), self._blocks(gradient), strict=True):
            score, gave, _ = self._forward(part)
            g = self.dense[:, :, :, None].expand_as(gave[-1])
            for layer, a in zip(reversed(self.layers), reversed(gave), strict=True):
                g = layer.backward(SLOPE[self.activation](g, a))
            g = g.permute(3, 4, 0, 1, 2)
            torch.neg(g, out=out) if s is None else torch.sub(part / s**2, g, out=out)
            scores.append(score)
        return self.net.reference(y) - torch.cat(scores), gradient

    @_alone
    def learning_gradient(self, y: Tensor, weight: Tensor, penalty: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """E(Y) (N,) and, by parameter name, the gradient of sum_i weight_i E_i + penalty_i E_i^2 / 2."""
        total = {name: torch.zeros_like(p) for name, p in self.net.named_parameters()}
        energies: list[Tensor] = []
        for part, w, p in zip(self._blocks(y), *(t.chunk(self._num_blocks(y)) for t in (weight, penalty)), strict=True):
            score, gave, last = self._forward(part)
            energies.append(self.net.reference(part) - score)
            up = -(w + p * energies[-1])[:, None]  # of the scores
            total["dense.bias"] += up.sum()
            total["dense.weight"] += (last * up).sum(3).permute(3, 0, 1, 2).reshape(1, -1)
            g = self.dense[:, :, :, None] * up
            for k in reversed(range(len(self.layers))):
                da = SLOPE[self.activation](g, gave[k])
                total[f"layers.{k}.bias"] += da.sum((0, 1, 2, 3))
                total[f"layers.{k}.weight"] += self.layers[k].weight_gradient(da)
                g = self.layers[k].backward(da) if k else g
        return torch.cat(energies), total

    def _num_blocks(self, y: Tensor) -> int:
        return -(-len(y) // self.block)

    def _blocks(self, y: Tensor) -> Sequence[Tensor]:
        r = self.net.architecture.resolution
        if y.ndim != 5 or tuple(y.shape[1:]) != (1, r, r, r) or y.dtype != torch.float32 or not len(y):
            raise ShapeError(f"this network takes float32 (N, 1, {r}, {r}, {r}), not {y.dtype} {tuple(y.shape)}")
        if self.versions != self._versions():
            raise StaleError("the network's weights have changed since they were frozen: call refresh() first")
        return y.detach().chunk(self._num_blocks(y))

    def _forward(self, y: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """The scores; what each convolution gave; the last feature maps. Maps are (X, Y, Z, N, channels)."""
        h, gave = y.permute(2, 3, 4, 0, 1), list[Tensor]()
        for layer in self.layers:
            layer.begin(len(y))
        for layer, after in zip(self.layers, [*self.layers[1:], None], strict=True):
            gave.append(layer.forward(h))
            h = ACTIVATE[self.activation](
                gave[-1], after.x if isinstance(after, Separable) else torch.empty_like(gave[-1])
            )
        return self.net.dense(h.permute(3, 4, 0, 1, 2).flatten(1)).squeeze(1), gave, h


def is_plain(energy: Energy) -> bool:
    """Whether an energy is a `DescriptorNet` and computes what its weights say: no hooks, nothing parametrized."""
    if type(energy) is not DescriptorNet:
        return False
    if any({"forward", "score", "energy", "hidden", "reference", "padded"} & vars(m).keys() for m in energy.modules()):
        return False  # somebody's own, put on this one object
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return not any(is_parametrized(m) or any(getattr(m, name) for name in hooks) for m in energy.modules())


def freeze(energy: Energy, y: Tensor, *, num_steps: int, fast: bool | None = None) -> Energy:
    """What `num_steps` Langevin steps from y should use: a frozen view of `energy` where that pays, else itself.

    By itself (`fast=None`) it freezes float32 `DescriptorNet`s on CPUs when more than a few steps are asked and the
    count prefers anything to direct convolutions; `fast=True` freezes always and raises `ShapeError` where that is
    impossible, `fast=False` never.
    """
    if fast not in (None, True, False):
        raise ValueError(f"fast is True, False or None, not {fast!r}")
    if fast is False or (fast is None and (not is_plain(energy) or num_steps < FEW_STEPS)):
        return energy
    if not isinstance(energy, DescriptorNet) or not is_plain(energy):
        kind = type(energy).__name__
        raise ShapeError(f"fast=True needs a DescriptorNet as it is (no hooks, no parametrizations), not this {kind}")
    if fast is None and (
        y.device.type != "cpu" or {y.dtype, *(p.dtype for p in energy.parameters())} != {torch.float32}
    ):
        return energy
    choices, _ = plan(tuple(map(geometry, energy.convolutions)), len(y), num_steps)
    if fast is None and all(choice == Choice() for choice in choices):
        return energy
    return FrozenNet(energy, num_chains=len(y), num_steps=num_steps)
