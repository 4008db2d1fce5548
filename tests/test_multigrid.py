"""Algorithm 2 against the same steps written out; grids that hand up their samples; runs that are killed or diverge."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from problems import drawn, equal, seeded, told

from dnet_lib import (
    Architecture,
    CheckpointError,
    DescriptorNet,
    DivergedError,
    Pretrained,
    Run,
    Settings,
    ShapeError,
    sample,
)
from dnet_lib.learning import learn as learn_one
from dnet_lib.learning import learning_step
from dnet_lib.multigrid import begin_grids as begin
from dnet_lib.multigrid import learn_grids as learn
from dnet_lib.pretrained import Chain, Expanded
from dnet_lib.priors import Histogram
from dnet_lib.resuming import read_state, write_state
from dnet_lib.starts import Coarser

GRIDS = (4, 6, 9)  # none divides the next


def nets(sizes=GRIDS, std: float = 0.05, **architecture) -> list[DescriptorNet]:
    layers = {"layers": ((3, 3, 2), (3, 2, 1)), "activation": "silu"} | architecture
    return [DescriptorNet(Architecture(r, **layers), weight_std=std, generator=seeded(r)) for r in sizes]


CENTRE = 0.4
DATA = drawn(7, 9, CENTRE) - CENTRE
DATA += 0.2 * torch.randn(7, 1, 1, 1, 1, generator=seeded(9))  # so that 1x1x1 means differ
ONE = Settings(num_iterations=6, num_steps=3, step_size=0.02, batch_size=4, learning_rate=0.01)
THREE = [ONE, replace(ONE, num_steps=2, data_noise=0.02), replace(ONE, step_size=0.01, average=0.9)]


def to_grid(y: torch.Tensor, resolution: int) -> torch.Tensor:
    """Another grid by way of the least fine one that both divide."""
    fine = math.lcm(y.shape[-1], resolution)
    return F.avg_pool3d(F.interpolate(y, scale_factor=fine // y.shape[-1], mode="nearest"), fine // resolution)


# -- Algorithm 2 -------------------------------------------------------------------------------------------------------


def test_learning_is_algorithm_2_written_out():
    """Chains of a grid start at the samples of the coarser one, of the same iteration and the same rows."""
    settings = [replace(ONE, fast=False, num_steps=k) for k in (3, 2, 4)]
    ours, runs = begin(nets(), settings, seed=5), begin(nets(), settings, seed=5)
    for records in learn(runs, DATA, settings):
        rows, below = ours[0].next_batch(7, 4), None
        for run, own, record in zip(ours, settings, records, strict=True):
            r = run.net.architecture.resolution
            observed = to_grid(DATA, r)[rows]
            start = to_grid(to_grid(DATA[rows], 1) if below is None else below, r)
            below = sample(start, run.net, num_steps=own.num_steps, step_size=0.02, generator=run.generator, fast=False)
            energies, _, _ = learning_step(run, observed, below, own)
            run.iteration += 1
            torch.testing.assert_close(record.synthesized, below, rtol=1e-4, atol=1e-5)
            assert record.energy_observed == pytest.approx(energies.mean().item(), rel=1e-4)
    for run, own in zip(runs, ours, strict=True):
        torch.testing.assert_close(run.net.state_dict(), own.net.state_dict(), rtol=1e-3, atol=1e-5)
        assert not equal(run.net.state_dict(), nets((run.net.architecture.resolution,))[0].state_dict())
    assert runs[0].iteration == 6


def test_without_score_and_noise_a_sample_is_its_one_voxel_mean_shrunk():
    """f = 0 and T = 0: each step multiplies by r = 1 - h / (2 s^2), so all grids hold r^(all steps so far) times the
    observed 1x1x1 mean, and nothing of the shapes but that.
    """
    settings = [replace(s, temperature=0.0, learning_rate=0.0, num_iterations=2) for s in THREE]
    runs = begin(nets(std=0.0), settings)
    for records in learn(runs, DATA, settings):
        level = DATA[runs[0].index].flatten(1).mean(1).view(-1, 1, 1, 1, 1)
        assert level.std() > 0.05, "levels that differ"
        for own, record, side in zip(settings, records, GRIDS, strict=True):
            level = level * (1 - own.step_size / 0.5) ** own.num_steps
            torch.testing.assert_close(record.synthesized, level.expand(-1, 1, side, side, side))


def test_every_grid_learns_from_the_same_rows():
    runs, seen = begin(nets(), THREE), []
    for records in learn(runs, DATA, THREE):
        assert all(torch.equal(run.index, runs[0].index) for run in runs[1:])
        assert [r.iteration for r in records] == [runs[0].iteration] * 3
        assert [tuple(r.synthesized.shape) for r in records] == [(4, 1, s, s, s) for s in GRIDS]
        seen += [runs[0].index]
    assert torch.cat(seen).bincount(minlength=7).min() >= 3, "all shapes in turn"


def test_rows_from_elsewhere_are_those_that_are_learned():
    """`batches`, by which the grids share their rows: with learning rate 0 the record tells whose energy was met."""
    (net,), still = nets((9,)), replace(ONE, learning_rate=0.0, num_iterations=3)
    rows = [torch.tensor(row) for row in ([0, 1], [6, 2, 3], [5])]
    run = Run.begin(net, Coarser(9), still)
    given = iter(rows)
    for row, record in zip(rows, learn_one(run, DATA, still, batches=lambda: next(given)), strict=True):
        assert record.energy_observed == pytest.approx(net.energy(DATA[row]).mean().item(), rel=1e-5)
        assert run.index is row and len(record.synthesized) == len(row)


def test_one_grid_alone_is_algorithm_1_from_its_start():
    (run,), (net,) = begin(nets((4,)), [ONE], seed=3), nets((4,))
    small = to_grid(DATA, 4)
    twin = Run.begin(net, Coarser(4), ONE, seed=3)
    together = [told(record) for (record,) in learn([run], small, [ONE])]
    assert together == [told(record) for record in learn_one(twin, small, ONE)]
    assert equal(run.state_dict(), twin.state_dict())


def test_shapes_of_any_finer_grid_are_brought_to_each_grid():
    """The same run from 12^3 shapes as from their 4^3 versions, where only the grid of 4^3 learns."""
    fine = torch.rand(5, 1, 12, 12, 12, generator=seeded(1)) - 0.5
    a, b = (begin(nets((4,)), [ONE]) for _ in range(2))
    first = [r.value for (r,) in learn(a, fine, [ONE])]
    assert first == pytest.approx([r.value for (r,) in learn(b, to_grid(fine, 4), [ONE])], rel=1e-3, abs=1e-4)


# -- killed and resumed ------------------------------------------------------------------------------------------------


def states(runs) -> list[dict]:
    return [run.state_dict() for run in runs]


@pytest.mark.parametrize("save_every", [1, 2, 50])
def test_it_resumes_from_its_checkpoint(save_every, tmp_path):
    whole = begin(nets(), THREE, seed=2)
    records = {rs[0].iteration: list(map(told, rs)) for rs in learn(whole, DATA, THREE)}
    path = tmp_path / "deep" / "run.pt"
    seen = set()
    for stop in (2, 3, None):
        runs = begin(nets(), THREE, seed=2)
        for rs in learn(runs, DATA, THREE, checkpoint=path, save_every=save_every):
            assert list(map(told, rs)) == records[rs[0].iteration]
            seen.add(rs[0].iteration)
            if rs[0].iteration == stop:
                break
    assert equal(states(runs), states(whole)) and seen == set(range(1, 7))
    assert [p.name for p in path.parent.iterdir()] == ["run.pt"]
    assert equal(read_state(path)[0]["grids"], states(whole))
    done = begin(nets(), THREE, seed=2)
    assert list(learn(done, DATA, THREE, checkpoint=path)) == [] and equal(states(done), states(whole))
    longer = [replace(s, num_iterations=8) for s in THREE]
    assert [rs[2].iteration for rs in learn(begin(nets(), longer, seed=2), DATA, longer, checkpoint=path)] == [7, 8]


def test_a_checkpoint_serves_a_run_that_is_ended_amid_an_iteration(tmp_path):
    """Killed after the coarsest grid's step and before the finest's: the file knows no half iteration."""

    class Killed(Exception):
        pass

    class Fragile(Coarser):
        def begin(self, observed, index, generator):
            if runs[0].iteration == 5:
                raise Killed
            return super().begin(observed, index, generator)

    Fragile.__name__ = "Coarser"  # a checkpoint knows the kind of its starts

    whole = begin(nets(), THREE)
    list(learn(whole, DATA, THREE))
    runs, path = begin(nets(), THREE), tmp_path / "run.pt"
    runs[2].starts = Fragile(9, runs[1].starts)
    with pytest.raises(Killed):
        list(learn(runs, DATA, THREE, checkpoint=path, save_every=2))
    assert [run.iteration for run in runs] == [4, 4, 4], "what was cut short was not done"
    again = begin(nets(), THREE)
    assert [rs[0].iteration for rs in learn(again, DATA, THREE, checkpoint=path)][-1] == 6
    assert equal(states(again), states(whole))


@pytest.mark.parametrize("other", ["grids", "one grid", "text"])
def test_a_checkpoint_of_another_run_is_named(other, tmp_path):
    path = tmp_path / "mine.pt"
    if other == "grids":
        list(learn(begin(nets((4, 6)), THREE[:2]), DATA, THREE[:2], checkpoint=path))
    elif other == "one grid":
        write_state(begin(nets((4,)), [ONE])[0].state_dict(), path, {})
    else:
        path.write_text("not a checkpoint")
    with pytest.raises(ValueError, match=r"mine\.pt (cannot be read as|is) the checkpoint"):
        next(learn(begin(nets(), THREE), DATA, THREE, checkpoint=path))


# -- divergence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mad", [0, 1, 2])
@pytest.mark.parametrize("save_every", [1, 3, 4, 50])
def test_a_diverged_grid_is_named_and_the_last_good_state_kept(mad, save_every, tmp_path):
    """Sane for three iterations, then one grid's learning rate is beyond all measure: what is kept must be of use."""
    settings, path = list(THREE), tmp_path / "run.pt"
    settings[mad] = replace(settings[mad], learning_rate=lambda iteration: 0.01 if iteration < 3 else 1e30)
    with pytest.raises(DivergedError, match="diverged at iteration") as caught:
        list(learn(begin(nets(), settings), DATA, settings, checkpoint=path, save_every=save_every))
    assert any(f"the grid of {GRIDS[mad]}^3" in note for note in caught.value.__notes__)
    assert caught.value.checkpoint == str(path)
    assert equal(read_state(path)[0], caught.value.state), "the file holds the same state, of all grids"
    again, whole = begin(nets(), THREE), begin(nets(), THREE)
    for run, own in zip(again, caught.value.state["grids"], strict=True):
        run.load_state_dict(own)
    assert {run.iteration for run in again} <= {0, 1, 2, 3} and len({run.iteration for run in again}) == 1
    list(learn(again, DATA, THREE))
    list(learn(whole, DATA, THREE))
    assert equal([run.net.state_dict() for run in again], [run.net.state_dict() for run in whole])


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sizes", "count"), [((), 0), ((6, 4), 2), ((4, 4), 2), ((4, 6), 1), ((4, 6), 3)])
def test_grids_in_the_wrong_order_are_named(sizes, count):
    with pytest.raises(ShapeError, match="from coarse to fine, and settings for each"):
        begin(nets(sizes), [ONE] * count)
    with pytest.raises(ShapeError, match="from coarse to fine, and settings for each"):
        next(learn([Run.begin(net, Coarser(1), ONE) for net in nets(sizes)], DATA, [ONE] * count))


