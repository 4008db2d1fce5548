"""Section 6.1: learn one category by Algorithm 1, sample from scratch, and judge the samples."""

import platform
import time
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm.auto import tqdm

from dnet_lib import __version__
from dnet_lib.checkpoints import RESULTS, WEIGHTS, Pretrained, save_model, save_results
from dnet_lib.data import ShapeSet, load_shapes
from dnet_lib.energy import DescriptorNet
from dnet_lib.learning import Record, Run, learn
from dnet_lib.metrics import coverage, nearest
from dnet_lib.presets import Synthesis
from dnet_lib.starts import CoarseGaussian, Persistent, noise
from dnet_lib.voxels import threshold

NUM_SAMPLES = 64


def train(
    preset: Synthesis, shapes: ShapeSet, *, seed: int, checkpoint: Path, device: str = "cpu"
) -> tuple[Pretrained, list[Record], float]:
    """Learn one category, with a progress bar; resumes from `checkpoint`. Returns model, records and seconds."""
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
    run = Run.begin(net, starts, preset.settings, seed=seed)
    records = []
    bar = tqdm(total=preset.settings.num_iterations, unit="iteration", desc="learning")
    for record in learn(run, shapes.centred, preset.settings, checkpoint=checkpoint):
        bar.update(record.iteration - bar.n)
        bar.set_postfix(V=f"{record.value:.0f}", slope=f"{record.gradient_norm:.1f}", refresh=False)
        records.append(record._replace(synthesized=torch.empty(0)))  # the shapes themselves would fill the memory
    bar.close()
    kept = run.net if run.averaged is None else run.averaged
    model = Pretrained(kept.eval().requires_grad_(False), shapes.mean, coarse, preset.sampling, {})
    return model, records, run.seconds


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
    """Train, sample, judge; writes weights/synthesis/<category>.safetensors and results/synthesis/<category>.json."""
    resolution = preset.architecture.resolution
    shapes, test = (load_shapes(data, category, split, resolution) for split in ("train", "test"))
    checkpoint = runs / f"synthesis_{preset.name}_{category}_{seed}.pt"
    model, records, seconds = train(preset, shapes, seed=seed, checkpoint=checkpoint, device=device)
    began = time.perf_counter()
    samples = model.sample(
        NUM_SAMPLES, generator=torch.Generator(device).manual_seed(seed + 1), progress="sampling"
    ).cpu()
    facts = {
        "metrics": judge(samples, shapes, test) | {"seconds_sampling": time.perf_counter() - began},
        "paper": {},
        "preset": described(preset),
        "dataset": {"name": shapes.dataset, "sha256": shapes.sha256, "category": category, "num_train": len(shapes)},
        "seed": seed,
        "seconds": seconds,
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads, {device}",
        "versions": {"dnet_lib": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    if records:
        keep = sorted({*range(0, len(records), max(1, len(records) // 100)), len(records) - 1})
        facts["curve"] = {
            "iteration": [records[k].iteration for k in keep],
            "value": [round(records[k].value, 2) for k in keep],
            "gradient_norm": [round(records[k].gradient_norm, 3) for k in keep],
        }
    card = {k: facts[k] for k in ("preset", "dataset", "seed", "versions")}
    save_model(weights / "synthesis" / f"{category}.safetensors", Pretrained(**{**vars(model), "card": card}))
    save_results("synthesis", category, facts, folder=results)
    return facts


def described(preset: Synthesis) -> dict:
    """A preset as JSON: schedules by their numbers."""
    return asdict(preset)
