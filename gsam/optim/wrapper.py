"""The methods behind `torch.optim.Optimizer`, for anybody's training loop: `opt.step(closure)`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from gsam.optim.batchnorm import BatchStats, second_pass
from gsam.optim.engine import estimate
from gsam.optim.estimator import Estimator, Perturb, Scope, Step
from gsam.optim.gsam import GSAMEstimator, Minimize
from gsam.optim.sam import SAMEstimator
from gsam.optim.schedule import follow_lr


class SharpnessAware(Optimizer):
    """An estimator in front of a base optimizer.

    The base optimizer's `param_groups` and `state` ARE this optimizer's, so learning-rate schedulers work on either, and
    checkpoints hold the base optimizer's state and nothing of the perturbation.

    base: any torch optimizer. model: optional; turns on frozen BatchNorm statistics and replayed random numbers in the second
    pass and, for DistributedDataParallel, one perturbation per rank with a single all-reduce per step. Without it a DDP
    closure synchronises both passes: one perturbation for all ranks.
    """

    def __init__(self, base: Optimizer, estimator: Estimator, *, lr_max: float | None = None, lr_min: float = 0.0,
                 alpha: float = 0.0, model: nn.Module | None = None):  # fmt: skip
        problems = list(estimator.problems())
        low, high = estimator.rho_range
        if low != high and lr_max is None:
            problems.append(
                "lr_max: rho follows the learning rate from rho_max to rho_min, so give lr_max (and lr_min)"
            )
        if problems:
            raise ValueError("; ".join(problems))
        super().__init__(base.param_groups, base.defaults)
        self.base, self.estimator, self.model = base, estimator, model
        self.lr_max, self.lr_min, self.alpha = lr_max, lr_min, alpha
        self._alias()

    def _alias(self) -> None:
        self.param_groups, self.state = self.base.param_groups, self.base.state

    def step(self, closure: Callable[[], Tensor], scaler: Any = None) -> Tensor:
        """One update. closure: forward, backward, return the loss (with `scaler`: backward of `scaler.scale(loss)`); it is
        called once per pass. Returns the loss at the unperturbed weights, shape (). Raises ValueError when the closure
        leaves no gradient. A non-finite scaled gradient in either pass leaves weights and state unchanged (fp16)."""
        self._alias()  # loading a state into the base optimizer makes new groups
        params = [p for group in self.param_groups for p in group["params"]]
        lr = self.param_groups[0]["lr"]
        low, high = self.estimator.rho_range
        rho = high if low == high else follow_lr(lr, self.lr_min, self.lr_max, low, high)
        grad_fn = self._grad_fn(closure)
        batch_stats = BatchStats(self.model) if self.model is not None else None
        stats = estimate(self.estimator, params, [grad_fn], Step(0, lr, rho, self.alpha), batch_stats)
        if scaler is None:
            self.base.step()
        else:
            scaler.step(self.base)
            scaler.update()
        return stats.loss

    def _grad_fn(self, closure: Callable[[], Tensor]) -> Callable[..., Tensor]:
        states: list[Tensor] = []
        no_sync = (
            self.model.no_sync
            if self.estimator.local and isinstance(self.model, DistributedDataParallel)
            else nullcontext
        )

        def grad_fn(*, again: bool = False) -> Tensor:
            self.zero_grad(set_to_none=True)
            if self.model is not None and not again:
                states[:] = _random_states()
            frozen = second_pass(self.model) if again and self.model is not None else nullcontext()
            replay = _replayed(states) if again and states else nullcontext()
            with torch.enable_grad(), frozen, replay, no_sync():
                return closure().detach()

        return grad_fn

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if "base" in self.__dict__:
            self.base.add_param_group(param_group)
        else:
            super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state: nothing else has to survive a restart."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict(state_dict)
        self._alias()


def _random_states() -> list[Tensor]:
    states = [torch.get_rng_state()]
    return states + ([torch.cuda.get_rng_state()] if torch.cuda.is_available() else [])


@contextmanager
def _replayed(states: list[Tensor]) -> Iterator[None]:
    """The random numbers drawn since `states` were taken are drawn again."""
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1])
    yield


def _scope(model: nn.Module | None) -> Scope:
    """Without the model the wrapper cannot keep DDP from synchronising the first pass."""
    return Scope.group if model is not None else Scope["global"]


class SAM(SharpnessAware):
    """Foret et al. 2021 with a constant radius. `loss = SAM(base, rho=0.05, model=net).step(closure)`."""

    def __init__(self, base: Optimizer, rho: float = 0.05, *, model: nn.Module | None = None):
        super().__init__(base, SAMEstimator(rho=rho, scope=_scope(model)), model=model)


class ASAM(SharpnessAware):
    """Kwon et al. 2021. form: "elementwise" (every parameter, e = rho w^2 g / || |w| g ||; start from rho 2.0) or
    "big_vision" (the official GSAM code's, e = rho |w| g / ||g||)."""

    def __init__(self, base: Optimizer, rho: float = 2.0, *, form: str = "elementwise", model: nn.Module | None = None):
        forms = {"elementwise": Perturb.asam, "big_vision": Perturb.asam_big_vision}
        if form not in forms:
            raise ValueError(f"form={form!r}: choose one of {', '.join(forms)}")
        super().__init__(base, SAMEstimator(rho=rho, perturb=forms[form], scope=_scope(model)), model=model)


class GSAM(SharpnessAware):
    """Zhuang et al. 2022. rho follows the base optimizer's learning rate from rho_max (at lr_max) to rho_min (at lr_min)."""

    def __init__(self, base: Optimizer, rho_max: float, rho_min: float, alpha: float, *, lr_max: float, lr_min: float = 0.0,
                 minimize: str = "fp", model: nn.Module | None = None):  # fmt: skip
        if minimize not in Minimize.__members__:
            raise ValueError(f"minimize={minimize!r}: choose one of {', '.join(Minimize.__members__)}")
        estimator = GSAMEstimator(
            rho_max=rho_max, rho_min=rho_min, alpha=alpha, minimize=Minimize[minimize], scope=_scope(model)
        )
        super().__init__(base, estimator, lr_max=lr_max, lr_min=lr_min, alpha=alpha, model=model)
