"""Analysis by synthesis: the learning loop of Algorithm 1, and of every algorithm that starts its chains elsewhere.

Each iteration seeks modes (K Langevin steps revise the synthesized shapes) and shifts them (one step up the gradient)

    L'(theta) = mean_i df(Y_i)/dtheta - mean_j df(Y~_j)/dtheta = dV/dtheta,    eqs. (8), (13)
    V = mean_j E(Y~_j; theta) - mean_i E(Y_i; theta),                          eq. (14)

over observed shapes Y_i and synthesized shapes Y~_j.
"""

import copy
import hashlib
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dnet_lib.checks import check_batch, check_betas, check_bounds, check_kind, check_learns, check_real, check_whole
from dnet_lib.energy import DescriptorNet, check_energies, device_of
from dnet_lib.errors import DivergedError, ShapeError
from dnet_lib.fast import FrozenNet, check_precision, freeze
from dnet_lib.langevin import EXACT, langevin, reflect, white_noise
from dnet_lib.processes import Share, alike, rank, share_gradients, total
from dnet_lib.resuming import capture, described, fingerprint, reinstate, remember, resumable, wholly
from dnet_lib.starts import PersistentData, Starts
from dnet_lib.voxels import brief


@dataclass(frozen=True)
class Settings:
    """The numbers of a learning run; the defaults are those of section 6.1."""

    num_iterations: int = 3000
    num_steps: int = 20  #: K, Langevin steps an iteration
    step_size: float = 0.1  #: h of eq. (7), the paper's delta-tau.
    temperature: float | Callable[[int], float] = 1.0
    """T of the sampler; a function of the iteration switches the noise off later."""
    metropolis: bool = False
    batch_size: int = 20  #: Observed shapes an iteration
    learning_rate: float | Callable[[int], float] = 0.001
    betas: tuple[float, float] = (0.5, 0.999)  #: Adam's
    data_noise: float = 0.0  #: Standard deviation of white noise added to the observed shapes
    max_gradient: float | None = None  #: The learning gradient is clipped to this norm
    average: float | None = None  #: Decay of an exponential moving average of the weights, kept in `Run.averaged`
    energy_penalty: float = 0.0  #: Weight of mean E^2, which holds the energies' level where no Gaussian reference does
    fast: bool | None = None
    """Whether chains and gradients take the frozen-weight path, `dnet_lib.fast`; None: where it pays."""
    precision: str = "float32"
    """Of the convolutions' products: "float32", "bfloat16", or "tf32", as explained in `freeze`. Only in the same one a
    run goes on bit for bit."""

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            name: check_whole(getattr(self, name), name, int(name != "num_iterations"))
            for name in ("num_iterations", "num_steps", "batch_size")
        }
        checked |= {name: check_real(getattr(self, name), name) for name in ("data_noise", "energy_penalty")}
        checked["metropolis"] = bool(self.metropolis)
        if not isinstance(self.metropolis, bool | np.bool_) or self.fast not in (None, True, False):
            raise ValueError(f"metropolis is True or False, fast also None, not {self.metropolis!r} and {self.fast!r}")
        checked["step_size"] = check_real(self.step_size, "step_size", above=True)
        for name in ("learning_rate", "temperature"):
            if not callable(value := getattr(self, name)):
                checked[name] = check_real(value, f"{name}, where it is no function of the iteration,")
        checked["betas"] = check_betas(self.betas)
        check_precision(self.precision, self.fast)
        if self.metropolis and self.precision != "float32":
            raise ValueError(f"{EXACT}, not {self.precision!r}")
        if self.metropolis and self.temperature == 0:
            raise ValueError("metropolis needs a temperature above 0: at 0 there is no distribution to keep")
        if self.max_gradient is not None:
            checked["max_gradient"] = check_real(self.max_gradient, "max_gradient, a norm,", above=True)
        if self.average is not None and check_real(self.average, "average, a decay,") >= 1:
            raise ValueError(f"average, a decay, must lie in [0, 1), not {self.average}")
        for name, value in checked.items():
            object.__setattr__(self, name, value)


