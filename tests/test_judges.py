"""The judges: what they see, how they learn, whether their probabilities mean what they say, and what ships."""

import math

import numpy as np
import pytest
import torch
from problems import drawn, seeded

from dnet_lib import load_results, load_shapes
from dnet_lib.checkpoints import WEIGHTS
from dnet_lib.errors import CheckpointError
from dnet_lib.judges import (
    NETS,
    Judge,
    ViewNet,
    VoxNet,
    calibrate,
    depth_views,
    fit,
    hold_out,
    load_judge,
    reliability,
    save_judge,
    vary,
)
from dnet_lib.voxels import ShapeError


def a_box() -> torch.Tensor:
    """8 x 4 x 2 voxels in the middle of 16^3."""
    y = torch.zeros(1, 1, 16, 16, 16)
    y[:, :, 4:12, 6:10, 7:9] = 1
    return y


def test_depth_views_of_a_box():
    views = depth_views(a_box())
    assert views.shape == (1, 6, 2, 16, 16)
    for view, (first, length) in zip(views[0], [(4, 8), (4, 8), (6, 4), (6, 4), (7, 2), (7, 2)], strict=True):
        near, thick = view
        seen = near > 0
        assert near[seen].unique().tolist() == pytest.approx([1 - first / 16])
        assert thick[seen].unique().tolist() == pytest.approx([length / 16])
        assert torch.equal(seen, thick > 0)
        assert int(seen.sum()) == 64 / length


def test_opposite_views_see_opposite_faces():
    y = torch.zeros(1, 1, 8, 8, 8)
    y[0, 0, 1, 3, 3] = 1
    near, far = depth_views(y)[0, 0, 0], depth_views(y)[0, 1, 0]
    assert near.max() == pytest.approx(1 - 1 / 8)
    assert far.max() == pytest.approx(1 - 6 / 8)


@pytest.mark.parametrize("name", NETS)
def test_a_judge_reads_any_floats_and_learns_under_any_default(name):
    y, labels = drawn(8, 32, 0.2), torch.arange(8) % 2
    judge = Judge(name, NETS[name](2).eval(), tuple("ab"), 1.0, {})
    assert torch.equal(judge.logits(y.double()), judge.logits(y))
    learned = []
    for default in (torch.float32, torch.float64):
        torch.manual_seed(0)
        net = NETS[name](2)
        torch.set_default_dtype(default)
        try:
            learned.append(next(fit(net, y, labels, labels + torch.arange(8) > 6, num_epochs=1, batch_size=3)))
        finally:
            torch.set_default_dtype(torch.float32)
    assert learned[0].loss == pytest.approx(learned[1].loss, rel=1e-4)


@pytest.mark.parametrize("name", NETS)
def test_a_judge_does_not_care_for_quarter_turns(name):
    torch.manual_seed(0)
    judge = Judge(name, NETS[name](10).eval(), tuple("abcdefghij"), 1.0, {})
    y = drawn(2, 32, 0.1)
    p = judge.probabilities(y)
    assert p.shape == (2, 10)
    assert torch.allclose(p.sum(1), torch.ones(2), atol=1e-5)
    assert torch.allclose(judge.probabilities(torch.rot90(y, 1, (2, 3))), p, atol=1e-5)


def test_a_judge_thresholds_at_a_half_and_does_not_depend_on_batches():
    torch.manual_seed(0)
    judge = Judge("views", ViewNet().eval(), tuple("abcdefghij"), 1.0, {})
    y = torch.rand(5, 1, 32, 32, 32, generator=seeded())
    assert torch.equal(judge.logits(y), judge.logits((y > 0.5).float()))
    assert torch.allclose(judge.logits(y), judge.logits(y, batch_size=2), atol=1e-5)


def test_the_temperature_divides_the_logits():
    torch.manual_seed(0)
    net, y = VoxNet().eval(), a_box().repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    plain, warm = (Judge("voxnet", net, tuple("abcdefghij"), t, {}).logits(y) for t in (1.0, 2.0))
    assert torch.allclose(plain, 2 * warm)


@pytest.mark.parametrize("bad", [torch.zeros(1, 1, 16, 16, 16), torch.full((1, 1, 32, 32, 32), math.nan)])
def test_a_judge_refuses_what_it_cannot_see(bad):
    with pytest.raises(ShapeError):
        Judge("views", ViewNet().eval(), tuple("abcdefghij"), 1.0, {}).probabilities(bad)


def test_varied_shapes_are_binary_and_of_about_their_size():
    y = load_shapes("furniture", "chair").voxels[:16]
    varied = vary(y, seeded())
    assert varied.shape == y.shape
    assert set(varied.unique().tolist()) == {0.0, 1.0}
    assert 0.3 < varied.mean() / y.mean() < 1.7
    assert torch.equal(varied, vary(y, seeded()))
    assert not torch.equal(varied, vary(y, seeded(1)))


