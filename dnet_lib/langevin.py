"""Langevin dynamics: mode seeking by noisy gradient descent on the energy, eq. (7).

    Y' = Y - (h / 2) dE/dY + sqrt(h T) eps,    eps ~ N(0, I)

with step size h = `step_size` (the paper's delta-tau) and temperature T. As h -> 0 the chain's law tends to
p_T(Y), proportional to exp(-E(Y) / T); at T = 0 the step is plain gradient descent. With a projection P both terms are
multiplied by P: the chain samples p_T conditioned on what P removes.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from dnet_lib.checks import check_bounds, check_generator, check_kind, check_real, check_whole, found
from dnet_lib.energy import Energy, energy_and_gradient
from dnet_lib.errors import DivergedError, ShapeError
from dnet_lib.fast import freeze
from dnet_lib.files import check_device
from dnet_lib.processes import Rows, Share
from dnet_lib.projections import Projection
from dnet_lib.voxels import per_item

Generators = torch.Generator | Sequence[torch.Generator] | Rows | None
"""Where noise comes from: one generator for the batch, or one a chain (then no chain depends on its neighbours)."""


EXACT = (
    "Metropolis-Hastings compares energies, which must not be rounded (a view of your own freeze anew): "
    "give precision='float32'"
)


class StepInfo(NamedTuple):
    """What a Langevin step saw; each field has one entry a chain."""

    energy: Tensor  #: E of the shapes the step left from, (N,)
    gradient_norm: Tensor  #: |dE/dY| of the shapes the step left from, (N,)
    accepted: Tensor  #: Whether the proposal was taken, (N,) bool; all True without Metropolis-Hastings
    log_acceptance: Tensor  #: log of the acceptance ratio (not clipped to 0), (N,); zero without Metropolis-Hastings
    here: tuple[Tensor, Tensor] | None
    """E and dE/dY at the returned shapes where already known (Metropolis-Hastings): the next step reuses them."""


def chain_generators(
    seed: int, num_chains: int, *, first: int = 0, device: torch.device | str = "cpu"
) -> list[torch.Generator]:
    """One independent noise stream a chain: chain i of a seed is the same however chains are split into batches."""
    for value, name in ((seed, "seed"), (num_chains, "num_chains"), (first, "first")):
        check_whole(value, name)
    device = check_device(device)
    states = (np.random.SeedSequence([seed, i]).generate_state(1, np.uint64) for i in range(first, first + num_chains))
    return [torch.Generator(device).manual_seed(int(state[0] >> 1)) for state in states]


def white_noise(like: Tensor, generator: Generators = None) -> Tensor:
    """Standard normal noise shaped like `like`, from one generator or from one a chain."""
    return _draw(like, generator, torch.Tensor.normal_)


def _draw(like: Tensor, generator: Generators, fill: Callable[..., Tensor]) -> Tensor:
    if isinstance(generator, Rows):
        share = generator.share
        return _draw(like.new_empty(share.count, *like.shape[1:]), generator.generator, fill)[share.rows]
    check_generator(generator, several=True)
    noise = torch.empty_like(like, memory_format=torch.contiguous_format)
    if generator is None or isinstance(generator, torch.Generator):
        return fill(noise, generator=generator)
    if len(generator) != len(like):
        raise ShapeError(f"{len(generator)} generators for {len(like)} chains: give one a chain, or a single one")
    for chain, own in zip(noise, generator, strict=True):
        fill(chain, generator=own)
    return noise


def log_acceptance_ratio(
    energies: tuple[Tensor, Tensor],
    gradients: tuple[Tensor, Tensor],
    delta: Tensor,
    step_size: float,
    temperature: float,
) -> Tensor:
    """log of the Metropolis-Hastings ratio of a Langevin proposal Y' = Y + delta, (N,).

    With g = dE/dY, P applied to both gradients where there is a projection,

        log r = -(E' - E) / T + delta . (g + g') / (2 T) - (h / (8 T)) (|g'|^2 - |g|^2),

    which is log [p(Y') q(Y|Y') / (p(Y) q(Y'|Y))] with the squares in q multiplied out: the large terms |delta|^2
    cancel by hand, not in floating point.
    """
    (e, e_new), (g, g_new) = energies, gradients
    work = (delta * (g + g_new)).flatten(1).sum(1) / 2
    slope = (g_new.square() - g.square()).flatten(1).sum(1) * (step_size / 8)
    return (e - e_new + work - slope) / temperature


def langevin_step(
    y: Tensor,
    energy: Energy,
    *,
    step_size: float,
    temperature: float = 1.0,
    metropolis: bool = False,
    projection: Projection | None = None,
    generator: Generators = None,
    here: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, StepInfo]:
    """One step of eq. (7) for every chain of a batch; returns the new batch and what the step saw.

    y            shapes (N, ...), float; (N, 1, R, R, R) for voxel models, centred as the energy expects
    energy       a `DescriptorNet` or any callable (N, ...) -> (N,)
    step_size    h > 0: drift h / 2, noise sqrt(h T)
    temperature  T >= 0; 0 switches the noise off: exact gradient descent
    metropolis   accept or reject each chain's proposal, so that p_T is kept exactly (needs T > 0)
    projection   a linear projector applied to the increment, e.g. `hidden_voxels(hidden)`
    generator    a `torch.Generator`, or one a chain (`chain_generators`)
    here         E and dE/dY at y when known (`StepInfo.here` of a Metropolis step): saves one gradient

    An energy with `bounds` (uniform reference) is sampled inside them: proposals are reflected at the walls, or, with
    Metropolis-Hastings, rejected outside; a start outside is folded inside. Raises `ShapeError` for a batch or an
    energy of the wrong kind.
    """
    _check(y, step_size, temperature, metropolis)
    precision = getattr(energy, "precision", "float32")
    if metropolis and precision != "float32":
        raise ValueError(f"{EXACT}, not {precision!r}")
    bounds = check_bounds(getattr(energy, "bounds", None))
    if bounds is not None and projection is not None and not metropolis:
        raise ValueError("a bounded energy and a projection need metropolis=True: reflecting breaks the projection")
    y = y.detach() if bounds is None or here is not None else reflect(y.detach(), *bounds)
    check_kind(energy, Callable, "energy must be a function of a batch (N, ...)", "such as a DescriptorNet")
    e, g = energy_and_gradient(y, energy) if here is None else here
    check_kind(projection, Callable | None, "projection must be a function of chains", "such as hidden_voxels(mask)")
    gradient_norm = g.flatten(1).norm(dim=1)
    drift = g if projection is None else projection(g.clone())  # it may write into what it gets
    if not isinstance(drift, Tensor) or drift.shape != y.shape:
        raise ShapeError(f"this projection made {found(drift)} of chains {tuple(y.shape)}: it must keep their form")
    delta = drift * (-step_size / 2)
    if temperature > 0:
        noise = white_noise(y, generator)
        delta.add_(noise if projection is None else projection(noise), alpha=math.sqrt(step_size * temperature))
    proposal = y + delta
    if not metropolis:
        new = proposal if bounds is None else reflect(proposal, *bounds)
        return new, StepInfo(e, gradient_norm, torch.ones_like(e, dtype=torch.bool), torch.zeros_like(e), None)

    e_new, g_new = energy_and_gradient(proposal, energy)
    drift_new = g_new if projection is None else projection(g_new.clone())
    log_r = log_acceptance_ratio((e, e_new), (drift, drift_new), delta, step_size, temperature)
    log_r = torch.where(log_r.isnan(), -math.inf, log_r)  # where floats overflowed on both sides
    accepted = _draw(e, generator, torch.Tensor.uniform_).log() < log_r
    pick = per_item(accepted, y)
    here = (torch.where(accepted, e_new, e), torch.where(pick, g_new, g))
    return torch.where(pick, proposal, y), StepInfo(e, gradient_norm, accepted, log_r, here)


def langevin(
    y: Tensor,
    energy: Energy,
    *,
    step_size: float,
    num_steps: int | None = None,
    temperature: float | Callable[[int], float] = 1.0,
    metropolis: bool = False,
    projection: Projection | None = None,
    generator: Generators = None,
) -> Iterator[tuple[Tensor, StepInfo]]:
    """Iterate `langevin_step` from y: yields (shapes, info) after each step, for ever if `num_steps` is None.

    `temperature` may be a function of the step (0, 1, ...), for annealing. The other arguments are `langevin_step`'s.
    Nothing in the loop waits for the device.
    """
    schedule = temperature if callable(temperature) else lambda step: temperature
    _check(y, step_size)
    check_generator(generator.generator if isinstance(generator, Rows) else generator, several=True)
    num_steps = None if num_steps is None else check_whole(num_steps, "num_steps")
    if not bool(torch.isfinite(y).all()):
        raise ShapeError("the chains' start contains NaN or infinite values")
    here = None
    for step in count() if num_steps is None else range(num_steps):
        y, info = langevin_step(
            y,
            energy,
            step_size=step_size,
            temperature=schedule(step),
            metropolis=metropolis,
            projection=projection,
            generator=generator,
            here=here,
        )
        here = info.here
        yield y, info


def sample(
    y: Tensor,
    energy: Energy,
    *,
    num_steps: int,
    step_size: float,
    progress: bool | str = False,
    fast: bool | None = None,
    precision: str = "float32",
    **options: Any,
) -> Tensor:
    """Run `num_steps` Langevin steps from y and return the last shapes, (N, ...) like y.

    `options` are those of `langevin`; `progress` shows a bar (a string names it). `fast` and `precision` are explained
    in `dnet_lib.freeze`: by itself a `DescriptorNet`'s chain takes the frozen-weight path where that pays, and agrees
    with the plain path to float32 rounding. With a generator for each chain, noise does not depend on how chains are
    batched. Raises `DivergedError` naming the chains that did not stay finite: lower the step size.
    """
    _check(y, step_size)
    share = Share(len(y), isinstance(energy, torch.nn.Module))
    y = y[share.rows]
    energy = freeze(energy, y, num_steps=check_whole(num_steps, "num_steps"), fast=fast, precision=precision)
    options["generator"] = share.noise(options.get("generator"))
    options["projection"] = share.within(options.get("projection"))
    steps = langevin(y, energy, num_steps=num_steps, step_size=step_size, **options)
    label = progress if isinstance(progress, str) else "Langevin"
    for y, _ in tqdm(steps, total=num_steps, desc=label, unit="step", disable=not progress):  # noqa: B007
        pass
    y = share.joined(y.detach().clone() if num_steps == 0 else y.detach())  # never the caller's own memory
    lost = (~torch.isfinite(y)).flatten(1).any(1).nonzero().flatten().tolist()
    if lost:
        some = ", ".join(map(str, lost[:8])) + (", ..." if len(lost) > 8 else "")
        raise DivergedError(
            f"{len(lost)} of {len(y)} chains (number {some}) did not stay finite within {num_steps} steps of size "
            f"{step_size:g}: lower the step size"
        )
    return y


def _check(y: Tensor, step_size: float, temperature: float = 0.0, metropolis: bool = False) -> None:
    if not isinstance(y, Tensor) or not y.is_floating_point() or y.ndim < 2 or y.numel() == 0:
        raise ShapeError(f"chains must be a non-empty float tensor (N, ...), not {found(y)}")
    check_real(step_size, "step_size", above=True)
    check_kind(metropolis, bool | np.bool_, "metropolis must be a truth value", "give True or False")
    if check_real(temperature, "temperature") == 0 and metropolis:
        raise ValueError("Metropolis-Hastings needs a temperature above 0: at 0 there is no distribution to keep")


def reflect(y: Tensor, low: float, high: float) -> Tensor:
    """Fold y into [low, high], as a ball between two walls."""
    width = high - low
    phase = torch.remainder(y - low, 2 * width)
    return (low + torch.minimum(phase, 2 * width - phase)).clamp(low, high)
