"""Sections 6.2 and 6.3: learn to complete shapes whose voxels, or whose detail, is missing, by Algorithms 4 and 5."""

from dataclasses import asdict, replace

import torch

from dnet_lib.checkpoints import save_model
from dnet_lib.energy import DescriptorNet
from dnet_lib.learning import Run
from dnet_lib.presets import Conditional
from dnet_lib.pretrained import Pretrained
from dnet_lib.reproduce.drive import Trained
from dnet_lib.reproduce.training import follow
from dnet_lib.reproduce.workplace import ALL, Workplace, source


def learn(preset: Conditional, category: str, place: Workplace) -> Trained:
    """Learn one category, or all; resumes from a checkpoint.

    Where the preset says so, one model of all categories is learned first, unless its weights are there already.
    """
    shapes = place.shapes(category, "train", preset.architecture.resolution)
    settings, first = preset.settings, None
    if preset.first is not None and category == ALL:
        settings = preset.first
    elif preset.first is not None:
        path = place.file(preset.experiment, ALL)
        if not path.exists():
            whole = learn(preset, ALL, place)
            about = source(whole.shapes, category=ALL, num_train=len(whole.shapes))
            card = {"preset": asdict(preset) | whole.preset, "dataset": about, **place.made(whole.seconds)}
            save_model(path, replace(whole.model, card=card), half=True)
        first = place.model(preset.experiment, ALL)
        shapes = replace(shapes, mean=first.mean)  # what its weights know as the level of an empty voxel
    settings = replace(settings, batch_size=min(settings.batch_size, len(shapes)))
    generator = torch.Generator().manual_seed(place.seed)
    net = DescriptorNet(preset.architecture, weight_std=preset.weight_std, generator=generator).to(place.device)
    if first is not None:
        net.load_state_dict(first.net.state_dict())
    run = Run.begin(net, preset.starts, settings, seed=place.seed)
    curve = follow(run, shapes, settings, place.checkpoint(preset.experiment, preset.name, category))
    model = Pretrained.of(run, shapes.mean, None, preset.sampling)
    return Trained(model, shapes, run.seconds, curve, preset={"settings": asdict(settings)})
