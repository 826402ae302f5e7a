"""SAM (Foret et al. 2021, arXiv 2010.01412, Algorithm 1) and ASAM (Kwon et al. 2021, arXiv 2102.11600)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch.nn import Parameter

from gsam.optim import ops
from gsam.optim.estimator import GradFn, Perturbing, Step, StepStats, cosine, two_gradients
from gsam.optim.perturb import START, Perturb


@dataclass
class SAMEstimator(Perturbing):
    """Uses the gradient g_p = grad f(w + e) at the perturbed weights, applied to w."""

    name: str = "sam"

    def __call__(self, params: Sequence[Parameter], grad_fn: GradFn, step: Step) -> StepStats:
        clean, sharp, stats = two_gradients(self, params, grad_fn, step)
        inner, square = ops.dots(clean, sharp)
        sharp_norm = square.sqrt()
        return stats._replace(sharp_norm=sharp_norm, cos=cosine(inner, stats.clean_norm, sharp_norm))


@dataclass
class ASAMEstimator(SAMEstimator):
    """SAM with ASAM's perturbation. Without a radius it takes the usual one of its form."""

    name: str = "asam"
    perturb: Perturb = Perturb.asam

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rho is None and self.rho_max is None and self.rho_min is None:
            self.rho = START[self.form]

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.perturb is Perturb.sam:
            yield "optimizer=asam optimizer.perturb=sam is SAM with ASAM's radius: choose optimizer=sam"
