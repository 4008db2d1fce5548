"""Section 6.1: learn one category by Algorithm 1, sample from scratch, and judge the samples."""

import base64
import json
import platform
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from dnet_lib import __version__
from dnet_lib.checkpoints import RESULTS, WEIGHTS, Pretrained, save_model, save_results
from dnet_lib.data import ShapeSet, load_shapes
from dnet_lib.energy import DescriptorNet
from dnet_lib.files import atomic_write
from dnet_lib.learning import Record, Run, learn
from dnet_lib.metrics import coverage, nearest
from dnet_lib.presets import Synthesis
from dnet_lib.starts import CoarseGaussian, Persistent, noise
from dnet_lib.voxels import threshold, uncentre

NUM_SAMPLES = 64
NUM_KEPT = 24
"""Samples kept in the results: base64 of their packed bits."""
NUM_POINTS = 100
"""Points of a learning curve."""


def train(
    preset: Synthesis, shapes: ShapeSet, *, seed: int, checkpoint: Path, device: str = "cpu"
) -> tuple[Pretrained, Run, list[dict]]:
    """Learn one category, with a progress bar; resumes from `checkpoint`. Returns model, run and learning curve."""
    generator = torch.Generator().manual_seed(seed)
    net = DescriptorNet(preset.architecture, generator=generator).to(device)
    coarse = None
    if preset.start is None:
        r = preset.architecture.resolution
        starts: Persistent | CoarseGaussian = Persistent(noise(preset.num_chains, r, generator=generator).to(device))
    else:
        starts = coarse = CoarseGaussian.fit(
            shapes.voxels.to(device),
            preset.start.scale,
            rank=preset.start.rank,
            num_chains=preset.num_chains,
            temperature=preset.start.temperature,
        )
    run, settings = Run.begin(net, starts, preset.settings, seed=seed), preset.settings
    path = checkpoint.with_suffix(".curve.json")
    curve: list[dict] = json.loads(path.read_text()) if checkpoint.exists() and path.exists() else []
    bar = tqdm(total=settings.num_iterations, unit="iteration", desc="learning")
    for record in learn(run, shapes.centred, settings, checkpoint=checkpoint, save_every=10):
        bar.update(record.iteration - bar.n)
        bar.set_postfix(V=f"{record.value:.0f}", slope=f"{record.gradient_norm:.1f}", refresh=False)
        if record.iteration % max(1, settings.num_iterations // NUM_POINTS) == 0:
            curve = [*(old for old in curve if old["iteration"] < record.iteration), point(record, shapes)]
            with atomic_write(path) as part:
                part.write_text(json.dumps(curve))
    bar.close()
    kept = run.net if run.averaged is None else run.averaged
    model = Pretrained(kept.eval().requires_grad_(False), shapes.mean, coarse, preset.sampling, {})
    return model, run, curve


def point(record: Record, shapes: ShapeSet) -> dict[str, float]:
    """One point of a learning curve: what the iteration measured, and how near its chains are to training shapes."""
    near = nearest(uncentre(record.synthesized.cpu(), shapes.mean), shapes.voxels)
    return {
        "iteration": record.iteration,
        "minutes": round(record.seconds / 60, 2),
        "value": round(record.value, 2),
        "gradient_norm": round(record.gradient_norm, 3),
        "nearest": round(near.distance.float().mean().item(), 1),
        "distinct_nearest": near.row.unique().numel(),
    }


def judge(samples: torch.Tensor, train: ShapeSet, test: ShapeSet) -> dict[str, float]:
    """Numbers of section 6.1's kind on thresholded samples (occupancy); real test shapes stand beside every one."""
    near, near_test = nearest(samples, train.voxels), nearest(test.voxels, train.voxels)
    count = min(len(samples), len(test))
    return {
        "num_samples": len(samples),
        "mean_nearest": near.distance.mean().item(),
        "mean_nearest_test": near_test.distance.mean().item(),
        "ratio": (near.distance.mean() / near_test.distance.mean()).item(),
        "distinct_nearest": near.row.unique().numel(),
        "distinct_nearest_test": near_test.row[:count].unique().numel(),
        "occupancy": threshold(samples).mean().item(),
        "occupancy_train": train.voxels.mean().item(),
        "coverage_of_test": coverage(samples, test.voxels),
        "coverage_of_test_by_train": coverage(train.voxels[:: max(1, len(train) // count)][:count], test.voxels),
        "unsure_voxels": ((samples > 0.1) & (samples < 0.9)).float().mean().item(),
    }


def reproduce(
    preset: Synthesis,
    category: str,
    *,
    data: str,
    seed: int,
    runs: Path,
    weights: Path = WEIGHTS,
    results: Path = RESULTS,
    device: str = "cpu",
) -> dict:
    """Train, sample, judge; writes <category>.safetensors and <category>.json into the experiment's folders.

    Where chains start anew at each iteration, 64 new ones are judged; persistent ones (Algorithm 1) themselves.
    """
    resolution = preset.architecture.resolution
    shapes, test = (load_shapes(data, category, split, resolution) for split in ("train", "test"))
    checkpoint = runs / f"{preset.experiment}_{preset.name}_{category}_{seed}.pt"
    model, run, curve = train(preset, shapes, seed=seed, checkpoint=checkpoint, device=device)
    began = time.perf_counter()
    if isinstance(run.starts, Persistent):
        samples = uncentre(run.starts.chains, shapes.mean).cpu()
    else:
        random = torch.Generator(device).manual_seed(seed + 1)
        samples = model.sample(NUM_SAMPLES, generator=random, progress="sampling").cpu()
    facts = {
        "metrics": judge(samples, shapes, test) | {"seconds_sampling": time.perf_counter() - began},
        "paper": {},
        "preset": asdict(preset),
        "dataset": {"name": shapes.dataset, "sha256": shapes.sha256, "category": category, "num_train": len(shapes)},
        "seed": seed,
        "seconds": run.seconds,
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads, {device}",
        "versions": {"dnet_lib": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "curve": {key: [row[key] for row in curve] for key in curve[0]} if curve else {},
    }
    card = {k: facts[k] for k in ("preset", "dataset", "seed", "versions")}
    solid = threshold(samples[:NUM_KEPT]).numpy().astype(bool)
    facts["samples"] = base64.b64encode(np.packbits(solid).tobytes()).decode()
    save_model(weights / preset.experiment / f"{category}.safetensors", Pretrained(**{**vars(model), "card": card}))
    save_results(preset.experiment, category, facts, folder=results)
    return facts
