"""Section 6.2, Table 4: hide most voxels of unseen shapes, recover them, and count what is wrong."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnet_lib.baselines import Denoiser, LocalMean, NearestShape, TrainingMean
from dnet_lib.baselines.denoiser import load_denoiser, save_denoiser
from dnet_lib.metrics import recovery_error
from dnet_lib.paper import PAPER_TABLES
from dnet_lib.presets import Conditional
from dnet_lib.pretrained import Pretrained
from dnet_lib.reproduce.workplace import ALL, Facts, Workplace
from dnet_lib.voxels import KINDS, corrupt, flip, hide, threshold

SHARE = 0.7  #: Of the voxels, hidden
FLIPPED = 0.05  #: Of the voxels, flipped: full ones empty and empty ones full, and nobody says which
DENOISER_ITERATIONS = 2  #: Of the auto-encoder, for one of the descriptor's: as long by the clock


def denoiser_file(preset: Conditional, place: Workplace) -> Path:
    """Where the auto-encoder of a preset's grid lies."""
    return place.file("baselines", f"denoiser_{preset.name}")


def train_denoiser(preset: Conditional, place: Workplace) -> None:
    """One auto-encoder of all categories, trained as long as the descriptor of all; resumes, with a progress bar.

    Only where one descriptor of all categories is learned, too.
    """
    if preset.first is None and not preset.shared:
        return
    place.probe(place.runs, place.weights / "baselines")
    shapes = place.shapes(ALL, "train", preset.architecture.resolution)
    denoiser = Denoiser.fit(
        shapes.voxels.to(place.device),
        num_iterations=DENOISER_ITERATIONS * (preset.first or preset.settings).num_iterations,
        seed=place.seed,
        progress=True,
        share=SHARE,
        checkpoint=place.checkpoint("denoiser", preset.name),
    )
    save_denoiser(denoiser_file(preset, place), denoiser)


def judge(preset: Conditional, category: str, model: Pretrained, place: Workplace) -> Facts:
    """Errors on the hidden voxels of the test shapes, and those of the baselines on the same masks."""
    train, test = (place.shapes(category, split, preset.architecture.resolution) for split in ("train", "test"))
    truth, device = test.voxels, model.device
    random = torch.Generator().manual_seed(place.seed + 1)
    _, hidden = corrupt(truth, SHARE, generator=random)
    began = time.perf_counter()
    recovered = model.recover(truth.to(device), hidden.to(device), progress="recovering").cpu()
    metrics = {"seconds_sampling": time.perf_counter() - began} | errors(recovered, truth, hidden)
    baselines: dict[str, Any] = {
        "local_mean": LocalMean.fit(train.voxels),
        "training_mean": TrainingMean.fit(train.voxels),
        "nearest_shape": NearestShape.fit(train.voxels),
    }
    if denoiser_file(preset, place).exists():
        baselines["denoiser"] = load_denoiser(denoiser_file(preset, place))
    for name, baseline in baselines.items():
        guess = baseline.recover(truth, hidden)
        metrics |= {f"{key}_{name}": value for key, value in errors(guess, truth, hidden).items()}
    corrupted = {kind: hide(truth, kind, generator=random) for kind in KINDS}
    others: dict[str, dict[str, float]] = {}
    for kind, hidden in corrupted.items():
        guess = model.recover(truth.to(device), hidden.to(device)).cpu()
        others[kind] = errors(guess, truth, hidden) | {"share_hidden": hidden.double().mean().item()}
        for name in ("local_mean", "nearest_shape"):
            guess = baselines[name].recover(truth, hidden)
            others[kind][f"recovery_error_{name}"] = recovery_error(guess, truth, hidden)
    flipped = flip(truth, FLIPPED, generator=random)
    guess = model.revise(flipped.to(device)).cpu()
    others["flips"] = errors(guess, truth, torch.ones_like(flipped, dtype=torch.bool)) | {"share_flipped": FLIPPED}
    paper = PAPER_TABLES["recovery_error"].get(category, {})
    facts = {"recovery_error": paper["ours-3"], **paper} if paper else {}
    return {"metrics": metrics, "paper": facts, "other_corruptions": others}


def errors(recovered: Tensor, truth: Tensor, hidden: Tensor) -> dict[str, float]:
    """Recovery error of binary shapes, thresholded at one half, and of the continuous ones clipped to [0, 1]."""
    return {
        "recovery_error": recovery_error(threshold(recovered), truth, hidden),
        "recovery_error_continuous": recovery_error(recovered.clamp(0, 1), truth, hidden),
    }
