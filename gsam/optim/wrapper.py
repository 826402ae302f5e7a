"""The methods behind `torch.optim.Optimizer`, for anybody's training loop: `opt.step(closure)`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from enum import Enum
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from gsam.optim.batchnorm import BatchStats, second_pass
from gsam.optim.engine import estimate
from gsam.optim.entropy_sgd import EntropySGDEstimator
from gsam.optim.estimator import Estimator, Scope, Step, StepStats
from gsam.optim.gsam import GSAMEstimator, Minimize
from gsam.optim.perturb import Form, Perturb
from gsam.optim.sam import ASAMEstimator, SAMEstimator
from gsam.optim.schedule import follow_lr
from gsam.optim.weighted import WeightedEstimator


class SharpnessAware(Optimizer):
    """An estimator in front of a base optimizer.

    The base optimizer's `param_groups` and `state` ARE this optimizer's, so learning-rate schedulers work on either, and
    checkpoints hold the base optimizer's state and nothing of the perturbation.

    base: any torch optimizer. model: optional; turns on frozen BatchNorm statistics and replayed random numbers in the second
    pass and, for DistributedDataParallel, one perturbation per rank with a single all-reduce per step. Without it a DDP
    closure synchronises both passes: one perturbation for all ranks.
    """

    seed = 0  # of the noise that EntropySGD draws
    stats: StepStats | None = None  # of the last step: losses, norms, cos theta, as 0-dim tensors

    def __init__(self, base: Optimizer, estimator: Estimator, *, lr_max: float | None = None, lr_min: float = 0.0,
                 alpha: float = 0.0, model: nn.Module | None = None):  # fmt: skip
        if not isinstance(base, Optimizer):
            raise TypeError(
                f"base is a {type(base).__name__}; give an optimizer: {type(self).__name__}(torch.optim.SGD(params, lr=0.1), …)"
            )
        problems = list(estimator.problems())
        low, high = getattr(estimator, "rho_range", (0.0, 0.0))
        if low != high and lr_max is None:
            problems.append(
                "lr_max: rho follows the learning rate from rho_max to rho_min, so give lr_max (and lr_min)"
            )
        if problems:
            raise ValueError("; ".join(problems))
        if model is not None and hasattr(estimator, "bind"):
            estimator.bind(model.named_parameters())
        super().__init__(base.param_groups, base.defaults)
        self.base, self.estimator, self.model = base, estimator, model
        self.lr_max, self.lr_min, self.alpha, self.steps = lr_max, lr_min, alpha, 0
        self._alias()

    def _alias(self) -> None:
        self.param_groups, self.state = self.base.param_groups, self.base.state

    def step(self, closure: Callable[[], Tensor] | None = None, scaler: Any = None) -> Tensor:
        """One update. closure: forward, backward, return the loss (with `scaler`: backward of `scaler.scale(loss)`); it is
        called once per pass. Returns the loss at the unperturbed weights, shape (). Raises ValueError when the closure
        leaves no gradient. A non-finite scaled gradient in either pass leaves weights and state unchanged (fp16)."""
        if closure is None:
            raise ValueError("step() needs a closure (forward, backward, return loss): it is called once per pass")
        if scaler is not None and not self.estimator.scale_free:
            raise ValueError(f"{self.estimator.name} needs true gradient magnitudes: no GradScaler; use bf16 or fp32")
        self._alias()  # loading a state into the base optimizer makes new groups
        if self.estimator.local and not self._sees_ddp() and _world() > 1:
            # Somebody else's DDP synchronises both passes: one perturbation for all ranks, nothing left to reduce, and with
            # gradient_as_bucket_view pass 2 is written over the gradients of pass 1.
            self.estimator.scope = Scope["global"]
        params = [p for group in self.param_groups for p in group["params"]]
        lr = self.param_groups[0]["lr"]
        low, high = getattr(self.estimator, "rho_range", (0.0, 0.0))
        rho = high if low == high else follow_lr(lr, self.lr_min, self.lr_max, low, high)
        step = Step(self.steps, lr, rho, self.alpha, self.seed)
        batch_stats = BatchStats(self.model) if self.model is not None and _world() > 1 else None
        stats = estimate(self.estimator, params, [self._grad_fn(closure)], step, batch_stats)
        self.steps, self.stats = self.steps + 1, stats
        if scaler is None:
            self.base.step()
        else:
            scaler.step(self.base)
            scaler.update()
        return stats.loss

    def _sees_ddp(self) -> bool:
        return isinstance(_inner(self.model), DistributedDataParallel)

    def _grad_fn(self, closure: Callable[[], Tensor]) -> Callable[..., Tensor]:
        states: list[Tensor] = []
        no_sync = _inner(self.model).no_sync if self.estimator.local and self._sees_ddp() else nullcontext

        def grad_fn(*, again: bool = False, batch: int = 0) -> Tensor:
            self.zero_grad(set_to_none=True)
            torch.clear_autocast_cache()  # under an autocast block around step() it holds the weights of the last pass
            if self.model is not None and not again:
                states[:] = _random_states()
            frozen = second_pass(self.model) if again and self.model is not None else nullcontext()
            replay = _replayed(states) if again and states else nullcontext()
            with torch.enable_grad(), frozen, replay, no_sync():
                loss = closure()
            if not isinstance(loss, Tensor):
                raise ValueError(f"the closure returned {loss!r}: it must return the loss, a tensor")
            return loss.detach()

        return grad_fn

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if "base" in self.__dict__:
            self.base.add_param_group(param_group)
        else:
            super().add_param_group(param_group)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.estimator}, base={self.base!r})"

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles. Instance attributes that others added stay out, such as a scheduler's wrapped `step`."""
        names = ("defaults", "base", "estimator", "model", "lr_max", "lr_min", "alpha", "steps", "seed")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.model is not None and hasattr(self.estimator, "bind"):
            self.estimator.bind(self.model.named_parameters())  # it keeps ids, which are other ones in the copy
        self._alias()

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state and the number of steps: nothing else has to survive a restart."""
        return {**self.base.state_dict(), "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Also takes a state of the base optimizer alone."""
        self.base.load_state_dict({k: v for k, v in state_dict.items() if k != "steps"})
        self.steps = state_dict.get("steps", self.steps)
        self._alias()


