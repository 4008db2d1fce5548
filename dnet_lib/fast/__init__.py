"""Frozen weights, the fast path of chains and learning, behind `freeze`.

`convolutions` and `direct` compute, `count` chooses, `frozen` puts them together.
"""

from dnet_lib.fast.count import cost, geometry, plan
from dnet_lib.fast.frozen import FrozenNet, check_precision, freeze, has_bfloat16

__all__ = ["FrozenNet", "check_precision", "cost", "freeze", "geometry", "has_bfloat16", "plan"]
