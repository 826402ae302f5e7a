"""Base optimizers against the update rule of the official code (big_vision/optax.py), step by step in float64.

update = -schedule(t) * (lr * direction(gradient) + wd * kernel),   wd = lr * weight_decay, kernels only
direction: optax.trace(decay=momentum) for SGD, optax.scale_by_adam(b1, b2, eps) for AdamW and Adam; amsgrad and AdaBelief
as their papers have them
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from gsam.models import InitScheme, ModelConfig, build_model
from gsam.optim.base import AdaBeliefConfig, AdamConfig, AdamWConfig, SGDConfig, build_base, decay_groups

MODELS = Path(__file__).parents[3] / "configs" / "model"
STEPS = 12


class Trace:
    """optax.trace: t <- g + decay * t."""

    def __init__(self, decay: float, nesterov: bool):
        self.decay, self.nesterov, self.trace = decay, nesterov, 0.0

    def __call__(self, gradient):
        self.trace = gradient + self.decay * self.trace
        return gradient + self.decay * self.trace if self.nesterov else self.trace


class ScaleByAdam:
    """optax.scale_by_adam, bias-corrected, eps outside the root."""

    def __init__(self, b1: float, b2: float, eps: float):
        self.b1, self.b2, self.eps, self.mu, self.nu, self.count = b1, b2, eps, 0.0, 0.0, 0

    def __call__(self, gradient):
        self.count += 1
        self.mu = self.b1 * self.mu + (1 - self.b1) * gradient
        self.nu = self.b2 * self.nu + (1 - self.b2) * gradient**2
        mean, square = self.mu / (1 - self.b1**self.count), self.second(gradient) / (1 - self.b2**self.count)
        return mean / (np.sqrt(square) + self.eps)

    def second(self, gradient):
        return self.nu


class AMSGrad(ScaleByAdam):
    """Reddi et al. 2018: the largest second moment so far; bias-corrected like Adam's, as torch does."""

    largest = 0.0

    def second(self, gradient):
        self.largest = np.maximum(self.largest, self.nu)
        return self.largest


class AdaBelief(ScaleByAdam):
    """Zhuang et al. 2020, Algorithm 2: s <- b2 s + (1 - b2) (g - m)^2 + eps instead of the second moment."""

    belief = 0.0

    def second(self, gradient):
        self.belief = self.b2 * self.belief + (1 - self.b2) * (gradient - self.mu) ** 2 + self.eps
        return self.belief


CASES = {
    "sgd": (SGDConfig(lr=1.6, weight_decay=0.001), lambda: Trace(0.9, nesterov=False)),
    "sgd, nesterov": (SGDConfig(lr=0.5, weight_decay=0.01, nesterov=True), lambda: Trace(0.9, nesterov=True)),
    "adamw": (AdamWConfig(lr=3e-3, weight_decay=0.3), lambda: ScaleByAdam(0.9, 0.999, 1e-8)),
    "adamw, no decay": (AdamWConfig(lr=1e-2, betas=[0.8, 0.95], eps=1e-4), lambda: ScaleByAdam(0.8, 0.95, 1e-4)),
    "adam": (AdamConfig(lr=1e-2), lambda: ScaleByAdam(0.9, 0.999, 1e-8)),
    "adam, amsgrad": (AdamConfig(lr=1e-2, weight_decay=0.1, betas=[0.9, 0.5], amsgrad=True), lambda: AMSGrad(0.9, 0.5, 1e-8)),
    "adabelief": (AdaBeliefConfig(lr=1e-2, weight_decay=0.1, eps=1e-6), lambda: AdaBelief(0.9, 0.999, 1e-6)),
}


class Network(nn.Module):
    """A kernel of each kind and what must not decay: bias, norm, position embedding named as timm does."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, 4)
        self.pos_embed = nn.Parameter(torch.randn(1, 5, 3))

    def no_weight_decay(self):
        return {"pos_embed"}


@pytest.mark.parametrize("case", CASES)
def test_updates_are_the_official_ones_step_by_step(case):
    config, direction = CASES[case]
    torch.manual_seed(0)
    model = Network().double()
    optimizer = build_base(config, model)
    kernels = {"conv.weight", "head.weight"}
    expected = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    rules = {name: direction() for name in expected}
    for step in range(STEPS):
        schedule = min(1.0, step / 4) * (1 - step / 20)  # warm-up from 0, then decay
        for group in optimizer.param_groups:
            group["lr"] = config.lr * schedule
        for name, p in model.named_parameters():
            p.grad = torch.randn_like(p) * 10.0 ** (step % 3 - 1)
            decay = config.lr * config.weight_decay * expected[name] if name in kernels else 0.0
            update = config.lr * rules[name](p.grad.numpy()) + decay
            expected[name] = expected[name] - schedule * update
        optimizer.step()
        for name, p in model.named_parameters():
            np.testing.assert_allclose(p.detach().numpy(), expected[name], rtol=1e-12, atol=1e-14, err_msg=name)


def test_decay_is_not_multiplied_by_momentum():
    """torch's own SGD(weight_decay=...) decays ten times as much in the long run: the gradient here is zero."""
    model = nn.Linear(2, 2, bias=False)
    nn.init.ones_(model.weight)
    optimizer = build_base(SGDConfig(lr=0.1, weight_decay=0.01), model)
    for _ in range(50):
        model.weight.grad = torch.zeros(2, 2)
        optimizer.step()
    torch.testing.assert_close(model.weight.detach(), torch.full((2, 2), (1 - 0.1 * 0.01) ** 50))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_parameter_without_gradient_does_not_decay(optimizer):
    model = Network()
    before = model.head.weight.detach().clone()
    base = build_base(CASES[optimizer][0], model)
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    base.step()
    assert torch.equal(model.head.weight, before)


@pytest.mark.parametrize("name", sorted(path.stem for path in MODELS.glob("*.yaml")))
def test_kernels_and_only_kernels_decay(name):
    """big_vision's mask ".*/kernel$": dense and convolution kernels with the classifier's, nothing else."""
    values = yaml.safe_load((MODELS / f"{name}.yaml").read_text())
    config = ModelConfig(**{**values, "scheme": InitScheme[values["scheme"]]})
    with torch.device("meta"):
        model = build_model(config, num_classes=10, image_size=224, seed=0)
    kernels = {id(module.weight) for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))}
    decaying, others = decay_groups(model, 0.3)
    assert {id(p) for p in decaying["params"]} == kernels and decaying["weight_decay"] == 0.3
    assert others["weight_decay"] == 0
    assert len(decaying["params"]) + len(others["params"]) == len(list(model.parameters()))
