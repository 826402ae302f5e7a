"""Base optimizers and weight-decay groups. Decay is decoupled (p <- p - lr * weight_decay * p) and touches kernels only."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

# Without the hooks that torch wraps around every optimizer's `step`: SGDW's own step has them already.
_SGD_STEP = getattr(torch.optim.SGD.step, "__wrapped__", torch.optim.SGD.step)


class SGDW(torch.optim.SGD):
    """torch's SGD with decoupled weight decay. torch's own adds it to the gradient, where momentum multiplies it by
    1 / (1 - momentum).

    Source of the update: big_vision `optax.py` (decay added after momentum, scaled by the schedule like the step).
    """

    def __init__(self, params: Any, lr: float = 1e-3, momentum: float = 0.0, weight_decay: float = 0.0, *,
                 nesterov: bool = False):  # fmt: skip
        # Not torch's `fused`: it looks at a GradScaler's overflow by itself, after the decay.
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:  # before the decay: it takes the gradient at the weights as they are
            with torch.enable_grad():
                loss = closure()
        decays = [group["weight_decay"] for group in self.param_groups]
        try:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = 0.0  # torch's step would add it to the gradient
                kept = [p for p in group["params"] if p.grad is not None]
                if kept and decay:
                    torch._foreach_mul_(kept, 1.0 - group["lr"] * decay)
            _SGD_STEP(self)
            return loss
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay


@dataclass
class BaseConfig:
    """What every base optimizer has. The schedule sets the learning rate of each step; `lr` is its largest value."""

    lr: float = 0.1
    weight_decay: float = 0.0  # decoupled, multiplied by the learning rate, kernels only

    def problems(self) -> Iterator[str]:
        if not 0 < self.lr < math.inf:
            yield f"base.lr={self.lr}: must be positive"
        if not 0 <= self.weight_decay < math.inf:
            yield f"base.weight_decay={self.weight_decay}: must not be negative"


@dataclass
class SGDConfig(BaseConfig):
    name: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False

    def build(self, groups: list[dict]) -> Optimizer:
        return SGDW(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not 0 <= self.momentum < 1:
            yield f"base.momentum={self.momentum}: must be in [0, 1)"
        elif self.nesterov and not self.momentum:
            yield "base.nesterov=true with base.momentum=0 is plain SGD: set a momentum, or leave nesterov out"


@dataclass
class AdamWConfig(BaseConfig):
    name: str = "adamw"
    lr: float = 3e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8

    def build(self, groups: list[dict]) -> Optimizer:
        return torch.optim.AdamW(groups, lr=self.lr, betas=tuple(self.betas), eps=self.eps)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            yield f"base.betas={list(self.betas)}: two numbers in [0, 1)"
        if not 0 < self.eps < math.inf:
            yield f"base.eps={self.eps}: must be positive, else a gradient of 0 gives NaN"


@dataclass
class AdamConfig(AdamWConfig):
    """Adam as its paper, weight decay kept decoupled (0 by default); amsgrad: the largest second moment so far."""

    name: str = "adam"
    lr: float = 1e-3
    amsgrad: bool = False

    def build(self, groups: list[dict]) -> Optimizer:
        return torch.optim.AdamW(groups, lr=self.lr, betas=tuple(self.betas), eps=self.eps, amsgrad=self.amsgrad)


@dataclass
class AdaBeliefConfig(AdamWConfig):
    """timm's AdaBelief (Zhuang et al. 2020), decoupled decay. No rectification: the schedules' warm-up is there for that."""

    name: str = "adabelief"
    eps: float = 1e-16
    rectify: bool = False

    def build(self, groups: list[dict]) -> Optimizer:
        from timm.optim import AdaBelief

        betas = tuple(self.betas)
        return AdaBelief(groups, lr=self.lr, betas=betas, eps=self.eps, decoupled_decay=True, rectify=self.rectify)


@dataclass
class OtherConfig(BaseConfig):
    """Any optimizer of torch.optim (`RAdam`, `Adagrad`, …), of timm (`lamb`, `lion`, …), or with the extra `optimizers` of
    pytorch_optimizer (`yogi`, `adabound`, …), by name. Whether its weight decay is decoupled is its own affair."""

    name: str = ""
    lr: float = 1e-3
    kwargs: dict[str, Any] = field(default_factory=dict)

    def build(self, groups: list[dict]) -> Optimizer:
        return find_optimizer(self.name)(groups, lr=self.lr, **self.kwargs)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if "weight_decay" in self.kwargs:
            yield f"base.kwargs.weight_decay={self.kwargs['weight_decay']}: set base.weight_decay, kernels only decay by it"
            return
        if self.kwargs.get("maximize"):
            yield "base.kwargs.maximize=true would train towards the largest loss: leave it out"
            return
        kernel, bias = (torch.nn.Parameter(torch.ones(shape)) for shape in ((2, 2), (2,)))
        kernel.grad, bias.grad = torch.ones(2, 2), torch.ones(2)
        try:
            optimizer = self.build([{"params": [kernel]}, {"params": [bias]}])
            optimizer.step()
        except Exception as error:  # other libraries' optimizers fail in many ways: unknown arguments, 2-D only, closures, …
            yield f"base.name={self.name}: {error}; it must step two groups, of kernels and of biases, without a closure"
            return
        if self.weight_decay and "weight_decay" not in optimizer.defaults:
            yield f"base.weight_decay={self.weight_decay}: {self.name} takes no weight_decay, it would be ignored; set it to 0"
        if hasattr(optimizer, "eval"):  # schedule-free: evaluated at other weights than it trains
            yield f"base.name={self.name}: it must be told when to train and when to evaluate, which train.py does not do"


def find_optimizer(name: str) -> type[Optimizer]:
    """The optimizer class behind a name. Raises ValueError when no library here knows it."""
    torch_class = getattr(torch.optim, name, None)
    if isinstance(torch_class, type) and issubclass(torch_class, Optimizer) and torch_class is not Optimizer:
        return torch_class
    try:
        from timm.optim import get_optimizer_class, list_optimizers

        if name in list_optimizers():
            return get_optimizer_class(name, bind_defaults=False)
    except ImportError:
        pass
    try:
        from pytorch_optimizer import load_optimizer
    except ImportError:
        raise ValueError(
            f"{name} is not one of {', '.join(BASES)}, nor in torch.optim or timm.optim; for yogi, adabound and others "
            "install the extra: pip install 'gsam-imagenet[optimizers]'"
        ) from None
    try:
        return load_optimizer(name)
    except NotImplementedError as error:
        raise ValueError(
            f"not one of {', '.join(BASES)}, nor in torch.optim, timm.optim or pytorch_optimizer"
        ) from error


# One line per base optimizer: its dataclass is the schema of `base.*`. Any other name is an OtherConfig.
BASES: dict[str, type[BaseConfig]] = {
    "sgd": SGDConfig,
    "adamw": AdamWConfig,
    "adam": AdamConfig,
    "adabelief": AdaBeliefConfig,
}


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two parameter groups: kernels (two or more dimensions, not named by the model's `no_weight_decay()`) decay, all other
    trainable parameters do not. Source: big_vision's default mask ".*/kernel$"; timm models name their position embeddings.
    """
    exempt = set(getattr(model, "no_weight_decay", set)())
    kernels, others = [], []
    for name, p in model.named_parameters():
        if p.requires_grad:
            (kernels if p.ndim > 1 and name not in exempt else others).append(p)
    groups = [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [g for g in groups if g["params"]]


def build_base(config: BaseConfig, model: nn.Module) -> Optimizer:
    """The base optimizer over the model's trainable parameters."""
    return config.build(decay_groups(model, config.weight_decay))
