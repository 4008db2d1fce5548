"""Completing shapes: masks, conditional starts, the models' methods, and the baselines, each against what is known."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from problems import at, drawn, seeded, small_model
from scipy.ndimage import gaussian_filter

from dnet_lib import (
    Architecture,
    Settings,
    ShapeError,
    down_scale,
    hidden_voxels,
    load_model,
    load_shapes,
    recovery_error,
    sample,
    save_model,
    tables,
    threshold,
    up_scale,
)
from dnet_lib.baselines import Denoiser, LocalMean, NearestShape, TrainingMean
from dnet_lib.baselines.denoiser import AutoEncoder, learn_to_denoise, load_denoiser, save_denoiser
from dnet_lib.errors import CheckpointError
from dnet_lib.presets import FULL, SUPER
from dnet_lib.reproduce import __main__ as command
from dnet_lib.reproduce.drive import evaluate, train
from dnet_lib.reproduce.experiments import EXPERIMENTS
from dnet_lib.starts import Corrupted, LowResolution
from dnet_lib.voxels import KINDS, corrupt, fill_hidden, flip, hide

# -- what is hidden ----------------------------------------------------------------------------------------------------


def test_hidden_voxels_are_filled_with_the_mean_of_the_visible_ones_and_never_read():
    y, hidden = drawn(6, 8, 0.3), torch.rand(6, 1, 8, 8, 8, generator=seeded()) < 0.7
    filled = fill_hidden(y.masked_fill(hidden, math.nan), hidden)
    assert torch.equal(filled[~hidden], y[~hidden])
    for own, before, mask in zip(filled, y, hidden, strict=True):
        torch.testing.assert_close(own[mask], before[~mask].mean().expand(int(mask.sum())))
    assert (fill_hidden(y, torch.ones_like(hidden)) == 0).all()
    with pytest.raises(ShapeError, match="boolean mask"):
        fill_hidden(y, hidden.float())


def test_half_a_shape_is_behind_a_plane():
    hidden = hide(drawn(60, 8, 0.3), "half", generator=seeded())
    seen = set()
    for mask in hidden[:, 0]:
        assert mask.sum() == 256
        [axis] = [k for k in range(3) if mask.float().mean([d for d in range(3) if d != k]).unique().numel() == 2]
        first = bool(mask.select(axis, 0).all())
        assert mask.narrow(axis, 0 if first else 4, 4).all()
        seen.add((axis, first))
    assert len(seen) == 6


def test_a_missing_cube_is_a_cube_anywhere_in_the_grid():
    hidden = hide(drawn(80, 8, 0.3), "cube", generator=seeded())
    corners = set()
    for mask in hidden[:, 0]:
        places = mask.nonzero()
        assert mask.sum() == 64 and (places.amax(0) - places.amin(0) == 3).all()
        corners.add(tuple(places.amin(0).tolist()))
    assert {c for corner in corners for c in corner} == set(range(5)) and len(corners) > 40


def test_one_view_hides_what_lies_behind_the_first_full_voxel():
    y = torch.zeros(1, 1, 4, 4, 4)
    y[0, 0, 1, 0, 0] = y[0, 0, 3, 0, 0] = y[0, 0, 0, 2, 2] = 1
    hidden = hide(y, "behind")
    assert hidden[0, 0, :, 0, 0].tolist() == [False, False, True, True]
    assert hidden[0, 0, :, 2, 2].tolist() == [False, True, True, True]
    assert hidden.sum() == 5
    with pytest.raises(ValueError, match="half, cube, behind"):
        hide(y, "everything")  # type: ignore[arg-type]


def test_flips_change_exactly_their_share():
    y = drawn(6, 8, 0.3)
    changed = (flip(y, 0.25, generator=seeded()) - y).abs()
    assert set(changed.unique().tolist()) == {0.0, 1.0} and (changed.flatten(1).sum(1) == 128).all()


# -- starts ------------------------------------------------------------------------------------------------------------


def test_corrupted_starts_move_only_what_is_hidden_and_hide_anew_each_time():
    y, start, random = drawn(6, 8, 0.3), Corrupted(0.7), seeded()
    first, projection = start.begin(y, torch.arange(6), random)
    moved = projection(torch.ones_like(y)).bool()
    assert (moved.flatten(1).sum(1) == round(0.7 * 512)).all()
    assert torch.equal(first[~moved], y[~moved]) and torch.equal(first, fill_hidden(y, moved))
    _, again = start.begin(y, torch.arange(6), random)
    assert not torch.equal(again(torch.ones_like(y)).bool(), moved)


def test_low_resolution_starts_keep_block_means():
    y = drawn(6, 8, 0.3)
    first, projection = LowResolution(4).begin(y, torch.arange(6), None)
    assert torch.equal(first, up_scale(down_scale(y, 4), 4))
    delta = torch.randn(y.shape, generator=seeded())
    assert down_scale(projection(delta), 4).abs().max() < 1e-6
    with pytest.raises(ShapeError, match="scale"):
        LowResolution(0)


# -- models ------------------------------------------------------------------------------------------------------------


def test_a_model_recovers_without_looking_and_leaves_the_visible_alone():
    y = drawn(6, 8, 0.3)
    _, hidden = corrupt(y, 0.7, generator=seeded())
    blind = y.masked_fill(hidden, math.nan)
    recovered = small_model().recover(blind, hidden)
    assert torch.equal(recovered, small_model().recover(y, hidden))
    assert torch.equal(recovered[~hidden], y[~hidden])
    assert recovered.isfinite().all() and (recovered - fill_hidden(y, hidden))[hidden].abs().mean() > 0.01
    with pytest.raises(ShapeError, match="NaN"):
        small_model().recover(torch.full_like(y, math.nan), hidden)


def test_a_model_recovers_by_a_chain_that_sees_the_visible_at_every_step():
    """Pasted back after the last step alone, they would be unseen until then, and the hidden ones others."""
    y, model = drawn(6, 8, 0.3), small_model()
    _, hidden = corrupt(y, 0.7, generator=seeded())
    keep, free = (
        sample(
            fill_hidden(y, hidden) - model.mean,
            model.net,
            projection=projection,
            generator=seeded(1),
            **asdict(model.settings),
        )
        for projection in (hidden_voxels(hidden), None)
    )
    recovered = (model.recover(y, hidden, generator=seeded(1)) - model.mean)[hidden]
    torch.testing.assert_close(recovered, keep[hidden])
    assert (recovered - free[hidden]).abs().max() > 1e-3


@pytest.mark.parametrize("scale", [2, 4])
def test_a_models_super_resolution_keeps_the_low_resolution_to_float_precision(scale):
    coarse = down_scale(drawn(6, 8, 0.3), scale)
    fine = small_model().super_resolve(coarse)
    assert (down_scale(fine, scale) - coarse).abs().max() < 1e-6
    assert (fine - up_scale(coarse, scale)).abs().mean() > 1e-3
    with pytest.raises(ShapeError, match=r"cannot be expanded to this model's 8\^3"):
        small_model().super_resolve(torch.zeros(1, 1, 3, 3, 3))


def test_half_precision_costs_half_the_bytes_and_little_else(tmp_path):
    for half in (False, True):
        save_model(tmp_path / f"{half}.safetensors", small_model(), half=half)
    whole, half = (load_model(tmp_path / f"{half}.safetensors") for half in (False, True))
    assert all(p.dtype == torch.float32 for p in half.net.parameters())
    y = drawn(6, 8, 0.3) - 0.25
    assert 0 < (whole.score(y) - half.score(y)).abs().max() < 1e-2 * whole.score(y).abs().max()


# -- baselines ---------------------------------------------------------------------------------------------------------


def test_the_local_mean_is_a_truncated_gaussian_filter():
    y, hidden = drawn(2, 8, 0.3), torch.rand(2, 1, 8, 8, 8, generator=seeded()) < 0.7
    found = LocalMean.fit(y).recover(y.masked_fill(hidden, math.nan), hidden)
    for own, before, mask in zip(found[:, 0].numpy(), y[:, 0].numpy(), hidden[:, 0].numpy(), strict=True):
        options = {"sigma": 0.8, "mode": "constant", "radius": 2}
        above = gaussian_filter(before * ~mask, **options)
        below = gaussian_filter((~mask).astype(float), **options)
        assert ((own > 0.5) == where_full(above, below))[mask].all()
        assert (own == before)[~mask].all()


def where_full(above, below):
    return above > 0.5 * below + 1e-9 * (below == 0)


def test_the_training_mean_asks_the_majority():
    shapes = torch.stack([torch.ones(1, 2, 2, 2), torch.ones(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)])
    y, hidden = torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2, dtype=torch.bool)
    hidden[..., 0] = True
    assert torch.equal(TrainingMean.fit(shapes).recover(y, hidden), hidden.float())


def test_the_nearest_shape_agrees_with_a_loop_over_visible_voxels():
    shapes, y = drawn(20, 8, 0.3), drawn(26, 8, 0.3)[20:]
    _, hidden = corrupt(y, 0.7, generator=seeded())
    found = NearestShape.fit(shapes).recover(y.masked_fill(hidden, math.nan), hidden)
    for own, before, mask in zip(found, y, hidden, strict=True):
        distances = [(shape - before)[~mask].abs().sum().item() for shape in shapes]
        chosen = [k for k, shape in enumerate(shapes) if torch.equal(own[mask], shape[mask])]
        assert chosen and distances[chosen[0]] == min(distances)
        assert torch.equal(own[~mask], before[~mask])


def test_the_denoiser_learns_resumes_and_comes_back(tmp_path):
    shapes = load_shapes("furniture", "sofa", resolution=16).voxels
    options = {"num_iterations": 60, "batch_size": 4, "checkpoint": tmp_path / "d.pt"}
    torch.manual_seed(0)
    net = AutoEncoder()
    first = {k: t.clone() for k, t in net.state_dict().items()}
    losses = [loss for _, loss in learn_to_denoise(net, shapes, **options | {"checkpoint": None})]
    again = AutoEncoder()
    again.load_state_dict(first)
    for done, _ in learn_to_denoise(again, shapes, **options):
        if done == 55:  # five after the last checkpoint
            break
    resumed = AutoEncoder()
    assert [done for done, _ in learn_to_denoise(resumed, shapes, **options)] == list(range(51, 61))
    for a, b in zip(net.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])

    denoiser = Denoiser(net.eval().requires_grad_(False))
    save_denoiser(tmp_path / "d.safetensors", denoiser)
    test = load_shapes("furniture", "sofa", "test", 16).voxels
    _, hidden = corrupt(test, 0.7, generator=seeded())
    ours, theirs = (d.recover(test, hidden) for d in (denoiser, load_denoiser(tmp_path / "d.safetensors")))
    torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=0)
    assert torch.equal(ours[~hidden], test[~hidden]) and ours.min() >= 0 and ours.max() <= 1
    empty = recovery_error(test.masked_fill(hidden, 0), test, hidden)
    assert recovery_error(threshold(ours), test, hidden) < empty
    with pytest.raises(CheckpointError, match="no weights"):
        load_denoiser(tmp_path / "other.safetensors")


# -- the long runs, made short -----------------------------------------------------------------------------------------

TINY = Settings(num_iterations=12, num_steps=3, step_size=0.2, temperature=0.0, batch_size=8, average=0.9)
RECOVERY = replace(FULL, architecture=Architecture(16, ((8, 4, 2), (8, 4, 2)), "silu"), settings=TINY, first=TINY)


def test_recovery_is_learned_for_all_then_for_one_and_judged_with_its_baselines(tmp_path):
    facts = train(EXPERIMENTS["table4"], RECOVERY, "sofa", at(tmp_path))
    for name in ("all", "sofa"):
        assert load_model(tmp_path / "weights" / "recovery" / f"{name}.safetensors").net.resolution == 16
    assert set(facts["other_corruptions"]) == {*KINDS, "flips"}
    assert facts["paper"]["recovery_error"] == 0.0068 and facts["dataset"]["num_train"] == 100
    json.dumps(facts, allow_nan=False)
    test = load_shapes("furniture", "sofa", "test", 16).voxels
    _, hidden = corrupt(test, 0.7, generator=seeded(1))
    metrics = facts["metrics"]
    saved = load_model(tmp_path / "weights" / "recovery" / "sofa.safetensors")
    recovered = threshold(saved.recover(test, hidden))
    assert metrics["recovery_error"] == pytest.approx((recovered - test)[hidden].abs().mean().item(), abs=1e-6)
    assert metrics["recovery_error_local_mean"] < metrics["recovery_error_training_mean"]
    header, [line, mean] = tables.recovery(results=tmp_path / "results")
    assert line[0] == "sofa" and line[1] == metrics["recovery_error"] == mean[1] and len(header) == len(line)
    assert "paper, ours-2" in header and line[header.index("paper, ours-2")] == 0.0071

    same, other = (evaluate(EXPERIMENTS["table4"], RECOVERY, "sofa", at(tmp_path, seed=seed)) for seed in (0, 5))
    assert same["metrics"]["recovery_error"] == metrics["recovery_error"] != other["metrics"]["recovery_error"]
    assert same["judged"]["seed"] == 0 and other["judged"]["seed"] == 5 and other["seed"] == 0


def test_super_resolution_is_judged_beside_plain_up_scaling(tmp_path):
    preset = replace(SUPER, architecture=RECOVERY.architecture, settings=TINY)
    facts = train(EXPERIMENTS["superresolution"], preset, "sofa", at(tmp_path))
    metrics = facts["metrics"]
    assert metrics["drift"] < 1e-5
    test = load_shapes("furniture", "sofa", "test", 16).voxels
    blocks = threshold(up_scale(down_scale(test, 4), 4))
    assert metrics["voxel_error_nearest"] == pytest.approx((blocks - test).abs().mean().item(), abs=1e-6)
    union, both = ((blocks + test > 0).flatten(1).sum(1), (blocks * test).flatten(1).sum(1))
    assert metrics["iou_nearest"] == pytest.approx((both / union).mean().item(), abs=1e-6)
    assert {"iou", "iou_trilinear", "voxel_error", "voxel_error_trilinear"} <= set(metrics)
    assert metrics["iou_counted_trilinear"] > metrics["iou_trilinear"] and metrics["iou_counted"] > 0
    assert facts["judged"]["seed"] == 0 and facts["judged"]["dataset"]["num_test"] == len(test)


def test_a_shared_model_is_learned_once_and_serves_every_category(tmp_path):
    preset = replace(RECOVERY, first=None, shared=True)
    for category in ("sofa", "bed"):
        facts = train(EXPERIMENTS["table4"], preset, category, at(tmp_path))
        assert facts["dataset"]["num_train"] == 1000 and facts["metrics"]["recovery_error"] > 0
    assert [path.stem for path in (tmp_path / "weights" / "recovery").iterdir()] == ["all"]
    assert {path.stem for path in (tmp_path / "results" / "recovery").iterdir()} == {"all", "sofa", "bed"}
    renewed = evaluate(EXPERIMENTS["table4"], preset, "bed", at(tmp_path, results=tmp_path / "r"))
    assert renewed["preset"]["name"] == "full"
    assert renewed["metrics"]["recovery_error"] == pytest.approx(facts["metrics"]["recovery_error"])


@pytest.mark.parametrize("shared", [False, True])
def test_the_command_trains_the_auto_encoder_beside_one_model_of_all(tmp_path, monkeypatch, capsys, shared):
    preset = replace(RECOVERY, first=None if shared else TINY, shared=shared)
    small = replace(EXPERIMENTS["table4"], presets={"full": preset}, categories={"full": ("sofa", "all")})
    monkeypatch.setitem(EXPERIMENTS, "table4", small)
    options = [word for name in ("runs", "weights", "results") for word in (f"--{name}", str(tmp_path / name))]
    monkeypatch.setattr("sys.argv", ["reproduce", "table4", "--data", "furniture", "--iterations", "3", *options])
    command.main()
    assert load_denoiser(tmp_path / "weights" / "baselines" / "denoiser_full.safetensors")
    shown = capsys.readouterr()
    assert "auto-encoder" in shown.out and "6/6" in shown.err, "two of its iterations for one of the descriptor's"


@pytest.mark.parametrize(("name", "resolution"), [("full", 32), ("box", 24)])
def test_the_auto_encoders_that_ship_beat_the_local_mean(name, resolution):
    test = load_shapes("furniture", "sofa", "test", 32).voxels[:4, ..., :resolution, :resolution, :resolution]
    _, hidden = corrupt(test, 0.7, generator=seeded())
    guesses = load_denoiser(name).recover(test, hidden), LocalMean.fit(test).recover(test, hidden)
    ours, theirs = (recovery_error(threshold(guess), test, hidden) for guess in guesses)
    assert ours < theirs