NUMBERS = ("lr", "betas")  #: What an optimizer has of `Settings`
GIVEN = "settings must be Settings", "make them of numbers by name, Settings(**numbers)"


@dataclass
class Run:
    """Everything a learning run carries from one iteration to the next; `state_dict()` is enough to go on bit-equal.

    The network is any `torch.nn.Module` that maps a batch (N, ...) to its N energies. Where it has them, its `bounds`
    (low, high), its `resolution` (entries along each axis of the grid) and its `device` are read. The optimizer's
    learning rate and betas are those of `Settings`, at every step; what a group of `begin` has of its own stays.
    """

    net: nn.Module
    starts: Starts
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    averaged: nn.Module | None = None
    iteration: int = 0
    seconds: float = 0.0
    index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """Rows of the observed shapes of the iteration under way."""
    own: list[dict[str, Any]] = field(default_factory=list)
    """What each group of parameters has of its own in place of the settings'."""
    first: str | None = field(default=None, init=False, repr=False)
    _order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    _aside: set[str] = field(default_factory=set, init=False)
    """Weights that could learn, and are left out: meant, or said."""

    __repr__ = brief

    def __post_init__(self) -> None:
        self._aside = self._left_out()
        self.own += [{} for _ in self.optimizer.param_groups[len(self.own) :]]

    @classmethod
    def begin(
        cls,
        net: nn.Module,
        starts: Starts,
        settings: Settings,
        *,
        seed: int = 0,
        parameters: Tensor | Iterable[Tensor] | Iterable[dict[str, Any]] | None = None,
    ) -> Self:
        """A run at iteration 0, by Adam. Batches, starts and noise come from `seed` (and the process's rank).

        First weights, `noise` and what is random inside a network, such as dropout, come from where their caller says,
        or from PyTorch's global generator, which no checkpoint holds.

        parameters  what is learned, as PyTorch's optimizers take it: tensors, or groups of them. A group's own options
                    (`lr`, a number or a function of the iteration; `betas`, `weight_decay`, ...) hold for it. By itself
                    all that requires a gradient is learned
        """
        check_kind(net, nn.Module, "net must be a torch.nn.Module", "its weights are what is learned")
        check_kind(settings, Settings, *GIVEN)
        seed = check_whole(seed, "seed")
        given: Any = (p for p in net.parameters() if p.requires_grad) if parameters is None else parameters
        given = [given] if isinstance(given, Tensor) else list(given)
        check_learns(net, given)
        groups = given if isinstance(given[0], dict) else [{"params": given}]
        own = [{name: value for name, value in group.items() if name != "params"} for group in groups]
        first = [
            {"params": group["params"], **_numbers(options, 0)} for group, options in zip(groups, own, strict=True)
        ]
        optimizer, known = torch.optim.Adam(first), {id(p) for p in net.parameters()}
        if not all(id(p) in known for group in optimizer.param_groups for p in group["params"]):
            raise ValueError("parameters must be the network's own: a copy of it, or another network, would not learn")
        alike(net)  # every process begins with the first one's weights
        generator = torch.Generator(device_of(net)).manual_seed(seed + 1_000_003 * rank())
        with torch.inference_mode(False), torch.no_grad():
            averaged = None if settings.average is None else copy.deepcopy(net).requires_grad_(False)
        run = cls(net, starts, optimizer, generator, averaged, own=own)
        run.follow(settings)
        return run

    @property
    def kept(self) -> nn.Module:
        """The network to keep when all is learned: with averaged weights where they are."""
        return self.net if self.averaged is None else self.averaged

    @property
    def _parts(self) -> dict[str, Any]:
        names = ("net", "averaged", "optimizer", "starts", "generator", "_order", "iteration", "seconds", "first")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizer, chains, random numbers and counters, as plain tensors and numbers (copies)."""
        return capture(self._parts)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict()` was taken, wholly or (`CheckpointError`) not at all; options stay."""
        wholly(self, self._put, state)

    def _put(self, state: dict[str, Any]) -> None:
        self._notice()  # before the state's numbers hide it
        state = {"first": None} | state
        if (self.averaged is None) != (state["averaged"] is None):
            raise ValueError("one keeps an average of its weights, and the other does not")
        if state["starts"].keys() != self.starts.state_dict().keys():
            raise ValueError(f"its chains did not start as those of {type(self.starts).__name__} do")
        for name, value in reinstate({k: v for k, v in self._parts.items() if k != "optimizer"}, state).items():
            setattr(self, name, value)
        remember(self.optimizer, copy.deepcopy(state["optimizer"]), but=NUMBERS)  # these come with every step

    def _notice(self) -> None:
        """Of groups that were added, what differs from the optimizer's defaults is their own."""
        known = self.optimizer.defaults
        for group in self.optimizer.param_groups[len(self.own) :]:
            self.own.append({name: group[name] for name in NUMBERS if group.get(name) != known.get(name)})

    def options(self) -> dict[str, Any]:
        """The numbers of learning that are no settings, by name: of each group of parameters, and of `starts`."""
        self._notice()
        own = [
            now | dict.fromkeys(NUMBERS) | own for now, own in zip(self.optimizer.param_groups, self.own, strict=False)
        ]
        taught = getattr(getattr(self.starts, "optimizer", None), "param_groups", [])
        groups = [(f"group {k}", group) for k, group in enumerate(own)]
        groups += [(f"the starts' group {k}", group) for k, group in enumerate(taught)]
        return {f"{name} of {where}": now for where, group in groups for name, now in group.items() if name != "params"}

    def follow(self, settings: Settings) -> None:
        """Give the optimizer the numbers of this iteration."""
        self._notice()
        wanted: dict[str, Any] = {"lr": settings.learning_rate, "betas": settings.betas}
        groups = zip(self.optimizer.param_groups, self.own, strict=False)
        for group, own in (*groups, (self.optimizer.defaults, {})):  # which tells what groups to come have of their own
            now = _numbers(wanted | own, self.iteration)
            group.update({name: value for name, value in now.items() if name in group})

    def belongs(self, data: Tensor) -> dict[str, Any]:
        """What a checkpoint of this run belongs to."""
        return {
            "data": f"{tuple(data.shape)} {fingerprint(data)}",
            "network": described(self.net),
            "starts": f"{type(self.starts).__name__} {getattr(self.starts, 'about', dict)()}",
            "optimizer": type(self.optimizer).__name__,
            "learned": self._learned(),
            "seed": self.generator.initial_seed() - 1_000_003 * rank(),
            "average": self.averaged is not None,
        }

    def _learned(self) -> str:
        """Which parameters each group of the optimizer holds, in few words."""
        names = {id(parameter): name for name, parameter in self.net.named_parameters()}
        groups = [[names.get(id(p), "?") for p in group["params"]] for group in self.optimizer.param_groups]
        digest = hashlib.sha256(repr(groups).encode()).hexdigest()[:8]
        return f"{'+'.join(str(len(group)) for group in groups)} parameters ({digest})"

    def _left_out(self) -> set[str]:
        """Names of the weights that require a gradient and are not in the optimizer."""
        learned = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        return {name for name, p in self.net.named_parameters() if p.requires_grad and id(p) not in learned}

    def next_batch(self, num_shapes: int, size: int) -> Tensor:
        """Row numbers of the next mini-batch: every shape once an epoch, in a fresh order each."""
        while len(self._order) < size:
            fresh = torch.randperm(num_shapes, generator=self.generator, device=self.generator.device)
            late = torch.isin(fresh, self._order.to(fresh.device))  # never the same shape twice in a batch
            self._order = torch.cat([self._order.to(fresh.device), fresh[~late], fresh[late]])
        index, self._order = self._order[:size], self._order[size:]
        return index


