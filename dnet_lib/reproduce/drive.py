"""The two drivers: learn and publish a model of a category, and judge one anew."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dnet_lib.checkpoints import save_model
from dnet_lib.data import ShapeSet
from dnet_lib.presets import Preset
from dnet_lib.pretrained import Pretrained
from dnet_lib.reproduce.workplace import ALL, Facts, Workplace, source


@dataclass(frozen=True)
class Trained:
    """A model just learned, and what made it."""

    model: Pretrained
    shapes: ShapeSet
    seconds: float
    curve: dict[str, list[float]]
    preset: Facts = field(default_factory=dict)  #: What was not as the preset says
    judged: Facts = field(default_factory=dict)  #: What was judged already: chains that no weights can draw again


@dataclass(frozen=True)
class Experiment:
    """An experiment that learns a model of each category and judges it: a row of the table in `experiments`."""

    about: str
    presets: Mapping[str, Preset]  #: By name; the first one is what is used where nothing else is said
    learn: Callable[[Any, str, Workplace], Trained]
    judge: Callable[[Any, str, Pretrained, Workplace], Facts]
    """What is measured of a model: entries of its results file."""
    categories: Callable[[str], tuple[str, ...]]  #: What is learned by a preset where nothing else is said
    shipped: Mapping[str, str] = field(default_factory=dict)
    """The preset that made a category's weights, where it is not the first."""
    prepare: Callable[[Any, Workplace], None] | None = None  #: What is made once, before all categories are learned
    table: Callable[[Preset, Workplace], str] | None = None  #: Printed at the end
    half: bool = True  #: Whether weights are published in half precision
    needs_data: bool = True  #: Whether a model cannot be judged without shapes

    def preset(self, category: str, name: str | None = None) -> Preset:
        """The preset of a name, or the category's."""
        return self.presets[name or self.shipped.get(category, next(iter(self.presets)))]


def holder(preset: Preset, category: str) -> str:
    """Whose weights serve a category: its own, or those of all."""
    return ALL if getattr(preset, "shared", False) else category


def train(experiment: Experiment, preset: Preset, category: str, place: Workplace) -> Facts:
    """Learn a category, publish weights and results, and judge them; resumes from its checkpoint."""
    place.probe(place.runs, place.weights / preset.experiment, place.results / preset.experiment)
    own = holder(preset, category)
    if not (getattr(preset, "shared", False) and place.file(preset.experiment, own).exists()):
        trained = experiment.learn(preset, own, place)
        facts = {
            "metrics": {},
            "paper": {},
            "preset": asdict(preset) | trained.preset,
            "dataset": source(trained.shapes, category=own, num_train=len(trained.shapes)),
            **place.made(trained.seconds),
            "curve": trained.curve,
            **trained.judged,
        }
        card = {name: facts[name] for name in ("preset", "dataset", "seed", "versions")}
        model = replace(trained.model, card=card)
        save_model(place.file(preset.experiment, own), model, half=experiment.half)
        place.save(preset.experiment, own, facts)
        if trained.judged:
            return facts
    return evaluate(experiment, preset, category, place)


def evaluate(experiment: Experiment, preset: Preset, category: str, place: Workplace) -> Facts:
    """Judge a trained model anew, with fresh random numbers; renews its results file, and says with what."""
    place.probe(place.results / preset.experiment)
    model = place.model(preset.experiment, holder(preset, category))
    known = {"metrics": {}, **model.card} | place.known(preset.experiment, category)
    found = experiment.judge(preset, category, model, place)
    metrics = (known["metrics"] if place.data is None else {}) | found["metrics"]
    dataset = None
    if place.data is not None:
        test = place.shapes(category, "test", preset.architecture.resolution)
        dataset = source(test, category=category, num_test=len(test))
    facts = known | found | {"metrics": metrics, "judged": {"seed": place.seed, "dataset": dataset}}
    return place.save(preset.experiment, category, facts)
