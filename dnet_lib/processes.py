"""Several processes that learn one model together (torchrun); a process alone is a world of one.

They share the work in one of two ways. By itself each brings shapes, chains and noise of its own, and gradients are
summed. Inside `as_one` all do what one process does, with the same random numbers, and each computes its share of every
batch: the result is that of one process, up to the order of sums.
"""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_AS_ONE = [False]


def _count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _number() -> int:
    return dist.get_rank() if _count() > 1 else 0


@contextmanager
def as_one(device: torch.device | str = "cpu") -> Iterator[None]:
    """Let the processes that torchrun started work as one; where it started none, nothing changes.

    Chains of a `torch.nn.Module` (learning, `sample`, every `Pretrained`) and the judges' batches are split, everything
    else is done by all alike, and the first process alone writes files: all must read the same folders. A process that
    dies ends the run; the same command resumes it, with as many processes or another number. Networks that mix the rows
    of a batch, or draw random numbers of their own, do so within a share.

    device  where they compute: gloo joins CPUs, nccl GPUs ("cuda": each process takes the GPU of its number)
    """
    begun = dist.is_available() and not dist.is_initialized() and dist.is_torchelastic_launched()
    if begun:
        if str(device).startswith("cuda"):
            here, own = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
            if str(device) != "cuda" or own >= here:
                raise ValueError(
                    f"under torchrun each process takes a GPU of its own, and this machine has {here}: give the device "
                    "as cuda, and start at most as many processes"
                )
            torch.cuda.set_device(own)
        dist.init_process_group()
    before, _AS_ONE[0] = _AS_ONE[0], True
    try:
        yield
    finally:
        _AS_ONE[0] = before
    if begun:  # only at the end, when all is well: a group that is made twice may wait for itself
        atexit.register(dist.destroy_process_group)


def num_processes() -> int:
    """Number of processes that work as one."""
    return _count() if _AS_ONE[0] else 1


def first() -> bool:
    """Whether this process speaks and writes: of those that work as one, the first does."""
    return num_processes() == 1 or _number() == 0


def meet() -> None:
    """Wait for all processes that work as one."""
    if num_processes() > 1:
        total(torch.zeros(1))


def world() -> int:
    """Number of processes that learn together (torchrun), each with its own shapes: those that work as one are one."""
    return 1 if _AS_ONE[0] else _count()


def rank() -> int:
    """Which of them this one is."""
    return 0 if _AS_ONE[0] else _number()


class Share:
    """The rows of a batch of `count` that this process computes: all; where processes work as one some."""

    def __init__(self, count: int, split: bool = True):
        n = num_processes()
        self.count, self.split = count, split and 1 < n <= count
        i, n = (_number(), n) if self.split else (0, 1)
        self.rows = slice(count * i // n, count * (i + 1) // n)

    def noise(self, generator: Any) -> Any:
        """The random numbers of these rows: those of the whole batch are drawn, as one process draws them."""
        return Rows(self, generator) if self.split else generator

    def within(self, projection: Any) -> Any:
        """A projection of the whole batch, of these rows."""

        def own(delta: Tensor) -> Tensor:
            projected: Tensor = projection(self._whole(delta))
            return projected[self.rows]

        return own if self.split and callable(projection) else projection

    def joined(self, part: Tensor) -> Tensor:
        """The whole batch, of what each process has of it."""
        return total(self._whole(part)) if self.split else part

    def _whole(self, part: Tensor) -> Tensor:
        whole = part.new_zeros(self.count, *part.shape[1:])
        whole[self.rows] = part
        return whole


@dataclass(frozen=True)
class Rows:
    """A generator, or one a chain, of a whole batch, of which a process takes its share."""

    share: Share
    generator: Any


def alike(*nets: nn.Module, buffers_only: bool = False) -> None:
    """Give the networks of all processes the first one's tensors."""
    if _count() > 1:
        for net in nets:
            for tensor in (*(() if buffers_only else net.parameters()), *net.buffers()):
                dist.broadcast(tensor.data, 0)


def total(values: Tensor) -> Tensor:
    """The sum of all processes' tensors, in place."""
    if _count() > 1:
        dist.all_reduce(values)
    return values


def gathered(own: Any) -> list[Any]:
    """What each process brings, in every process."""
    everything = [own] * world()
    if world() > 1:
        dist.all_gather_object(everything, own)
    return everything


def share_gradients(net: nn.Module) -> None:
    """Sum the gradients of all processes."""
    if _count() > 1:
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.grad = total(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
