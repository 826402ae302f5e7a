"""Learning rate, perturbation radius and ascent coefficient as pure functions of the step. Imports nothing."""

import math
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Shape(Enum):
    """How the learning rate decays after warm-up."""

    linear = "linear"
    cosine = "cosine"
    polynomial = "polynomial"  # (1 - progress)^power
    inverse_sqrt = "inverse_sqrt"  # lr_max / sqrt(t), never below lr_min: Theorem 5.1 of the GSAM paper
    constant = "constant"


class Follow(Enum):
    """How rho or alpha moves between its smallest and largest value."""

    lr = "lr"  # linear in the learning rate, as the official code
    constant = "constant"  # always the largest value
    linear = "linear"  # this and the next: a decay of its own over the whole training, without warm-up
    cosine = "cosine"
    polynomial = "polynomial"
    inverse_sqrt = "inverse_sqrt"


@dataclass
class ScheduleConfig:
    """`schedule.*`: the learning rate goes 0 -> base.lr in warm-up, then base.lr -> lr_min over the rest of training."""

    name: Shape = Shape.linear
    warmup_steps: str = "0"  # steps, or a duration: 10000st, 5ep
    lr_min: float = 0.0  # learning rate at the end
    power: float = 2.0  # of the polynomial


def between(
    shape: Shape | Follow, low: float, high: float, step: float, total: float, start: float, power: float
) -> float:
    """`high` at step 0, `low` at step `total` and after. `start`: step count that inverse_sqrt begins at."""
    progress = min(1.0, max(0.0, step / max(1, total)))
    if shape.name == "constant":
        return high
    if shape.name == "inverse_sqrt":
        return max(low, high * math.sqrt(max(1, start) / (max(1, start) + max(0, step))))
    if shape.name == "cosine":
        share = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        share = (1.0 - progress) ** (power if shape.name == "polynomial" else 1.0)
    return low + (high - low) * share


class Values(NamedTuple):
    lr: float
    rho: float
    alpha: float


@dataclass(frozen=True)
class Schedules:
    """lr, rho and alpha at a step.

    Source: big_vision `utils.create_learning_rate_schedule` (decay times min(1, step / warmup), the decay's progress being 0
    during warm-up) and `trainers/proj/gsam/gsam.py` (rho). Like there, rho is slightly below rho_min while lr < lr_min in
    the first warm-up steps: negative when rho_min = 0.
    """

    shape: Shape
    total_steps: int
    warmup_steps: int
    lr_max: float
    lr_min: float
    rho_min: float = 0.0
    rho_max: float = 0.0
    rho_follows: Follow = Follow.lr
    alpha_max: float = 0.0
    alpha_follows: Follow = Follow.constant
    power: float = 2.0
    clamp_rho: bool = False

    def lr(self, step: int) -> float:
        since, span = step - self.warmup_steps, self.total_steps - self.warmup_steps
        decayed = between(self.shape, self.lr_min, self.lr_max, since, span, self.warmup_steps, self.power)
        return decayed * min(1.0, step / self.warmup_steps) if self.warmup_steps else decayed

    def rho(self, step: int) -> float:
        rho = self._follow(self.rho_follows, step, self.rho_min, self.rho_max)
        return max(rho, self.rho_min) if self.clamp_rho else rho

    def alpha(self, step: int) -> float:
        return max(0.0, self._follow(self.alpha_follows, step, 0.0, self.alpha_max))

    def at(self, step: int) -> Values:
        """Values of the step with 0-based index `step`."""
        return Values(self.lr(step), self.rho(step), self.alpha(step))

    def _follow(self, how: Follow, step: int, low: float, high: float) -> float:
        if how is Follow.lr:
            return follow_lr(self.lr(step), self.lr_min, self.lr_max, low, high)
        return between(how, low, high, step, self.total_steps, 1, self.power)


def follow_lr(lr: float, lr_min: float, lr_max: float, low: float, high: float) -> float:
    """low + (high - low) * (lr - lr_min) / (lr_max - lr_min), not clipped; `high` where the learning rate does not move."""
    return high if lr_max == lr_min else low + (high - low) * (lr - lr_min) / (lr_max - lr_min)
