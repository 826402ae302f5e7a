"""Sharpness-aware optimizers as gradient estimators. This sub-package imports torch only and can be used on its own."""

from gsam.optim.base import BASES, SGDW, AdamWConfig, SGDConfig, build_base, decay_groups
from gsam.optim.batchnorm import BatchStats, second_pass
from gsam.optim.engine import estimate
from gsam.optim.estimator import Estimator, GradFn, Scope, Step, StepStats
from gsam.optim.gsam import GSAMEstimator
from gsam.optim.sam import SAMEstimator
from gsam.optim.schedule import ScheduleConfig, Schedules
from gsam.optim.vanilla import VanillaEstimator
from gsam.optim.wrapper import ASAM, GSAM, SAM, SharpnessAware

# One line per method: its dataclass is the schema of `optimizer.*` and the callable that estimates the gradient.
ESTIMATORS: dict[str, type] = {
    "vanilla": VanillaEstimator,
    "sam": SAMEstimator,
    "gsam": GSAMEstimator,
}

__all__ = [
    "ASAM", "BASES", "ESTIMATORS", "GSAM", "SAM", "AdamWConfig", "BatchStats", "Estimator", "GSAMEstimator", "GradFn",
    "SAMEstimator", "SGDConfig", "SGDW", "ScheduleConfig", "Schedules", "Scope", "SharpnessAware", "Step", "StepStats",
    "VanillaEstimator", "build_base", "decay_groups", "estimate", "second_pass",
]  # fmt: skip
