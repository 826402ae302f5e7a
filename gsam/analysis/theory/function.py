"""A loss of one weight vector, w -> f(w), with what `Objective` offers for a network: value, gradient, Hessian."""

from collections.abc import Callable

import torch
from torch import Tensor

from gsam.analysis.sharpness import Ascent, surrogate_gap
from gsam.optim.estimator import Estimator
from gsam.optim.wrapper import SharpnessAware


class Function:
    """f: weights (k,) -> loss (), differentiable twice. weights: where it is looked at by default, (k,) float64."""

    def __init__(self, f: Callable[[Tensor], Tensor], weights: Tensor):
        self.f, self.weights = f, weights

    def loss(self, weights: Tensor | None = None) -> float:
        """f(w)."""
        with torch.no_grad():
            return self.f(self.weights if weights is None else weights).item()

    def gradient(self, weights: Tensor | None = None) -> tuple[float, Tensor]:
        """(f(w), its gradient (k,))."""
        at = (self.weights if weights is None else weights).detach().requires_grad_()
        value = self.f(at)
        return value.item(), torch.autograd.grad(value, at)[0]

    def hvp(self, vector: Tensor, weights: Tensor | None = None) -> Tensor:
        """The Hessian at w times the vector, (k,)."""
        at = (self.weights if weights is None else weights).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.f(at), at, create_graph=True)
        return torch.autograd.grad(gradient, at, vector)[0]

    def hessian(self, weights: Tensor | None = None) -> Tensor:
        """The dense Hessian at w, (k, k)."""
        # Reverse mode twice: torch.func.hessian's forward mode warns of a deprecation inside torch.
        return torch.func.jacrev(torch.func.grad(self.f))(self.weights if weights is None else weights)


def sigma_max(hessian: Tensor) -> float:
    """The eigenvalue of largest absolute value: the paper's measure of sharpness (section 3.1)."""
    values = torch.linalg.eigvalsh(hessian)
    return values[values.abs().argmax()].item()


def one_step_gap(f: Function, weights: Tensor, rho: float) -> tuple[float, Tensor]:
    """h = f(w + e) - f(w) with e = rho g / |g| (eq. 3 and 4), and the gradient at w + e. A zero gradient moves nothing."""
    loss, gradient = f.gradient(weights)
    sharp_loss, sharp = f.gradient(weights + rho * gradient / (gradient.norm() + 1e-12))
    return sharp_loss - loss, sharp


def worst_gap(f: Function, weights: Tensor, rho: float, start: Tensor | None = None, steps: int = 200) -> float:
    """h = max of f over the ball of radius rho, minus f(w) (eq. 4), by projected ascent from the gradient's direction.

    start: another direction (k,) to begin with, and its opposite: for minima, which have no gradient.
    """
    at, how = Function(f.f, weights), {"ascent": Ascent.projected, "steps": steps, "clean": f.gradient(weights)}
    gaps = [surrogate_gap(at, rho, start=one, **how) for one in ([None] if start is None else [start, -start])]
    return max(gap.sharp_loss - gap.loss for gap in gaps)


def random_direction(like: Tensor, seed: int = 0) -> Tensor:
    """Normal numbers in the shape of `like` (k,)."""
    return torch.randn(len(like), generator=torch.Generator().manual_seed(seed), dtype=like.dtype)


def orthogonal(gradient: Tensor, sharp: Tensor) -> Tensor:
    """The part of the gradient (k,) that is orthogonal to the sharp gradient (k,): Algorithm 1, step 3."""
    square = sharp @ sharp
    return gradient - (gradient @ sharp / square if square > 0 else 0.0) * sharp


def descend(
    f: Callable[[Tensor], Tensor], start: Tensor, estimator: Estimator, steps: int, lr: Callable[[int], float],
    lr_max: float, watch: Callable[[int, Tensor], None] = lambda step, weights: None,
) -> Tensor:  # fmt: skip
    """SGD with one of the project's own methods on f from `start` (k,): the points before every step and after the last,
    (steps + 1, k). `f` may draw a new batch at each step through `watch`, which is called before it."""
    weights = torch.nn.Parameter(start.clone())
    base = torch.optim.SGD([weights], lr=lr_max)
    optimizer = SharpnessAware(base, estimator, lr_max=lr_max)
    path = torch.empty(steps + 1, len(start), dtype=start.dtype)

    def closure() -> Tensor:
        loss = f(weights)
        loss.backward()
        return loss

    for step in range(steps):
        path[step] = weights.detach()
        watch(step, path[step])
        base.param_groups[0]["lr"] = lr(step)
        optimizer.step(closure)
    path[steps] = weights.detach()
    return path
