"""Every number of the experiments: one frozen preset an experiment and scale."""

from dataclasses import dataclass, replace

from dnet_lib.checkpoints import Chain
from dnet_lib.energy import COMPACT_LAYERS, Architecture
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
class Decay:
    """A schedule over iterations: a straight line from `first` to `last` at iteration `over`, constant after."""

    first: float
    last: float
    over: int

    def __call__(self, iteration: int) -> float:
        return self.first + (self.last - self.first) * min(iteration / self.over, 1)


@dataclass(frozen=True)
class CoarseStart:
    """Chains start from a Gaussian fitted to shapes down-scaled by `scale`, with `rank` principal axes."""

    scale: int = 2
    rank: int = 64
    temperature: float = 0.36


@dataclass(frozen=True)
class Synthesis:
    """An experiment of section 6.1: synthesis of one category by Algorithm 1."""

    name: str
    source: str
    architecture: Architecture
    settings: Settings
    num_chains: int
    start: CoarseStart | None
    """Where chains start anew at every iteration; None for persistent chains begun as white noise N(0, 1)."""
    sampling: Chain
    """The chain that samples the trained model from scratch."""
    experiment: str = "synthesis"
    """Folder of its weights and results."""


PAPER = Synthesis(
    name="paper",
    source="section 6.1 as written",
    architecture=Architecture(32),
    settings=Settings(temperature=Switch(1.0, 0.0, at=100)),
    num_chains=25,
    start=None,
    sampling=Chain(num_steps=1000, step_size=0.1),
    experiment="synthesis_paper",
)

AUTHORS = replace(
    PAPER,
    name="authors",
    source="the authors' 2018 code: step size 0.1^2 and learning rate 0.01",
    settings=replace(PAPER.settings, step_size=0.01, learning_rate=0.01),
    sampling=Chain(num_steps=1000, step_size=0.01),
)

NIGHT = replace(
    AUTHORS,
    name="night",
    source="section 6.1 with the authors' step size (at 0.1 all chains end in one shape), for a night on two cores",
    settings=replace(AUTHORS.settings, learning_rate=PAPER.settings.learning_rate, num_iterations=500),
)

CPU = Synthesis(
    name="cpu",
    source="this library: a compact descriptor and a coarse start, for about 15 minutes on one core",
    architecture=Architecture(32, COMPACT_LAYERS[32]),
    settings=Settings(
        num_iterations=420,
        num_steps=20,
        step_size=0.05,
        temperature=0.0,
        batch_size=24,
        learning_rate=Decay(5e-4, 2e-5, over=420),
        average=0.99,
    ),
    num_chains=16,
    start=CoarseStart(),
    sampling=Chain(num_steps=20, step_size=0.05),
)

SYNTHESIS = {preset.name: preset for preset in (CPU, NIGHT, PAPER, AUTHORS)}
