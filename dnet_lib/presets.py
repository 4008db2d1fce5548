"""Every number of the experiments: one frozen preset an experiment and scale."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Self, TypeVar

from dnet_lib.energy import COMPACT_LAYERS, Architecture
from dnet_lib.generator import Layout
from dnet_lib.learning import Settings
from dnet_lib.pretrained import Chain
from dnet_lib.schedules import Decay, Switch
from dnet_lib.starts import Corrupted, LowResolution


@dataclass(frozen=True, kw_only=True)
class Named:
    """What every preset says."""

    name: str
    source: str
    experiment: str  #: Folder of its weights and results
    weight_std: float = 0.001  #: Standard deviation of the descriptor's first weights


@dataclass(frozen=True)
class CoarseStart:
    """Chains start from a Gaussian fitted to shapes down-scaled by `scale`, with `rank` principal axes."""

    scale: int = 2
    rank: int = 64
    temperature: float = 0.36
    components: int = 1  #: Gaussians of the mixture
    balanced: bool = False
    """Whether the trained model is sampled with every Gaussian equally often, not as often as in the training set."""


@dataclass(frozen=True, kw_only=True)
class Synthesis(Named):
    """An experiment of section 6.1: synthesis of one category, or of all together, by Algorithm 1."""

    architecture: Architecture
    settings: Settings
    num_chains: int
    start: CoarseStart | None = None
    """Where chains start anew at every iteration; None for persistent chains begun as white noise N(0, 1)."""
    per_iteration: int | None = None  #: Persistent chains that an iteration revises; None for all
    sampling: Chain  #: The chain that samples the trained model from scratch


PAPER = Synthesis(
    name="paper",
    source="section 6.1 as written",
    experiment="synthesis_paper",
    architecture=Architecture(32),
    settings=Settings(temperature=Switch(1.0, 0.0, at=100)),
    num_chains=25,
    sampling=Chain(num_steps=1000, step_size=0.1),
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
    experiment="synthesis",
    architecture=Architecture(32, COMPACT_LAYERS[32]),
    settings=Settings(420, 20, 0.05, 0.0, batch_size=24, learning_rate=Decay(5e-4, 2e-5, over=420), average=0.99),
    num_chains=16,
    start=CoarseStart(),
    sampling=Chain(num_steps=20, step_size=0.05),
)

GROUPS = replace(
    CPU,
    name="groups",
    source="this library: as cpu, but chains start from twelve Gaussians, for categories that fall into kinds",
    start=CoarseStart(components=12),
)

MIXED = replace(
    CPU,
    name="mixed",
    source="this library: all categories in one model, nobody says which shape is what; about half an hour on one core",
    settings=replace(CPU.settings, num_iterations=600, batch_size=32, learning_rate=Decay(5e-4, 2e-5, over=600)),
    num_chains=20,
    start=CoarseStart(components=20, balanced=True),
)

SYNTHESIS = {preset.name: preset for preset in (CPU, GROUPS, MIXED, NIGHT, PAPER, AUTHORS)}
SHIPPED = {"table": "groups", "all": "mixed"}  #: The preset that made a category's weights, where it is not "cpu"


@dataclass(frozen=True, kw_only=True)
class Conditional(Named):
    """An experiment of section 6.2 or 6.3: learn to complete corrupted or low-resolution shapes, Algorithms 4 and 5."""

    architecture: Architecture
    settings: Settings
    starts: Corrupted | LowResolution
    first: Settings | None = None
    """How one model of all categories is learned first; each category's model starts from its weights."""
    shared: bool = False  #: Whether that one model serves every category, and nothing else is learned

    @property
    def whole(self) -> Self | None:
        """How one model of all categories is learned, where there is one, first or alone."""
        return self if self.shared else replace(self, settings=self.first, first=None) if self.first else None

    @property
    def sampling(self) -> Chain:
        """The chain that completes a shape: as in learning."""
        return Chain(self.settings.num_steps, self.settings.step_size, temperature=0.0)


def _ours(num_iterations: int, rate: float, chain: Chain, average: float = 0.97) -> Settings:
    """Chains as the trained model runs them, and a rate that falls to a twentieth."""
    return Settings(
        num_iterations,
        **asdict(chain),
        batch_size=16,
        learning_rate=Decay(rate, rate / 20, over=num_iterations),
        max_gradient=300.0,
        average=average,
    )


_FEW = Chain(6, 0.25)  # few long steps without noise: as good as twenty short ones, in less than half of the time