def _numbers(options: dict[str, Any], iteration: int) -> dict[str, Any]:
    """An optimizer's options at an iteration, as plain numbers."""
    now = {name: value(iteration) if callable(value) else value for name, value in options.items()}
    now |= {"lr": check_real(now["lr"], f"the learning rate of iteration {iteration}")} if "lr" in now else {}
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in now.items()}


class Record(NamedTuple):
    """What one learning iteration measured. Means are over all chains and shapes of all processes."""

    iteration: int
    value: float  #: V of eq. (14): mean energy of the synthesized shapes minus that of the observed ones.
    energy_observed: float
    energy_synthesized: float
    energy_gap: float
    """V per voxel: comparable between grids; near 0 when the synthesized shapes are as likely as the observed."""
    gradient_norm: float  #: |dE/dY| along the chains, mean
    learning_gradient: float  #: Norm of dV/dtheta before clipping
    acceptance: float  #: Share of accepted proposals; 1 without Metropolis-Hastings
    seconds: float  #: Time spent in the run so far, all its sessions together
    synthesized: Tensor  #: The chains' last shapes, centred (M, 1, R, R, R)

    def __repr__(self) -> str:
        return brief(self)


def learning_gradient(
    net: nn.Module,
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
    if observed.shape[1:] != synthesized.shape[1:] or observed.dtype != synthesized.dtype:
        one, other = (f"{t.dtype} {tuple(t.shape)}" for t in (observed, synthesized))
        raise ShapeError(f"observed and synthesized shapes must be of one kind, not {one} and {other}")
    shapes = torch.cat([observed, synthesized])
    sizes = [len(observed), len(synthesized)]
    counts = total(torch.tensor(sizes, device=shapes.device, dtype=shapes.dtype))
    if not bool((counts > 0).all()):
        raise ShapeError("eq. (8) compares observed with synthesized shapes: there must be at least one of each")
    share = torch.cat([shapes.new_full((n,), 1.0) / count for n, count in zip(sizes, counts, strict=True)])
    weight, penalty = share.clone(), 2 * energy_penalty * share  # the loss is sum_i weight_i E_i + penalty_i E_i^2 / 2
    weight[len(observed) :].neg_()
    check_learns(net, net.parameters())
    if frozen is None:
        with torch.enable_grad():
            energies = check_energies(net(shapes), shapes)
            net.zero_grad(set_to_none=True)
            ((weight + penalty * energies / 2) * energies).sum().backward()
    else:
        energies, gradients = frozen.learning_gradient(shapes, weight, penalty)
        for name, parameter in net.named_parameters():
            parameter.grad = gradients[name] if parameter.requires_grad else None
    share_gradients(net)
    e_observed, e_synthesized = energies.detach().split(sizes)
    return e_observed, e_synthesized


def learning_step(
    run: Run, observed: Tensor, synthesized: Tensor, settings: Settings, *, frozen: FrozenNet | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Mode shifting: one Adam step along eq. (8); returns energies (observed, synthesized) and the gradient's norm."""
    penalty = settings.energy_penalty
    energies = learning_gradient(run.net, observed, synthesized, energy_penalty=penalty, frozen=frozen)
    limit = math.inf if settings.max_gradient is None else settings.max_gradient
    learned = [p for group in run.optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(learned, limit)
    run.follow(settings)
    run.optimizer.step()
    alike(run.net, buffers_only=True)
    if run.averaged is not None and settings.average is not None:
        follow = get_ema_multi_avg_fn(settings.average)
        both = list(zip(run.averaged.parameters(), run.net.parameters(), strict=True))
        moving = [(mean, now) for mean, now in both if mean.is_floating_point() or mean.is_complex()]
        follow([mean for mean, _ in moving], [now for _, now in moving], 0)
        for mean, now in zip(run.averaged.buffers(), run.net.buffers(), strict=True):
            mean.copy_(now)
    return *energies, norm


def learn(
    run: Run,
    data: Tensor,
    settings: Settings,
    *,
    checkpoint: str | Path | None = None,
    save_every: int = 50,
    batches: Callable[[], Tensor] | None = None,
) -> Iterator[Record]:
    """Algorithm 1 as an iterator: yields a `Record` after each iteration, from `run.iteration` to the last.

    data         all observed shapes, centred (N, 1, R, R, R); for a network of another kind what it takes, (N, ...)
    checkpoint   a file: where it exists the run resumes from it, bit-equal; it is rewritten every `save_every`
                 iterations and at the end
    batches      gives the rows of the next mini-batch; by itself every shape comes once an epoch, in a fresh order

    Raises `DivergedError` when energies or chains stop being finite, carrying the last good `state` (and `checkpoint`),
    and `CheckpointError` for a file of another run.
    """
    yield from resumable(
        run,
        learner(run, data, settings, batches=batches),
        settings.num_iterations,
        checkpoint=checkpoint,
        save_every=save_every,
        belongs=lambda: run.belongs(data),
        told=vars(settings) | run.options(),
        device=run.generator.device,
    )


def learner(
    run: Run, data: Tensor, settings: Settings, *, batches: Callable[[], Tensor] | None = None
) -> Callable[[], Record]:
    """One iteration of Algorithm 1, to be called again and again; arguments as those of `learn`."""
    check_kind(run, Run, "run must be a Run", "Run.begin(net, starts, settings) begins one")
    check_kind(settings, Settings, *GIVEN)
    check_batch(data, name="the observed shapes", resolution=getattr(run.net, "resolution", None))
    if settings.batch_size > len(data):
        raise ShapeError(f"batch_size is {settings.batch_size}, but there are only {len(data)} observed shapes")
    if (run.averaged is None) != (settings.average is None):
        begun = "without" if run.averaged is None else "with"
        raise ValueError(f"this run was begun {begun} an average of its weights: give `average` at both or at neither")
    if isinstance(run.starts, type):
        raise TypeError(f"starts must be a start, not a class of them: make one, {run.starts.__name__}(...)")
    for name in ("begin", "learn", "state_dict", "load_state_dict"):
        if not callable(getattr(run.starts, name, None)):
            raise TypeError(
                f"a start needs `{name}`: make {type(run.starts).__name__} a subclass of dnet_lib.Starts (chains alone "
                "are Persistent(chains))"
            )
    if isinstance(run.starts, PersistentData) and len(run.starts.chains) != len(data):
        raise ShapeError(f"{len(run.starts.chains)} persistent chains for {len(data)} observed shapes: give one each")
    if len(run._order) and int(run._order.max()) >= len(data):
        run._order = run._order[:0]
    bounds: tuple[float, float] | None = check_bounds(getattr(run.net, "bounds", None))
    if any(parameter.is_inference() for parameter in run.net.parameters()):
        raise ValueError("this network was made in torch.inference_mode and cannot learn: make or load it outside")
    if isinstance(run.net, DescriptorNet):
        low, high = (float(value) for value in data.aminmax())
        if low < -2 or high > 2:
            warnings.warn(
                f"the observed shapes run from {low:g} to {high:g}, and a DescriptorNet is made for centred occupancy, "
                "within [-1, 1]: divide voxels of 0 to 255 by 255, and subtract their mean",
                stacklevel=4,
            )
        elif low >= 0 and high > 0.5:
            warnings.warn("no observed voxel is negative: learn from centred shapes, ShapeSet.centred", stacklevel=4)
    data = (data.clone() if data.is_inference() else data.detach()).to(run.generator.device)
    energy: Any = None
    far = 20 * max(1.0, float(data.abs().max()))

    def iteration() -> Record:
        nonlocal energy, far
        began, here = time.perf_counter(), run.iteration
        if late := run._left_out() - run._aside:
            run._aside |= late
            warnings.warn(
                f"{', '.join(sorted(late))} did not require a gradient when the run began, and will not learn: give "
                "them to run.optimizer.add_param_group, or begin another run",
                stacklevel=4,
            )
        run.index = batches() if batches else run.next_batch(len(data), settings.batch_size)
        try:
            observed = data[run.index]
        except IndexError as error:
            raise ShapeError(f"`batches` must give rows of {len(data)} observed shapes ({error})") from error
        begun: Any = run.starts.begin(observed, run.index, run.generator)
        if not isinstance(begun, tuple) or len(begun) != 2 or not isinstance(begun[0], Tensor):
            raise TypeError(f"{type(run.starts).__name__}.begin must return (first shapes, a projection or None)")
        y, projection = begun
        if not bool(torch.isfinite(y).all()):
            way = f"look at its {type(run.starts).__name__}" + ", or lower the rates" * (here > 0)
            raise DivergedError(f"the run diverged at iteration {here}: its chains' start is not finite: {way}")
        if settings.data_noise:
            observed = observed + settings.data_noise * white_noise(observed, run.generator)
            observed = observed if bounds is None else reflect(observed, *bounds)
        share = Share(len(y))
        projection = share.within(projection)
        if energy is None:
            options: dict[str, Any] = {"fast": settings.fast, "precision": settings.precision, "learning": True}
            energy = freeze(run.net, y[share.rows], num_steps=settings.num_steps, **options)
        frozen = energy.refresh() if isinstance(energy, FrozenNet) else None
        slopes, accepted = [], []
        steps = langevin(
            y[share.rows],
            energy,
            num_steps=settings.num_steps,
            step_size=settings.step_size,
            temperature=settings.temperature(here) if callable(settings.temperature) else settings.temperature,
            metropolis=settings.metropolis,
            projection=projection,
            generator=share.noise(run.generator),
        )
        for y, info in steps:  # noqa: B007
            slopes.append(info.gradient_norm.mean())
            accepted.append(info.accepted.float().mean())
        e_observed, e_synthesized, norm = learning_step(
            run, observed[Share(len(observed)).rows], y, settings, frozen=frozen
        )
        y = share.joined(y)
        run.starts.learn(y)
        eo, es, slope, acceptance = _means(e_observed, e_synthesized, torch.stack(slopes), torch.stack(accepted))
        good = math.isfinite(eo + es + slope + float(norm))
        if good and here + 1 == settings.num_iterations:  # no iteration will come to tell
            good = all(bool(parameter.isfinite().all()) for parameter in run.net.parameters())
        if not good:
            raise DivergedError(
                f"the run diverged at iteration {here}: energies {eo:.3g} (observed), {es:.3g} (synthesized). Lower "
                "the learning rate or the step size"
            )
        if (extent := float(y.abs().max())) > far:
            warnings.warn(
                f"at iteration {here} the chains reach {extent:.3g}, far outside the observed shapes: lower the "
                "learning rate or the step size",
                stacklevel=4,
            )
            far = math.inf  # once is enough
        run.iteration += 1
        run.seconds += time.perf_counter() - began
        gap = (es - eo) / observed[0].numel()
        return Record(run.iteration, es - eo, eo, es, gap, slope, float(norm), acceptance, run.seconds, y)

    return iteration


def _means(e_observed: Tensor, e_synthesized: Tensor, slopes: Tensor, accepted: Tensor) -> list[float]:
    """Means over the shapes and chains of all processes, each weighing as many as it has."""
    n, m = len(e_observed), len(e_synthesized)
    numbers = [e_observed.sum(), e_synthesized.sum(), slopes.mean() * m, accepted.mean() * m]
    sums = total(torch.stack([*numbers, *torch.tensor([n, m], device=slopes.device, dtype=slopes.dtype)]))
    *totals, n, m = sums.tolist()
    return [value / count for value, count in zip(totals, (n, m, m, m), strict=True)]
