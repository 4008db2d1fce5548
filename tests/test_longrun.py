"""Long chains, chains at other temperatures, learning with and without noise: made short."""

import base64

import numpy as np
import pytest
import torch
from problems import seeded

from dnet_lib import Architecture, DescriptorNet, GaussianEnergy, load_pretrained, load_results, load_shapes, threshold
from dnet_lib.errors import DivergedError
from dnet_lib.pretrained import Chain, Pretrained
from dnet_lib.priors import CoarseGaussian
from dnet_lib.reproduce import longrun, workplace
from dnet_lib.reproduce.experiments import EXPERIMENTS
from dnet_lib.reproduce.workplace import Workplace

H, S = 0.05, 0.5


def unpacked(bits: str, resolution: int) -> torch.Tensor:
    values = np.unpackbits(np.frombuffer(base64.b64decode(bits), np.uint8))
    return torch.from_numpy(values).view(-1, 1, *[resolution] * 3).float()


def gaussian_chains(num_steps: int, temperature: float = 0.0, step_size: float = H) -> tuple[dict, torch.Tensor]:
    shape = load_shapes("furniture", "chair", resolution=16).voxels[:1]
    begin = shape + torch.randn(3, 1, 16, 16, 16, generator=seeded())
    chain = Chain(20, step_size, temperature)
    return longrun.follow(begin, GaussianEnergy(shape, S**2), 0.0, chain, num_steps, seeded(1)), begin - shape