PAPER_3 = Conditional(
    name="paper3",
    source="section 6.2, 3-layer network; no noise, as in the authors' code",
    experiment="recovery_paper",
    architecture=Architecture(32),
    settings=Settings(num_iterations=1000, num_steps=90, step_size=0.07, temperature=0.0, batch_size=50),
    starts=Corrupted(0.7),
)

PAPER_2 = replace(
    PAPER_3,
    name="paper2",
    source="section 6.2, 2-layer network; no noise, as in the authors' code",
    experiment="recovery_paper2",
    architecture=Architecture(32, ((100, 16, 3),)),
)

FULL = Conditional(
    name="full",
    source="this library: a compact descriptor of shapes that fill the grid; all categories first, then each",
    experiment="recovery",
    weight_std=0.02,
    architecture=Architecture(32, COMPACT_LAYERS[32], "silu"),
    settings=_ours(160, 1e-3, _FEW),
    starts=Corrupted(0.7),
    first=_ours(900, 3e-3, _FEW),
)

BOX = replace(
    FULL,
    name="box",
    source="this library: one compact descriptor for all categories, in the 24^3 box that 3D ShapeNets' shapes fill",
    experiment="recovery_box",
    architecture=Architecture(24, COMPACT_LAYERS[24], "silu"),
    settings=_ours(900, 2.5e-3, Chain(8, 0.2)),
    first=None,
    shared=True,
)

PAPER_SUPER = replace(
    PAPER_3,
    name="paper",
    source="section 6.3: 16^3 -> 64^3, 2-layer network; batch, rate and iterations, left open, as in section 6.2",
    experiment="superresolution_paper",
    architecture=Architecture(64, ((200, 16, 3),)),
    settings=replace(PAPER_3.settings, num_steps=10, step_size=0.01),
    starts=LowResolution(4),
)

SUPER = replace(
    FULL,
    name="cpu",
    source="this library: 8^3 -> 32^3 by a compact descriptor",
    experiment="superresolution",
    settings=_ours(300, 3e-3, _FEW),
    starts=LowResolution(4),
    first=None,
)

SUPER_64 = replace(
    SUPER,
    name="cpu64",
    source="this library: 16^3 -> 64^3 by a compact descriptor, for procedural shapes on two cores",
    experiment="superresolution64",
    architecture=Architecture(64, COMPACT_LAYERS[64], "silu"),
    settings=replace(_ours(160, 3e-3, _FEW), batch_size=8),
)

RECOVERY = {preset.name: preset for preset in (FULL, BOX, PAPER_3, PAPER_2)}
SUPERRESOLUTION = {preset.name: preset for preset in (SUPER, SUPER_64, PAPER_SUPER)}


@dataclass(frozen=True, kw_only=True)
class MultiGrid(Named):
    """An experiment of section 6.6: synthesis by Algorithm 2, one descriptor a grid."""

    grids: tuple[Architecture, ...]  #: Coarse to fine
    settings: tuple[Settings, ...]  #: Of each grid
    sampling: tuple[Chain, ...]  #: The chains that sample the trained grids from scratch

    @property
    def architecture(self) -> Architecture:
        """The finest grid's."""
        return self.grids[-1]


PAPER_GRIDS = MultiGrid(
    name="paper",
    source="section 6.6; the paper's learning rate, 0.3, belongs to another optimizer: Adam's 0.001 is ours",
    experiment="multigrid_paper",
    grids=tuple(Architecture(side, ((100, 5, stride),)) for side, stride in ((4, 3), (16, 3), (32, 1), (64, 1))),
    settings=(Settings(num_steps=10, step_size=0.3, batch_size=100),) * 4,
    sampling=(Chain(30, 0.3, 1.0),) * 4,
)

_CLIMB = Chain(30, 0.1, 0.006), Chain(20, 0.1, 0.003), Chain(10, 0.15, 0.0005), _FEW

GRIDS = MultiGrid(
    name="cpu",
    source="this library: 4^3, 8^3, 16^3, 32^3 by compact descriptors; noise on coarse grids only",
    experiment="multigrid",
    weight_std=0.02,
    grids=(
        Architecture(4, ((128, 4, 4), (64, 1, 1)), "silu"),
        Architecture(8, ((48, 4, 2), (64, 4, 4)), "silu"),
        *(Architecture(side, COMPACT_LAYERS[side], "silu") for side in (16, 32)),
    ),
    settings=tuple(_ours(700, rate, chain, 0.98) for rate, chain in zip((3e-3, 3e-3, 2e-3, 1e-3), _CLIMB, strict=True)),
    sampling=_CLIMB,
)

