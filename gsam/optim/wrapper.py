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
from gsam.optim.engine import estimate, reduce_grads
from gsam.optim.entropy_sgd import EntropySGDEstimator
from gsam.optim.estimator import NO_NAMES, Estimator, Scope, Step, StepStats
from gsam.optim.gsam import GSAMEstimator, Minimize
from gsam.optim.ops import no_sparse
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
    closure synchronises both passes: one perturbation for all ranks. alpha: None is the estimator's.
    """

    seed = 0  # of the noise that EntropySGD draws
    stats: StepStats | None = None  # of the last step: losses, norms, cos theta, as 0-dim tensors

    def __init__(self, base: Optimizer, estimator: Estimator, *, lr_max: float | None = None, lr_min: float = 0.0,
                 alpha: float | None = None, model: nn.Module | None = None):  # fmt: skip
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
        if lr_max is not None and not 0 <= lr_min <= lr_max:
            problems.append(f"lr_min={lr_min} must lie between 0 and lr_max={lr_max}")
        problems += [*_unsupported(base, model, estimator), *_of_the_trainer(estimator)]
        if problems:
            raise ValueError("; ".join(problems))
        self.base, self.estimator, self.model = base, estimator, model
        self._bind()
        self.lr_max, self.lr_min, self.steps = lr_max, lr_min, 0
        self.alpha = getattr(estimator, "alpha", 0.0) if alpha is None else alpha
        super().__init__([{"params": []}], base.defaults)

    # The base's own, whenever it is looked at: loading a state makes new ones.
    param_groups = property(lambda self: self.base.param_groups, lambda self, _: None)
    state = property(lambda self: self.base.state, lambda self, _: None)

    def step(self, closure: Callable[[], Tensor] | None = None, scaler: Any = None) -> Tensor:
        """One update. closure: forward, backward, return the loss (with `scaler`: backward of `scaler.scale(loss)`); it is
        called once per pass. Returns the loss at the unperturbed weights, shape (). Raises ValueError when the closure
        leaves no gradient. scaler: unscaled, stepped and UPDATED here, leave `scaler.update()` out of the loop; a non-finite
        scaled gradient in either pass leaves weights and state unchanged (fp16)."""
        if closure is None:
            raise ValueError("step() needs a closure (forward, backward, return loss): it is called once per pass")
        if scaler is not None and scaler.is_enabled() and not self.estimator.scale_free:
            raise ValueError(f"{self.estimator.name} needs true gradient magnitudes: no GradScaler; use bf16 or fp32")
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        lr = self.param_groups[0]["lr"]
        step = Step(self.steps, lr, self._rho(lr), self.alpha, self.seed)
        scaled = scaler is not None and scaler.is_enabled()
        batch_stats = BatchStats(self.model) if self.model is not None and (_world() > 1 or scaled) else None
        stats = estimate(self.estimator, params, [self._grad_fn(closure, params)], step, batch_stats)
        self.steps, self.stats = self.steps + 1, stats
        if not scaled:
            self.base.step()
            return stats.loss
        one = torch.ones((), device=params[0].device)
        before = scaler.scale(one)
        scaler.unscale_(self.base)  # here, also for fused optimizers: hooks of the base see the true gradient
        scaler.step(self.base)
        scaler.update()
        if batch_stats is not None:  # skipped: decided on the device, nothing waits
            batch_stats.undo(when=scaler.scale(one) < before)
        return stats.loss

    def _rho(self, lr: float) -> float:
        low, high = getattr(self.estimator, "rho_range", (0.0, 0.0))
        if low == high:
            return high
        if lr > self.lr_max * (1 + 1e-6):
            raise ValueError(
                f"the learning rate is {lr:g}, above lr_max={self.lr_max:g}: rho would exceed rho_max={high:g}; give the "
                "largest learning rate of the schedule as lr_max"
            )
        rho = follow_lr(lr, self.lr_min, self.lr_max, low, high)
        return max(rho, low) if self.estimator.clamp_rho else rho

    def _sees_ddp(self) -> bool:
        return isinstance(_inner(self.model), DistributedDataParallel)

    def _grad_fn(self, closure: Callable[[], Tensor], params: list[Tensor]) -> Callable[..., Tensor]:
        states: dict[torch.device, Tensor] = {}
        no_sync = _inner(self.model).no_sync if self.estimator.local and self._sees_ddp() else nullcontext
        # A plain network on several ranks, and a method whose every pass is to be their mean. (Under a DDP that is hidden in
        # the closure this averages what is equal already.)
        average = self.model is not None and _world() > 1 and not self.estimator.local and not self._sees_ddp()

        def grad_fn(*, again: bool = False, batch: int = 0) -> Tensor:
            self.zero_grad(set_to_none=True)
            torch.clear_autocast_cache()  # under an autocast block around step() it holds the weights of the last pass
            if self.model is not None and not again:
                states.update(_random_states(params))
            frozen = second_pass(self.model) if again and self.model is not None else nullcontext()
            replay = _replayed(states) if again and states else nullcontext()
            with torch.enable_grad(), frozen, replay, no_sync():
                loss = closure()
            if not isinstance(loss, Tensor):
                raise ValueError(f"the closure returned {loss!r}: it must return the loss, a tensor")
            if average:
                reduce_grads(params)
            return loss.detach()

        return grad_fn

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Give it to the base optimizer. Raises ValueError for parameters that the constructor refuses."""
        if param_group["params"] == []:  # of the constructor: the groups are the base's
            return
        self.base.add_param_group(param_group)
        if problems := list(_unsupported(self.base, self.model, self.estimator)):
            self.base.param_groups.pop()
            raise ValueError("; ".join(problems))
        self._bind()  # the network may have grown

    def _bind(self) -> None:
        if self.model is not None and hasattr(self.estimator, "bind"):
            self.estimator.bind(self.model.named_parameters())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.estimator}, base={self.base!r})"

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles. Instance attributes that others added stay out, such as a scheduler's wrapped `step`."""
        names = ("defaults", "base", "estimator", "model", "lr_max", "lr_min", "alpha", "steps", "seed")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._bind()  # the estimator keeps ids, which are other ones in the copy

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state and the number of steps: nothing else has to survive a restart."""
        return {**self.base.state_dict(), "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Also takes a state of the base optimizer alone."""
        self.base.load_state_dict({k: v for k, v in state_dict.items() if k != "steps"})
        self.steps = state_dict.get("steps", self.steps)