def test_curves_of_a_gaussian_are_the_closed_form():
    found, off = gaussian_chains(300)
    factor = (1 - H / (2 * S**2)) ** np.array(found["step"])
    energies = np.outer(factor**2, off.square().flatten(1).sum(1) / (2 * S**2))
    np.testing.assert_allclose(found["energy"], energies, rtol=1e-3, atol=0.06)  # written with one decimal
    np.testing.assert_allclose(found["slope"], np.sqrt(2 * energies) / S, rtol=1e-3, atol=0.006)
    shapes = unpacked(found["shapes"], 16).view(len(found["kept"]), 3, 1, 16, 16, 16)
    assert found["kept"] == [0, 20, 100, 300]
    chair = load_shapes("furniture", "chair", resolution=16).voxels[0]
    assert all(torch.equal(last, chair) for last in shapes[-1])
    assert found["moved"][found["step"].index(20)] == [0, 0, 0]
    assert found["moved"][-1] == (shapes[-1] != shapes[1]).flatten(1).sum(1).tolist()
    first = shapes[0].flatten(1)
    pairs = [(first[i] != first[j]).sum().item() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found["apart"][0] == pytest.approx(np.mean(pairs), abs=0.06)
    assert found["apart"][-1] == 0


def test_a_hot_gaussian_rests_at_its_temperature():
    found, _ = gaussian_chains(400, temperature=0.5)
    expected = 16**3 / 2 * 0.5 / (1 - H / (4 * S**2))
    assert np.mean(found["energy"][-3:]) == pytest.approx(expected, rel=0.02)


def test_chains_that_cannot_be_followed():
    with pytest.raises(ValueError, match="chains of 10 steps cannot be compared with those of 20"):
        gaussian_chains(10)
    with pytest.raises(DivergedError, match="did not stay finite until step"):
        gaussian_chains(2000, step_size=5.0)


def test_annealing_ends_without_noise():
    schedule = longrun.annealed(0.1, 20)
    assert [schedule(0), schedule(7), schedule(14), schedule(19)] == pytest.approx([0.1, 0.05, 0, 0])


@pytest.fixture
def tiny(monkeypatch) -> Pretrained:
    shapes = load_shapes("furniture", "toilet")
    net = DescriptorNet(Architecture(32, ((4, 8, 8),)), weight_std=0.05, generator=seeded()).requires_grad_(False)
    start = CoarseGaussian.fit(shapes.voxels, 4, rank=8)
    model = Pretrained(net, shapes.mean, start, Chain(4, H), {"dataset": {"name": "furniture"}})
    monkeypatch.setattr(workplace, "load_model", lambda path, device: model)
    return model


def test_the_long_run_passes_by_the_samples_of_the_model(tiny, tmp_path):
    longrun.longrun(Workplace(seed=5, results=tmp_path), num_chains=3, num_steps=6, temperatures=(0.0, 0.2))
    facts = load_results("temperature", folder=tmp_path)["longrun"]
    assert (facts["trained"], facts["resolution"], set(facts["runs"])) == (4, 32, {"0", "0.2"})
    cold, hot = facts["runs"]["0"], facts["runs"]["0.2"]
    made = threshold(tiny.sample(3, generator=seeded(5)))
    assert cold["kept"] == [0, 4, 6]
    assert torch.equal(unpacked(cold["shapes"], 32)[3:6], made)
    assert cold["energy"][0] == hot["energy"][0]
    assert cold["energy"] == sorted(cold["energy"], reverse=True)
    assert np.mean(hot["energy"][-1]) > np.mean(cold["energy"][-1])


def test_an_interrupted_long_run_leaves_nothing(tiny, tmp_path, monkeypatch):
    follow = longrun.follow

    def once(y, energy, mean, chain, *rest):
        if chain.temperature > 0:
            raise KeyboardInterrupt
        return follow(y, energy, mean, chain, *rest)

    monkeypatch.setattr(longrun, "follow", once)
    with pytest.raises(KeyboardInterrupt):
        longrun.longrun(Workplace(results=tmp_path), num_chains=2, num_steps=4)
    assert not list(tmp_path.rglob("*"))


def test_an_interrupted_part_leaves_those_before_it(tmp_path, monkeypatch):
    """What the command says when Ctrl-C ends it: what is there is whole, and of what is not there is nothing."""

    def done(place):
        return longrun.written("longrun", {}, 0.0, place)

    def interrupted(place):
        raise KeyboardInterrupt

    monkeypatch.setattr(longrun, "longrun", done)
    monkeypatch.setattr(longrun, "ladder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        longrun.reproduce(Workplace(results=tmp_path))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["longrun.json"]
    assert "parts that were done have written their results" in EXPERIMENTS["longrun"].interrupted


def test_the_ladder_measures_what_it_says(tiny, tmp_path):
    place = Workplace("furniture", seed=4, results=tmp_path)
    facts = longrun.ladder(place, num_samples=3, num_alike=2, num_seeds=2)
    assert facts == load_results("temperature", folder=tmp_path)["ladder"]
    rows = facts["rows"]
    assert all(len(column) == 2 for row in rows.values() for column in row.values())
    assert rows["0"]["apart_from_one_start"] == [0, 0]
    assert all(value > 0 for which in set(rows) - {"0", "5e-05"} for value in rows[which]["apart_from_one_start"])
    energies = [np.mean(rows[which]["energy"]) for which in ("0", "0.01", "0.1", "1")]
    assert energies == sorted(energies)
    made = tiny.sample(3, generator=seeded(4)) - tiny.mean
    assert rows["0"]["energy"][0] == pytest.approx(tiny.energy(made).mean().item(), rel=1e-5)
    assert all(0 <= p <= 1 for row in rows.values() for p in row["class_probability"])
    without = longrun.ladder(Workplace(results=tmp_path), num_samples=2, num_alike=2, num_seeds=1)
    assert "nearest" not in without["rows"]["0"]


@pytest.mark.slow
def test_the_contrast_is_the_same_again(tmp_path):
    options = {"num_iterations": 2, "num_steps": 25, "num_chains": 4}
    first, second = (longrun.contrast(Workplace(results=tmp_path), **options) for _ in range(2))
    assert first["runs"] == second["runs"]
    noisy, quiet, renewed = (
        first["runs"][name] for name in ("with noise", "without noise", "with noise, chains renewed")
    )
    assert (quiet["temperature"], noisy["temperature"], renewed["renew"]) == (0, 0.05, 0.05)
    assert quiet["curve"]["iteration"] == [1, 2]
    assert quiet["curve"]["apart"][-1] < noisy["curve"]["apart"][-1]
    assert len(unpacked(noisy["cooled"], 16)) == len(unpacked(noisy["fresh"], 16)) == 4
    assert len(unpacked(noisy["shapes"], 16)) == 4 * len(noisy["kept"])


def test_the_shipped_long_run_is_of_the_shipped_model():
    facts = load_results("temperature")["longrun"]
    model, cold = load_pretrained(facts["model"]), facts["runs"]["0"]
    starts = model.starts(len(cold["energy"][0]), generator=seeded(facts["seed"]))
    assert model.energy(starts).tolist() == pytest.approx(cold["energy"][0], abs=1)
    made = model.sample(len(starts), generator=seeded(facts["seed"]))
    k = cold["kept"].index(facts["trained"])
    stored = unpacked(cold["shapes"], 32)[k * len(starts) : (k + 1) * len(starts)]
    assert (threshold(made) != stored).flatten(1).sum(1).max() < 20  # rounding differs from machine to machine