GRIDS_64 = replace(
    GRIDS,
    name="cpu64",
    source="this library: one more grid, 64^3, whose first layer looks at 8^3 voxels; for procedural shapes",
    experiment="multigrid64",
    grids=(*GRIDS.grids, Architecture(64, ((32, 8, 4), (64, 4, 2), (96, 4, 2)), "silu")),
    settings=(*GRIDS.settings, GRIDS.settings[-1]),
    sampling=(*_CLIMB, _FEW),
)

FINEST = Synthesis(
    name="cpu",
    source="this library: Algorithm 1 on the finest grid of multi-grid's cpu alone, to be compared with it",
    experiment="budget",
    weight_std=GRIDS.weight_std,
    architecture=GRIDS.architecture,
    settings=GRIDS.settings[-1],
    num_chains=64,
    per_iteration=16,
    sampling=GRIDS.sampling[-1],
)

MULTIGRID = {preset.name: preset for preset in (GRIDS, GRIDS_64, PAPER_GRIDS)}


@dataclass(frozen=True, kw_only=True)
class Cooperative(Named):
    """An experiment of section 6.4: a descriptor and the generator it teaches, Algorithm 3."""

    architecture: Architecture  #: Of the descriptor
    layout: Layout  #: Of the generator
    settings: Settings  #: Of the descriptor
    num_chains: int
    learning_rate: float  #: Of the generator
    betas: tuple[float, float] = (0.6, 0.999)  #: Adam's, of the generator
    sigma: float = 0.0  #: Standard deviation of eps in eq. (20).
    sampling: Chain  #: The chain that revises the trained generator's proposals


PAPER_TEACHING = Cooperative(
    name="paper",
    source="section 6.4; steps and their size, which it leaves open, as in section 6.1",
    experiment="cooperative_paper",
    architecture=Architecture(32, ((64, 9, 2), (128, 7, 2), (256, 4, 2))),
    layout=Layout(),
    settings=Settings(batch_size=50, betas=(0.4, 0.999)),
    num_chains=50,
    learning_rate=0.0003,
    sampling=Chain(20, 0.1, 1.0),
)

TEACHING = Cooperative(
    name="cpu",
    source="this library: compact networks, noise-free chains of few long steps; 20 minutes on one core",
    experiment="cooperative",
    weight_std=0.02,
    architecture=Architecture(32, COMPACT_LAYERS[32], "silu"),
    layout=Layout(channels=(96, 64, 32)),
    settings=replace(_ours(900, 3e-3, Chain(8, 0.2), average=0.98), learning_rate=Decay(3e-3, 7e-4, over=900)),
    num_chains=16,
    learning_rate=0.001,
    sampling=Chain(8, 0.2),
)

GENTLE_TEACHING = replace(
    TEACHING,
    name="gentle",
    source="as cpu, with half the teacher's learning rate, for shapes that fill their grid",
    settings=replace(TEACHING.settings, learning_rate=Decay(1.5e-3, 5e-4, over=900)),
)

COOPERATIVE = {preset.name: preset for preset in (TEACHING, GENTLE_TEACHING, PAPER_TEACHING)}

Preset = Synthesis | Conditional | MultiGrid | Cooperative
AnyPreset = TypeVar("AnyPreset", bound=Preset)


def changed(preset: AnyPreset, how: str, change: Callable[[Settings], Settings]) -> AnyPreset:
    """The same experiment with all its settings changed alike; its name says how."""
    own: Any = preset.settings
    changes: dict[str, Any] = {"settings": change(own) if isinstance(own, Settings) else tuple(map(change, own))}
    if isinstance(preset, Conditional) and preset.first is not None:
        changes["first"] = change(preset.first)
    return replace(preset, name=f"{preset.name}-{how}", **changes)


def shortened(preset: AnyPreset, num_iterations: int) -> AnyPreset:
    """The same experiment over fewer iterations (or more); rates that fall do so in the new time."""

    def short(settings: Settings) -> Settings:
        rate = settings.learning_rate
        rate = replace(rate, over=num_iterations) if isinstance(rate, Decay) else rate
        return replace(settings, num_iterations=num_iterations, learning_rate=rate)

    return changed(preset, str(num_iterations), short)
