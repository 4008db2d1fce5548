"""A denoising auto-encoder that learns to fill in hidden voxels: one pass, one answer, no energy."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from dnet_lib.checkpoints import shipped
from dnet_lib.checks import check_shapes, check_whole
from dnet_lib.errors import DivergedError
from dnet_lib.files import read_tensors, weights, with_weights, write_tensors
from dnet_lib.resuming import Parts, described, fingerprint, resumable
from dnet_lib.voxels import brief, corrupt, threshold

CHANNELS = (32, 48, 64)
FORMAT = "dnet_lib denoiser 1"


class AutoEncoder(nn.Module):
    """Three convolutions of stride 2 down and three up, each stage of the way up adding the maps of the way down.

    Input: occupancy (N, 1, R, R, R), of which it sees the visible, and the mask of the hidden voxels. Output: logits
    (N, 1, R, R, R). R must divide by 8. 0.60 million weights, about as many as the compact descriptor's.
    """

    def __init__(self) -> None:
        super().__init__()
        a, b, c = CHANNELS
        self.down = nn.ModuleList([nn.Conv3d(i, o, 4, 2, 1) for i, o in ((2, a), (a, b), (b, c))])
        self.up = nn.ModuleList([nn.ConvTranspose3d(i, o, 4, 2, 1) for i, o in ((c, b), (b, a), (a, 1))])

    def forward(self, occupancy: Tensor, hidden: Tensor) -> Tensor:
        x, maps = torch.cat([occupancy.masked_fill(hidden, 0), hidden.to(occupancy)], dim=1), []
        for layer in self.down:
            x = F.silu(layer(x))
            maps.append(x)
        for layer, skipped in zip(self.up, (*maps[-2::-1], None), strict=True):
            x = layer(x)
            x = x if skipped is None else F.silu(x + skipped)
        return x


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A trained auto-encoder that recovers hidden voxels."""

    net: AutoEncoder

    __repr__ = brief

    @classmethod
    def fit(
        cls, shapes: Tensor, *, num_iterations: int = 1000, seed: int = 0, progress: bool = False, **options: Any
    ) -> Self:
        """Learn from shapes, occupancy (N, 1, R, R, R); `options` are those of `learn_to_denoise`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(check_whole(seed, "seed"))
            net = AutoEncoder().to(shapes.device)
        learning = learn_to_denoise(net, shapes, num_iterations=num_iterations, seed=seed, **options)
        with tqdm(total=num_iterations, unit="iteration", desc="auto-encoder", disable=not progress) as bar:
            for done, loss in learning:
                bar.update(done - bar.n)
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        return cls(net.eval().requires_grad_(False))

    def recover(self, occupancy: Tensor, hidden: Tensor, *, batch_size: int = 64) -> Tensor:
        """The probability that a hidden voxel is full; visible voxels as they are."""
        parts = zip(occupancy.split(batch_size), hidden.split(batch_size), strict=True)
        return torch.cat([torch.where(h, self.net(y, h).sigmoid(), y) for y, h in parts])


def save_denoiser(path: str | Path, denoiser: Denoiser) -> None:
    """Write its weights in half precision as one safetensors file, beside and renamed."""
    write_tensors(path, FORMAT, weights(denoiser.net, half=True))


def load_denoiser(name: str | Path, *, device: torch.device | str = "cpu") -> Denoiser:
    """One that ships with the library, "full" or "box" (Table 4's two grids), or a file of `save_denoiser`.

    Raises `CheckpointError` naming a file that is missing, truncated or foreign.
    """
    path = Path(name) if Path(name).suffix else shipped(f"baselines/denoiser_{name}")
    with read_tensors(path, FORMAT, device=device) as (tensors, _):
        with torch.device("meta"):
            net = AutoEncoder()
        return Denoiser(with_weights(net, tensors))


def learn_to_denoise(
    net: AutoEncoder,
    shapes: Tensor,
    *,
    num_iterations: int,
    share: float = 0.7,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    seed: int = 0,
    checkpoint: str | Path | None = None,
) -> Iterator[tuple[int, float]]:
    """Lower the cross-entropy of the hidden voxels, freshly hidden each time; yields iterations done and the loss.

    shapes      occupancy (N, 1, R, R, R), binary
    share       of the voxels, hidden
    checkpoint  a file: where it exists the run resumes from it; it is rewritten every 50 iterations and at the end
    """
    shapes = threshold(check_shapes(shapes, name="the training shapes"))
    generator = torch.Generator(shapes.device).manual_seed(check_whole(seed, "seed"))
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, num_iterations))
    run = Parts(net=net.train(), optimizer=optimizer, schedule=schedule, generator=generator)
    about = {"network": described(net), "data": fingerprint(shapes), "seed": seed}
    about |= {"iterations": num_iterations, "share": share, "batch size": batch_size, "learning rate": learning_rate}

    def step() -> tuple[int, float]:
        y = shapes[torch.randint(len(shapes), (batch_size,), generator=generator, device=shapes.device)]
        _, hidden = corrupt(y, share, generator=generator)
        loss = F.binary_cross_entropy_with_logits(net(y, hidden)[hidden], y[hidden])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if not math.isfinite(value := loss.item()):
            raise DivergedError(f"the auto-encoder diverged at iteration {run.iteration}: lower the learning rate")
        run.iteration += 1
        return run.iteration, value

    options: dict[str, Any] = {"checkpoint": checkpoint, "late": False, "device": shapes.device}
    return resumable(run, step, num_iterations, belongs=lambda: about, **options)
