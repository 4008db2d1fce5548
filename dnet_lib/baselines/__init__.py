"""What a learned energy must beat. Every baseline has `fit(shapes, ...)` and `recover(occupancy, hidden)`."""

from dnet_lib.baselines.completion import LocalMean, NearestShape, TrainingMean
from dnet_lib.baselines.denoiser import Denoiser

__all__ = ["Denoiser", "LocalMean", "NearestShape", "TrainingMean"]