def _inner(model: nn.Module | None) -> nn.Module | None:
    return getattr(model, "_orig_mod", model)  # torch.compile(DDP(net)) is no DDP any more


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


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
    """Kwon et al. 2021. form: "elementwise", "original" (scales by parameter name: needs model=) or "big_vision"; see
    gsam.optim.Form. Their radii differ: rho None takes the form's usual one (2.0, 0.5, 0.5)."""

    def __init__(self, base: Optimizer, rho: float | None = None, *, form: str = "elementwise", eta: float = 0.01,
                 model: nn.Module | None = None):  # fmt: skip
        form = _member(Form, "form", form)
        if form is Form.original and model is None:
            raise ValueError('form="original" scales parameters by name: pass model=')
        super().__init__(base, ASAMEstimator(rho=rho, form=form, eta=eta, scope=_scope(model)), model=model)


class WeightedSAM(SharpnessAware):
    """min(f_p + lam * h) with the surrogate gap h = f_p - f (Table 2 of the GSAM paper)."""

    def __init__(self, base: Optimizer, rho: float = 0.05, lam: float = 0.1, *, model: nn.Module | None = None):
        super().__init__(base, WeightedEstimator(rho=rho, lam=lam, scope=_scope(model)), model=model)


class EntropySGD(SharpnessAware):
    """Chaudhari et al. 2017. The closure is called `iterations` times per step and must take a NEW batch each time.
    settings: the fields of gsam.optim.EntropySGDEstimator. seed: of the Langevin noise, the same on every rank."""

    def __init__(
        self, base: Optimizer, iterations: int = 5, *, seed: int = 0, model: nn.Module | None = None, **settings: float
    ):
        super().__init__(base, EntropySGDEstimator(iterations=iterations, **settings), model=model)
        self.seed = seed


class GSAM(SharpnessAware):
    """Zhuang et al. 2022. rho follows the base optimizer's learning rate from rho_max (at lr_max) to rho_min (at lr_min)."""

    def __init__(self, base: Optimizer, rho_max: float, rho_min: float, alpha: float, *, lr_max: float, lr_min: float = 0.0,
                 perturb: str = "sam", form: str = "elementwise", minimize: str = "fp",
                 model: nn.Module | None = None):  # fmt: skip
        estimator = GSAMEstimator(
            rho_max=rho_max, rho_min=rho_min, alpha=alpha, perturb=_member(Perturb, "perturb", perturb),
            form=_member(Form, "form", form), minimize=_member(Minimize, "minimize", minimize), scope=_scope(model),
        )  # fmt: skip
        super().__init__(base, estimator, lr_max=lr_max, lr_min=lr_min, alpha=alpha, model=model)


def _member(kind: type[Enum], key: str, value: str) -> Enum:
    if value not in kind.__members__:
        raise ValueError(f"{key}={value!r}: choose one of {', '.join(kind.__members__)}")
    return kind[value]
