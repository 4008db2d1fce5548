"""A learning run followed: progress bar, checkpoint and learning curve, for every experiment that learns."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dnet_lib.data import ShapeSet
from dnet_lib.files import atomic_write
from dnet_lib.learning import Record, Run, Settings, learn
from dnet_lib.metrics import nearest
from dnet_lib.voxels import uncentre

NUM_POINTS = 100  #: Points of a learning curve
SAVE_EVERY = 10  #: Iterations between checkpoints
Curve = dict[str, list[float]]  #: A list a column


def follow(
    run: Run,
    shapes: ShapeSet,
    settings: Settings,
    checkpoint: Path,
    point: Callable[[Record, ShapeSet], dict[str, float]] = lambda record, shapes: {},
) -> Curve:
    """Learn to the end, with a progress bar; resumes from `checkpoint`. Returns the learning curve.

    `point` adds columns of its own to what an iteration measured.
    """
    records = learn(run, shapes.centred, settings, checkpoint=checkpoint, save_every=SAVE_EVERY)
    return watch(records, settings.num_iterations, checkpoint, lambda record: point(record, shapes))


def watch(
    records: Iterable[Record], num_iterations: int, checkpoint: Path, point: Callable[[Record], dict[str, float]]
) -> Curve:
    """Draw a progress bar from the records of a learning loop, and keep its curve beside its checkpoint."""
    path = checkpoint.with_suffix(".curve.json")
    curve: list[dict[str, Any]] = json.loads(path.read_text()) if checkpoint.exists() and path.exists() else []
    bar = tqdm(total=num_iterations, unit="iteration", desc="learning")
    for record in records:
        bar.update(record.iteration - bar.n)
        bar.set_postfix(V=f"{record.value:.0f}", slope=f"{record.gradient_norm:.1f}", refresh=False)
        if record.iteration % max(1, num_iterations // NUM_POINTS) == 0:
            here = {
                "iteration": record.iteration,
                "minutes": round(record.seconds / 60, 2),
                "value": round(record.value, 2),
                "gradient_norm": round(record.gradient_norm, 3),
            }
            curve = [*(old for old in curve if old["iteration"] < record.iteration), here | point(record)]
            with atomic_write(path) as part:
                part.write_text(json.dumps(curve))
    bar.close()
    return {key: [row[key] for row in curve] for key in curve[0]} if curve else {}


def point(record: Record, shapes: ShapeSet) -> dict[str, float]:
    """For a learning curve: how near the chains are to training shapes."""
    near = nearest(uncentre(record.synthesized.cpu(), shapes.mean), shapes.voxels)
    return {
        "nearest": round(near.distance.float().mean().item(), 1),
        "distinct_nearest": near.row.unique().numel(),
    }
