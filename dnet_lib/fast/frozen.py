"""The frozen-weight fast path: a `DescriptorNet` whose weights stand still, with the same energy and gradient for less.

During a chain the weights do not change, so whatever is done to them once is shared by all its steps. `FrozenNet`
transforms the weights of each convolution once and then evaluates it, and its gradient, as `fast.convolutions` and
`fast.direct` explain: by Toom-Cook, by DFT, or by PyTorch's own without strides, as `count` finds cheapest. There
is no autograd in it, and the inputs of convolutions lie in buffers that are kept from step to step.
"""

import math
import os
import platform
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial, wraps
from threading import RLock
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from dnet_lib.checks import check_whole
from dnet_lib.energy import DescriptorNet, Energy
from dnet_lib.errors import ShapeError, StaleError
from dnet_lib.fast.convolutions import Choice, Piece, Separable, candidates
from dnet_lib.fast.count import at_once, cost, geometry, make, plan, taps, worth

P = ParamSpec("P")
R = TypeVar("R")
aten = torch.ops.aten
NOT_PLAIN = "{} needs a DescriptorNet as it is (no hooks, no parametrizations), not this {}"
FEW_STEPS = 4  #: Fewer steps do not pay for a transform of the weights
PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
"""What the products of convolutions may be made of, and the type of the numbers they are made from."""

ACTIVATE: dict[str, Callable[..., Tensor]] = {
    "relu": lambda a, out: torch.clamp_min(a, 0, out=out),
    "silu": lambda a, out: aten.silu.out(a, out=out),
}
SLOPE: dict[str, Callable[..., Tensor]] = {  # the gradient with respect to a, written over a
    "relu": lambda g, a: aten.threshold_backward.grad_input(g, a, 0, grad_input=a),
    "silu": lambda g, a: aten.silu_backward.grad_input(g, a, grad_input=a),
}


def tf32() -> AbstractContextManager[None]:
    """Convolutions on NVIDIA's GPUs may make products of TF32 numbers (10 bits of mantissa)."""
    now = torch.backends.cudnn
    return now.flags(now.enabled, now.benchmark, now.benchmark_limit, now.deterministic, allow_tf32=True)


def _alone(method: Callable[Concatenate["FrozenNet", P], R]) -> Callable[Concatenate["FrozenNet", P], R]:
    """A method that shares the buffers: no two threads at once; float32 and no graph, whatever the context."""

    @wraps(method)
    def call(self: "FrozenNet", /, *args: P.args, **kwargs: P.kwargs) -> R:
        kind = self.net.device.type
        known = torch.amp.is_autocast_available(kind)
        plain = torch.autocast(kind, enabled=False) if known else nullcontext()
        with (
            self.lock,
            torch.inference_mode(False),
            torch.no_grad(),
            plain,
            tf32() if self.precision == "tf32" else nullcontext(),
        ):
            return method(self, *args, **kwargs)

    return call


