"""The long runs, made short: curves, interruptions, and what they leave behind."""

import base64
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import TINY, at

from dnet_lib import Architecture, CheckpointError, load_model, load_results, load_shapes
from dnet_lib.generator import Layout
from dnet_lib.learning import Settings
from dnet_lib.presets import CPU, FINEST, FULL, GRIDS, PAPER, TEACHING, CoarseStart, Conditional, Synthesis, shortened
from dnet_lib.pretrained import Chain
from dnet_lib.reproduce import __main__, budget, drive, lessons, workplace
from dnet_lib.reproduce.drive import LEARNING, evaluate, train
from dnet_lib.reproduce.experiments import EXPERIMENTS
from dnet_lib.reproduce.workplace import Workplace

SETTINGS = Settings(num_iterations=24, num_steps=4, step_size=0.02, temperature=0.0, batch_size=8)
PRESETS = {
    "coarse": replace(CPU, architecture=TINY, settings=SETTINGS, start=CoarseStart(rank=8), num_chains=4),
    "persistent": replace(PAPER, architecture=TINY, settings=SETTINGS, num_chains=5),
}


def run(preset: Synthesis, folder) -> dict:
    return train(EXPERIMENTS["synthesis"], preset, "toilet", at(folder))


@pytest.mark.parametrize("name", PRESETS)
def test_an_interrupted_run_ends_as_if_it_had_not_been(name, tmp_path, monkeypatch):
    preset = PRESETS[name]
    whole = run(preset, tmp_path / "whole")
    count = 0

    def interrupted(synthesized, shapes):
        nonlocal count
        count += 1
        if count == 15:
            raise KeyboardInterrupt
        return near(synthesized, shapes)

    near = lessons.near
    monkeypatch.setattr(lessons, "near", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(preset, tmp_path / "cut")
    assert not (tmp_path / "cut" / "results").exists()
    monkeypatch.setattr(lessons, "near", near)
    cut = run(preset, tmp_path / "cut")

    def without_times(curve):
        return {key: column for key, column in curve.items() if key != "minutes"}

    assert without_times(cut["curve"]) == without_times(whole["curve"])
    assert cut["curve"]["iteration"] == list(range(1, 25))
    assert cut["curve"]["minutes"] == sorted(cut["curve"]["minutes"])
    assert cut.get("samples") == whole.get("samples")
    ours, theirs = (
        load_model(tmp_path / way / "weights" / preset.experiment / "toilet.safetensors") for way in ("cut", "whole")
    )
    for a, b in zip(ours.net.parameters(), theirs.net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_results_hold_the_samples_they_judge(tmp_path):
    run(PRESETS["persistent"], tmp_path)
    facts = load_results("synthesis_paper", folder=tmp_path / "results")["toilet"]
    bits = np.unpackbits(np.frombuffer(base64.b64decode(facts["samples"]), np.uint8)).reshape(-1, 1, 16, 16, 16)
    assert len(bits) == facts["metrics"]["num_samples"] == 5
    assert abs(bits.mean() - facts["metrics"]["occupancy"]) < 1e-6
    shapes = load_shapes("furniture", "toilet", resolution=16).voxels.numpy()
    nearest = [np.abs(shapes - sample).sum((1, 2, 3, 4)).min() for sample in bits]
    assert abs(np.mean(nearest) - facts["metrics"]["mean_nearest"]) < 1e-3
    json.dumps(facts, allow_nan=False)


def test_a_shortened_preset_ends_sooner_and_its_rates_fall_sooner():
    for preset in (CPU, FULL, GRIDS):
        short = shortened(preset, 7)
        many = short.settings if isinstance(short.settings, tuple) else (short.settings,)
        many += (short.first,) if isinstance(short, Conditional) else ()
        assert len(many) >= 1 and short.name == f"{preset.name}-7"
        for settings in many:
            assert settings.num_iterations == 7
            assert settings.learning_rate(7) == settings.learning_rate(1000) < settings.learning_rate(0)


SHORT = replace(SETTINGS, num_iterations=4)
SMALL_GRIDS = replace(
    GRIDS,
    grids=(Architecture(4, ((8, 4, 4),)), TINY),
    settings=(SHORT, SHORT),
    sampling=(Chain(3, 0.02, 0.01), Chain(2, 0.02)),
)
SMALL_TEACHING = replace(
    TEACHING,
    architecture=TINY,
    layout=Layout(16, 6, (8, 4), (1, 2, 2)),
    settings=SHORT,
    num_chains=6,
    sampling=Chain(2, 0.02),
)


@pytest.mark.parametrize(
    ("preset", "name"), [(SMALL_GRIDS, "multigrid"), (SMALL_TEACHING, "cooperative")], ids=["multigrid", "cooperative"]
)
def test_what_is_trained_is_published_and_judged_again_alike(tmp_path, preset, name):
    place, experiment, also = at(tmp_path, seed=3), EXPERIMENTS[name], name == "cooperative"
    facts = train(experiment, preset, "toilet", place)
    (written,) = load_results(preset.experiment, folder=place.results).values()
    assert written == json.loads(json.dumps(facts)) and written["seed"] == 3 and written["seconds"] > 0
    assert written["dataset"]["name"] == "furniture" and len(written["dataset"]["sha256"]) == 64
    assert written["preset"]["name"] == "cpu" and written["curve"]["iteration"] == [1, 2, 3, 4]
    model = load_model(place.weights / preset.experiment / "toilet.safetensors")
    assert model.card["preset"] == written["preset"]
    again = evaluate(experiment, preset, "toilet", place)
    for part in ("metrics", "start", *(["reconstruction"] if also else [])):
        assert {k: v for k, v in again[part].items() if not k.startswith("seconds")} == {
            k: v for k, v in facts[part].items() if not k.startswith("seconds")
        }
    if not also:
        assert [m.net.architecture.resolution for m in model.grids] == [4, 16] and "value_4" in written["curve"]
    else:
        test = load_shapes("furniture", "toilet", "test", 16).voxels
        assert again["reconstruction"]["num_shapes"] == len(test) == 20
        assert 0 < again["reconstruction"]["iou_nearest"] < 1 and "coverage" in written["curve"]


def test_all_methods_get_the_same_time_and_finished_runs_are_kept(tmp_path, monkeypatch):
    finest = replace(FINEST, architecture=TINY, settings=SHORT, num_chains=8, per_iteration=4, sampling=Chain(2, 0.02))
    small = {"multigrid": SMALL_GRIDS, "plain": finest, "teaching": SMALL_TEACHING}
    monkeypatch.setattr(budget, "GRIDS", SMALL_GRIDS)
    monkeypatch.setattr(budget, "METHODS", {name: (budget.METHODS[name][0], preset) for name, preset in small.items()})
    monkeypatch.setattr(budget, "NUM_SEEDS", 1)
    monkeypatch.setattr(budget, "NUM_MOMENTS", 2)
    monkeypatch.setattr(budget, "NUM_SAMPLES", 8)
    monkeypatch.setattr(budget, "WANTED", ("coverage", "ratio"))  # no judge knows 16^3
    place = Workplace("furniture", results=tmp_path)
    facts = budget.reproduce(place, category="toilet", minutes=0.01)["toilet"]
    assert [(run["method"], run["seed"]) for run in facts["runs"]] == [(name, 0) for name in small]
    for run in facts["runs"]:
        assert run["iterations"] > 0 and 0 < run["minutes"][0] <= run["minutes"][1]
        assert len(run["coverage"]) == 2 and facts["metrics"][f"coverage_{run['method']}"] == run["coverage"][-1]
    with pytest.raises(CheckpointError, match=r"toilet\.json holds runs of another minutes: name another folder"):
        budget.reproduce(place, category="toilet", minutes=0.02)
    monkeypatch.setattr(budget, "trace", lambda *_, **__: pytest.fail("nothing is left to run"))
    assert budget.reproduce(place, category="toilet", minutes=0.01)["toilet"]["runs"] == facts["runs"]


# -- the command line --------------------------------------------------------------------------------------------------


def command(monkeypatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["reproduce", *map(str, words)])
    __main__.main()


EVERY = {option for experiment in EXPERIMENTS.values() for option in experiment.options}
WRONG = [(name, o) for name, experiment in EXPERIMENTS.items() for o in sorted(EVERY - set(experiment.options))]


@pytest.mark.parametrize(("name", "option"), [*WRONG, *((name, "epochs") for name in EXPERIMENTS)])
def test_an_option_that_an_experiment_does_not_use_is_refused(name, option, monkeypatch, capsys):
    with pytest.raises(SystemExit) as caught:
        command(monkeypatch, name, f"--{option}", 1)
    assert caught.value.code == 2 and f"unrecognized arguments: --{option}" in capsys.readouterr().err


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_experiment_explains_itself(name, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        command(monkeypatch, name, "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert EXPERIMENTS[name].about in text and all(f"--{option}" in text for option in EXPERIMENTS[name].options)


@pytest.mark.parametrize("option", LEARNING)
def test_what_only_learning_uses_is_refused_with_evaluate(option, monkeypatch, capsys):
    with pytest.raises(SystemExit) as caught:
        command(monkeypatch, "synthesis", "--evaluate", f"--{option}", 1)
    assert caught.value.code == 2 and f"--{option} belongs to learning" in capsys.readouterr().err


@pytest.fixture
def small(monkeypatch) -> Synthesis:
    """The command's synthesis, made small."""
    experiment = EXPERIMENTS["synthesis"]
    preset = PRESETS["coarse"]
    monkeypatch.setitem(EXPERIMENTS, "synthesis", replace(experiment, presets={"cpu": preset}, shipped={}))
    return preset


def folders(tmp_path) -> list[object]:
    return [word for name in ("runs", "weights", "results") for word in (f"--{name}", tmp_path / name)]


def test_evaluating_writes_into_a_folder_of_ones_own_and_says_with_what(small, tmp_path, monkeypatch, capsys):
    command(monkeypatch, "synthesis", "--category", "toilet", "--data", "furniture", *folders(tmp_path))
    first = load_results(small.experiment, folder=tmp_path / "results")["toilet"]
    assert first["judged"]["seed"] == 0 and first["judged"]["dataset"]["name"] == "furniture"
    monkeypatch.chdir(tmp_path / "runs")
    evaluate = ("synthesis", "--category", "toilet", "--evaluate", "--weights", tmp_path / "weights")
    command(monkeypatch, *evaluate, "--data", "furniture", "--seed", 7)
    own = load_results(small.experiment, folder=tmp_path / "runs" / "results")["toilet"]
    assert own["judged"]["seed"] == 7 and own["judged"]["dataset"]["num_test"] == 20 and own["seed"] == 0
    assert own["metrics"]["unsure_voxels"] != first["metrics"]["unsure_voxels"]
    assert load_results(small.experiment, folder=tmp_path / "results")["toilet"] == first, (
        "the other folder was touched"
    )
    command(monkeypatch, *evaluate, "--results", tmp_path / "bare")
    bare = load_results(small.experiment, folder=tmp_path / "bare")["toilet"]
    assert bare["judged"] == {"seed": 0, "dataset": None} and bare["preset"]["name"] == "cpu"
    assert "toilet" in capsys.readouterr().out


@pytest.mark.parametrize("which", ["runs", "weights", "results"])
def test_places_are_probed_before_the_first_iteration(which, small, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(drive, "follow", lambda *_, **__: pytest.fail("it began to learn"))
    words = ["synthesis", "--category", "toilet", "--data", "furniture", *folders(tmp_path)]
    words[words.index(f"--{which}") + 1] = tmp_path / "file" / "deep"
    with pytest.raises(SystemExit, match="cannot write into"):
        command(monkeypatch, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "a probe left something"


def test_what_cannot_be_had_is_named_before_anything_is_learned(small, tmp_path, monkeypatch):
    monkeypatch.setattr(drive, "follow", lambda *_, **__: pytest.fail("it began to learn"))
    with pytest.raises(SystemExit, match="unknown category 'nonsense'"):
        words = ("--category", "toilet", "--category", "nonsense", "--data", "furniture")
        command(monkeypatch, "synthesis", *words, *folders(tmp_path))
    with pytest.raises(SystemExit, match="toilet has no row in this table"):
        command(monkeypatch, "table1", "--category", "toilet", "--evaluate", "--results", tmp_path)
    for wrong in (0, -1):
        with pytest.raises(SystemExit, match=f"--iterations must be a whole number, at least 1, not {wrong}"):
            command(monkeypatch, "synthesis", "--iterations", wrong, "--data", "furniture", *folders(tmp_path))
    with pytest.raises(SystemExit, match="reproduce: there is no device 'nothing' here"):
        command(monkeypatch, "synthesis", "--device", "nothing", "--data", "furniture", *folders(tmp_path))
    with pytest.raises(SystemExit, match="reproduce: the device 'meta' holds no numbers: --device cpu"):
        command(monkeypatch, "synthesis", "--device", "meta", "--data", "furniture", *folders(tmp_path))
    with pytest.raises(SystemExit, match=r"there are no weights at .*toilet"):
        command(monkeypatch, "synthesis", "--evaluate", "--category", "toilet", "--weights", tmp_path)
    assert not list(tmp_path.rglob("*.*"))


def test_nothing_is_written_into_the_library_by_itself(small, tmp_path, monkeypatch):
    """What is learned without a word of where goes beside the user."""
    monkeypatch.chdir(tmp_path)
    command(monkeypatch, "synthesis", "--category", "toilet", "--data", "furniture")
    assert (tmp_path / "results" / small.experiment / "toilet.json").exists()
    assert (tmp_path / "weights" / small.experiment / "toilet.safetensors").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"results", "runs", "weights"}


def test_judging_anew_keeps_no_number_that_was_not_measured_now(small, tmp_path, monkeypatch):
    command(monkeypatch, "synthesis", "--category", "toilet", "--data", "furniture", *folders(tmp_path))
    words = ("--category", "toilet", "--evaluate", "--seed", 7, "--weights", tmp_path / "weights")
    command(monkeypatch, "synthesis", *words, "--results", tmp_path / "results")
    metrics = load_results(small.experiment, folder=tmp_path / "results")["toilet"]["metrics"]
    assert "coverage" not in metrics and "seconds_sampling" in metrics


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (("synthesis",), "goes on from the last checkpoint"),
        (("synthesis", "--evaluate"), "nothing was changed"),
        (("table5",), "the same command begins anew$"),
        (
            ("longrun",),
            "parts that were done have written their results, and the same command begins anew with the first$",
        ),
        (("budget",), "finished runs are kept"),
    ],
)
def test_an_interrupted_command_promises_what_is_true(words, kept, monkeypatch):
    def interrupted(experiment, given):
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "run", interrupted)
    with pytest.raises(SystemExit, match=f"^reproduce: interrupted; .*{kept}"):
        command(monkeypatch, *words)


def test_a_broken_curve_is_named(small, tmp_path, monkeypatch):
    words = ("synthesis", "--category", "toilet", "--data", "furniture", *folders(tmp_path))
    command(monkeypatch, *words)
    (curve,) = (tmp_path / "runs").glob("*.curve.json")
    curve.write_text("[{")
    with pytest.raises(SystemExit, match=r"\.curve\.json is broken .*delete it"):
        command(monkeypatch, *words)


def test_a_finished_run_does_not_serve_other_data(small, tmp_path, monkeypatch, capsys):
    command(monkeypatch, "synthesis", "--category", "toilet", "--data", "furniture", *folders(tmp_path))
    weights = tmp_path / "weights" / small.experiment / "toilet.safetensors"
    content = weights.read_bytes()
    shapes = load_shapes("furniture", "toilet")

    def others(name, category, split, resolution):
        return replace(load_shapes(name, category, split, resolution), voxels=1 - shapes.voxels[:, :, :16, :16, :16])

    monkeypatch.setattr(workplace, "load_shapes", others)
    with pytest.raises(SystemExit, match=r"checkpoint of another run \(data: "):
        command(monkeypatch, "synthesis", "--category", "toilet", "--data", "furniture", *folders(tmp_path))
    assert weights.read_bytes() == content


def test_known_failures_are_one_line(small, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"^reproduce: unknown dataset 'nothing': choose"):
        command(monkeypatch, "synthesis", "--category", "toilet", "--data", "nothing", *folders(tmp_path))
    with pytest.raises(SystemExit, match=r"^reproduce: this needs shapes"):
        raise_for(Workplace(None), monkeypatch)


def raise_for(place, monkeypatch):
    """A workplace without data, asked for some by an experiment that the command gives none."""
    monkeypatch.setattr(__main__, "run", lambda experiment, given: place.shapes("sofa", "train", 16))
    command(monkeypatch, "longrun")
