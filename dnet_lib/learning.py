"""Analysis by synthesis: the learning loop of Algorithm 1, and of every algorithm that starts its chains elsewhere.

Each iteration seeks modes (K Langevin steps revise the synthesized shapes) and shifts them (one step up the gradient)

    L'(theta) = mean_i df(Y_i)/dtheta - mean_j df(Y~_j)/dtheta = dV/dtheta,    eqs. (8), (13)
    V = mean_j E(Y~_j; theta) - mean_i E(Y_i; theta),                          eq. (14)

over observed shapes Y_i and synthesized shapes Y~_j.
"""

import copy
import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from dnet_lib.energy import DescriptorNet
from dnet_lib.fast import FrozenNet, freeze
from dnet_lib.files import atomic_write
from dnet_lib.langevin import DivergedError, langevin, reflect, white_noise
from dnet_lib.starts import Starts
from dnet_lib.voxels import ShapeError, check_shapes


@dataclass(frozen=True)
class Settings:
    """The numbers of a learning run; the defaults are those of section 6.1."""

    num_iterations: int = 3000
    num_steps: int = 20
    """K, Langevin steps an iteration."""
    step_size: float = 0.1
    """h of eq. (7), the paper's delta-tau."""
    temperature: float | Callable[[int], float] = 1.0
    """T of the sampler; a function of the iteration switches the noise off later."""
    metropolis: bool = False
    batch_size: int = 20
    """Observed shapes an iteration."""
    learning_rate: float | Callable[[int], float] = 0.001
    betas: tuple[float, float] = (0.5, 0.999)
    """Adam's."""
    data_noise: float = 0.0
    """Standard deviation of white noise added to the observed shapes."""
    max_gradient: float | None = None
    """The learning gradient is clipped to this norm."""
    average: float | None = None
    """Decay of an exponential moving average of the weights, kept in `Run.averaged`."""
    energy_penalty: float = 0.0
    """Weight of mean E^2, which holds the energies' level where no Gaussian reference does."""
    fast: bool | None = None
    """Whether chains and gradients take the frozen-weight path, `dnet_lib.fast`; None: where it pays."""

    def __post_init__(self) -> None:
        rate = self.learning_rate(0) if callable(self.learning_rate) else self.learning_rate
        for name, value, least in (
            ("num_iterations", self.num_iterations, 0),
            ("num_steps", self.num_steps, 1),
            ("batch_size", self.batch_size, 1),
            ("learning_rate", rate, 0),
            ("data_noise", self.data_noise, 0),
            ("energy_penalty", self.energy_penalty, 0),
        ):
            if not least <= value < math.inf:
                raise ValueError(f"{name} must be at least {least} and finite, not {value}")
        if not 0 < self.step_size < math.inf:
            raise ValueError(f"step_size must be positive and finite, not {self.step_size}")
        if self.max_gradient is not None and not self.max_gradient > 0:
            raise ValueError(f"max_gradient, a norm, must be positive, not {self.max_gradient}")
        if self.average is not None and not 0 <= self.average < 1:
            raise ValueError(f"average, a decay, must lie in [0, 1), not {self.average}")


