"""One loop that can be interrupted: every learning of the library runs in it.

It owns what such a loop must never get wrong: the last good state, the file that holds it, what that file belongs to,
and where the run goes on.
"""

import copy
import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from dnet_lib.checks import check_whole
from dnet_lib.errors import CheckpointError, DivergedError
from dnet_lib.files import atomic_write, check_folders
from dnet_lib.processes import gathered, rank, world

FORMAT = "dnet_lib run 2"
KEPT = ("net", "averaged")  #: Where a state's networks stand: as they learn, and averaged
Record = TypeVar("Record")


class Resumable(Protocol):
    """A run: what one iteration changes, all of it in `state_dict`."""

    first: str | None  #: What stands for its first weights, known from its first iteration on

    @property
    def iteration(self) -> int:
        """Iterations done."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Copies of plain tensors, numbers and their containers: enough to go on bit-equal."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict()` was taken; `state` itself stays as it is."""


class Parts:
    """A run of named parts: modules, optimizers, schedules, generators, and plain values that a step may set anew."""

    first: str | None = None

    def __init__(self, **parts: Any):
        self.iteration = 0
        self.names = ("iteration", *parts)
        vars(self).update(parts)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"there is no part {name!r}")

    def state_dict(self) -> dict[str, Any]:
        return capture({name: getattr(self, name) for name in self.names})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        parts = {name: getattr(self, name) for name in self.names}
        wholly(self, lambda own: vars(self).update(reinstate(parts, own)), state)


