"""Gaps on a small network and real pictures."""

import pytest
import torch
from torch import nn

from gsam.analysis.objective import Objective
from gsam.analysis.sharpness import Ascent, Ball, Settings, numbers, surrogate_gap
from gsam.losses import LossKind, build_loss
from gsam.optim import GSAMEstimator, estimate
from tests.unit.analysis.nets import CLASSES, case, pictures


@pytest.fixture(scope="module")
def one(fashion_root):
    return case("attention", fashion_root)


def test_one_step_is_the_training_methods(one, fashion_root):
    """Loss, perturbed loss, cosine and norm as the optimizer that trains with this radius finds them."""
    from gsam.optim import BatchStats
    from gsam.optim.estimator import Step

    x, y = pictures(fashion_root, 25, 8)
    model = one.objective.model.eval()
    params = list(model.parameters())

    def grad_fn(*, again=False, batch=0):
        model.zero_grad()
        loss = one.objective._loss(model(x), y)
        loss.backward()
        return loss.detach()

    step = Step(0, 0.1, 0.3, 0.4, 0)
    stats = estimate(GSAMEstimator(rho=0.3, alpha=0.4), params, [grad_fn], step, BatchStats(model))
    gap = surrogate_gap(one.objective, 0.3)
    assert (gap.loss, gap.sharp_loss) == pytest.approx((stats.loss.item(), stats.sharp_loss.item()), rel=1e-9)
    assert (gap.cos, gap.grad_norm) == pytest.approx((stats.cos.item(), stats.clean_norm.item()), rel=1e-9)


@pytest.mark.parametrize("ball", Ball)
def test_projected_ascent_finds_a_worse_point_in_the_same_ball(one, ball):
    first = surrogate_gap(one.objective, 1.0, ball=ball)
    worst = surrogate_gap(one.objective, 1.0, ball=ball, ascent=Ascent.projected, steps=50)
    assert worst.sharp_loss > first.sharp_loss and worst.ascent_steps > 1
    vectors = torch.randn(
        20, len(one.objective.weights), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    scale = one.objective.weights.abs() if ball is Ball.elementwise else 1.0
    others = [one.objective.loss(one.objective.weights + scale * v / v.norm()) for v in vectors]
    assert worst.sharp_loss > max(others)


def test_the_share_of_the_gradient_is_the_gap_for_a_small_radius(one):
    """h = rho ||g|| + O(rho^2) away from a minimum, so that 2 h / rho^2 says 2 ||g|| / rho there and nothing of curvature."""
    rho = 1e-4
    row = numbers([surrogate_gap(one.objective, rho)], rho)
    assert row["gradient_share"] == pytest.approx(1, abs=1e-3)
    assert row["sigma_estimate"] == pytest.approx(2 * row["grad_norm"] / rho, rel=1e-3)


def test_second_order_of_the_gap_is_the_curvature_along_the_gradient(one):
    f, rho = one.objective, 1e-5
    _, g = f.gradient()
    direction = g / g.norm()
    gap = surrogate_gap(f, rho)
    curvature = 2 * (gap.sharp_loss - gap.loss - gap.first_order) / rho**2
    assert curvature == pytest.approx((direction @ f.hvp(direction)).item(), rel=1e-2)


def test_elementwise_does_not_change_when_layers_are_rescaled(fashion_root):
    """The property that ASAM was made for (Kwon et al. 2021, Theorem 3); the plain ball lacks it."""
    x, y = pictures(fashion_root, 30, 14)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(588, 8, bias=False), nn.ReLU(), nn.Linear(8, CLASSES, bias=False)
    ).double()
    f = Objective(net, build_loss(LossKind.softmax, 0.0, CLASSES), lambda: [(x, y)])
    before = {ball: surrogate_gap(f, 0.2, ball=ball).sharp_loss for ball in Ball}
    with torch.no_grad():
        net[1].weight.mul_(4)
        net[3].weight.div_(4)
    f.refresh()
    after = {ball: surrogate_gap(f, 0.2, ball=ball).sharp_loss for ball in Ball}
    assert after[Ball.elementwise] == pytest.approx(before[Ball.elementwise], rel=1e-10)
    assert abs(after[Ball.l2] / before[Ball.l2] - 1) > 1e-2


def test_wrong_settings_are_all_named():
    wrong = Settings(rho=[0.0, -1.0], ascent=[], m=[0], steps=0)
    assert len(list(wrong.problems())) == 5
