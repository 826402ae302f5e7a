"""SAM (Foret et al. 2021, arXiv 2010.01412, Algorithm 1) and ASAM (Kwon et al. 2021, arXiv 2102.11600)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch.nn import Parameter

from gsam.optim import ops
from gsam.optim.estimator import GradFn, Perturbing, Step, StepStats, two_gradients


@dataclass
class SAMEstimator(Perturbing):
    """Uses the gradient g_p = grad f(w + e) at the perturbed weights, applied to w."""

    name: str = "sam"
    passes: ClassVar[int] = 2

    def __call__(self, params: Sequence[Parameter], grad_fn: GradFn, step: Step) -> StepStats:
        clean, sharp, stats = two_gradients(self, params, grad_fn, step)
        sharp_norm = ops.norm(sharp)
        cos = ops.dot(clean, sharp) / (stats.clean_norm * sharp_norm)
        return stats._replace(sharp_norm=sharp_norm, cos=cos)
