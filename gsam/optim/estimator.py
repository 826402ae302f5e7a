"""What every method shares: the gradient function it is given, the step it is at, the numbers it returns.

A method is a *gradient estimator*: for ONE group of images it leaves the gradient to use in every `p.grad`. Everything
that is the same for all methods (groups, ranks, loss scaling, clipping, the base optimizer) is in engine.py and the trainer.
"""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

from gsam.optim import ops
from gsam.optim.perturb import Form, Perturb, at_perturbed, names_with_weight
from gsam.optim.schedule import Follow

# What the perturbation is computed from. (`global` is a keyword: hence the functional form.)
Scope = Enum("Scope", {"group": "group", "global": "global"})

NO_GRADIENT = "no parameter received a gradient: does the loss depend on the parameters given to the optimizer?"
NO_NAMES = "form=original scales parameters by name: pass model=, or choose elementwise or big_vision"


class Step(NamedTuple):
    """The schedules' values at one optimizer step."""

    index: int
    lr: float
    rho: float = 0.0
    alpha: float = 0.0
    seed: int = 0  # of the run, for methods that draw random numbers of their own


class StepStats(NamedTuple):
    """0-dim tensors of one group, never synchronised to the host. Norms are of gradients as they came (loss scale included)."""

    loss: Tensor
    sharp_loss: Tensor | None = None
    clean_norm: Tensor | None = None
    sharp_norm: Tensor | None = None
    cos: Tensor | None = None
    broken_ranks: Tensor | None = (
        None  # (ranks,): above 0 where a rank's own numbers were not finite; set by the engine
    )


class GradFn(Protocol):
    def __call__(self, *, again: bool = False, batch: int = 0) -> Tensor:
        """Zero the gradients, run forward + backward on every micro-batch of the group at the CURRENT weights; return its
        mean loss, shape (). `again`: the second pass (same random numbers, BatchNorm buffers frozen). `batch`: which of the
        step's batches, for methods that take several."""
        ...


class Estimator(Protocol):
    name: str
    passes: int  # gradient evaluations per image
    batches_per_step: int
    scale_free: bool  # right with gradients multiplied by any loss scale (fp16)

    @property
    def local(self) -> bool:
        """True where a gradient must be this worker's own, so that ranks may be averaged only at the end."""
        ...

    def __call__(self, params: Sequence[Parameter], grad_fn: GradFn, step: Step) -> StepStats: ...

    def problems(self) -> Iterator[str]:
        """Impossible settings, one sentence each."""
        ...


