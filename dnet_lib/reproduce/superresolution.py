"""Section 6.3: give unseen low-resolution shapes their detail back, and count what is wrong."""

import time

import torch.nn.functional as F
from torch import Tensor

from dnet_lib.metrics import intersection_over_union
from dnet_lib.presets import Conditional
from dnet_lib.pretrained import Pretrained
from dnet_lib.reproduce.workplace import Facts, Workplace
from dnet_lib.starts import LowResolution
from dnet_lib.voxels import down_scale, threshold, threshold_blocks, up_scale


def judge(preset: Conditional, category: str, model: Pretrained, place: Workplace) -> Facts:
    """Errors and intersection over union on the test shapes, beside plain up-scaling; and how far the chain drifted."""
    assert isinstance(preset.starts, LowResolution)
    truth, scale = place.shapes(category, "test", preset.architecture.resolution).voxels, preset.starts.scale
    coarse = down_scale(truth, scale)
    began = time.perf_counter()
    fine = model.super_resolve(coarse.to(model.device), progress="super-resolving").cpu()
    metrics = {"seconds_sampling": time.perf_counter() - began}
    metrics["drift"] = (down_scale(fine, scale) - coarse).abs().max().item()
    guesses = {
        "": fine,
        "_nearest": up_scale(coarse, scale),
        "_trilinear": F.interpolate(coarse, scale_factor=scale, mode="trilinear", align_corners=False),
    }
    for name, guess in guesses.items():
        metrics |= {f"{key}{name}": value for key, value in errors(guess, truth).items()}
    for name in ("", "_trilinear"):  # who knows a block's mean knows how many of its voxels are full
        guess = threshold_blocks(guesses[name], coarse)
        metrics |= {f"{key}_counted{name}": value for key, value in errors(guess, truth).items()}
    return {"metrics": metrics, "paper": {}}


def errors(fine: Tensor, truth: Tensor) -> dict[str, float]:
    """Share of wrong voxels and intersection over union of shapes thresholded at one half; mean error as they are."""
    binary = threshold(fine)
    return {
        "voxel_error": (binary - truth).abs().double().mean().item(),
        "voxel_error_continuous": (fine.clamp(0, 1) - truth).abs().double().mean().item(),
        "iou": intersection_over_union(binary, truth).double().mean().item(),
    }