def _inner(model: nn.Module | None) -> nn.Module | None:
    return getattr(model, "_orig_mod", model)  # torch.compile(DDP(net)) is no DDP any more


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _random_states(params: list[Tensor]) -> dict[torch.device, Tensor]:
    """Of the CPU and of every device with parameters."""
    states = {torch.device("cpu"): torch.get_rng_state()}
    for device in {p.device for p in params if p.device.type != "cpu"}:
        module = torch.get_device_module(device)
        states[device] = module.get_rng_state() if device.type == "mps" else module.get_rng_state(device)
    return states


@contextmanager
def _replayed(states: dict[torch.device, Tensor]) -> Iterator[None]:
    """The random numbers drawn since `states` were taken are drawn again."""
    for device, state in states.items():
        if device.type in ("cpu", "mps"):
            (torch if device.type == "cpu" else torch.mps).set_rng_state(state)
        else:
            torch.get_device_module(device).set_rng_state(state, device)
    yield


def _unsupported(base: Optimizer, model: Any, estimator: Estimator) -> Iterator[str]:
    """What would train wrongly, or fail with a message about something else."""
    params = [p for group in base.param_groups for p in group["params"]]
    kinds = {type(p).__name__ for p in params} | {type(m).__name__ for m in getattr(model, "modules", list)()}
    if not isinstance(model, (nn.Module, type(None))):
        yield f"model is a {type(model).__name__}; give the network, a torch.nn.Module"
    if {"DTensor", "FlatParameter", "FullyShardedDataParallel"} & kinds:
        yield "sharded parameters (FSDP, DTensor) are not supported, norms would be a shard's; use DistributedDataParallel"
    if isinstance(_inner(model), DistributedDataParallel) and model.static_graph:
        yield "DistributedDataParallel(static_graph=True) does not go with no_sync, which this needs: leave static_graph out"
    if any(p.is_complex() for p in params):
        yield "complex parameters are not supported: give their real view, torch.view_as_real"
    if any(group.get("maximize") for group in base.param_groups) or getattr(base, "maximize", False):
        yield "maximize=True would perturb towards the best loss nearby; minimise the negative instead"
    if model is None and getattr(estimator, "lacks_names", False):
        yield NO_NAMES
    if isinstance(model, nn.Module) and _world() > 1 and any(getattr(m, "sparse", False) is True for m in model.modules()):
        yield no_sparse("on several ranks")
    if isinstance(base, SharpnessAware):
        yield f"base is a {type(base).__name__} itself; give the optimizer inside it, its .base"
    if isinstance(base, torch.optim.LBFGS):
        yield "LBFGS calls the closure itself, so it cannot be the base optimizer; choose one whose step() needs none"


def _of_the_trainer(estimator: Estimator) -> Iterator[str]:
    """Settings that only train.py acts on."""
    for key in ("rho_schedule", "alpha_schedule", "group_size"):
        value = getattr(estimator, key, None)
        if value != getattr(type(estimator), key, None):
            yield (
                f"{key}={value} is train.py's; here rho follows the learning rate, alpha is constant, and the images of one "
                "closure share a perturbation"
            )


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
        estimator = ASAMEstimator(rho=rho, form=_member(Form, "form", form), eta=eta, scope=_scope(model))
        super().__init__(base, estimator, model=model)


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
    """Zhuang et al. 2022. rho follows the base optimizer's learning rate from rho_max (at lr_max) to rho_min (at lr_min); below
    lr_min (in warm-up, or where a schedule ends lower) it goes on below rho_min, as in the official code, unless clamp_rho.
    perturb="asam" is ASAM + ascent: form and eta as in ASAM, and its radii."""

    def __init__(self, base: Optimizer, rho_max: float, rho_min: float, alpha: float, *, lr_max: float, lr_min: float = 0.0,
                 perturb: str = "sam", form: str = "elementwise", eta: float = 0.01, minimize: str = "fp",
                 clamp_rho: bool = False, model: nn.Module | None = None):  # fmt: skip
        estimator = GSAMEstimator(
            rho_max=rho_max, rho_min=rho_min, alpha=alpha, perturb=_member(Perturb, "perturb", perturb),
            form=_member(Form, "form", form), eta=eta, minimize=_member(Minimize, "minimize", minimize),
            clamp_rho=clamp_rho, scope=_scope(model),
        )  # fmt: skip
        super().__init__(base, estimator, lr_max=lr_max, lr_min=lr_min, alpha=alpha, model=model)


def _member(kind: type[Enum], key: str, value: str) -> Enum:
    if value not in kind.__members__:
        raise ValueError(f"{key}={value!r}: choose one of {', '.join(kind.__members__)}")
    return kind[value]
