"""Section 6.1: learn one category, or all together, by Algorithm 1."""

from dataclasses import asdict

import torch

from dnet_lib.energy import DescriptorNet
from dnet_lib.learning import Run
from dnet_lib.presets import Synthesis
from dnet_lib.pretrained import Pretrained
from dnet_lib.priors import CoarseGaussian
from dnet_lib.reproduce.drive import Trained
from dnet_lib.reproduce.judging import compared, in_the_paper, judged
from dnet_lib.reproduce.training import follow, point
from dnet_lib.reproduce.workplace import Facts, Workplace, packed
from dnet_lib.starts import Fresh, Persistent, Starts, noise
from dnet_lib.voxels import threshold, uncentre

NUM_KEPT = 24  #: Persistent chains kept in the results, which no weights can draw again: base64 of their packed bits


def learn(preset: Synthesis, category: str, place: Workplace) -> Trained:
    """Learn, with a progress bar; resumes from a checkpoint.

    Where chains start anew at each iteration, new ones are judged later; persistent ones (Algorithm 1) here.
    """
    shapes = place.shapes(category, "train", preset.architecture.resolution)
    generator, prior = torch.Generator().manual_seed(place.seed), None
    net = DescriptorNet(preset.architecture, generator=generator).to(place.device)
    if preset.start is None:
        chains = noise(preset.num_chains, net.resolution, generator=generator).to(place.device)
        starts: Starts = Persistent(chains)
    else:
        options = asdict(preset.start)
        balanced = options.pop("balanced")
        fitted = CoarseGaussian.fit(shapes.voxels.to(place.device), seed=place.seed, **options)
        starts, prior = Fresh(fitted, preset.num_chains), fitted.balanced() if balanced else fitted
    run = Run.begin(net, starts, preset.settings, seed=place.seed)
    checkpoint = place.checkpoint(preset.experiment, preset.name, category)
    curve = follow(run, shapes, preset.settings, checkpoint, point)
    model = Pretrained.of(run, shapes.mean, prior, preset.sampling)
    facts: Facts = {}
    if isinstance(starts, Persistent):
        samples = uncentre(starts.chains, shapes.mean).cpu()
        test = place.shapes(category, "test", preset.architecture.resolution)
        metrics = judged(samples, category) | compared(samples, shapes, test)
        facts = {"paper": in_the_paper(category), "metrics": metrics, "samples": packed(threshold(samples[:NUM_KEPT]))}
    return Trained(model, shapes, run.seconds, curve, judged=facts)
