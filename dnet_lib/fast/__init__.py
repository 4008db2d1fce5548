"""Frozen weights, the fast path of chains and learning: `convolutions` computes, `frozen` chooses, behind `freeze`."""

from dnet_lib.fast.frozen import FrozenNet, cost, freeze, geometry, plan

__all__ = ["FrozenNet", "cost", "freeze", "geometry", "plan"]
