"""GSAM (Zhuang et al., ICLR 2022, arXiv 2203.08065, Algorithm 1).

With g = grad f(w) and g_p = grad f(w + e), g splits into a part along g_p and a part g_perp orthogonal to it. Descending
along g_p lowers the perturbed loss f_p; ascending along g_perp lowers the surrogate gap h = f_p - f without changing f_p to
first order:      gradient used = g_p - alpha * g_perp.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch.nn import Parameter

from gsam.optim import ops
from gsam.optim.estimator import GradFn, Perturbing, Step, StepStats, cosine, two_gradients
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
        ops.refuse_sparse([*clean, *sharp], "by gsam")
        with torch.no_grad():
            if self.minimize is Minimize.fp:  # g_p - alpha * (g - c g_p)
                inner, sharp_square = ops.ascend(sharp, clean, step.alpha)
                sharp_norm = sharp_square.sqrt()
            else:  # g + alpha * (g_p - c g), big_vision's sign
                sharp_norm = ops.norm(sharp)
                inner, _ = ops.ascend(clean, sharp, -step.alpha)
                torch._foreach_copy_(sharp, clean)
            stats = stats._replace(sharp_norm=sharp_norm, cos=cosine(inner, stats.clean_norm, sharp_norm))
        return stats

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not 0 <= self.alpha < math.inf:
            yield f"optimizer.alpha={self.alpha}: the ascent coefficient is not negative (0 is SAM)"
