"""Several processes that learn one model together (torchrun); a process alone is a world of one."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world() -> int:
    """Number of processes that learn together (torchrun)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def alike(*nets: nn.Module, buffers_only: bool = False) -> None:
    """Give the networks of all processes the first one's tensors."""
    if world() > 1:
        for net in nets:
            for tensor in (*(() if buffers_only else net.parameters()), *net.buffers()):
                dist.broadcast(tensor.data, 0)


def total(values: Tensor) -> Tensor:
    """The sum of all processes' tensors, in place."""
    if world() > 1:
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
    if world() > 1:
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.grad = total(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
