"""The generator: a top-down network from a latent vector to a shape, and its maximum likelihood without a teacher.

    Z ~ N(0, I_d),    Y = g(Z; alpha) + eps,    eps ~ N(0, sigma^2 I),    eqs. (20), (21)

A generator samples in one pass. To learn from shapes alone it must infer their Z by Langevin dynamics (section 5.0.1);
taught by a descriptor's chains it need not (section 5.0.2, `dnet_lib.cooperative`).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn

from dnet_lib.checks import check_batch, check_betas, check_generator, check_kind, check_learns, check_real, check_whole
from dnet_lib.energy import device_of
from dnet_lib.errors import DivergedError, ShapeError
from dnet_lib.files import Packed, check_device, weights, with_weights
from dnet_lib.langevin import Generators, sample, white_noise
from dnet_lib.processes import alike, share_gradients, total
from dnet_lib.resuming import Parts, described, fingerprint, resumable
from dnet_lib.voxels import brief

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Layout:
    """The settings of a `GeneratorNet`; the defaults are those of section 6.4."""

    resolution: int = 32
    latent: int = 100  #: d, entries of Z
    channels: tuple[int, ...] = (256, 128, 64)
    """Of every deconvolution but the last, top down; the dense layer under Z has as many as the first."""
    factors: tuple[int, ...] = (1, 2, 2, 2)  #: Up-sampling of each deconvolution
    kernel: int = 4
    batch_norm: bool = True

    def __post_init__(self) -> None:
        for part in (self.channels, self.factors):
            check_kind(part, tuple | list, "channels and factors must each be a tuple", "a number a deconvolution")
        for number in (self.resolution, self.latent, self.kernel, *self.channels, *self.factors):
            check_whole(number, f"every number of {self}", 1)
        if not self.channels or len(self.factors) != len(self.channels) + 1 or max(self.factors) > self.kernel:
            raise ValueError(f"give a factor, at most the kernel's size, for each deconvolution: {self}")
        if self.resolution % math.prod(self.factors):
            raise ValueError(f"{self.resolution}^3 voxels are not a multiple of the factors {self.factors}")


COMPACT = Layout(channels=(64, 48, 24), batch_norm=False)  #: For a laptop's CPU: 0.95 million weights


class GeneratorNet(nn.Module):
    """g(Z; alpha) of eq. (21): latent vectors (N, d) -> occupancy in (0, 1), (N, 1, R, R, R).

    A dense layer, then deconvolutions with rectifications between them. The last one ends in the paper's tanh, moved
    from [-1, 1] to occupancy. Weights begin as N(0, 2 / fan-in) draws, biases as zeros.
    """

    def __init__(
        self,
        layout: Layout | None = None,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        self.layout = a = layout or Layout()
        if not isinstance(a, Layout):
            raise ValueError(f"a GeneratorNet takes a Layout, not {a!r}: try Layout(resolution={a!r})")
        check_generator(generator)
        self.resolution, self.latent = a.resolution, a.latent
        self.base = a.resolution // math.prod(a.factors)
        self.dense = nn.Linear(a.latent, a.channels[0] * self.base**3, bias=not a.batch_norm)
        sizes = (a.channels[0], *a.channels, 1)
        layers: list[nn.Module] = []
        for k, factor in enumerate(a.factors):
            last = k == len(a.channels)
            padding, bias = (a.kernel - factor) // 2, last or not a.batch_norm
            layers.append(nn.ConvTranspose3d(sizes[k], sizes[k + 1], a.kernel, factor, padding, bias=bias))
        self.layers = nn.ModuleList(layers)
        normalized = (a.channels[0], *a.channels) if a.batch_norm else ()
        self.norms = nn.ModuleList(nn.BatchNorm3d(channels) for channels in normalized)
        fans = [a.latent, *(c * a.kernel**3 / f**3 for c, f in zip(sizes, a.factors, strict=False))]
        with torch.no_grad():
            for layer, fan in zip((self.dense, *self.layers), fans, strict=True):
                layer.weight.normal_(0, math.sqrt(2 / fan), generator=generator)
                if layer.bias is not None:
                    layer.bias.zero_()
        self.to(check_device(device))

    def extra_repr(self) -> str:
        count = sum(p.numel() for p in self.parameters())
        return f"Z of {self.latent} numbers -> {self.resolution}^3 voxels, {count:,} weights"

    def forward(self, z: Tensor) -> Tensor:
        """Occupancy (N, 1, R, R, R) of latent vectors (N, d)."""
        if z.ndim != 2 or z.shape[1] != self.latent:
            raise ShapeError(f"this generator takes latent vectors (N, {self.latent}), not {tuple(z.shape)}")
        h, side = self.dense(z).view(len(z), -1, self.base, self.base, self.base), self.base
        for k, (layer, factor) in enumerate(zip(self.layers, self.layout.factors, strict=True)):
            h = torch.relu(self.norms[k](h) if self.norms else h)
            side *= factor
            h = layer(h)[..., :side, :side, :side]  # SAME: the odd voxel of the padding comes last
        return (1 + torch.tanh(h)) / 2


@contextmanager
def as_learned(net: Module) -> Iterator[Module]:
    """The generator as it will be used: within the block batch norm uses its running statistics and keeps them."""
    learning = net.training
    net.eval()
    try:
        yield net
    finally:
        net.train(learning)


def latents(net: nn.Module, num: int, generator: Generators = None) -> Tensor:
    """Z ~ N(0, I), (num, d), for a `GeneratorNet` or any network whose `latent` says d, as it is and where it is."""
    size = getattr(net, "latent", None)
    if not isinstance(size, int):
        raise ShapeError(f"a generator must say its `latent`, the entries of Z; this {type(net).__name__} does not")
    return white_noise(next(net.parameters()).new_empty(check_whole(num, "the number of samples"), size), generator)


@dataclass(frozen=True, eq=False)
class Proposals:
    """A prior that a generator serves: centred shapes g(Z) + eps, Z ~ N(0, I), eq. (20)."""

    net: nn.Module  #: A `GeneratorNet`, or any network from latent vectors (N, d) that says d, its `latent`
    centre: float = 0.0  #: Scalar voxel mean of the training shapes, subtracted from the proposals
    sigma: float = 0.0  #: Standard deviation of eps

    __repr__ = brief

    def __post_init__(self) -> None:
        object.__setattr__(self, "centre", check_real(self.centre, "centre", -math.inf))
        object.__setattr__(self, "sigma", check_real(self.sigma, "sigma"))

    def draw(self, num_samples: int, generator: Generators = None) -> Tensor:
        """First shapes, centred (N, 1, R, R, R)."""
        return self.at(latents(self.net, num_samples, generator), generator)

    @torch.no_grad()
    def at(self, z: Tensor, generator: Generators = None) -> Tensor:
        """Those of given latent vectors (N, d), centred (N, 1, R, R, R)."""
        y: Tensor = self.net(z).to(z.dtype) - self.centre  # whatever autocast made of it
        return y if self.sigma == 0 else y + self.sigma * white_noise(y, generator)

    def pack(self, half: bool = False) -> Packed:
        """Tensors and numbers for a file."""
        if not isinstance(self.net, GeneratorNet):
            raise TypeError(f"only a GeneratorNet can be written, not a {type(self.net).__name__}")
        about = {"layout": asdict(self.net.layout), "centre": self.centre, "sigma": self.sigma}
        return weights(self.net, half=half), about

    @classmethod
    def unpack(cls, tensors: dict[str, Tensor], about: dict[str, Any]) -> Self:
        """`pack` undone."""
        layout: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in about["layout"].items()}
        with torch.device("meta"):
            net = GeneratorNet(Layout(**layout))
        return cls(with_weights(net, tensors), about["centre"], about["sigma"])


@dataclass(frozen=True, eq=False)
class Posterior:
    """-log p(Z | Y) of given shapes, up to a constant: an energy of latent vectors, one for each shape.

    |Z|^2 / 2 + |Y - g(Z)|^2 / (2 sigma^2), with shapes as occupancy (N, 1, R, R, R).
    """

    net: nn.Module
    shapes: Tensor
    sigma: float = 0.3

    def __post_init__(self) -> None:
        check_real(self.sigma, "sigma", above=True)

    def __call__(self, z: Tensor) -> Tensor:
        misfit: Tensor = (self.shapes - self.net(z)).square().flatten(1).sum(1)
        return z.square().sum(1) / 2 + misfit / (2 * self.sigma**2)


def infer(
    net: nn.Module,
    shapes: Tensor,
    z: Tensor | None = None,
    *,
    sigma: float = 0.3,
    num_steps: int,
    step_size: float,
    **options: Any,
) -> Tensor:
    """Latent vectors (N, d) that explain shapes (N, 1, R, R, R), occupancy: Langevin dynamics on their posterior.

    `z` are the chains' starts, N(0, I) by default; `options` are those of `dnet_lib.langevin.sample`, and
    `temperature=0` climbs to the most probable Z. Section 5.0.1; reconstruction: net(infer(net, shapes, ...)). With
    batch norm the running statistics are used: no shape's Z depends on its batch.
    """
    check_batch(shapes, name="shapes", resolution=getattr(net, "resolution", None))
    z = latents(net, len(shapes), options.get("generator")) if z is None else z
    if len(z) != len(shapes):
        raise ShapeError(f"{len(z)} latent vectors for {len(shapes)} shapes: give one each")
    with as_learned(net):
        return sample(z, Posterior(net, shapes, sigma), num_steps=num_steps, step_size=step_size, **options)


def regress(net: nn.Module, optimizer: torch.optim.Optimizer, z: Tensor, shapes: Tensor) -> Tensor:
    """One step of the optimizer down |Y - g(Z)|^2, the mean over the batch (of all processes), eq. (22); returns it.

    Latent vectors (N, d), occupancy (N, 1, R, R, R), or whatever the network makes of them.
    """
    loss: Tensor = (shapes - net(z)).square().flatten(1).sum(1).mean()
    optimizer.zero_grad()
    (loss * (len(z) / int(total(torch.tensor(len(z), device=z.device))))).backward()
    share_gradients(net)
    optimizer.step()
    alike(net, buffers_only=True)
    return loss.detach()


@dataclass(frozen=True)
class Alternation:
    """The numbers of alternating back-propagation (section 5.0.1)."""

    num_iterations: int = 1000
    num_steps: int = 20  #: Langevin steps an iteration that infer the latent vectors
    step_size: float = 0.02
    sigma: float = 1.0  #: Standard deviation of eps in eq. (20).
    batch_size: int = 50
    learning_rate: float = 0.0003
    betas: tuple[float, float] = (0.6, 0.999)

    def __post_init__(self) -> None:
        for name in ("num_iterations", "num_steps", "batch_size"):
            check_whole(getattr(self, name), name, int(name == "batch_size"))
        for name in ("step_size", "sigma", "learning_rate"):
            check_real(getattr(self, name), name, above=name != "learning_rate")
        check_betas(self.betas)


class Alternated(NamedTuple):
    """What one iteration of alternating back-propagation measured."""

    iteration: int
    loss: float  #: Mean |Y - g(Z)|^2 of the mini-batch before the step, at the inferred Z
    latent: Tensor  #: Inferred latent vectors of all shapes so far, (N, d)


def alternate(
    net: nn.Module,
    shapes: Tensor,
    settings: Alternation,
    *,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    save_every: int = 50,
) -> Iterator[Alternated]:
    """Alternating back-propagation as an iterator: infer Z of a mini-batch, regress, go on (section 5.0.1).

    shapes       all observed shapes, occupancy (N, 1, R, R, R)
    checkpoint   a file: where it exists the run resumes from it; it is rewritten every `save_every` iterations

    Each shape keeps its own chain of Z, begun as N(0, I). Raises `DivergedError` when the loss or a chain stops being
    finite, carrying the last good `state` (and `checkpoint`).
    """
    check_kind(settings, Alternation, "settings must be an Alternation", "make it of numbers by name")
    seed = check_whole(seed, "seed")
    check_batch(shapes, name="the observed shapes", resolution=getattr(net, "resolution", None))
    if settings.batch_size > len(shapes):
        raise ShapeError(f"batch_size is {settings.batch_size}, but there are only {len(shapes)} observed shapes")
    device = device_of(net)
    random, shapes = torch.Generator(device).manual_seed(seed), shapes.to(device)
    check_learns(net, net.parameters())
    optimizer = torch.optim.Adam(net.parameters(), lr=settings.learning_rate, betas=settings.betas)
    run = Parts(net=net, optimizer=optimizer, generator=random, latent=latents(net, len(shapes), random))

    def step() -> Alternated:
        rows = torch.randperm(len(shapes), generator=random, device=device)[: settings.batch_size]
        options: dict[str, Any] = {"num_steps": settings.num_steps, "step_size": settings.step_size}
        run.latent[rows] = infer(net, shapes[rows], run.latent[rows], sigma=settings.sigma, generator=random, **options)
        optimizer.param_groups[0].update(lr=settings.learning_rate, betas=settings.betas)  # not those of a file
        loss = regress(net, optimizer, run.latent[rows], shapes[rows]).item()
        if not math.isfinite(loss):
            raise DivergedError(
                f"the generator diverged at iteration {run.iteration}: lower the learning rate or step size"
            )
        run.iteration += 1
        return Alternated(run.iteration, loss, run.latent.clone())

    yield from resumable(
        run,
        step,
        settings.num_iterations,
        checkpoint=checkpoint,
        save_every=save_every,
        belongs=lambda: {"network": described(net), "data": fingerprint(shapes), "seed": seed},
        told=vars(settings),
        device=device,
    )
