"""dnet_lib: deep energy-based models of voxel shapes, their Langevin samplers and their learning, in PyTorch."""

from dnet_lib.checkpoints import load_model, load_pretrained, load_results, save_model
from dnet_lib.cooperative import Teaching
from dnet_lib.data import ShapeSet, load_shapes
from dnet_lib.diagnostics import effective_sample_size, split_rhat
from dnet_lib.energy import Architecture, DescriptorNet, GaussianEnergy, MixtureEnergy, hopfield_residual
from dnet_lib.errors import CheckpointError, DataError, DivergedError, DnetError, ShapeError, StaleError
from dnet_lib.fast import freeze
from dnet_lib.generator import GeneratorNet, Proposals
from dnet_lib.judges import Judge, load_judge
from dnet_lib.langevin import chain_generators, langevin, langevin_step, sample
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
from dnet_lib.multigrid import begin_grids, learn_grids
from dnet_lib.pretrained import Chain, Pretrained
from dnet_lib.priors import CoarseGaussian, Histogram
from dnet_lib.projections import hidden_voxels, missing_detail
from dnet_lib.schedules import Decay, Switch
from dnet_lib.starts import (
    Coarser,
    Corrupted,
    Data,
    Fresh,
    LowResolution,
    Noise,
    Persistent,
    PersistentData,
    Starts,
    noise,
)
from dnet_lib.viz import show
from dnet_lib.voxels import centre, corrupt, down_scale, resample, threshold, uncentre, up_scale

__version__ = "0.1.0"

# fmt: off
__all__ = [
    "Architecture", "Chain", "CheckpointError", "CoarseGaussian", "Coarser", "Corrupted", "Data", "DataError", "Decay",
    "DescriptorNet", "DivergedError", "DnetError", "Fresh", "GaussianEnergy", "GeneratorNet", "Histogram", "Judge",
    "LowResolution", "MixtureEnergy", "Noise", "Persistent", "PersistentData", "Pretrained", "Proposals", "Record",
    "Run", "Settings", "ShapeError", "ShapeSet", "StaleError", "Starts", "Switch", "Teaching", "begin_grids", "centre",
    "chain_generators", "class_error", "class_probability", "corrupt", "coverage", "distances", "down_scale",
    "effective_sample_size", "freeze", "hidden_voxels", "hopfield_residual", "inception_score",
    "intersection_over_union", "langevin", "langevin_step", "learn", "learn_grids", "learning_gradient", "load_judge",
    "load_model", "load_pretrained", "load_results", "load_shapes", "minimum_matching_distance", "missing_detail",
    "nearest", "noise", "one_nn_accuracy", "recovery_error", "resample", "sample", "save_model", "show", "split_rhat",
    "threshold", "uncentre", "up_scale",
]
# fmt: on
