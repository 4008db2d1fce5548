"""Reference classifiers: networks that judge which category a shape belongs to, p(c | Y).

The paper judges its samples by other people's multi-view network. Ours are two small networks that look at a shape in
different ways: `VoxNet` convolves the voxels themselves, `ViewNet` sees six depth images. Where the two agree, a
conclusion does not hang on the judge.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnet_lib.checkpoints import shipped
from dnet_lib.checks import check_shapes, check_whole
from dnet_lib.energy import SameConv3d, device_of
from dnet_lib.errors import CheckpointError, DivergedError
from dnet_lib.files import read_tensors, weights, with_weights, write_tensors
from dnet_lib.processes import Share
from dnet_lib.resuming import Parts, described, fingerprint, resumable
from dnet_lib.voxels import brief, threshold

FORMAT = "dnet_lib judge 1"
RESOLUTION = 32


class VoxNet(nn.Module):
    """A 3-D ConvNet on the voxels in the manner of VoxNet; binary (N, 1, 32, 32, 32) -> logits (N, C)."""

    def __init__(self, num_categories: int = 10):
        super().__init__()
        self.layers = nn.Sequential(
            *(SameConv3d(1, 32, 6, 2, 32), nn.BatchNorm3d(32), nn.ReLU()),
            *(SameConv3d(32, 64, 4, 2, 16), nn.BatchNorm3d(64), nn.ReLU()),
            *(SameConv3d(64, 64, 3, 1, 8), nn.BatchNorm3d(64), nn.ReLU(), nn.MaxPool3d(2)),
            *(SameConv3d(64, 128, 3, 1, 4), nn.BatchNorm3d(128), nn.ReLU(), nn.MaxPool3d(2)),
            *(nn.Flatten(), nn.Dropout(0.4), nn.Linear(1024, 128), nn.ReLU(), nn.Dropout(0.4)),
            nn.Linear(128, num_categories),
        )
        for layer in self.layers:
            if isinstance(layer, SameConv3d):
                nn.init.kaiming_normal_(layer.weight)

    def forward(self, occupancy: Tensor) -> Tensor:
        logits: Tensor = self.layers(occupancy)
        return logits


class ViewNet(nn.Module):
    """Six depth images along the axes, read by one 2-D ConvNet; binary (N, 1, R, R, R) -> logits (N, C).

    The four side views are joined by their maximum: it does not matter which side is the front.
    """

    def __init__(self, num_categories: int = 10):
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(2, 32, 4, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 96, 3, padding=1), nn.BatchNorm2d(96), nn.ReLU()),
            *(nn.Conv2d(96, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(), nn.AdaptiveMaxPool2d(3), nn.Flatten()),
        )
        self.head = nn.Sequential(
            *(nn.Dropout(0.4), nn.Linear(3 * 128 * 9, 96), nn.ReLU(), nn.Dropout(0.4)), nn.Linear(96, num_categories)
        )

    def forward(self, occupancy: Tensor) -> Tensor:
        views = depth_views(occupancy)
        h = self.features(views.flatten(0, 1)).view(len(views), 6, -1)
        logits: Tensor = self.head(torch.cat([h[:, :4].amax(1), h[:, 4], h[:, 5]], dim=1))
        return logits


NETS: dict[str, Callable[[int], nn.Module]] = {"voxnet": VoxNet, "views": ViewNet}


def depth_views(occupancy: Tensor) -> Tensor:
    """Images of binary shapes (N, 1, R, R, R) from four sides, below and above: (N, 6, 2, R, R), up last.

    The two channels are nearness, 1 at the near face of the grid, falling towards the far one, 0 where the line of
    sight meets nothing, and thickness, the filled share of that line.
    """
    near, views = torch.linspace(1, 0, occupancy.shape[-1] + 1, dtype=occupancy.dtype, device=occupancy.device)[:-1], []
    for axis in (1, 2, 3):
        lines = occupancy[:, 0].movedim(axis, -1)
        for nearness in (near, near.flip(0)):
            views.append(torch.stack([(lines * nearness).amax(-1), lines.mean(-1)], dim=1))
    return torch.stack(views, dim=1)


@torch.no_grad()
def turned_logits(net: nn.Module, occupancy: Tensor, *, batch_size: int = 64) -> Tensor:
    """A network's logits (N, C) of thresholded occupancy (N, 1, R, R, R), averaged over the four quarter-turns."""
    share = Share(len(occupancy))
    parts = threshold(occupancy[share.rows].to(next(net.parameters()))).split(batch_size)
    logits = torch.cat([sum(net(torch.rot90(part, turn, (2, 3))) for turn in range(4)) / 4 for part in parts])
    return share.joined(logits)