def test_one_settings_is_no_list_of_them():
    for use in (lambda: begin(nets((4,)), ONE), lambda: next(learn(begin(nets((4,)), [ONE]), DATA, ONE))):
        with pytest.raises(ShapeError, match=r"settings for each, in a list: not \[4\], 1"):
            use()
    with pytest.raises(ValueError, match="runs must be Runs, not DescriptorNet: begin_grids"):
        next(learn(nets((4,)), DATA, [ONE]))


def test_grids_know_whose_file_they_find(tmp_path):
    """Begun from other weights they are refused; in the same process they go on."""
    path, pair = tmp_path / "run.pt", [ONE, ONE]
    runs = begin(nets((4, 6)), pair)
    for stop in (3, None):
        for records in learn(runs, DATA, pair, checkpoint=path, save_every=2):
            if records[0].iteration == stop:
                break
    other = begin(nets((4, 6), std=0.06), pair)
    next(learn(other, DATA, pair))
    with pytest.raises(CheckpointError, match=r"run\.pt is the checkpoint of another run .*has done 1 iterations"):
        next(learn(other, DATA, pair, checkpoint=path))


@pytest.mark.parametrize("changed", [{"batch_size": 3}, {"num_iterations": 9}])
def test_grids_must_share_their_batches(changed):
    """When they begin, and when they learn."""
    with pytest.raises(ValueError, match="num_iterations and batch_size must agree"):
        begin(nets((4, 6)), [ONE, replace(ONE, **changed)])
    with pytest.raises(ValueError, match="num_iterations and batch_size must agree"):
        next(learn(begin(nets((4, 6)), [ONE, ONE]), DATA, [ONE, replace(ONE, **changed)]))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (DATA[:0], "observed shapes is empty"),
        (DATA / 0, "observed shapes contains NaN"),
        (DATA.int(), "observed shapes.*int32"),
        (DATA[:, 0], r"takes shapes \(N, 1, 4, 4, 4\)"),
        (DATA[:2], "batch_size is 4, but there are only 2"),
        (DATA.numpy(), "observed shapes.*ndarray"),
    ],
)
def test_observed_shapes_of_the_wrong_kind_are_named(shapes, message):
    with pytest.raises(ShapeError, match=message):
        next(learn(begin(nets(), THREE), shapes, THREE))