def test_variations_keep_up_and_include_plain_quarter_turns():
    """A tall thin pole stays upright; of a solid box some variations are exactly a quarter-turn, mirrored or not."""
    pole = torch.zeros(24, 1, 16, 16, 16)
    pole[:, :, 6:10, 6:10, 2:14] = 1
    varied = vary(pole, seeded())
    extent = [varied.amax(tuple({1, 2, 3, 4} - {axis})).sum(1) for axis in (2, 3, 4)]
    assert bool((extent[2] > extent[0]).all()) and bool((extent[2] > extent[1]).all())
    box = a_box().repeat(60, 1, 1, 1, 1)
    exact = [torch.rot90(mirrored, k, (2, 3)) for mirrored in (box[0], box[0].flip(2)) for k in range(4)]
    found = sum(any(torch.equal(shape, turn) for turn in exact) for shape in vary(box, seeded()))
    assert 60 * 0.08 < found < 60 * 0.5  # a third makes quarter-turns only, two fifths of them lose or hollow something


def test_hold_out_takes_a_share_of_each_category():
    labels = torch.tensor([0] * 100 + [1] * 20 + [2] * 4)
    mask = hold_out(labels, 0.25, seeded())
    assert [int(mask[labels == c].sum()) for c in range(3)] == [25, 5, 1]


def test_calibration_finds_the_temperature_of_the_labels():
    """Labels drawn from softmax(logits / 2.5) are best explained by T = 2.5."""
    logits = 4 * torch.randn(20000, 5, generator=seeded())
    labels = torch.multinomial((logits / 2.5).softmax(1), 1, generator=seeded(1)).squeeze(1)
    assert calibrate(logits, labels) == pytest.approx(2.5, rel=0.03)


def test_reliability_of_a_hand_computed_case():
    p = torch.tensor([[0.95, 0.05], [0.95, 0.05], [0.4, 0.6], [0.35, 0.65]])
    table = reliability(p, torch.tensor([0, 1, 1, 1]))
    assert table["count"] == [2, 2]
    assert table["confidence"] == pytest.approx([0.625, 0.95])
    assert table["accuracy"] == [1.0, 0.5]


def test_training_learns_and_a_resumed_one_ends_as_if_it_had_not_stopped(tmp_path):
    shapes = [load_shapes("furniture", c).voxels[:12] for c in ("table", "toilet")]
    voxels, labels = torch.cat(shapes), torch.tensor([0] * 12 + [1] * 12)
    held_out = hold_out(labels, 0.25, seeded())

    def train(epochs, checkpoint):
        torch.manual_seed(0)
        net = ViewNet(2)
        options = {"num_epochs": 4, "batch_size": 6, "checkpoint": checkpoint}
        seen = []
        for epoch in fit(net, voxels, labels, held_out, **options):
            seen.append(epoch)
            if epoch.number == epochs:
                break
        return net, seen

    whole, seen = train(4, None)
    train(2, tmp_path / "judge.pt")
    resumed, seen_too = train(4, tmp_path / "judge.pt")
    assert [e.number for e in seen_too] == [1, 2, 3, 4]
    assert [e[:-1] for e in seen_too] == [e[:-1] for e in seen]
    assert [e.seconds for e in seen_too] == sorted(e.seconds for e in seen_too)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert seen[-1].loss < seen[0].loss


def test_a_broken_checkpoint_is_named(tmp_path):
    (tmp_path / "judge.pt").write_bytes(b"torn")
    voxels, labels = torch.zeros(4, 1, 32, 32, 32), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"judge\.pt cannot be read as the checkpoint"):
        next(fit(ViewNet(2), voxels, labels, hold_out(labels, 0.5, seeded()), checkpoint=tmp_path / "judge.pt"))


def test_a_judge_saved_is_the_judge_loaded(tmp_path):
    torch.manual_seed(0)
    judge = Judge("views", ViewNet(3).eval(), ("a", "b", "c"), 1.7, {"seed": 0})
    save_judge(tmp_path / "judge.safetensors", judge)
    again = load_judge(tmp_path / "judge.safetensors")
    y = drawn(2, 32, 0.1)
    assert torch.allclose(again.probabilities(y), judge.probabilities(y), atol=5e-3)  # half precision
    assert (again.categories, again.temperature, again.card) == (("a", "b", "c"), 1.7, {"seed": 0})
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "judge.safetensors").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="broken or truncated"):
        load_judge(tmp_path / "cut.safetensors")
    with pytest.raises(CheckpointError, match="no pretrained model"):
        load_judge("nobody")


@pytest.mark.parametrize("name", NETS)
def test_the_shipped_judges_are_small_and_as_good_as_the_issue_asks(name):
    """What they say of ModelNet10 stands in their results; of furniture made by rules they may be less sure."""
    facts = load_results("judges")[name]
    assert facts["metrics"]["accuracy"] >= 0.9
    confidence, accuracy, count = (np.array(facts["reliability"][k]) for k in ("confidence", "accuracy", "count"))
    assert (count * abs(confidence - accuracy)).sum() / count.sum() < 0.06  # expected calibration error
    judge = load_judge(name)
    shapes = load_shapes("furniture", "toilet").voxels[:12]
    p = judge.probabilities(shapes)
    assert (p.argmax(1) == judge.categories.index("toilet")).float().mean() > 0.7
    assert (WEIGHTS / "judges" / f"{name}.safetensors").stat().st_size < 4_000_000
