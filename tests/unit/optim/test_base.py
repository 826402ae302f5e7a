"""Base optimizers: decoupled decay on kernels only, and any optimizer by name."""

import pytest
import timm
import torch

from gsam.optim import BASES, build_base, decay_groups
from gsam.optim.base import AdaBeliefConfig, AdamConfig, AdamWConfig, OtherConfig, SGDConfig


def test_decay_touches_kernels_only():
    """Not biases, not norms, not the position embedding; everything trainable is in exactly one group."""
    model = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=5)
    model.patch_embed.proj.weight.requires_grad_(False)
    kernels, others = decay_groups(model, 0.3)
    names = {id(p): n for n, p in model.named_parameters()}
    block = {f"blocks.0.{layer}.weight" for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert {names[id(p)] for p in kernels["params"]} == block | {"head.weight"}
    assert {"pos_embed", "cls_token", "norm.weight", "head.bias"} <= {names[id(p)] for p in others["params"]}
    assert (kernels["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    assert len(kernels["params"]) + len(others["params"]) == len(names) - 1


OTHERS = ["RAdam", "Adagrad", "lamb", "yogi", "adabound"]
CONFIGS = [kind() for kind in BASES.values()] + [AdamConfig(amsgrad=True), AdaBeliefConfig(rectify=True)]
CONFIGS += [OtherConfig(name=name) for name in OTHERS] + [OtherConfig(name="nadamw", kwargs={"betas": [0.9, 0.99]})]
CONFIGS += [OtherConfig(name="Adadelta", kwargs={"eps": 0.1})]  # its first steps are of the size of lr * sqrt(eps)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_every_optimizer_lowers_a_quadratic(config):
    net = torch.nn.Linear(4, 1)
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    config.lr = 0.02
    assert not list(config.problems())
    optimizer = build_base(config, net)
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = ((net(x) - x.sum(1, keepdim=True)) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(("name", "decay"), [("adamw", 0.3), ("adam", 0.3), ("adabelief", 0.3), ("sgd", 0.3)])
def test_decay_is_decoupled(name, decay):
    """With a zero gradient the kernel shrinks by exactly lr * decay."""
    net = torch.nn.Linear(3, 3)
    before = net.weight.detach().clone()
    optimizer = build_base(BASES[name](lr=0.1, weight_decay=decay), net)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    bias = net.bias.detach().clone()
    optimizer.step()
    torch.testing.assert_close(net.weight.detach(), before * (1 - 0.1 * decay))
    assert torch.equal(net.bias, bias)


def test_an_unknown_optimizer_names_the_libraries():
    (problem,) = OtherConfig(name="lionheart").problems()
    assert "base.name=lionheart" in problem and "torch.optim" in problem


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (SGDConfig(momentum=0.0, nesterov=True), "base.nesterov=true with base.momentum=0"),
        (AdamWConfig(eps=0.0), "base.eps=0.0: must be positive"),
        (AdamWConfig(betas=[0.9]), "two numbers"),
        (OtherConfig(name="Rprop", weight_decay=0.3), "base.weight_decay=0.3: Rprop takes no weight_decay"),
        (OtherConfig(name="yogi", kwargs={"maximize": True}), "towards the largest loss"),
        (OtherConfig(name="schedulefreesgd"), "must be told when to train and when to evaluate"),
        (OtherConfig(name="LBFGS"), "two groups"),
        (OtherConfig(name="RAdam", kwargs={"weight_decay": 0.1}), "set base.weight_decay"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_settings_that_would_do_nothing_or_train_wrongly_are_refused(config, words):
    (problem,) = config.problems()
    assert words in problem
