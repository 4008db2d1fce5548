"""Classification by features, made small: what it writes, and that labels help."""

import numpy as np
import pytest
import torch
from problems import TINY, seeded

from dnet_lib import DescriptorNet, load_results, load_shapes, save_model
from dnet_lib.errors import CheckpointError
from dnet_lib.features import labelled
from dnet_lib.pretrained import Chain, Pretrained
from dnet_lib.reproduce import classification, workplace
from dnet_lib.reproduce.workplace import Workplace


def test_labelled_rows_are_a_share_of_each_category_and_two_at_least():
    labels = np.repeat([0, 1, 2], [100, 40, 5])
    rows = labelled(labels, 0.1, draw=0)
    assert list(np.bincount(labels[rows])) == [10, 4, 2]
    assert len(set(rows)) == len(rows)
    assert set(rows) != set(labelled(labels, 0.1, draw=1))
    assert list(labelled(labels, 1.0, draw=0)) == list(range(145))


def test_the_results_of_a_tiny_network(tmp_path, monkeypatch):
    monkeypatch.setattr(classification, "SHARES", (0.02, 1.0))
    monkeypatch.setattr(classification, "DRAWS", 2)
    monkeypatch.setattr(workplace, "load_shapes", lambda name, category, split, resolution: small(split))
    net = DescriptorNet(TINY, generator=seeded(1))
    save_model(tmp_path / "synthesis" / "all.safetensors", Pretrained(net, 0.1, None, Chain(4, 0.02), {}))
    classification.reproduce(Workplace("furniture", weights=tmp_path, results=tmp_path))
    facts = load_results("classification", folder=tmp_path)["all"]
    few, test = facts["few_labels"], small("test")
    assert facts["num_features"] == {"trained": 8 * 8 + 8 * 8, "untrained": 8 * 8 + 8 * 8, "voxels": 512}
    for name, key in {"trained": "accuracy", "untrained": "accuracy_untrained", "voxels": "accuracy_voxels"}.items():
        assert facts["metrics"][key] == few[name]["1"][0] > np.mean(few[name]["0.02"]) > 0.1
        assert len(few[name]["0.02"]) == 2
        confusion = np.array(facts["confusion"][name])
        assert np.trace(confusion) / confusion.sum() == pytest.approx(few[name]["1"][0])
        assert list(confusion.sum(1)) == torch.bincount(test.labels).tolist()
    assert np.array(facts["picture"]["points"]).shape == (len(test), 3)
    assert facts["picture"]["labels"] == test.labels.tolist()
    spread = np.array(facts["picture_untrained"]["points"]).std(0)
    assert spread[0] > spread[2] > 0


def small(split: str):
    """A part of the furniture, at 16^3."""
    shapes = load_shapes("furniture", None, split, 16)
    every = slice(None, None, 8 if split == "train" else 2)
    return type(shapes)(
        shapes.voxels[every],
        shapes.labels[every],
        shapes.categories,
        shapes.names[every],
        shapes.mean,
        shapes.dataset,
        shapes.sha256,
    )


def test_without_the_model_it_says_what_is_missing(tmp_path):
    with pytest.raises(CheckpointError, match="no weights"):
        classification.reproduce(Workplace("furniture", weights=tmp_path, results=tmp_path))
