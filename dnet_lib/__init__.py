"""dnet_lib: deep energy-based models of voxel shapes, their Langevin samplers and their learning, in PyTorch."""

from dnet_lib.checkpoints import Pretrained, load_model, load_pretrained, load_results, save_model
from dnet_lib.classify import Judge, load_judge
from dnet_lib.data import ShapeSet, load_shapes
from dnet_lib.diagnostics import effective_sample_size, split_rhat
from dnet_lib.energy import Architecture, DescriptorNet, GaussianEnergy, MixtureEnergy, hopfield_residual
from dnet_lib.generator import GeneratorNet
from dnet_lib.langevin import DivergedError, chain_generators, langevin, langevin_step, sample
from dnet_lib.learning import Record, Run, Settings, learn, learning_gradient
from dnet_lib.metrics import (
    class_error,
    class_probability,
    coverage,
    distances,
    inception_score,
    intersection_over_union,
    minimum_matching_distance,
    nearest,
    one_nn_accuracy,
    recovery_error,
)
from dnet_lib.projections import hidden_voxels, missing_detail
from dnet_lib.viz import show
from dnet_lib.voxels import ShapeError, centre, corrupt, down_scale, resample, threshold, uncentre, up_scale

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "DescriptorNet",
    "DivergedError",
    "GaussianEnergy",
    "GeneratorNet",
    "Judge",
    "MixtureEnergy",
    "Pretrained",
    "Record",
    "Run",
    "Settings",
    "ShapeError",
    "ShapeSet",
    "centre",
    "chain_generators",
    "class_error",
    "class_probability",
    "corrupt",
    "coverage",
    "distances",
    "down_scale",
    "effective_sample_size",
    "hidden_voxels",
    "hopfield_residual",
    "inception_score",
    "intersection_over_union",
    "langevin",
    "langevin_step",
    "learn",
    "learning_gradient",
    "load_judge",
    "load_model",
    "load_pretrained",
    "load_results",
    "load_shapes",
    "minimum_matching_distance",
    "missing_detail",
    "nearest",
    "one_nn_accuracy",
    "recovery_error",
    "resample",
    "sample",
    "save_model",
    "show",
    "split_rhat",
    "threshold",
    "uncentre",
    "up_scale",
]
