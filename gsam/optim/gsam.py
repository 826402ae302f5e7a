"""GSAM (Zhuang et al., ICLR 2022, arXiv 2203.08065, Algorithm 1).

With g = grad f(w) and g_p = grad f(w + e), g splits into a part along g_p and a part g_perp orthogonal to it. Descending
along g_p lowers the perturbed loss f_p; ascending along g_perp lowers the surrogate gap h = f_p - f without changing f_p to
first order:      gradient used = g_p - alpha * g_perp.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch.nn import Parameter

from gsam.optim import ops
from gsam.optim.estimator import GradFn, Perturbing, Step, StepStats, two_gradients
from gsam.optim.schedule import Follow


class Minimize(Enum):
    fp = "fp"  # min(f_p, h): the paper's method
    f = "f"  # min(f, h): its ablation (Fig. 6 right; `minimize_fp=False` in the official code)


@dataclass
class GSAMEstimator(Perturbing):
    """SAM's two passes, then the ascent step along the orthogonal part. alpha = 0 is SAM."""

    name: str = "gsam"
    alpha: float = 0.1  # size of the ascent step along g_perp
    alpha_schedule: Follow = Follow.constant
    minimize: Minimize = Minimize.fp

    def __call__(self, params: Sequence[Parameter], grad_fn: GradFn, step: Step) -> StepStats:
        clean, sharp, stats = two_gradients(self, params, grad_fn, step)
        inner, square, sharp_square = ops.dot(clean, sharp), ops.dot(clean, clean), ops.dot(sharp, sharp)
        stats = stats._replace(sharp_norm=sharp_square.sqrt(), cos=inner / (square * sharp_square).sqrt())
        with torch.no_grad():
            if self.minimize is Minimize.fp:  # g_p - alpha * (g - c g_p): exactly g_p at rho = 0, whatever alpha is
                ops.remove_component(clean, sharp, inner, sharp_square)
                torch._foreach_add_(sharp, clean, alpha=-step.alpha)
            else:  # g + alpha * (g_p - c g), big_vision's sign
                ops.remove_component(sharp, clean, inner, square)
                torch._foreach_mul_(sharp, step.alpha)
                torch._foreach_add_(sharp, clean)
        return stats

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.alpha < 0:
            yield f"optimizer.alpha={self.alpha}: the ascent coefficient is not negative (0 is SAM)"
