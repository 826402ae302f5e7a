"""Entropy-SGD (Chaudhari et al., ICLR 2017, arXiv 1611.01838, Algorithm 1), with any base optimizer outside.

Written from the paper. An inner loop of Langevin steps around the weights x estimates the gradient of the local entropy:

    x'  <- x' - inner_lr * (grad f(x'; new batch) - gamma (x - x'))  + noise * sqrt(2 inner_lr) * N(0, I)
    mu  <- average * mu + (1 - average) * x'
    gradient given to the base optimizer = x - mu

The paper multiplies the last line by gamma; the constant is left to the base optimizer's learning rate here. The spread of
the noise, noise * sqrt(2 inner_lr), is that of the authors' code.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import Parameter

from gsam.optim import ops
from gsam.optim.estimator import NO_GRADIENT, GradFn, Step, StepStats


@dataclass
class EntropySGDEstimator:
    """`iterations` new batches per step; epochs count the images seen."""

    name: str = "entropy_sgd"
    iterations: int = 5  # L: inner steps, each on a batch of its own
    inner_lr: float = 0.1  # eta'
    inner_momentum: float = 0.9  # Nesterov, reset at every outer step
    gamma: float = 1e-4  # pull towards the weights at step 0
    scoping: float = 1e-3  # gamma grows by this factor per step: gamma (1 + scoping)^t
    noise: float = 1e-4  # temperature of the Langevin noise
    average: float = 0.75  # share that the running average keeps; 0 = the last point
    local: ClassVar[bool] = False  # inner gradients are averaged over ranks: all ranks take the same path
    scale_free: ClassVar[bool] = False  # the inner steps move by the gradient itself

    @property
    def passes(self) -> int:
        return 1  # each image is seen once; a step takes `iterations` batches

    @property
    def batches_per_step(self) -> int:
        return self.iterations

    def __call__(self, params: Sequence[Parameter], grad_fn: GradFn, step: Step) -> StepStats:
        active: list[Parameter] = []
        anchor, average, momentum = [], [], []
        gamma = self.pull(step.index)
        try:
            for inner in range(self.iterations):
                loss = grad_fn(batch=inner)
                if inner == 0:
                    first_loss = loss
                _join(active, params, anchor, average, momentum)
                self._inner_step(active, anchor, momentum, gamma, _generator(active, step, inner))
                with torch.no_grad():
                    torch._foreach_lerp_(average, [p.detach() for p in active], 1 - self.average)
        finally:
            with torch.no_grad():
                if active:
                    torch._foreach_copy_(active, anchor)
        for p, a, mu in zip(active, anchor, average, strict=True):
            p.grad = a.sub_(mu)
        return StepStats(loss=first_loss)

    def pull(self, step: int) -> float:
        """gamma (1 + scoping)^step, at most 1 / (2 inner_lr): beyond 1 / inner_lr the inner steps would overshoot the anchor
        and diverge, which the defaults reach after some 11,000 steps."""
        growth = step * math.log1p(self.scoping)
        return min(self.gamma * math.exp(min(growth, 700.0)), 0.5 / self.inner_lr)

    @torch.no_grad()
    def _inner_step(self, params: list[Parameter], anchor: list[Tensor], momentum: list[Tensor], gamma: float,
                    generator: torch.Generator) -> None:  # fmt: skip
        grads = [p.grad for p in params]
        ops.refuse_sparse(grads, "by entropy_sgd")
        torch._foreach_mul_(momentum, self.inner_momentum)
        torch._foreach_add_(momentum, grads)
        torch._foreach_add_(grads, momentum, alpha=self.inner_momentum)  # Nesterov's look-ahead
        for g, p, a in zip(grads, params, anchor, strict=True):  # not as lists: one more copy of the weights
            g.add_(p - a, alpha=gamma)
        torch._foreach_add_(params, grads, alpha=-self.inner_lr)
        if self.noise:
            spread = self.noise * (2 * self.inner_lr) ** 0.5
            for p in params:
                p.add_(torch.empty_like(p).normal_(generator=generator), alpha=spread)

    def problems(self) -> Iterator[str]:
        if self.iterations < 1:
            yield f"optimizer.iterations={self.iterations}: at least 1 inner step"
        if not 0 < self.inner_lr < math.inf:
            yield f"optimizer.inner_lr={self.inner_lr}: must be positive"
        for key in ("inner_momentum", "average"):
            if not 0 <= getattr(self, key) < 1:
                yield f"optimizer.{key}={getattr(self, key)}: must be in [0, 1)"
        for key in ("gamma", "scoping", "noise"):
            if not 0 <= getattr(self, key) < math.inf:
                yield f"optimizer.{key}={getattr(self, key)}: must not be negative"


@torch.no_grad()
def _join(active: list[Parameter], params: Sequence[Parameter], *states: list[Tensor]) -> None:
    """A parameter takes part from its first gradient on; later passes without one count as zero. states: anchor, average,
    momentum."""
    anchor, average, momentum = states
    known = {id(p) for p in active}
    for p in params:
        if p.grad is not None and id(p) not in known:
            active.append(p)
            anchor.append(p.detach().clone())
            average.append(p.detach().clone())
            momentum.append(torch.zeros_like(p))
    if not active:
        raise ValueError(NO_GRADIENT)
    for p in active:
        if p.grad is None:
            p.grad = torch.zeros_like(p)


def _generator(params: list[Parameter], step: Step, inner: int) -> torch.Generator:
    """The same noise on every rank and after a restart, unlike torch's own state, which differs between ranks."""
    key = (step.seed * 1_000_003 + step.index) * 1_009 + inner
    return torch.Generator(params[0].device).manual_seed(key & (2**63 - 1))
