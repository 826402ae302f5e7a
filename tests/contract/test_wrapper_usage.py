"""`gsam.GSAM` and friends as a torch.optim.Optimizer: copies, pickles, schedulers, new parameters, clipping, bad input."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler

import gsam
from gsam.optim.base import find_optimizer
from tests.contract.properties import assert_equal
from tests.unit.optim.tasks import tiny_data, tiny_net
from tests.unit.optim.test_wrapper import MAKERS, closure_of


def make(name="gsam", lr=0.1):
    net = tiny_net()
    return net, MAKERS[name](torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9), net)


def step(net, opt, seed=0):
    torch.manual_seed(seed)
    return opt.step(closure_of(net, *tiny_data()))


def saved_and_loaded(pair):
    file = io.BytesIO()
    torch.save(pair, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy, "pickle": lambda pair: pickle.loads(pickle.dumps(pair)), "torch.save": saved_and_loaded,
}  # fmt: skip


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", MAKERS)
def test_a_copy_of_model_and_optimizer_continues_bit_for_bit(name, how):
    """Also with a scheduler attached, which replaces `step` on the object."""
    net, opt = make(name)
    lr_scheduler.StepLR(opt, 5)
    step(net, opt)
    net2, opt2 = COPIES[how]((net, opt))
    assert opt2.param_groups is opt2.base.param_groups and opt2.state is opt2.base.state
    for seed in (1, 2):
        step(net, opt, seed)
        step(net2, opt2, seed)
    assert_equal(dict(net.state_dict()), dict(net2.state_dict()))
    assert net2[0].weight is not net[0].weight and opt2.steps == opt.steps


def test_repr_names_the_method_and_the_base():
    text = repr(make()[1])
    assert text.startswith("GSAM(") and "rho_max=0.1" in text and "base=SGD (" in text and "momentum: 0.9" in text


SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 1, 0.5),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=20),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda e: 0.5**e),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=10.0),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_drive_the_base_and_the_radius_follows(name):
    """The same learning rates as on the base optimizer alone; rho = 0.02 + 0.08 (lr - 0.01) / 0.09."""
    net, opt = make()
    plain = torch.optim.SGD(tiny_net().parameters(), lr=0.1, momentum=0.9)
    schedulers = [SCHEDULERS[name](o) for o in (opt, plain)]
    seen = []
    inner = opt.estimator.moved
    opt.estimator.moved = lambda params, clean, norm, rho: (seen.append(rho), inner(params, clean, norm, rho))[1]
    for _ in range(4):
        lr = opt.base.param_groups[0]["lr"]
        step(net, opt)
        plain.step()
        for scheduler in schedulers:
            scheduler.step(1.0) if name == "ReduceLROnPlateau" else scheduler.step()
        assert seen[-1] == pytest.approx(0.02 + 0.08 * (lr - 0.01) / 0.09)
        assert opt.base.param_groups[0]["lr"] == plain.param_groups[0]["lr"]
        assert opt.base.param_groups[0]["momentum"] == plain.param_groups[0]["momentum"]
    assert len(set(seen)) > 1
    opt2 = make()[1]
    again = SCHEDULERS[name](opt2)
    again.load_state_dict(schedulers[0].state_dict())
    assert again.state_dict() == schedulers[0].state_dict()


def test_added_parameters_are_perturbed_and_trained():
    net, extra = tiny_net(), nn.Linear(5, 5)
    opt = MAKERS["gsam"](torch.optim.SGD(net.parameters(), lr=0.1), nn.Sequential(net, extra))
    opt.add_param_group({"params": extra.parameters(), "lr": 0.05})
    x, y = tiny_data()
    before, seen = extra.weight.detach().clone(), []

    def closure():
        seen.append(extra.weight.detach().clone())
        loss = F.cross_entropy(extra(net(x)), y)
        loss.backward()
        return loss

    opt.step(closure)
    assert torch.equal(seen[0], before) and not torch.equal(seen[1], before)
    assert not torch.equal(extra.weight, before) and opt.base.param_groups[1]["lr"] == 0.05


def test_parameters_that_are_added_later_are_scaled_by_name_too():
    """ASAM's original form: as if they had been there from the start."""
    moved = []
    for later in (False, True):
        net, seen = nn.Sequential(tiny_net(norm=False, dropout=0.0)), []
        torch.manual_seed(0)
        extra = nn.Linear(5, 5)
        if not later:
            net.append(extra)
        opt = gsam.ASAM(torch.optim.SGD(net.parameters(), lr=0.1), form="original", model=net)
        if later:
            net.append(extra)
            opt.add_param_group({"params": extra.parameters()})
        extra.register_forward_pre_hook(lambda module, _, seen=seen: seen.append(module.weight.detach().clone()))
        opt.step(closure_of(net, *tiny_data()))
        moved.append(seen[1])
    assert torch.equal(*moved)


