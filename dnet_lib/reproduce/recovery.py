"""Section 6.2, Table 4: hide most voxels of unseen shapes, recover them, and count what is wrong."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnet_lib.baselines import Denoiser, LocalMean, NearestShape, TrainingMean
from dnet_lib.baselines.denoiser import load_denoiser, save_denoiser
from dnet_lib.checkpoints import WEIGHTS, Pretrained
from dnet_lib.data import ShapeSet, load_shapes
from dnet_lib.metrics import recovery_error
from dnet_lib.presets import PAPER_TABLES, Conditional
from dnet_lib.voxels import KINDS, corrupt, flip, hide, threshold

SHARE = 0.7
"""Of the voxels, hidden."""
FLIPPED = 0.05
"""Of the voxels, flipped: full ones empty and empty ones full, and nobody says which."""
DENOISER_ITERATIONS = 2
"""Of the auto-encoder, for one of the descriptor's: as long by the clock."""


def denoiser_file(preset: Conditional, weights: Path = WEIGHTS) -> Path:
    """Where the auto-encoder of a preset's grid lies."""
    return weights / "baselines" / f"denoiser_{preset.name}.safetensors"


def train_denoiser(
    preset: Conditional, *, data: str, seed: int, runs: Path, weights: Path = WEIGHTS, device: str = "cpu"
) -> Denoiser:
    """One auto-encoder of all categories, trained as long as the descriptor of all; resumes, with a progress bar."""
    shapes = load_shapes(data, None, "train", preset.architecture.resolution)
    denoiser = Denoiser.fit(
        shapes.voxels.to(device),
        num_iterations=DENOISER_ITERATIONS * (preset.first or preset.settings).num_iterations,
        seed=seed,
        progress=True,
        share=SHARE,
        checkpoint=runs / f"denoiser_{preset.name}_{seed}.pt",
    )
    save_denoiser(denoiser_file(preset, weights), denoiser)
    return denoiser


def judge(
    model: Pretrained, train: ShapeSet, test: ShapeSet, seed: int, *, preset: Conditional, weights: Path = WEIGHTS
) -> dict:
    """Errors on the hidden voxels of the test shapes, and those of the baselines on the same masks."""
    device = model.net.dense.weight.device
    random = torch.Generator().manual_seed(seed + 1)
    _, hidden = corrupt(test.voxels, SHARE, generator=random)
    began = time.perf_counter()
    recovered = model.recover(test.voxels.to(device), hidden.to(device), progress="recovering").cpu()
    metrics = {"seconds_sampling": time.perf_counter() - began} | errors(recovered, test.voxels, hidden)
    baselines: dict[str, Any] = {
        "local_mean": LocalMean.fit(train.voxels),
        "training_mean": TrainingMean.fit(train.voxels),
        "nearest_shape": NearestShape.fit(train.voxels),
    }
    if denoiser_file(preset, weights).exists():
        baselines["denoiser"] = load_denoiser(denoiser_file(preset, weights))
    for name, baseline in baselines.items():
        guess = baseline.recover(test.voxels, hidden)
        metrics |= {f"{key}_{name}": value for key, value in errors(guess, test.voxels, hidden).items()}
    corrupted = {kind: hide(test.voxels, kind, generator=random) for kind in KINDS}
    others: dict[str, dict[str, float]] = {}
    for kind, hidden in corrupted.items():
        guess = model.recover(test.voxels.to(device), hidden.to(device)).cpu()
        others[kind] = errors(guess, test.voxels, hidden) | {"share_hidden": hidden.double().mean().item()}
        for name in ("local_mean", "nearest_shape"):
            guess = baselines[name].recover(test.voxels, hidden)
            others[kind][f"recovery_error_{name}"] = recovery_error(guess, test.voxels, hidden)
    flipped = flip(test.voxels, FLIPPED, generator=random)
    guess = model.revise(flipped.to(device)).cpu()
    everywhere = torch.ones_like(flipped, dtype=torch.bool)
    others["flips"] = errors(guess, test.voxels, everywhere) | {"share_flipped": FLIPPED}
    names = [test.categories[k] for k in test.labels.unique().tolist()]
    paper = PAPER_TABLES["recovery_error"].get(names[0], {}) if len(names) == 1 else {}
    facts = {"recovery_error": paper["ours-3"], **paper} if paper else {}
    return {"metrics": metrics, "paper": facts, "other_corruptions": others}


def errors(recovered: Tensor, truth: Tensor, hidden: Tensor) -> dict[str, float]:
    """Recovery error of binary shapes, thresholded at one half, and of the continuous ones clipped to [0, 1]."""
    return {
        "recovery_error": recovery_error(threshold(recovered), truth, hidden),
        "recovery_error_continuous": recovery_error(recovered.clamp(0, 1), truth, hidden),
    }
