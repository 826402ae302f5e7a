"""min(f_p + lambda h) with the surrogate gap h = f_p - f: the paper's Sec. 4.1 and its ablation in Table 2."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import Parameter

from gsam.optim import ops
from gsam.optim.estimator import GradFn, Perturbing, Step, StepStats, cosine, two_gradients


@dataclass
class WeightedEstimator(Perturbing):
    """Uses g_p + lambda (g_p - g), the gradient of (1 + lambda) f_p - lambda f. lam = 0 is SAM, lam = -1 the clean gradient."""

    name: str = "weighted"
    lam: float = 0.1  # lambda, the weight of the gap

    def __call__(self, params: Sequence[Parameter], grad_fn: GradFn, step: Step) -> StepStats:
        clean, sharp, stats = two_gradients(self, params, grad_fn, step)
        inner, square = ops.dots(clean, sharp)
        sharp_norm = square.sqrt()
        stats = stats._replace(sharp_norm=sharp_norm, cos=cosine(inner, stats.clean_norm, sharp_norm))
        with torch.no_grad():
            for g, g_p in zip(clean, sharp, strict=True):  # in this form exactly g_p at rho = 0
                torch.sub(g_p, g, out=g)
                g_p.add_(g, alpha=self.lam)
        return stats

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not -1 <= self.lam < math.inf:
            yield f"optimizer.lam={self.lam}: must be at least -1 (there only the clean loss is left)"