@dataclass(frozen=True, eq=False)
class Judge:
    """A trained and calibrated classifier of 32^3 shapes, with a card (data, accuracy, ...)."""

    name: str
    net: nn.Module
    categories: tuple[str, ...]
    temperature: float
    """Calibration: logits are divided by it, so that a probability means how often the judge is right."""
    card: dict[str, Any]

    __repr__ = brief

    def logits(self, occupancy: Tensor, *, batch_size: int = 64) -> Tensor:
        """Calibrated logits (N, C) of occupancy (N, 1, 32, 32, 32), averaged over the four quarter-turns."""
        check_shapes(occupancy, resolution=RESOLUTION)
        return turned_logits(self.net, occupancy, batch_size=batch_size) / self.temperature

    def probabilities(self, occupancy: Tensor) -> Tensor:
        """p(c | Y), (N, C), of occupancy (N, 1, 32, 32, 32); voxels are thresholded at 0.5 first, as in section 6.1."""
        return self.logits(occupancy).softmax(1)


def vary(occupancy: Tensor, generator: torch.Generator) -> Tensor:
    """Binary shapes (N, 1, R, R, R) turned about the vertical, mirrored, resized, moved and made thinner or hollow.

    Of two thirds of the shapes the turn is any angle, the size 0.75 to 1.25, the move up to 2 voxels along each axis.
    The others make quarter-turns only, because between the voxels thin parts fade. A fifth of all become shells and a
    fifth lose what is thin, unless that is most of it: other voxelizations fill and drop otherwise.
    """
    n, side, device = len(occupancy), occupancy.shape[-1], occupancy.device

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator, device=device, dtype=occupancy.dtype)

    free = uniform(0, 1) < 2 / 3
    angle, size = uniform(0, 2 * math.pi), torch.where(free, uniform(0.75, 1.25), 1.0)
    angle = torch.where(free, angle, (angle * 2 / math.pi).floor() * math.pi / 2)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0).to(occupancy.dtype)
    cos, sin, zero = angle.cos() / size, angle.sin() / size, occupancy.new_zeros(n)
    move = [uniform(-4 / side, 4 / side) * free for _ in range(3)]
    rows = (1 / size, zero, zero, move[0]), (zero, cos, -sin, move[1]), (zero, mirror * sin, mirror * cos, move[2])
    matrix = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)  # of grid_sample's order: last axis first
    y = F.grid_sample(occupancy, F.affine_grid(matrix, list(occupancy.shape), align_corners=False), align_corners=False)
    y = threshold(y, 0.4)
    kind = uniform(0, 1).view(-1, 1, 1, 1, 1)
    inner = -F.max_pool3d(-F.pad(y, (1,) * 6), 3, stride=1)  # eroded: what lies under the surface
    opened = F.max_pool3d(inner, 3, stride=1, padding=1) * y
    remains = (opened.flatten(1).sum(1) > 0.5 * y.flatten(1).sum(1)).view(-1, 1, 1, 1, 1)
    y = torch.where((kind > 0.8) & remains, opened, y)
    return torch.where(kind < 0.2, y * (1 - inner), y)


class Epoch(NamedTuple):
    """What an epoch of a judge's training measured; the held-out shapes are a part of the training split."""

    number: int
    loss: float
    accuracy: float  #: On varied training shapes
    held_out_accuracy: float
    held_out_loss: float
    seconds: float  #: Time spent in training so far, all its sessions together


