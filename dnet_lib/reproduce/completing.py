"""What is measured of models that complete unseen shapes: hidden voxels (Table 4) and missing detail (section 6.3)."""

import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dnet_lib.baselines import Denoiser, LocalMean, NearestShape, TrainingMean
from dnet_lib.baselines.denoiser import load_denoiser, save_denoiser
from dnet_lib.files import check_folders
from dnet_lib.metrics import intersection_over_union, recovery_error
from dnet_lib.paper import PAPER_TABLES
from dnet_lib.presets import Conditional
from dnet_lib.pretrained import Pretrained
from dnet_lib.reproduce.workplace import ALL, Facts, Sets, Workplace
from dnet_lib.starts import LowResolution
from dnet_lib.voxels import KINDS, corrupt, down_scale, flip, hide, threshold, threshold_blocks, up_scale

SHARE = 0.7  #: Of the voxels, hidden
FLIPPED = 0.05  #: Of the voxels, flipped: full ones empty and empty ones full, and nobody says which
DENOISER_ITERATIONS = 2  #: Of the auto-encoder, for one of the descriptor's: as long by the clock


def denoiser_file(preset: Conditional, place: Workplace) -> Path:
    """Where the auto-encoder of a preset's grid lies."""
    return place.file("baselines", f"denoiser_{preset.name.partition('-')[0]}")


def train_denoiser(preset: Conditional, place: Workplace) -> None:
    """One auto-encoder of all categories, trained as long as the descriptor of all; resumes, with a progress bar.

    Only where one descriptor of all categories is learned, too.
    """
    if preset.whole is None:
        return
    check_folders(place.runs, place.weights / "baselines")
    shapes = place.shapes(ALL, "train", preset.architecture.resolution)
    denoiser = Denoiser.fit(
        shapes.voxels.to(place.device),
        num_iterations=DENOISER_ITERATIONS * preset.whole.settings.num_iterations,
        seed=place.seed,
        progress=True,
        share=SHARE,
        checkpoint=place.checkpoint("denoiser", preset.name),
    )
    save_denoiser(denoiser_file(preset, place), denoiser)


def recovery(preset: Conditional, category: str, model: Pretrained, place: Workplace, sets: Sets) -> Facts:
    """Errors on the hidden voxels of the test shapes, and those of the baselines on the same masks."""
    train, test = (shapes.voxels for shapes in sets)
    random = torch.Generator().manual_seed(place.seed + 1)
    _, hidden = corrupt(test, SHARE, generator=random)
    masks = {kind: hide(test, kind, generator=random).to(model.device) for kind in KINDS}
    flipped = flip(test, FLIPPED, generator=random).to(model.device)
    known, truth, hidden = (y.to(model.device) for y in (train, test, hidden))
    began = time.perf_counter()
    recovered = model.recover(truth, hidden, progress="recovering")
    metrics = {"seconds_sampling": time.perf_counter() - began} | errors(recovered, truth, hidden)
    baselines: dict[str, Any] = {"local_mean": LocalMean.fit(known), "nearest_shape": NearestShape.fit(known)}
    others: Facts = {}
    for kind, mask in masks.items():
        others[kind] = errors(model.recover(truth, mask), truth, mask) | {"share_hidden": mask.double().mean().item()}
        for name, baseline in baselines.items():
            others[kind][f"recovery_error_{name}"] = recovery_error(baseline.recover(truth, mask), truth, mask)
    others["flips"] = errors(model.revise(flipped), truth, torch.ones_like(hidden)) | {"share_flipped": FLIPPED}
    baselines["training_mean"] = TrainingMean.fit(known)
    if denoiser_file(preset, place).exists():
        baselines["denoiser"] = load_denoiser(denoiser_file(preset, place), device=model.device)
    for name, baseline in baselines.items():
        found = errors(baseline.recover(truth, hidden), truth, hidden)
        metrics |= {f"{key}_{name}": value for key, value in found.items()}
    paper = PAPER_TABLES["recovery_error"].get(category, {})
    facts = {"recovery_error": paper["ours-3"], **paper} if paper else {}
    return {"metrics": metrics, "paper": facts, "other_corruptions": others}


def errors(recovered: Tensor, truth: Tensor, hidden: Tensor) -> dict[str, float]:
    """Recovery error of binary shapes, thresholded at one half, and of the continuous ones clipped to [0, 1]."""
    return {
        "recovery_error": recovery_error(threshold(recovered), truth, hidden),
        "recovery_error_continuous": recovery_error(recovered.clamp(0, 1), truth, hidden),
    }


def superresolution(preset: Conditional, category: str, model: Pretrained, place: Workplace, sets: Sets) -> Facts:
    """Errors and intersection over union on the test shapes, beside plain up-scaling; and how far the chain drifted."""
    assert isinstance(preset.starts, LowResolution)
    truth, scale = sets[1].voxels.to(model.device), preset.starts.scale
    coarse = down_scale(truth, scale)
    began = time.perf_counter()
    guesses = {"": model.super_resolve(coarse, progress="super-resolving")}
    metrics = {"seconds_sampling": time.perf_counter() - began}
    metrics["drift"] = (down_scale(guesses[""], scale) - coarse).abs().max().item()
    guesses["_nearest"] = up_scale(coarse, scale)
    guesses["_trilinear"] = F.interpolate(coarse, scale_factor=scale, mode="trilinear", align_corners=False)
    for name in ("", "_trilinear"):  # who knows a block's mean knows how many of its voxels are full
        guesses[f"_counted{name}"] = threshold_blocks(guesses[name], coarse)
    for name, guess in guesses.items():
        binary = threshold(guess)
        metrics[f"voxel_error{name}"] = (binary - truth).abs().double().mean().item()
        metrics[f"voxel_error_continuous{name}"] = (guess.clamp(0, 1) - truth).abs().double().mean().item()
        metrics[f"iou{name}"] = intersection_over_union(binary, truth).double().mean().item()
    return {"metrics": metrics, "paper": {}}
