"""Sharpness-aware optimizers as gradient estimators. This sub-package imports torch only and can be used on its own."""

from gsam.optim.base import BASES, SGDW, AdamWConfig, SGDConfig, build_base, decay_groups
from gsam.optim.batchnorm import BatchStats, second_pass
from gsam.optim.engine import estimate
from gsam.optim.entropy_sgd import EntropySGDEstimator
from gsam.optim.estimator import Estimator, GradFn, Scope, Step, StepStats
from gsam.optim.gsam import GSAMEstimator
from gsam.optim.perturb import Form, Perturb
from gsam.optim.sam import ASAMEstimator, SAMEstimator
from gsam.optim.schedule import ScheduleConfig, Schedules
from gsam.optim.vanilla import VanillaEstimator
from gsam.optim.weighted import WeightedEstimator
from gsam.optim.wrapper import ASAM, GSAM, SAM, EntropySGD, SharpnessAware, WeightedSAM

# One line per method: its dataclass is the schema of `optimizer.*` and the callable that estimates the gradient.
ESTIMATORS: dict[str, type] = {
    "vanilla": VanillaEstimator,
    "sam": SAMEstimator,
    "asam": ASAMEstimator,
    "gsam": GSAMEstimator,
    "weighted": WeightedEstimator,
    "entropy_sgd": EntropySGDEstimator,
}

__all__ = [
    "ASAM",
    "ASAMEstimator",
    "AdamWConfig",
    "BASES",
    "BatchStats",
    "ESTIMATORS",
    "EntropySGD",
    "EntropySGDEstimator",
    "Estimator",
    "Form",
    "GSAM",
    "GSAMEstimator",
    "GradFn",
    "Perturb",
    "SAM",
    "SAMEstimator",
    "SGDConfig",
    "SGDW",
    "ScheduleConfig",
    "Schedules",
    "Scope",
    "SharpnessAware",
    "Step",
    "StepStats",
    "VanillaEstimator",
    "WeightedEstimator",
    "WeightedSAM",
    "build_base",
    "decay_groups",
    "estimate",
    "second_pass",
]  # fmt: skip
