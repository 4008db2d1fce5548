"""Analysis by synthesis: the learning loop of Algorithm 1, and of every algorithm that starts its chains elsewhere.

Each iteration seeks modes (K Langevin steps revise the synthesized shapes) and shifts them (one step up the gradient)

    L'(theta) = mean_i df(Y_i)/dtheta - mean_j df(Y~_j)/dtheta = dV/dtheta,    eqs. (8), (13)
    V = mean_j E(Y~_j; theta) - mean_i E(Y_i; theta),                          eq. (14)

over observed shapes Y_i and synthesized shapes Y~_j.
"""

import copy
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
from dnet_lib.files import atomic_write
from dnet_lib.langevin import DivergedError, langevin
from dnet_lib.starts import Starts
from dnet_lib.voxels import check_shapes


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
        """Go back to where `state()` was taken."""
        self.net.load_state_dict(state["net"])
        if self.averaged is not None and state["averaged"] is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.starts.restore(state["starts"])
        self.generator.set_state(state["generator"].cpu())
        self._order = state["order"].to(self.generator.device)
        self.iteration, self.seconds = state["iteration"], state["seconds"]

    def save(self, path: str | Path) -> None:
        """Write `state()` beside `path`, then rename: a killed write leaves the old file whole."""
        with atomic_write(path) as part:
            torch.save(self.state(), part)

    def load(self, path: str | Path) -> None:
        """Restore from a file of `save`; raises ValueError naming a file that is not one."""
        try:
            self.restore(torch.load(path, map_location=self.generator.device, weights_only=True))
        except Exception as error:
            raise ValueError(f"{path} is not a checkpoint of this run ({error}): delete it to begin anew") from error

    def next_batch(self, num_shapes: int, size: int) -> Tensor:
        """Row numbers of the next mini-batch: every shape once an epoch, in a fresh order each."""
        while len(self._order) < size:
            fresh = torch.randperm(num_shapes, generator=self.generator, device=self.generator.device)
            self._order = torch.cat([self._order.to(fresh.device), fresh])
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
    net: DescriptorNet, observed: Tensor, synthesized: Tensor, *, energy_penalty: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Put -dV/dtheta of eq. (8) into the weights' `.grad` and return the energies (observed (N,), synthesized (M,)).

    An optimizer that *descends* along `.grad` thereby climbs the likelihood. Shapes are centred. Under
    torch.distributed each process brings its own shapes, and all receive the gradient of all shapes together.
    """
    shapes = torch.cat([observed, synthesized])
    energies = net.energy(shapes)
    counts = torch.tensor([len(observed), len(synthesized)], device=shapes.device, dtype=energies.dtype)
    if _world() > 1:
        dist.all_reduce(counts)
    e_observed, e_synthesized = energies.split([len(observed), len(synthesized)])
    loss = e_observed.sum() / counts[0] - e_synthesized.sum() / counts[1]
    if energy_penalty:
        loss = loss + energy_penalty * (
            e_observed.square().sum() / counts[0] + e_synthesized.square().sum() / counts[1]
        )
    net.zero_grad(set_to_none=True)
    loss.backward()
    if _world() > 1:
        for parameter in net.parameters():
            dist.all_reduce(parameter.grad)
    return e_observed.detach(), e_synthesized.detach()


def learning_step(run: Run, observed: Tensor, synthesized: Tensor, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """Mode shifting: one Adam step along eq. (8); returns energies (observed, synthesized) and the gradient's norm."""
    energies = learning_gradient(run.net, observed, synthesized, energy_penalty=settings.energy_penalty)
    limit = math.inf if settings.max_gradient is None else settings.max_gradient
    norm = torch.nn.utils.clip_grad_norm_(run.net.parameters(), limit)
    if callable(settings.learning_rate):
        for group in run.optimizer.param_groups:
            group["lr"] = settings.learning_rate(run.iteration)
    run.optimizer.step()
    if run.averaged is not None and settings.average is not None:
        for mean, now in zip(run.averaged.parameters(), run.net.parameters(), strict=True):
            mean.data.lerp_(now.data, 1 - settings.average)
    return *energies, norm


def learn(
    run: Run,
    shapes: Tensor,
    settings: Settings,
    *,
    checkpoint: str | Path | None = None,
    save_every: int = 50,
) -> Iterator[Record]:
    """Algorithm 1 as an iterator: yields a `Record` after each iteration, from `run.iteration` to the last.

    shapes       all observed shapes, centred (N, 1, R, R, R)
    checkpoint   a file: where it exists the run resumes from it, bit-equal; it is rewritten every `save_every`
                 iterations and at the end

    Raises `DivergedError` when energies or chains stop being finite, carrying the last good `state` (and `checkpoint`).
    """
    check_shapes(shapes, name="the observed shapes", resolution=run.net.architecture.resolution)
    device = run.generator.device
    shapes = shapes.to(device)
    own = None if checkpoint is None else Path(checkpoint).with_suffix(f"{Path(checkpoint).suffix}{_rank() or ''}")
    if own is not None and own.exists():
        run.load(own)
    good = run.state()
    temperature = settings.temperature
    while run.iteration < settings.num_iterations:
        began = time.perf_counter()
        index = run.next_batch(len(shapes), settings.batch_size)
        observed = shapes[index]
        y, projection = run.starts.begin(observed, index, run.generator)
        if settings.data_noise:
            fresh = torch.randn(observed.shape, generator=run.generator, device=device, dtype=observed.dtype)
            observed = observed + settings.data_noise * fresh
        slopes, accepted = [], []
        chain = langevin(
            y,
            run.net,
            num_steps=settings.num_steps,
            step_size=settings.step_size,
            temperature=temperature(run.iteration) if callable(temperature) else temperature,
            metropolis=settings.metropolis,
            projection=projection,
            generator=run.generator,
        )
        for y, info in chain:  # noqa: B007
            slopes.append(info.gradient_norm.mean())
            accepted.append(info.accepted.float().mean())
        e_observed, e_synthesized, norm = learning_step(run, observed, y, settings)
        run.starts.learn(y)
        numbers = torch.stack(
            [e_observed.mean(), e_synthesized.mean(), torch.stack(slopes).mean(), torch.stack(accepted).mean(), norm]
        )
        if _world() > 1:
            dist.all_reduce(numbers)
            numbers /= _world()
        eo, es, slope, acceptance, norm_ = numbers.tolist()
        if not math.isfinite(eo + es + slope + norm_):
            error = DivergedError(
                f"the run diverged at iteration {run.iteration}: energies {eo:.3g} (observed), {es:.3g} (synthesized). "
                f"The last good state (iteration {good['iteration']}) is in .state"
                + (f" and in {own}" if own is not None and own.exists() else "")
                + ". Lower the learning rate or the step size, or take more steps"
            )
            error.state, error.checkpoint = good, None if own is None else str(own)
            raise error
        run.iteration += 1
        run.seconds += time.perf_counter() - began
        if run.iteration % save_every == 0 or run.iteration == settings.num_iterations:
            good = run.state()
            if own is not None:
                run.save(own)
        gap = (es - eo) / observed[0].numel()
        yield Record(run.iteration, es - eo, eo, es, gap, slope, norm_, acceptance, run.seconds, y)


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
