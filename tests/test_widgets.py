"""The recovery panel: pressing its button hides, recovers and shows; what is visible stays."""

import pytest
import torch

from dnet_lib import Architecture, DescriptorNet, Pretrained, ShapeError, show
from dnet_lib.checkpoints import Chain
from dnet_lib.widgets import PLACES, RecoveryPanel, hide_share


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shapes(n: int = 2) -> torch.Tensor:
    return (torch.rand(n, 1, 8, 8, 8, generator=seeded(1)) < 0.4).float()


@pytest.fixture
def panel() -> RecoveryPanel:
    net = DescriptorNet(Architecture(8, ((4, 4, 2),), "silu"), weight_std=0.1, generator=seeded())
    return RecoveryPanel(Pretrained(net, 0.25, None, Chain(3, 0.2), {}), shapes())


@pytest.mark.parametrize("place", PLACES)
def test_pressing_the_button_recovers_and_leaves_the_visible_alone(panel, place):
    truth, first = shapes(), panel.screen.children
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
    hidden = hide_share(shapes(), "in a cube", 1.0, generator=seeded())
    assert (hidden.flatten(1).sum(1) == 64).all()
    assert 0 < hide_share(shapes(), "in a cube", 0.5, generator=seeded()).sum() < 128
    with pytest.raises(ValueError, match="anywhere, in one half, in a cube, behind"):
        hide_share(shapes(), "above", 0.5)


def test_the_panel_gives_a_widget_to_kernels_and_its_twin_to_pages(panel):
    panel.page = show(shapes(), alt="a twin")
    data, _ = panel._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.box.model_id
    assert data["text/plain"] == "a twin" and "iframe" in data["text/html"] and data["image/png"]


def test_shapes_of_another_resolution_are_refused(panel):
    with pytest.raises(ShapeError, match=r"8\^3"):
        RecoveryPanel(panel.model, torch.zeros(1, 1, 4, 4, 4))