@dataclass
class Perturbing:
    """The settings of every method that perturbs the weights."""

    rho: float | None = None  # constant perturbation radius; leave rho_max and rho_min out then
    rho_max: float | None = None  # radius at the largest learning rate
    rho_min: float | None = None  # radius at the smallest
    rho_schedule: Follow = Follow.lr  # how the radius goes from rho_max to rho_min
    group_size: int | None = None  # m: images that share one perturbation; None = the batch of one rank
    scope: Scope = Scope.group  # what the perturbation is computed from: each group's gradient, or the whole batch's
    perturb: Perturb = Perturb.sam  # sam | asam: the shape of the perturbation
    form: Form = Form.elementwise  # of asam: elementwise | original | big_vision
    eta: float = 0.01  # added to |w| by form=original
    clamp_rho: bool = False  # rho >= rho_min in warm-up too, where the official formula goes below it
    passes: ClassVar[int] = 2
    batches_per_step: ClassVar[int] = 1
    scale_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._room, self.kept = ops.Room(), ops.Room()  # of the moved weights, of the clean gradient
        self._warned = False
        self._scaled: set[int] | None = None

    def bind(self, named: Iterable[tuple[str, Parameter]]) -> None:
        """Tell a method the parameters' names; only ASAM's original form asks for them."""
        self._scaled = names_with_weight(named)

    @property
    def lacks_names(self) -> bool:
        """Whether nothing can be computed before `bind`."""
        return self.perturb is Perturb.asam and self.form is Form.original and self._scaled is None

    @property
    def local(self) -> bool:
        return self.scope is Scope.group

    @property
    def rho_range(self) -> tuple[float, float]:
        """(rho_min, rho_max)."""
        if self.rho is not None:
            return self.rho, self.rho
        return self.rho_min or 0.0, self.rho_max or 0.0

    def problems(self) -> Iterator[str]:
        constant, decayed = self.rho is not None, (self.rho_max is not None, self.rho_min is not None)
        if constant and any(decayed):
            yield "optimizer.rho is a constant radius: set either rho, or rho_max and rho_min, not both"
        if not constant and not all(decayed):
            yield "optimizer.rho_max and optimizer.rho_min: both are needed (or optimizer.rho alone for a constant radius)"
        low, high = self.rho_range
        if not (0 <= low < math.inf and 0 <= high < math.inf):
            given = f"optimizer.rho={self.rho}" if constant else f"optimizer.rho_min={low}, rho_max={high}"
            yield f"{given}: a perturbation radius is not negative"
        elif low > high:
            yield f"optimizer.rho_min={low} is larger than optimizer.rho_max={high}: swap them"
        if constant and self.rho_schedule not in (Follow.lr, Follow.constant):
            yield (
                f"optimizer.rho={self.rho} is constant, optimizer.rho_schedule={self.rho_schedule.name} is not: "
                "give rho_max and rho_min, or leave rho_schedule out"
            )
        if self.perturb is Perturb.sam and self.form is not Form.elementwise:
            yield f"optimizer.form={self.form.name} is a form of ASAM: set optimizer.perturb=asam, or leave form out"
        if not 0 <= self.eta < math.inf:
            yield f"optimizer.eta={self.eta}: must not be negative"
        if self.group_size is not None and self.group_size < 1:
            yield f"optimizer.group_size={self.group_size}: at least 1 image, or null for one rank's batch"
        if self.group_size is not None and not self.local:
            yield "optimizer.group_size has no meaning with optimizer.scope=global (one perturbation per batch): leave it out"

    def moved(
        self, params: Sequence[Parameter], clean: list[Tensor], clean_norm: Tensor, rho: float
    ) -> AbstractContextManager:
        """Context with the weights at w + e."""
        form = None if self.perturb is Perturb.sam else self.form
        if self.lacks_names:
            raise ValueError(NO_NAMES)
        return at_perturbed(params, clean, clean_norm, rho, self._room, form, self.eta, self._scaled)

    def watches(self, step: Step) -> bool:
        """Whether to look for lost perturbations: at steps 0, 1, 2, 4, 8, …, since looking waits for the GPU, until it warned.
        Not at the small radii of a warm-up, where little is lost with them."""
        large = step.rho > 0 and step.rho >= self.rho_range[1] / 2
        return large and not self._warned and step.index & (step.index - 1) == 0

    def warn_if_lost(
        self, weights: Sequence[Tensor], moved: Sequence[Tensor], clean: Sequence[Tensor], clean_norm: Tensor
    ) -> None:
        """Once: when w + e rounds to w for most weights, because the median |e| is below half a unit in their last place, and
        these are most of the gradient too. (Fresh ViTs have nearly all of it in the head: nothing is lost there.)"""
        sums = []
        for w, m, g in zip(weights, moved, clean, strict=True):  # one by one: lists would be copies of the weights
            if not g.is_sparse:
                moves = (g != 0) & (w != 0)  # weights of 0 ASAM leaves alone, and any perturbation moves them
                still = moves & (m == w)
                norm = torch.linalg.vector_norm((g * still).to(clean_norm.dtype))
                sums.append(torch.stack([still.sum().to(norm), moves.sum().to(norm), norm**2]))
        if not sums:
            return
        still, moves, lost = torch.stack(sums).sum(0)
        share = still / moves
        # Of the squared norm. The share is NaN where all gradients are 0, lost where they are infinite.
        if not (share > 0.5 and lost > 0.5 * clean_norm**2 and clean_norm.isfinite()):
            return
        self._warned = True
        if not dist.is_available() or not dist.is_initialized() or dist.get_rank() == 0:
            kinds = ", ".join(sorted({str(w.dtype).removeprefix("torch.") for w in weights}))
            warnings.warn(
                f"the perturbation is lost in rounding: {share:.0%} of the {kinds} weights with a gradient do not move, so the "
                "second gradient is (nearly) the first. Enlarge rho, or keep the weights in float32 and use autocast",
                stacklevel=2,
            )


def cosine(inner: Tensor, one_norm: Tensor, other_norm: Tensor) -> Tensor:
    """0 where a gradient is 0: NaN would spoil the mean of a whole logging interval."""
    product = one_norm * other_norm
    return torch.where(product == 0, torch.zeros_like(inner), inner / product)


def two_gradients(
    method: Perturbing, params: Sequence[Parameter], grad_fn: GradFn, step: Step
) -> tuple[list[Tensor], list[Tensor], StepStats]:
    """Both passes. Returns (clean gradients, sharp gradients, stats); the sharp ones ARE the `p.grad` tensors.

    A parameter without a gradient in either pass is in neither list: it is not moved and keeps `grad = None`.
    Raises ValueError when no parameter received a gradient.
    """
    loss = grad_fn()
    active = [p for p in params if p.grad is not None]
    if not active:
        raise ValueError(NO_GRADIENT)
    # An own copy, in memory kept from step to step: the next backward may write into the storage of these gradients (DDP's
    # buckets with gradient_as_bucket_view), and a second set of fresh gradients would cost more in page faults.
    grads = [p.grad for p in active]
    clean = list(method.kept.like(grads))
    torch._foreach_copy_(clean, grads)
    del grads
    for p in active:  # one copy of the weights less until the second backward makes its own
        p.grad = None
    clean_norm = ops.norm(clean)
    weights = [p.detach() for p in active] if method.watches(step) else None
    with method.moved(active, clean, clean_norm, step.rho):
        if weights is not None:
            method.warn_if_lost(weights, [p.detach() for p in active], clean, clean_norm)
        sharp_loss = grad_fn(again=True)
    if all(p.grad is None for p in params):
        raise ValueError(f"in the second pass {NO_GRADIENT}")
    known = {id(p) for p in active}
    for p in params:  # a gradient in one pass only counts as zero in the other
        if p.grad is not None and id(p) not in known:
            active.append(p)
            clean.append(torch.zeros_like(p.grad))
    sharp = []
    for p in active:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
        sharp.append(p.grad)
    return clean, sharp, StepStats(loss, sharp_loss, clean_norm)