@dataclass
class Run:
    """Everything a learning run carries from one iteration to the next; `state()` is enough to go on bit-equal."""

    net: DescriptorNet
    starts: Starts
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    averaged: DescriptorNet | None = None
    iteration: int = 0
    seconds: float = 0.0
    index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """Rows of the observed shapes of the iteration under way."""
    _order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    @classmethod
    def begin(cls, net: DescriptorNet, starts: Starts, settings: Settings, *, seed: int = 0) -> "Run":
        """A run at iteration 0. All its randomness comes from `seed` (and the process's rank)."""
        device = next(net.parameters()).device
        rate = settings.learning_rate
        optimizer = torch.optim.Adam(net.parameters(), lr=rate(0) if callable(rate) else rate, betas=settings.betas)
        generator = torch.Generator(device).manual_seed(seed + 1_000_003 * _rank())
        averaged = copy.deepcopy(net).requires_grad_(False) if settings.average is not None else None
        return cls(net, starts, optimizer, generator, averaged)

    @property
    def kept(self) -> DescriptorNet:
        """The network to keep when all is learned: with averaged weights where they are."""
        return self.net if self.averaged is None else self.averaged

    def state(self) -> dict:
        """Weights, optimizer, chains, random numbers and counters, as plain tensors and numbers (copies)."""
        return copy.deepcopy(
            {
                "net": self.net.state_dict(),
                "averaged": self.averaged.state_dict() if self.averaged is not None else None,
                "optimizer": self.optimizer.state_dict(),
                "starts": self.starts.state(),
                "generator": self.generator.get_state(),
                "order": self._order,
                "iteration": self.iteration,
                "seconds": self.seconds,
            }
        )

    def restore(self, state: dict) -> None:
        """Go back to where `state()` was taken; `state` itself stays as it is."""
        state = copy.deepcopy(state)
        self.net.load_state_dict(state["net"])
        if self.averaged is not None and state["averaged"] is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.starts.restore(state["starts"])
        self.generator.set_state(state["generator"].cpu())
        self._order = state["order"].to(self.generator.device)
        self.iteration, self.seconds = state["iteration"], state["seconds"]

    def next_batch(self, num_shapes: int, size: int) -> Tensor:
        """Row numbers of the next mini-batch: every shape once an epoch, in a fresh order each."""
        while len(self._order) < size:
            fresh = torch.randperm(num_shapes, generator=self.generator, device=self.generator.device)
            late = torch.isin(fresh, self._order.to(fresh.device))  # never the same shape twice in a batch
            self._order = torch.cat([self._order.to(fresh.device), fresh[~late], fresh[late]])
        index, self._order = self._order[:size], self._order[size:]
        return index


class Record(NamedTuple):
    """What one learning iteration measured. Means are over all chains and shapes of all processes."""

    iteration: int
    value: float
    """V of eq. (14): mean energy of the synthesized shapes minus that of the observed ones."""
    energy_observed: float
    energy_synthesized: float
    energy_gap: float
    """V per voxel: comparable between grids; near 0 when the synthesized shapes are as likely as the observed."""
    gradient_norm: float
    """|dE/dY| along the chains, mean."""
    learning_gradient: float
    """Norm of dV/dtheta before clipping."""
    acceptance: float
    """Share of accepted proposals; 1 without Metropolis-Hastings."""
    seconds: float
    """Time spent in the run so far, all its sessions together."""
    synthesized: Tensor
    """The chains' last shapes, centred (M, 1, R, R, R)."""


def learning_gradient(
    net: DescriptorNet,
    observed: Tensor,
    synthesized: Tensor,
    *,
    energy_penalty: float = 0.0,
    frozen: FrozenNet | None = None,
) -> tuple[Tensor, Tensor]:
    """Put -dV/dtheta of eq. (8) into the weights' `.grad` and return the energies (observed (N,), synthesized (M,)).

    An optimizer that *descends* along `.grad` thereby climbs the likelihood. Shapes are centred; `frozen`, a frozen
    view of `net`, saves time. Under torch.distributed each process brings its own shapes, and all receive the gradient
    of all shapes together.
    """
    shapes = torch.cat([observed, synthesized])
    counts = torch.tensor([len(observed), len(synthesized)], device=shapes.device, dtype=shapes.dtype)
    sizes = [len(observed), len(synthesized)]
    if _world() > 1:
        dist.all_reduce(counts)
    if not bool((counts > 0).all()):
        raise ShapeError("eq. (8) compares observed with synthesized shapes: there must be at least one of each")
    share = torch.cat([shapes.new_full((n,), 1.0) / count for n, count in zip(sizes, counts, strict=True)])
    weight, penalty = share.clone(), 2 * energy_penalty * share  # the loss is sum_i weight_i E_i + penalty_i E_i^2 / 2
    weight[len(observed) :].neg_()
    if frozen is None:
        energies = net.energy(shapes)
        net.zero_grad(set_to_none=True)
        ((weight + penalty * energies / 2) * energies).sum().backward()
    else:
        energies, gradients = frozen.learning_gradient(shapes, weight, penalty)
        for name, parameter in net.named_parameters():
            parameter.grad = gradients[name]
    if _world() > 1:
        for parameter in net.parameters():
            dist.all_reduce(parameter.grad)
    return energies.detach().split(sizes)