def hold_out(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Mask (N,) bool of a random `share` of each category, kept from training."""
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        mask[rows[torch.randperm(len(rows), generator=generator)[: round(share * len(rows))]]] = True
    return mask


def fit(
    net: nn.Module,
    voxels: Tensor,
    labels: Tensor,
    held_out: Tensor,
    *,
    num_epochs: int = 20,
    batch_size: int = 48,
    learning_rate: float = 2e-3,
    seed: int = 0,
    checkpoint: str | Path | None = None,
) -> Iterator[Epoch]:
    """Train a classifier on binary shapes (N, 1, R, R, R) but those of the mask `held_out`; yields after each epoch.

    Shapes are drawn so that a rare category comes more often (in proportion to the square root of its size) and varied
    by `vary`. Where `checkpoint` exists the training resumes from it, and first yields the epochs it remembers.
    """
    device, generator = device_of(net), torch.Generator().manual_seed(check_whole(seed, "seed"))
    x, y = voxels[~held_out], labels[~held_out]
    frequency = y.bincount().float().rsqrt()[y]
    num_batches = math.ceil(len(x) / batch_size)
    optimizer = torch.optim.AdamW(net.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=num_epochs * num_batches)
    parts = {"net": net, "optimizer": optimizer, "schedule": schedule, "generator": generator}
    run = Parts(**parts, dropout=torch.default_generator, epochs=[])

    def step() -> None:
        began = time.perf_counter()
        net.train()
        loss_sum, right = 0.0, 0
        for rows in torch.multinomial(frequency, num_batches * batch_size, True, generator=generator).split(batch_size):
            target = y[rows].to(device)
            logits = net(vary(x[rows], generator).to(next(net.parameters())))
            loss = F.cross_entropy(logits, target, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            loss_sum += loss.item() / num_batches
            if not math.isfinite(loss_sum):
                raise DivergedError(f"the judge diverged in epoch {run.iteration + 1}: lower the learning rate")
            right += int((logits.argmax(1) == target).sum())
        logits, target = turned_logits(net.eval(), voxels[held_out]), labels[held_out].to(device)
        accuracies = right / (num_batches * batch_size), (logits.argmax(1) == target).float().mean().item()
        seconds = time.perf_counter() - began + (run.epochs[-1][-1] if run.epochs else 0)
        run.iteration += 1
        run.epochs.append((run.iteration, loss_sum, *accuracies, F.cross_entropy(logits, target).item(), seconds))

    about = {"network": described(net), "data": fingerprint(x, y), "seed": seed, "epochs": num_epochs}
    about |= {"batch size": batch_size, "learning rate": learning_rate}
    options: dict[str, Any] = {"checkpoint": checkpoint, "save_every": 1, "late": False, "device": device}
    yielded = 0
    for _ in chain(resumable(run, step, num_epochs, belongs=lambda: about, **options), [None]):
        yield from (Epoch(*epoch) for epoch in run.epochs[yielded:])
        yielded = len(run.epochs)
    net.eval()


def calibrate(logits: Tensor, labels: Tensor) -> float:
    """The temperature T that minimises the cross-entropy of softmax(logits / T): (N, C), (N,) -> T > 0.

    Temperature scaling changes no decision, only how sure the probabilities are. Use shapes that were not trained on.
    """
    from scipy.optimize import minimize_scalar  # a second to import: only where it is needed

    def loss(log_t: float) -> float:
        return F.cross_entropy(logits.double() / math.exp(log_t), labels).item()

    return math.exp(minimize_scalar(loss).x)


def reliability(probabilities: Tensor, labels: Tensor, *, bins: int = 10) -> dict[str, list[float]]:
    """Is a judge as often right as it is sure? Mean confidence, accuracy and count in equally wide bins."""
    check_whole(bins, "bins", 1)
    confidence, decided = probabilities.max(1)
    which = (confidence * bins).long().clamp(max=bins - 1)
    rows = [which == b for b in range(bins) if (which == b).any()]
    return {
        "confidence": [confidence[row].mean().item() for row in rows],
        "accuracy": [(decided == labels)[row].float().mean().item() for row in rows],
        "count": [int(row.sum()) for row in rows],
    }


def save_judge(path: str | Path, judge: Judge) -> None:
    """Write a judge as one safetensors file of half-precision weights, beside and renamed. Its card must be JSON."""
    about = {"name": judge.name, "categories": judge.categories, "temperature": judge.temperature, "card": judge.card}
    write_tensors(path, FORMAT, weights(judge.net, half=True), judge=about)


def load_judge(name: str | Path = "voxnet", *, device: torch.device | str = "cpu") -> Judge:
    """A judge that ships with the library, "voxnet" or "views", or a file of `save_judge`.

    Raises `CheckpointError` naming a file that is missing, truncated or foreign.
    """
    path = Path(name) if Path(name).suffix else shipped(f"judges/{name}")
    with read_tensors(path, FORMAT, device=device) as (tensors, metadata):
        about = metadata["judge"]
        if about["name"] not in NETS:
            raise CheckpointError(f"{path} holds an unknown judge {about['name']!r}: choose from {', '.join(NETS)}")
        with torch.device("meta"):
            net = NETS[about["name"]](len(about["categories"]))
        with_weights(net, tensors)
        return Judge(about["name"], net, tuple(about["categories"]), about["temperature"], about["card"])
