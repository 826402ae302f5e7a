"""Properties every sharpness-aware method must have."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gsam.optim import (
    ESTIMATORS,
    ASAMEstimator,
    BatchStats,
    GSAMEstimator,
    SAMEstimator,
    Step,
    VanillaEstimator,
    WeightedEstimator,
    estimate,
    second_pass,
)
from gsam.optim.estimator import Perturbing, Scope
from gsam.optim.ops import dot
from gsam.optim.perturb import START, Form, Perturb
from tests.unit.optim.tasks import tiny_data, tiny_net


def grad_fn(net, x, y, seed=0, fail_again=False):
    def run(*, again=False):
        net.zero_grad(set_to_none=True)
        torch.manual_seed(seed)
        if again and fail_again:
            raise RuntimeError("second pass failed")
        if again:
            with second_pass(net):
                loss = F.cross_entropy(net(x), y)
        else:
            loss = F.cross_entropy(net(x), y)
        loss.backward()
        return loss.detach()

    return run


def gradient(estimator, net, groups=1, rho=0.0, alpha=0.0, dtype=torch.float32):
    x, y = tiny_data(dtype)
    fns = [
        grad_fn(net, xs, ys, seed) for seed, (xs, ys) in enumerate(zip(x.chunk(groups), y.chunk(groups), strict=True))
    ]
    stats = estimate(estimator, list(net.parameters()), fns, Step(0, 0.1, rho, alpha), BatchStats(net))
    return [p.grad for p in net.parameters()], stats


PERTURBING = [name for name, method in ESTIMATORS.items() if issubclass(method, Perturbing)]
SHAPES = {"sam": {}, **{f.name: {"perturb": Perturb.asam, "form": f} for f in Form}}


def bound(estimator, net):
    estimator.bind(net.named_parameters())
    return estimator


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", PERTURBING)
def test_rho_zero_is_the_vanilla_gradient_bit_for_bit(name, shape, groups):
    """The vanilla gradient of the same groups, averaged; alpha does not matter, since g equals g_p."""

    class Grouped(VanillaEstimator):
        local = True

    vanilla, _ = gradient(Grouped(), tiny_net(), groups)
    net = tiny_net()
    ours, _ = gradient(bound(ESTIMATORS[name](rho=0.0, **SHAPES[shape]), net), net, groups, rho=0.0, alpha=0.7)
    assert all(torch.equal(a, b) for a, b in zip(vanilla, ours, strict=True))


def test_alpha_zero_is_sam_bit_for_bit():
    sam, _ = gradient(SAMEstimator(rho=0.3), tiny_net(), rho=0.3)
    ours, _ = gradient(GSAMEstimator(rho=0.3), tiny_net(), rho=0.3, alpha=0.0)
    assert all(torch.equal(a, b) for a, b in zip(sam, ours, strict=True))


def test_the_ascent_step_is_orthogonal_to_the_sharp_gradient():
    sharp, _ = gradient(SAMEstimator(rho=0.5), tiny_net(torch.float64), rho=0.5, dtype=torch.float64)
    used, _ = gradient(GSAMEstimator(rho=0.5), tiny_net(torch.float64), rho=0.5, alpha=1.0, dtype=torch.float64)
    g_perp = [s - u for s, u in zip(sharp, used, strict=True)]
    assert dot(g_perp, g_perp) > 1e-4
    assert abs(dot(g_perp, sharp)) < 1e-14


def test_the_ascent_step_lowers_the_gap_on_a_quadratic():
    """Sign of Theorem 5.3: on f = w'Hw/2 a small GSAM step ends with a smaller surrogate gap than a SAM step."""
    hessian = torch.diag(torch.tensor([10.0, 3.0, 1.0, 0.1], dtype=torch.float64))

    def gap_after(alpha, lr=1e-3, rho=0.1):
        w = nn.Parameter(torch.tensor([0.3, -0.8, 1.0, 2.0], dtype=torch.float64))

        def f(w):
            return 0.5 * w @ hessian @ w

        def run(*, again=False):
            w.grad = None
            loss = f(w)
            loss.backward()
            return loss.detach()

        estimate(GSAMEstimator(rho=rho, alpha=alpha), [w], [run], Step(0, lr, rho, alpha))
        w = (w - lr * w.grad).detach().requires_grad_()
        (g,) = torch.autograd.grad(f(w), w)
        return (f(w + rho * g / g.norm()) - f(w)).item()

    assert gap_after(1.0) < gap_after(0.5) < gap_after(0.0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", PERTURBING)
def test_weights_are_bitwise_restored(name, shape):
    net = tiny_net()
    before = [p.detach().clone() for p in net.parameters()]
    gradient(bound(ESTIMATORS[name](rho=0.5, **SHAPES[shape]), net), net, rho=0.5, alpha=0.3)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def recorded_perturbation(estimator, net, rho):
    """e = the weights in the second pass minus the weights."""
    x, y = tiny_data(torch.float64)
    before, moved = [p.detach().clone() for p in net.parameters()], []
    run = grad_fn(net, x, y)

    def recording(*, again=False):
        if again:
            moved[:] = [p.detach() - b for p, b in zip(net.parameters(), before, strict=True)]
        return run(again=again)

    estimate(bound(estimator, net), list(net.parameters()), [recording], Step(0, 0.1, rho))
    run()
    return moved, before, [p.grad for p in net.parameters()]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_perturbation_is_the_published_formula(shape):
    net, rho = tiny_net(torch.float64, dropout=0.0), 0.3
    e, w, g = recorded_perturbation(SAMEstimator(rho=rho, **SHAPES[shape]), net, rho)
    if shape == "original":
        t = [
            wi.abs() + 0.01 if "weight" in n else torch.ones_like(wi)
            for (n, _), wi in zip(net.named_parameters(), w, strict=True)
        ]
    else:
        t = [wi.abs() if shape != "sam" else torch.ones_like(wi) for wi in w]
    powers = 1 if shape in ("sam", "big_vision") else 2
    weigh = g if powers == 1 else [ti * gi for ti, gi in zip(t, g, strict=True)]
    length = dot(weigh, weigh).sqrt()
    for ei, ti, gi in zip(e, t, g, strict=True):
        torch.testing.assert_close(ei, rho * ti**powers * gi / length, rtol=1e-9, atol=1e-12)


def test_each_form_of_asam_has_its_own_radius():
    assert [ASAMEstimator(form=f).rho_range for f in Form] == [(START[f],) * 2 for f in Form]
    assert ASAMEstimator(rho=0.7).rho_range == (0.7, 0.7)


def test_the_original_form_without_names_says_what_it_needs():
    with pytest.raises(ValueError, match="pass model="):
        gradient(SAMEstimator(rho=0.1, perturb=Perturb.asam, form=Form.original), tiny_net(), rho=0.1)


@pytest.mark.parametrize(("lam", "expected"), [(0.0, "sharp"), (-1.0, "clean"), (0.4, "both")])
def test_the_weighted_gradient_mixes_the_two(lam, expected):
    clean, _ = gradient(VanillaEstimator(), tiny_net(torch.float64), dtype=torch.float64)
    sharp, _ = gradient(SAMEstimator(rho=0.5), tiny_net(torch.float64), rho=0.5, dtype=torch.float64)
    used, _ = gradient(WeightedEstimator(rho=0.5, lam=lam), tiny_net(torch.float64), rho=0.5, dtype=torch.float64)
    mixed = {"sharp": sharp, "clean": clean, "both": [1.4 * s - 0.4 * c for s, c in zip(sharp, clean, strict=True)]}
    for u, m in zip(used, mixed[expected], strict=True):
        torch.testing.assert_close(u, m, rtol=1e-12, atol=1e-15)


def test_weights_are_restored_when_the_second_pass_raises():
    net = tiny_net()
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(RuntimeError, match="second pass failed"):
        fns = [grad_fn(net, *tiny_data(), fail_again=True)]
        estimate(SAMEstimator(rho=0.5), list(net.parameters()), fns, Step(0, 0.1, 0.5))
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_batchnorm_sees_the_clean_pass_only():
    x, y = tiny_data()
    once, twice = tiny_net(), tiny_net()
    torch.manual_seed(0)
    F.cross_entropy(once(x), y)
    gradient(SAMEstimator(rho=0.5), twice, rho=0.5)
    for (name, a), (_, b) in zip(once.named_buffers(), twice.named_buffers(), strict=True):
        assert torch.equal(a, b), name
    assert twice[1].num_batches_tracked == 1 and twice[1].track_running_stats


def test_batchnorm_statistics_are_the_mean_over_groups():
    x, y = tiny_data()
    means = []
    for xs in x.chunk(4):
        net = tiny_net()
        net(xs)
        means.append(net[1].running_mean)
    net = tiny_net()
    gradient(SAMEstimator(rho=0.5), net, groups=4, rho=0.5)
    torch.testing.assert_close(net[1].running_mean, torch.stack(means).mean(0))
    assert net[1].num_batches_tracked == 1


def test_frozen_and_unused_parameters_are_left_alone():
    net = tiny_net()
    net.unused = nn.Linear(3, 3)
    net.forward = lambda x: nn.Sequential(*list(net.children())[:5])(x)
    net[0].weight.requires_grad_(False)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    x, y = tiny_data()
    params = [p for p in net.parameters() if p.requires_grad]
    estimate(GSAMEstimator(rho=0.5), params, [grad_fn(net, x, y)] * 2, Step(0, 0.1, 0.5, 0.3))
    assert net.unused.weight.grad is None and net[0].weight.grad is None and net[4].weight.grad is not None
    assert all(torch.equal(before[n], p) for n, p in net.named_parameters())


def test_no_gradient_at_all_says_so():
    net = tiny_net()
    with pytest.raises(ValueError, match="no parameter received a gradient"):
        estimate(
            SAMEstimator(rho=0.1), list(net.parameters()), [lambda again=False: torch.zeros(())], Step(0, 0.1, 0.1)
        )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rho": 0.1, "rho_max": 0.2}, "not both"),
        ({"rho_max": 0.2}, "both are needed"),
        ({"rho_max": 0.1, "rho_min": 0.2}, "larger than"),
        ({"rho": -0.1}, "not negative"),
        ({"rho": 0.1, "group_size": 0}, "at least 1"),
        ({"rho": 0.1, "group_size": 8, "scope": Scope["global"]}, "no meaning"),
        ({"rho": 0.1, "alpha": -1.0}, "ascent coefficient"),
    ],
)
def test_impossible_settings_are_named(settings, words):
    (problem,) = GSAMEstimator(**settings).problems()
    assert words in problem
