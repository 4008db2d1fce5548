"""Every number of the experiments: one frozen preset an experiment and scale."""

from dataclasses import dataclass, replace

from dnet_lib.energy import Architecture
from dnet_lib.learning import Settings


@dataclass(frozen=True)
class Switch:
    """A schedule over iterations: `before` during the first `at`, `after` from then on."""

    before: float
    after: float
    at: int

    def __call__(self, iteration: int) -> float:
        return self.before if iteration < self.at else self.after


@dataclass(frozen=True)
class GridPreset:
    """How one grid's descriptor is trained, and how its chain is run afterwards."""

    architecture: Architecture
    settings: Settings
    num_chains: int
    """Chains revised each iteration."""
    start_std: float = 1.0
    """Standard deviation of the noise a chain begins with (coarsest grid) or that is added to an up-scaled start."""
    persistent: bool = True
    """Coarsest grid: whether chains persist between iterations (Algorithm 1) or begin anew as noise."""
    pool: int = 512
    """Finer grids: how many coarse samples are drawn once, to be up-scaled into starts."""
    sampling_steps: int = 20
    """Langevin steps of this grid when sampling from scratch."""


@dataclass(frozen=True)
class SynthesisPreset:
    """An experiment of section 6.1: one grid, or several trained one after the other, coarse to fine."""

    name: str
    source: str
    grids: tuple[GridPreset, ...]


PAPER = SynthesisPreset(
    "paper",
    "section 6.1 of the paper, as written",
    (GridPreset(Architecture(32), Settings(temperature=Switch(1.0, 0.0, 100)), num_chains=25),),
)

AUTHORS = SynthesisPreset(
    "authors",
    "the authors' 2018 code: step size 0.1^2 and learning rate 0.01; its epochs are iterations here",
    (
        replace(
            PAPER.grids[0],
            settings=replace(PAPER.grids[0].settings, step_size=0.01, learning_rate=0.01),
        ),
    ),
)