def test_a_group_that_cannot_be_trained_is_refused_and_not_kept():
    net, opt = make()
    with pytest.raises(ValueError, match="maximize=True"):
        opt.add_param_group({"params": [nn.Parameter(torch.zeros(2))], "maximize": True})
    assert len(opt.param_groups) == 1
    step(net, opt)


def test_clipping_in_a_hook_of_the_base_optimizer_sees_the_final_unscaled_gradient():
    """What docs/methods.md recommends, with and without a GradScaler."""
    norms = {}
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=64.0)):
        net, opt = make()

        def clip(base, *_, net=net, scaler=scaler):
            norms[scaler is None] = nn.utils.clip_grad_norm_(net.parameters(), 0.01)

        opt.base.register_step_pre_hook(clip)
        before = net[0].weight.detach().clone()
        torch.manual_seed(0)
        opt.step(closure_of(net, *tiny_data(), scaler), scaler=scaler)
        assert 0 < (net[0].weight - before).norm() <= 0.1 * 0.01 * 1.001
    assert norms[True].item() == pytest.approx(norms[False].item(), rel=1e-4)


BASE = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1)
BAD = {
    "rho negative": (lambda: gsam.SAM(BASE, rho=-0.1), r"^optimizer.rho=-0.1: a perturbation radius is not negative"),
    "rho_min above rho_max": (lambda: gsam.GSAM(BASE, 0.1, 0.2, 0.1, lr_max=0.1), "larger than"),
    "alpha negative": (lambda: gsam.GSAM(BASE, 0.2, 0.1, -0.1, lr_max=0.1), "ascent coefficient"),
    "no lr_max": (lambda: gsam.GSAM(BASE, 0.2, 0.1, 0.1, lr_max=None), "lr_max"),
    "names are not known": (lambda: gsam.ASAM(BASE, form="original"), "pass model="),
    "the same, ASAM + ascent": (
        lambda: gsam.GSAM(BASE, 0.5, 0.5, 0.1, lr_max=0.1, perturb="asam", form="original"), "pass model=",
    ),
    "unknown form": (lambda: gsam.ASAM(BASE, form="kwon"), "choose one of elementwise"),
    "unknown target": (lambda: gsam.GSAM(BASE, 0.2, 0.1, 0.1, lr_max=0.1, minimize="h"), "choose one of fp, f"),
    "lambda": (lambda: gsam.WeightedSAM(BASE, lam=-2.0), "at least -1"),
    "inner steps": (lambda: gsam.EntropySGD(BASE, 0), "at least 1"),
    "no closure": (lambda: gsam.SAM(BASE).step(), "needs a closure"),
    "closure returns None": (lambda: gsam.SAM(BASE).step(lambda: None), "must return the loss"),
    "closure returns a number": (lambda: gsam.SAM(BASE).step(lambda: 1.0), "must return the loss"),
    "closure without backward": (lambda: gsam.SAM(BASE).step(lambda: torch.zeros(())), "no parameter received a gradient"),
    "the same, Entropy-SGD": (lambda: gsam.EntropySGD(BASE).step(lambda: torch.zeros(())), "no parameter received"),
    "model is a list": (lambda: gsam.SAM(BASE, 0.1, model=[1]), "model is a list"),
    "complex": (lambda: gsam.SAM(torch.optim.SGD([nn.Parameter(torch.zeros(2, dtype=torch.cfloat))], lr=0.1)), "view_as_real"),
    "maximize of another library": (
        lambda: gsam.SAM(find_optimizer("yogi")([nn.Parameter(torch.zeros(2))], maximize=True)), "maximize=True",
    ),
    "LBFGS": (lambda: gsam.SAM(torch.optim.LBFGS([nn.Parameter(torch.zeros(2))])), "calls the closure itself"),
    "lr_min above lr_max": (lambda: gsam.GSAM(BASE, 0.2, 0.1, 0.1, lr_max=0.1, lr_min=0.2), "lr_min=0.2"),
    "rho NaN": (lambda: gsam.SAM(BASE, float("nan")), "not negative"),
    "rho inf": (lambda: gsam.SAM(BASE, float("inf")), "not negative"),
    "alpha NaN": (lambda: gsam.GSAM(BASE, 0.1, 0.1, float("nan"), lr_max=0.1), "ascent coefficient"),
    "fp16 with Entropy-SGD": (
        lambda: gsam.EntropySGD(BASE).step(lambda: None, scaler=torch.amp.GradScaler("cpu")), "use bf16 or fp32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_message(name):
    call, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        call()


def test_parameters_instead_of_an_optimizer():
    with pytest.raises(TypeError, match="base is a list; give an optimizer: SAM"):
        gsam.SAM([nn.Parameter(torch.zeros(2))], rho=0.1)
