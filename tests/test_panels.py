"""The panels: pressing a button hides, recovers and shows; sliders walk through a latent space."""

import numpy as np
import pytest
import torch
from problems import drawn, seeded, small_model

from dnet_lib import ShapeError, show
from dnet_lib.generator import GeneratorNet, Layout
from dnet_lib.viz.panels import PLACES, LatentPanel, RecoveryPanel, hide_share

SHAPES = drawn(2, 8, 0.4)


@pytest.fixture
def panel() -> RecoveryPanel:
    return RecoveryPanel(small_model(3), SHAPES)


@pytest.mark.parametrize("place", PLACES)
def test_pressing_the_button_recovers_and_leaves_the_visible_alone(panel, place):
    truth, first = SHAPES, panel.screen.children
    panel.place.value, panel.share.value = place, 0.8
    panel.button.click()
    hidden, recovered = panel.hidden, panel.recovered
    assert hidden.any() and not hidden.all()
    assert torch.equal(recovered[~hidden], truth[~hidden])
    assert (recovered - truth)[hidden].abs().mean() > 0.01 and recovered[hidden].unique().numel() > 10
    assert torch.equal(recovered, torch.where(hidden, panel.model.recover(truth, hidden), truth))
    assert panel.progress.value == panel.progress.max == 3 and not panel.button.disabled
    assert panel.screen.children != first and len(panel.screen.children) == 1


def test_each_press_hides_anew(panel):
    panel.button.click()
    before = panel.hidden
    panel.button.click()
    assert not torch.equal(before, panel.hidden)
    assert (panel.hidden.flatten(1).sum(1) == round(0.7 * 512)).all()


def test_a_share_of_one_hides_the_whole_place():
    hidden = hide_share(SHAPES, "in a cube", 1.0, generator=seeded())
    assert (hidden.flatten(1).sum(1) == 64).all()
    assert 0 < hide_share(SHAPES, "in a cube", 0.5, generator=seeded()).sum() < 128
    with pytest.raises(ValueError, match="anywhere, in one half, in a cube, behind"):
        hide_share(SHAPES, "above", 0.5)


def test_the_panel_gives_a_widget_to_kernels_and_its_twin_to_pages(panel):
    panel.page = show(SHAPES, alt="a twin")
    data, _ = panel._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.box.model_id
    assert data["text/plain"] == "a twin" and "iframe" in data["text/html"] and data["image/png"]


def test_shapes_of_another_resolution_are_refused(panel):
    with pytest.raises(ShapeError, match=r"8\^3"):
        RecoveryPanel(panel.model, torch.zeros(1, 1, 4, 4, 4))


@pytest.fixture
def latent_panel() -> LatentPanel:
    net = GeneratorNet(Layout(8, 5, (4,), (1, 2), batch_norm=False), generator=seeded())
    ends = torch.randn(2, 5, generator=seeded(1))
    return LatentPanel(net.requires_grad_(False), ends, {"legs": torch.eye(5)[0], "back": torch.eye(5)[1]})


def test_the_latent_panel_walks_from_end_to_end_and_adds_parts(latent_panel):
    panel, (first, last) = latent_panel, latent_panel.ends
    assert torch.equal(panel.latent, first[None])
    panel.between.value = 0.25
    torch.testing.assert_close(panel.latent[0], 0.75 * first + 0.25 * last)
    panel.between.value, panel.along["back"].value = 1.0, -0.5
    torch.testing.assert_close(panel.latent[0], last - 0.5 * torch.eye(5)[1])
    for _ in range(2):
        solids = [item.voxels for item in panel.view.objects if hasattr(item, "voxels")]
        expected = panel.net(torch.cat([panel.ends[:1], panel.latent, panel.ends[1:]])).squeeze(1) >= 0.5
        assert len(solids) == 3 and expected.any()
        for voxels, shape in zip(solids, expected, strict=True):
            assert np.array_equal(voxels, shape.permute(2, 0, 1).numpy())
        panel.button.click()
    assert not torch.equal(panel.ends[0], first)


def test_the_latent_panel_has_a_twin_and_refuses_other_ends(latent_panel):
    latent_panel.page = show(SHAPES, alt="a twin")
    data, _ = latent_panel._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == latent_panel.box.model_id
    assert data["text/plain"] == "a twin"
    with pytest.raises(ShapeError, match=r"\(2, 5\)"):
        LatentPanel(latent_panel.net, torch.zeros(2, 4))