def test_save_every_must_be_positive():
    with pytest.raises(ValueError, match="save_every"):
        next(learn(begin(nets(), THREE), DATA, THREE, save_every=0))


# -- sampling from scratch ---------------------------------------------------------------------------------------------


def pyramid(temperature: float = 0.5) -> Pretrained:
    """Three descriptors, the coarsest started from a histogram of one voxel."""
    start, model = Histogram.fit(DATA + CENTRE, 4, bins=5), None
    for net, steps in zip(nets(std=0.1), (3, 2, 4), strict=True):
        if model is not None:
            start = Expanded(model, net.architecture.resolution)
        model = Pretrained(
            net, start.centre if model is None else model.mean, start, Chain(steps, 0.02, temperature), {}
        )
    return model


def test_sampling_is_the_histogram_and_then_a_chain_on_each_grid():
    model = pyramid()
    assert [m.net.architecture.resolution for m in model.grids] == list(GRIDS) and model.grids[-1] is model
    assert model.grids[0].grids == [model.grids[0]]
    generator = seeded(7)
    y = model.grids[0].prior.draw(5, generator)
    assert y.shape == (5, 1, 4, 4, 4) and (y.flatten(1).std(1) == 0).all() and len(y.unique()) == 5
    for m in model.grids:
        y = to_grid(y, m.net.architecture.resolution)
        settings = vars(m.settings)
        y = sample(y, m.net, generator=generator, **settings)
    torch.testing.assert_close(model.sample(5, generator=seeded(7)), y + model.mean, rtol=1e-4, atol=1e-5)