def learning_step(
    run: Run, observed: Tensor, synthesized: Tensor, settings: Settings, *, frozen: FrozenNet | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Mode shifting: one Adam step along eq. (8); returns energies (observed, synthesized) and the gradient's norm."""
    penalty = settings.energy_penalty
    energies = learning_gradient(run.net, observed, synthesized, energy_penalty=penalty, frozen=frozen)
    limit = math.inf if settings.max_gradient is None else settings.max_gradient
    norm = torch.nn.utils.clip_grad_norm_(run.net.parameters(), limit)
    if callable(settings.learning_rate):
        for group in run.optimizer.param_groups:
            group["lr"] = settings.learning_rate(run.iteration)
    run.optimizer.step()
    if run.averaged is not None and settings.average is not None:
        with torch.no_grad():
            for mean, now in zip(run.averaged.parameters(), run.net.parameters(), strict=True):
                mean.lerp_(now, 1 - settings.average)
    return *energies, norm


def learn(
    run: Run,
    shapes: Tensor,
    settings: Settings,
    *,
    checkpoint: str | Path | None = None,
    save_every: int = 50,
    batches: Callable[[], Tensor] | None = None,
) -> Iterator[Record]:
    """Algorithm 1 as an iterator: yields a `Record` after each iteration, from `run.iteration` to the last.

    shapes       all observed shapes, centred (N, 1, R, R, R)
    checkpoint   a file: where it exists the run resumes from it, bit-equal; it is rewritten every `save_every`
                 iterations and at the end
    batches      gives the rows of the next mini-batch; by itself every shape comes once an epoch, in a fresh order

    Raises `DivergedError` when energies or chains stop being finite, carrying the last good `state` (and `checkpoint`).
    """
    check_shapes(shapes, name="the observed shapes", resolution=run.net.architecture.resolution)
    if save_every < 1:
        raise ValueError(f"save_every must be at least 1, not {save_every}")
    if settings.batch_size > len(shapes):
        raise ShapeError(f"batch_size is {settings.batch_size}, but there are only {len(shapes)} observed shapes")
    device, bounds = run.generator.device, run.net.bounds
    shapes = shapes.to(device)
    if checkpoint is not None and Path(checkpoint).exists():
        resume(checkpoint, run.restore, run.generator.device)
    good, energy, frozen = run.state(), None, None
    while run.iteration < settings.num_iterations:
        began, here = time.perf_counter(), run.iteration
        if here % save_every == 0:
            candidate = run.state()
        run.index = batches() if batches else run.next_batch(len(shapes), settings.batch_size)
        observed = shapes[run.index]
        y, projection = run.starts.begin(observed, run.index, run.generator)
        if settings.data_noise:
            observed = observed + settings.data_noise * white_noise(observed, run.generator)
            observed = observed if bounds is None else reflect(observed, *bounds)
        if energy is None:
            energy = freeze(run.net, y, num_steps=settings.num_steps, fast=settings.fast)
            frozen = energy if isinstance(energy, FrozenNet) else None
        elif frozen is not None:
            frozen.refresh()
        slopes, accepted = [], []
        chain = langevin(
            y,
            energy,
            num_steps=settings.num_steps,
            step_size=settings.step_size,
            temperature=settings.temperature(here) if callable(settings.temperature) else settings.temperature,
            metropolis=settings.metropolis,
            projection=projection,
            generator=run.generator,
        )
        for y, info in chain:  # noqa: B007
            slopes.append(info.gradient_norm.mean())
            accepted.append(info.accepted.float().mean())
        e_observed, e_synthesized, norm = learning_step(run, observed, y, settings, frozen=frozen)
        run.starts.learn(y)
        eo, es, slope, acceptance = _means(e_observed, e_synthesized, torch.stack(slopes), torch.stack(accepted))
        if not math.isfinite(eo + es + slope + float(norm)):
            raise _diverged(here, eo, es, good, checkpoint)
        if here % save_every == 0:  # only now is it known that energies are finite at these weights
            good = candidate
            if checkpoint is not None:
                write_state(good, checkpoint)
        run.iteration += 1
        run.seconds += time.perf_counter() - began
        if run.iteration == settings.num_iterations:
            if not all(bool(parameter.isfinite().all()) for parameter in run.net.parameters()):
                raise _diverged(run.iteration, math.nan, math.nan, good, checkpoint)
            if checkpoint is not None:
                write_state(run.state(), checkpoint)
        gap = (es - eo) / observed[0].numel()
        yield Record(run.iteration, es - eo, eo, es, gap, slope, float(norm), acceptance, run.seconds, y)


def write_state(state: dict, path: str | Path) -> None:
    """Write a run's state beside `path`, then rename; of several processes the first writes what all of them hold."""
    states = [state] * _world()
    if _world() > 1:
        dist.all_gather_object(states, state)
    if _rank() == 0:
        buffer = io.BytesIO()
        torch.save(states, buffer)
        with atomic_write(path) as part:
            part.write_bytes(buffer.getbuffer())


def read_state(path: str | Path, device: torch.device | str = "cpu") -> dict:
    """This process's state in a file of `write_state`; raises ValueError naming a file that is not one."""
    try:
        states = torch.load(path, map_location=device, weights_only=True)
        if not isinstance(states, list) or not states or not all(isinstance(state, dict) for state in states):
            raise TypeError(f"it holds a {type(states).__name__}, not a list of states")
    except Exception as error:
        raise ValueError(f"{path} is not a checkpoint of a learning run: delete it to begin anew") from error
    if len(states) != _world():
        raise ValueError(f"{path} was written by {len(states)} processes, and these are {_world()}: start as many")
    return states[_rank()]


def resume(checkpoint: str | Path, restore: Callable[[dict], None], device: torch.device | str = "cpu") -> None:
    """Read a checkpoint and hand it to `restore`; raises ValueError naming one that belongs to another run."""
    state = read_state(checkpoint, device)
    try:
        restore(state)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{checkpoint} is the checkpoint of another run (network, starts or settings differ): "
            "give this run a file of its own"
        ) from error


def _means(e_observed: Tensor, e_synthesized: Tensor, slopes: Tensor, accepted: Tensor) -> list[float]:
    """Means over the shapes and chains of all processes, each weighing as many as it has."""
    n, m = len(e_observed), len(e_synthesized)
    numbers = [e_observed.sum(), e_synthesized.sum(), slopes.mean() * m, accepted.mean() * m]
    sums = torch.stack([*numbers, *torch.tensor([n, m], device=slopes.device, dtype=slopes.dtype)])
    if _world() > 1:
        dist.all_reduce(sums)
    *totals, n, m = sums.tolist()
    return [total / count for total, count in zip(totals, (n, m, m, m), strict=True)]


def _diverged(step: int, eo: float, es: float, good: dict, checkpoint: str | Path | None) -> DivergedError:
    where = f".state and in {checkpoint}" if checkpoint else ".state"
    error = DivergedError(
        f"the run diverged at iteration {step}: energies {eo:.3g} (observed), {es:.3g} (synthesized). The last good "
        f"state, of iteration {good['iteration']}, is in {where}. Lower the learning rate or the step size"
    )
    error.state, error.checkpoint = good, None if checkpoint is None else str(checkpoint)
    return error


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
