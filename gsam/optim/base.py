"""Base optimizers and weight-decay groups. Decay is decoupled (p <- p - lr * weight_decay * p) and touches kernels only."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


class SGDW(torch.optim.SGD):
    """torch's SGD with decoupled weight decay. torch's own adds it to the gradient, where momentum multiplies it by
    1 / (1 - momentum).

    Source of the update: big_vision `optax.py` (decay added after momentum, scaled by the schedule like the step).
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        decays = [group["weight_decay"] for group in self.param_groups]
        try:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = 0.0  # torch's step would add it to the gradient
                kept = [p for p in group["params"] if p.grad is not None]
                if kept and decay:
                    torch._foreach_mul_(kept, 1.0 - group["lr"] * decay)
            return super().step(closure)
        finally:
            for group, decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = decay


@dataclass
class BaseConfig:
    """What every base optimizer has. The schedule sets the learning rate of each step; `lr` is its largest value."""

    lr: float = 0.1
    weight_decay: float = 0.0  # decoupled, multiplied by the learning rate, kernels only

    def problems(self) -> Iterator[str]:
        if self.lr <= 0:
            yield f"base.lr={self.lr}: must be positive"
        if self.weight_decay < 0:
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


# One line per base optimizer: its dataclass is the schema of `base.*`.
BASES: dict[str, type[BaseConfig]] = {"sgd": SGDConfig, "adamw": AdamWConfig}


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