def capture(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The states of named parts, copied: of those with a `state_dict`, of generators, and of plain values."""
    states = {}
    for name, part in parts.items():
        own = part.get_state if isinstance(part, torch.Generator) else getattr(part, "state_dict", None)
        states[name] = part if own is None else own()
    return copy.deepcopy(states)


def reinstate(parts: Mapping[str, Any], states: Mapping[str, Any]) -> dict[str, Any]:
    """Give named parts back what `capture` took; returns the plain values, which the caller sets. Both are copied."""
    plain = {}
    for name, part in parts.items():
        state = copy.deepcopy(states[name])
        if isinstance(part, torch.Generator):
            part.set_state(state.cpu())
        elif hasattr(part, "load_state_dict"):
            part.load_state_dict(state)
        else:
            plain[name] = state
    return plain


def wholly(run: Resumable, put: Callable[[dict[str, Any]], None], state: dict[str, Any]) -> None:
    """`put` a state into a run wholly or, where it does not fit, not at all: then `CheckpointError`."""
    with torch.inference_mode(False), torch.no_grad():  # what is put may have to learn
        before = run.state_dict()
        try:
            put(state)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            put(before)
            if isinstance(error, CheckpointError):
                raise
            why = f"it holds no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise CheckpointError(f"this is the state of another run ({why}): nothing was taken from it") from error


def remember(optimizer: torch.optim.Optimizer, state: dict[str, Any], *, but: Sequence[str] = ()) -> None:
    """Give an optimizer its memory back; its own rates and other numbers stay as they are now, `but` some."""
    own = [{k: v for k, v in group.items() if k not in ("params", *but)} for group in optimizer.param_groups]
    for now, then in zip(own, state["param_groups"], strict=False):
        for name in ("amsgrad", "centered"):  # which need more memory
            if state["state"] and now.get(name) and not then.get(name):
                raise ValueError(f"its optimizer learned without {name}")
    optimizer.load_state_dict(state)
    for group, numbers in zip(optimizer.param_groups, own, strict=True):
        group.update(numbers)


def resumable(
    run: Resumable,
    step: Callable[[], Record],
    num_iterations: int,
    *,
    checkpoint: str | Path | None = None,
    save_every: int = 50,
    belongs: Callable[[], dict[str, Any]] = dict,
    told: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    late: bool = True,
) -> Iterator[Record]:
    """Iterate `step`, which advances `run` by one iteration, up to `num_iterations`; yields what each step returns.

    A step is done wholly or not at all: where it is cut short, by Ctrl-C or an error, the run stands before it.

    checkpoint  a file: where it exists the run goes on from it; it is rewritten every `save_every` iterations and at
                the end
    late        write a state only when the iteration after it has shown that it is good; else at once
    belongs     what the file must belong to for this run to go on from it: data, network, ... (asked once)
    told        settings that may differ when a run goes on; a warning names those that do (functions by a value, too)

    After a `DivergedError` of a step the run and the file stand at the last good state, which the error carries. Raises
    `CheckpointError` for a file that is broken or of another run, before anything of it or of the run is changed.
    """
    check_whole(save_every, "save_every", 1)
    check_whole(num_iterations, "the number of iterations")
    about: dict[str, Any] = {}
    if checkpoint is not None:
        if Path(checkpoint).is_dir():
            raise CheckpointError(f"{checkpoint} is a folder: name a file in it")
        check_folders(Path(os.path.realpath(checkpoint)).parent)
        about = {"belongs": belongs(), "told": told or {}}
    about["first"] = run.first if run.iteration else weights_of(run.state_dict())
    known = checkpoint is not None and Path(checkpoint).exists()
    if checkpoint is not None and known:
        resume(run, checkpoint, about, device)
    good = run.state_dict()
    if checkpoint is not None:
        check_readable(good)
        if not known and run.iteration >= num_iterations:
            write_state(good, checkpoint, about)
    while run.iteration < num_iterations:
        before, due = run.state_dict(), late and run.iteration % save_every == 0
        candidate = before if due else good
        if torch.is_inference_mode_enabled():
            raise ValueError("nothing can be learned in torch.inference_mode: leave it (no_grad may stay)")
        try:
            with torch.enable_grad():
                record = step()
        except DivergedError as error:
            run.load_state_dict(good)
            error.state, where = good, ".state"
            if checkpoint is not None:
                write_state(good, checkpoint, about)
                error.checkpoint, where = str(checkpoint), f".state and in {checkpoint}"
            error.args = (f"{error}. The last good state, of iteration {good['iteration']}, is in {where}",)
            raise
        except BaseException:
            run.load_state_dict(before)
            raise
        run.first = about["first"] if before["iteration"] == 0 else run.first
        now = run.iteration == num_iterations or (not late and run.iteration % save_every == 0)
        good = run.state_dict() if now else candidate
        if checkpoint is not None and (due or now):
            write_state(good, checkpoint, about)
        yield record


def resume(run: Resumable, checkpoint: str | Path, about: dict[str, Any], device: torch.device | str) -> None:
    """Let a run go on from its file; a run that is further than the file stays where it is."""
    state, written = read_state(checkpoint, device)
    refusal = "{0} is the checkpoint of another run ({1}): give this run a file of its own"
    ours, theirs = about["belongs"], written.get("belongs", {})
    differ = [f"{k}: {theirs.get(k)}, not {ours.get(k)}" for k in {**theirs, **ours} if theirs.get(k) != ours.get(k)]
    if differ:
        raise CheckpointError(refusal.format(checkpoint, "; ".join(differ)))
    first, about["first"] = about["first"], written.get("first")  # what is written again
    strange, own = None not in (first, about["first"]) and first != about["first"], run.iteration
    if strange and own:
        why = f"it did not begin with the first weights of this one, which has done {own} iterations"
        raise CheckpointError(refusal.format(checkpoint, why))
    ours, theirs = plain(about["told"], state["iteration"]), written.get("told", {})
    changed = [f"{k} {ours[k]} (before: {theirs[k]})" for k in ours if k in theirs and theirs[k] != ours[k]]
    if changed:
        warnings.warn(f"{checkpoint} goes on with other settings: {', '.join(changed)}", stacklevel=4)
    if strange and first not in map(partial(weights_of, state), KEPT):
        warnings.warn(
            f"{checkpoint} goes on with the weights that it holds: this network's are neither those nor those it began "
            "with. To learn from these, give the run a file of its own",
            stacklevel=4,
        )
    if state["iteration"] < own:
        return
    if own and weights_of(state) != weights_of(run.state_dict()):
        warnings.warn(
            f"{checkpoint} goes on from its own iteration {state['iteration']}: this run's {own} iterations led "
            "elsewhere, and are dropped. To go on from them, give the run a file of its own",
            stacklevel=4,
        )
    try:
        wholly(run, run.load_state_dict, state)
    except CheckpointError as error:
        raise CheckpointError(refusal.format(checkpoint, error.__cause__ or error)) from error


def weights_of(state: Any, name: str = "net") -> str:
    """Sixteen digits that stand for the tensors of all networks in a run's state; `name` says where they stand."""

    def networks(part: Any, inside: bool = False) -> Iterator[Tensor]:
        if isinstance(part, Tensor) and inside:
            yield part
        pairs: Any = part.items() if isinstance(part, Mapping) else enumerate(part if isinstance(part, list) else ())
        for key, value in pairs:
            yield from networks(value, inside or key == name)

    return fingerprint(*networks(state))


def check_readable(state: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` naming a part of a state that could be written but not read back."""
    for name, part in state.items():
        buffer = io.BytesIO()
        try:
            torch.save(part, buffer)
            torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
        except Exception as error:
            raise CheckpointError(
                f"{name!r} of this run's state cannot be read back from a file: a state holds tensors, numbers, text "
                "and containers of these (make NumPy's values plain)"
            ) from error


def write_state(state: dict[str, Any], path: str | Path, about: Mapping[str, Any]) -> None:
    """Write a run's state beside `path`, then rename; of several processes the first writes what all of them hold."""
    held = gathered(dict(about) | {"told": plain(about.get("told", {}), state["iteration"]), "state": state})
    if rank() == 0:
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, "processes": held}, buffer)
        content = buffer.getvalue()
        with atomic_write(path) as part:
            part.write_bytes(content + hashlib.sha256(content).digest())


def read_state(path: str | Path, device: torch.device | str = "cpu") -> tuple[dict[str, Any], dict[str, Any]]:
    """This process's state in a file of `write_state`, and what the file belongs to.

    Raises `CheckpointError` naming a file that is damaged, of an earlier version, or none at all.
    """
    content = Path(path).read_bytes()
    whole = hashlib.sha256(content[:-32]).digest() == content[-32:]
    try:
        held = torch.load(io.BytesIO(content[:-32] if whole else content), map_location=device, weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        if whole:
            raise
        raise CheckpointError(
            f"{path} cannot be read as the checkpoint of a learning run: name another file, or, if it was one, it is "
            "damaged"
        ) from error
    if isinstance(held, list) and held and all(isinstance(own, dict) and "iteration" in own for own in held):
        raise CheckpointError(f"{path} was written by an earlier version of the library: delete it to begin anew")
    if not isinstance(held, dict) or held.get("format") != FORMAT:
        raise CheckpointError(f"{path} is a file of torch.save, but no checkpoint of a learning run: name another file")
    if not whole:
        raise CheckpointError(f"{path} is damaged: name another file, or delete it to begin anew")
    count = len(held["processes"])
    if count != world():
        raise CheckpointError(f"{path} was written by {count} processes, and these are {world()}: start as many")
    own = held["processes"][rank()]
    return own.pop("state"), own


def plain(settings: Mapping[str, Any], done: int = 0) -> dict[str, str]:
    """Settings as text that is the same in every process; functions by their names and their last value."""
    last = max(done - 1, 0)
    return {
        name: f"{getattr(value, '__qualname__', '')} ({value(last)!r} at iteration {last})"
        if callable(value) and not is_dataclass(value)
        else repr(value.item() if isinstance(value, np.generic) else value)
        for name, value in settings.items()
    }


def fingerprint(*tensors: Tensor) -> str:
    """Sixteen digits that stand for tensors: sizes, dtypes and every bit."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def described(net: nn.Module) -> str:
    """A network in few words: kind, size, and a hash of its print, its tensors' sizes and dtypes, what is learned."""
    state = {name: t for name, t in net.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
    told = [(name, tuple(t.shape), t.dtype, t.requires_grad) for name, t in state.items()]
    digest = hashlib.sha256(f"{net!r} {told}".encode()).hexdigest()[:8]
    return f"{type(net).__name__} of {sum(t.numel() for t in state.values()):,} numbers ({digest})"