class FrozenNet:
    """A frozen view of a `DescriptorNet`: same score, energy and gradient (float32), weights transformed once.

    net         the network, which stays as it is; its device and its memory format do not matter
    num_chains  how many shapes are expected at a time (any number is served)
    num_steps   how many gradients will share one transform of the weights
    choices     one `Choice` a convolution, in place of the count's
    precision   of the convolutions' products, as in `freeze`
    learning    whether the weights' gradients will be asked for, too: transformed weights then take less memory

    An energy like any other for `langevin` and `sample`. Once the network's weights have changed, everything but
    `refresh` raises `StaleError`. (PyTorch counts changes in place; those made through `.data` or NumPy, or by a fused
    optimizer, go unseen: call `refresh` after them, as `learn` does.)
    """

    def __init__(
        self,
        net: DescriptorNet,
        *,
        num_chains: int,
        num_steps: int = 20,
        choices: Sequence[Choice] | None = None,
        precision: str = "float32",
        learning: bool = False,
    ):
        if not is_plain(net):
            raise ShapeError(NOT_PLAIN.format("FrozenNet", type(net).__name__))
        num_chains = check_whole(num_chains, "num_chains", 1)
        device, self.net, self.num_steps = net.device, net, check_whole(num_steps, "num_steps", 1)
        self.precision = supported(precision, device)
        geometries, dtype = tuple(map(geometry, net.convolutions)), PRECISIONS[self.precision]
        if choices is None:
            choices = plan(geometries, num_chains, num_steps, dtype, device.type, learning)
        if len(choices) != len(geometries):
            raise ValueError(f"choices are one a convolution, {len(geometries)}, not {len(choices)}")
        for g, choice in zip(geometries, choices, strict=True):
            if choice not in (possible := candidates(g)):
                raise ValueError(f"{choice} is not among this convolution's choices: {', '.join(map(str, possible))}")
        self.block = at_once(geometries, tuple(choices), num_chains)
        self.scratch = dict[str, Tensor]()  # of all layers in turn
        chosen = zip(geometries, choices, strict=True)
        self.layers = [make(g, choice, device, dtype, self.scratch) for g, choice in chosen]
        self.activation, self.lock = net.architecture.activation, RLock()
        # glibc hands freed memory back to the system, to be fetched anew page by page at the next step, unless it has
        # seen as large a block freed before.
        torch.empty(2**25 - 2**16, dtype=torch.uint8, device="cpu")
        self.refresh()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, by pickle or deepcopy, freezes its own copy of the network."""
        choices = [layer.choice for layer in self.layers]
        options: dict[str, Any] = {"num_steps": self.num_steps, "choices": choices, "precision": self.precision}
        return partial(FrozenNet, num_chains=self.block, **options), (self.net,)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The network's."""
        return self.net.bounds

    def describe(self) -> str:
        """How each convolution is computed, and what the count expects of it."""
        lines = []
        for layer in self.layers:
            g, choice = layer.g, layer.choice
            how = choice.method
            if isinstance(layer, Separable):
                how += " along x and y" if choice.axes == 2 else ""
                how += f", {layer.tiles}^{choice.axes} tiles of {choice.m}^{choice.axes} outputs"
                how += f", {math.prod(layer.points)} points"
                both = (Choice(), choice)
                counts = [cost(g, each, self.block, self.num_steps, layer.dtype) for each in both]
                ratio = counts[0] / counts[1]
                how += f", {ratio:.1f} x the speed of direct by the count"
            shapes = f"{g.in_channels} x {g.side}^3 -> {g.channels} x {g.out}^3"
            lines.append(f"{shapes}, {g.kernel}^3 stride {g.stride}: {how}")
        return "\n".join(lines)

    @_alone
    def refresh(self) -> "FrozenNet":
        """Transform the weights as they are now."""
        if any(p.dtype != torch.float32 for p in self.net.parameters()):
            raise ShapeError("only a float32 network can be frozen: use the network itself, or net.float()")
        for layer, conv in zip(self.layers, self.net.convolutions, strict=True):
            met = taps(conv)
            layer.load(conv.weight.detach()[:, :, met, met, met], conv.bias.detach())
        g = self.layers[-1].g
        self.dense = self.net.dense.weight.detach().view(g.channels, *[g.out] * 3).permute(1, 2, 3, 0).contiguous()
        self.held = [p.detach() for p in self.net.parameters()]  # so that no other weights can come to lie there
        self.versions = self._versions()
        return self

    def _versions(self) -> list[tuple[int, int]]:
        return [(0 if p.is_inference() else p._version, p.data_ptr()) for p in self.net.parameters()]

    @_alone
    def score(self, y: Tensor) -> Tensor:
        """f(Y; theta) of eq. (2): (N, 1, R, R, R), centred -> (N,)."""
        return torch.cat([self._forward(part)[0] for part in self._blocks(y)])

    @_alone
    def energy(self, y: Tensor) -> Tensor:
        """E(Y; theta) of eq. (3): (N, 1, R, R, R), centred -> (N,). No graph: for autograd there is the network."""
        score = self.score(y)
        return self._reference(y.detach()) - score

    __call__ = energy

    @_alone
    def energy_and_gradient(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """E(Y) (N,) and dE/dY (like y)."""
        s, gradient = self.net.architecture.s, torch.empty_like(y)
        scores: list[Tensor] = []
        for part, out in zip(self._blocks(y), self._blocks(gradient), strict=True):
            score, gave, _ = self._forward(part)
            pieces: Iterable[Piece] = [((), self.dense[:, :, :, None].to(gave[-1].dtype).expand_as(gave[-1]))]
            for layer, a in zip(reversed(self.layers), reversed(gave), strict=True):
                pieces = layer.backward(self._slope(pieces, a))
            torch.mul(part, 0 if s is None else 1 / s**2, out=out)
            for where, g in pieces:
                out.permute(2, 3, 4, 0, 1)[where].sub_(g)
            scores.append(score)
        return self._reference(y) - torch.cat(scores), gradient

    def _reference(self, y: Tensor) -> Tensor:
        """The network's `reference`, without a copy of y."""
        s = self.net.architecture.s
        return self.net.reference(y) if s is None else torch.linalg.vecdot(y.flatten(1), y.flatten(1)) / (2 * s**2)

    @_alone
    def learning_gradient(self, y: Tensor, weight: Tensor, penalty: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """E(Y) (N,) and, by parameter name, the gradient of sum_i weight_i E_i + penalty_i E_i^2 / 2."""
        for name, given in (("weight", weight), ("penalty", penalty)):
            if given.shape != y.shape[:1]:
                raise ShapeError(f"{name} has one number for each of {len(y)} shapes, not {tuple(given.shape)}")
        total = {name: torch.zeros_like(p) for name, p in self.net.named_parameters()}
        energies: list[Tensor] = []
        for part, w, p in zip(self._blocks(y), *(t.chunk(self._num_blocks(y)) for t in (weight, penalty)), strict=True):
            score, gave, last = self._forward(part)
            energies.append(self._reference(part) - score)
            up = -(w + p * energies[-1])[:, None]  # of the scores
            total["dense.bias"] += up.sum()
            total["dense.weight"] += (last * up).sum(3).permute(3, 0, 1, 2).reshape(1, -1)
            pieces: Iterable[Piece] = [((), self.dense[:, :, :, None] * up)]
            for k in reversed(range(len(self.layers))):
                da = self._slope(pieces, gave[k])
                total[f"layers.{k}.bias"] += da.sum((0, 1, 2, 3), dtype=torch.float32)
                met = taps(self.net.convolutions[k])
                total[f"layers.{k}.weight"][:, :, met, met, met] += self.layers[k].weight_gradient(da)
                pieces = self.layers[k].backward(da) if k else []
        return torch.cat(energies), total

    def _num_blocks(self, y: Tensor) -> int:
        return -(-len(y) // self.block)

    def _blocks(self, y: Tensor) -> Sequence[Tensor]:
        r = self.net.architecture.resolution
        if not isinstance(y, Tensor):
            raise ShapeError(f"this network takes a float32 tensor (N, 1, {r}, {r}, {r}), not a {type(y).__name__}")
        if y.ndim != 5 or tuple(y.shape[1:]) != (1, r, r, r) or y.dtype != torch.float32 or not len(y):
            raise ShapeError(f"this network takes float32 (N, 1, {r}, {r}, {r}), not {y.dtype} {tuple(y.shape)}")
        if self.versions != self._versions():
            raise StaleError("the network's weights have changed since they were frozen: call refresh() first")
        return y.detach().chunk(self._num_blocks(y))

    def _forward(self, y: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """The scores; what each convolution gave; the last feature maps. Maps are (X, Y, Z, N, channels)."""
        h, gave, activate = y.permute(2, 3, 4, 0, 1), list[Tensor](), ACTIVATE[self.activation]
        h = h.to(self.layers[0].dtype)
        self._begin(len(y))
        for layer in self.layers:
            straight = gave and (self.activation == "relu" or len(layer.slots) == 1)
            if gave and not straight:  # as a whole: SiLU is slow on short rows
                h = activate(h, torch.empty_like(h))
            for where, slot in layer.slots:
                activate(h[where], slot) if straight else slot.copy_(h[where])
            h = layer.forward()
            gave.append(h)
        h = activate(h, torch.empty_like(h)).float()
        return (h * self.dense[:, :, :, None]).sum((0, 1, 2, 4)) + self.net.dense.bias, gave, h

    def _begin(self, chains: int) -> None:
        before = {name: len(buffer) for name, buffer in self.scratch.items()}
        for layer in self.layers:
            layer.begin(chains)
        if before != {name: len(buffer) for name, buffer in self.scratch.items()}:  # some have an older, smaller one
            for layer in self.layers:
                layer.given = 0
                layer.begin(chains)

    def _slope(self, pieces: Iterable[Piece], a: Tensor) -> Tensor:
        """The gradient with respect to a, written over a, from that with respect to its activation, in pieces."""
        whole = None
        for where, g in pieces:
            if self.activation == "relu" or g.shape == a.shape:
                SLOPE[self.activation](g, a[where])
            elif g.numel():  # SiLU is slow on short rows
                whole = torch.empty_like(a) if whole is None else whole
                whole[where] = g
        return a if whole is None else SLOPE[self.activation](whole, a)


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 numbers as such: PyTorch's word, and the limit given to its oneDNN."""
    if device.type != "cpu":
        return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "DEFAULT")).upper()
    allowed = any(name in limit for name in ("DEFAULT", "ALL", "BF16", "FP16", "AMX", "AVX10"))
    intel = platform.machine().lower() in ("x86_64", "amd64")
    known = not intel or torch.cpu._is_avx512_bf16_supported()
    return allowed and known and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def check_precision(precision: str, fast: bool | None = None) -> str:
    """Return `precision` if it is one that `fast` allows, else raise ValueError."""
    if fast is not None and not isinstance(fast, bool):
        raise ValueError(f"fast is True, False or None, not {fast!r}")
    if not isinstance(precision, str) or precision not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    if precision != "float32" and fast is False:
        raise ValueError(f"fast=False is plain PyTorch: precision={precision!r} needs the frozen-weight path")
    return precision


def supported(precision: str, device: torch.device) -> str:
    """The precision to take: that asked for, or float32, with a warning, where the device has no units for it."""
    if check_precision(precision) == "bfloat16" and not has_bfloat16(device):
        lacking = "this processor has no bfloat16 units" if device.type == "cpu" else f"{device} has no bfloat16 units"
    elif precision == "tf32" and device.type != "cuda":
        lacking = "only NVIDIA's GPUs have TF32"
    else:
        return precision
    warnings.warn(f"{lacking}: float32 is taken, which is as right and slower", stacklevel=4)
    return "float32"


def is_plain(energy: Energy) -> bool:
    """Whether an energy is a `DescriptorNet` and computes what its weights say: no hooks, nothing parametrized."""
    if type(energy) is not DescriptorNet:
        return False
    if any({"forward", "score", "energy", "hidden", "reference", "padded"} & vars(m).keys() for m in energy.modules()):
        return False  # somebody's own, put on this one object
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return not any(is_parametrized(m) or any(getattr(m, name) for name in hooks) for m in energy.modules())


def freeze(
    energy: Energy,
    y: Tensor,
    *,
    num_steps: int,
    fast: bool | None = None,
    precision: str = "float32",
    learning: bool = False,
) -> Energy:
    """What `num_steps` Langevin steps from y should use: a frozen view of `energy` where that pays, else itself.

    By itself (`fast=None`) it freezes float32 `DescriptorNet`s on CPUs when more than a few steps are asked and there
    is enough to compute; `fast=True` freezes always and raises `ShapeError` where that is impossible, `fast=False`
    never.

    `precision="bfloat16"` keeps the network's maps and makes the products of its convolutions, forward and back, in
    bfloat16 numbers (8 bits of mantissa); sums within a product, chains, energies and weights stay float32. Compact
    networks become more than twice as fast again where the processor has units for it, the paper's one and a half
    times; where there are none, a warning says so and float32 is taken. `"tf32"` does the like on NVIDIA's GPUs. Both
    freeze always, and need a network that can be; a view that is frozen already keeps its precision. `learning` keeps
    the view small enough to learn with it, as `learn` does.
    """
    check_precision(precision, fast)
    if isinstance(energy, FrozenNet):
        if precision not in ("float32", energy.precision):
            raise ShapeError(f"this view was frozen in {energy.precision}: freeze the network in {precision} instead")
        return energy
    asked = fast is True or precision != "float32"
    if not asked and (fast is False or not is_plain(energy) or num_steps < FEW_STEPS):
        return energy
    if not isinstance(energy, DescriptorNet) or not is_plain(energy):
        kind, option = type(energy).__name__, "fast=True" if fast else f"precision={precision!r}"
        raise ShapeError(NOT_PLAIN.format(option, kind))
    if not asked and (y.device.type != "cpu" or {y.dtype, *(p.dtype for p in energy.parameters())} != {torch.float32}):
        return energy
    if not asked and not worth(tuple(map(geometry, energy.convolutions)), len(y), num_steps):
        return energy
    return FrozenNet(energy, num_chains=len(y), num_steps=max(1, num_steps), precision=precision, learning=learning)
