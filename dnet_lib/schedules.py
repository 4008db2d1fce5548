"""Numbers that change from iteration to iteration: learning rates and temperatures."""

import math
from dataclasses import dataclass

from dnet_lib.checks import check_real, check_whole


@dataclass(frozen=True)
class Switch:
    """`before` during the first `at` iterations, `after` from then on."""

    before: float
    after: float
    at: int

    def __post_init__(self) -> None:
        check_whole(self.at, "at, the iteration of the switch,")
        for value in (self.before, self.after):
            check_real(value, "before and after", -math.inf)

    def __call__(self, iteration: int) -> float:
        return self.before if iteration < self.at else self.after


@dataclass(frozen=True)
class Decay:
    """A straight line from `first` to `last` at iteration `over`, constant after."""

    first: float
    last: float
    over: int

    def __post_init__(self) -> None:
        check_whole(self.over, "over, the iterations that a rate takes to fall,", 1)
        for value in (self.first, self.last):
            check_real(value, "first and last", -math.inf)

    def __call__(self, iteration: int) -> float:
        return self.first + (self.last - self.first) * min(iteration / self.over, 1)