def test_the_last_state_of_a_chain_is_the_sample():
    model = pyramid()
    chain = [y.clone() for y in model.chain(5, generator=seeded(7))]
    sides = [y.shape[-1] for y in chain]
    assert sides == [4] * (1 + 3) + [6] * (1 + 2) + [9] * (1 + 4), "each grid's start, then its steps"
    assert torch.equal(chain[-1], model.sample(5, generator=seeded(7)))
    for k in (3, 6):
        torch.testing.assert_close(chain[k + 1], to_grid(chain[k], sides[k + 1]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(chain[0] - model.mean, model.grids[0].prior.draw(5, seeded(7)))


def test_a_learned_pyramid_samples_without_the_shapes_it_learned_from():
    """Learned, wrapped, the shapes erased: samples are those of before, and vary as the histogram does."""
    shapes = DATA.clone()
    runs = begin(nets(), THREE)
    list(learn(runs, shapes, THREE))
    start, model = Histogram.fit(shapes + CENTRE, 4), None
    for run in runs:
        start = start if model is None else Expanded(model, run.net.architecture.resolution)
        model = Pretrained(run.net, CENTRE, start, Chain(2, 0.01), {})
    before = model.sample(6, generator=seeded())
    shapes.fill_(math.nan)
    runs.clear()
    assert torch.equal(model.sample(6, generator=seeded()), before) and before.isfinite().all()
    assert before.flatten(1).mean(1).std() > 0.02
