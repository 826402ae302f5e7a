"""Entropy-SGD against a plain transcription of its algorithm and its limiting cases."""

import pytest
import torch
import torch.nn.functional as F

from gsam.optim import EntropySGDEstimator, Step, estimate
from tests.unit.optim.tasks import tiny_data, tiny_net


def run(estimator, net, step=3, seed=0):
    """The estimator's gradient on batches of 16 images, one per inner step."""
    x, y = tiny_data(torch.float64)
    batches = list(zip(x.split(16), y.split(16), strict=True))

    def grad_fn(*, again=False, batch=0):
        net.zero_grad(set_to_none=True)
        loss = F.cross_entropy(net(batches[batch][0]), batches[batch][1])
        loss.backward()
        return loss.detach()

    stats = estimate(estimator, list(net.parameters()), [grad_fn], Step(step, 0.1, seed=seed))
    return [p.grad for p in net.parameters()], stats, grad_fn


def net64():
    return tiny_net(torch.float64, norm=False, dropout=0.0)


def test_one_plain_inner_step_is_the_gradient_times_the_inner_rate():
    """L = 1, no pull, no noise, no momentum, all weight on x': x - mu = inner_lr * grad f."""
    net = net64()
    settings = {"iterations": 1, "gamma": 0.0, "noise": 0.0, "inner_momentum": 0.0, "average": 0.0, "inner_lr": 0.05}
    used, _, grad_fn = run(EntropySGDEstimator(**settings), net)
    grad_fn()
    for u, p in zip(used, net.parameters(), strict=True):
        torch.testing.assert_close(u, 0.05 * p.grad, rtol=1e-9, atol=1e-15)


def test_the_inner_loop_follows_algorithm_1():
    method = EntropySGDEstimator(
        iterations=4, gamma=0.3, scoping=0.5, noise=0.0, average=0.75, inner_lr=0.2, inner_momentum=0.9
    )
    net = net64()
    used, stats, grad_fn = run(method, net, step=3)
    weights = [p.detach().clone() for p in net.parameters()]
    mu, momentum = [w.clone() for w in weights], [torch.zeros_like(w) for w in weights]
    for batch in range(4):
        loss = grad_fn(batch=batch)
        if batch == 0:
            assert stats.loss == loss
        with torch.no_grad():
            for i, p in enumerate(net.parameters()):
                momentum[i] = 0.9 * momentum[i] + p.grad
                p -= 0.2 * (p.grad + 0.9 * momentum[i] - 0.3 * 1.5**3 * (weights[i] - p))
                mu[i] = 0.75 * mu[i] + 0.25 * p
    for u, w, m in zip(used, weights, mu, strict=True):
        torch.testing.assert_close(u, w - m, rtol=1e-9, atol=1e-14)


def test_weights_come_back_and_noise_depends_on_seed_and_step_only():
    net = net64()
    before = [p.detach().clone() for p in net.parameters()]
    runs = {}
    for seed, step, state in ((0, 3, 1), (0, 3, 2), (1, 3, 1), (0, 4, 1)):
        torch.manual_seed(state)
        runs[seed, step, state] = run(EntropySGDEstimator(noise=0.1, scoping=0.0, iterations=3), net, step, seed)[0][0]
        assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    one, same, other_seed, other_step = runs.values()
    assert torch.equal(one, same) and not torch.equal(one, other_seed) and not torch.equal(one, other_step)


def test_noise_has_the_spread_of_the_langevin_step():
    net = torch.nn.Linear(300, 300, bias=False, dtype=torch.float64)

    def flat(*, again=False, batch=0):
        net.weight.grad = torch.zeros_like(net.weight)
        return torch.zeros(())

    method = EntropySGDEstimator(iterations=1, noise=0.3, inner_lr=0.2, average=0.0)
    estimate(method, [net.weight], [flat], Step(0, 0.1))
    assert net.weight.grad.std().item() == pytest.approx(0.3 * 0.4**0.5, rel=0.01)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"iterations": 0}, "at least 1"),
        ({"inner_lr": 0.0}, "positive"),
        ({"average": 1.0}, "[0, 1)"),
        ({"noise": -1.0}, "negative"),
    ],
)
def test_impossible_settings(settings, words):
    (problem,) = EntropySGDEstimator(**settings).problems()
    assert words in problem


def test_each_inner_step_draws_noise_of_its_own():
    """With nothing but noise, L steps of equal noise would end L times as far as one: in the mean the square root of L."""
    settings = {"gamma": 0.0, "noise": 1e3, "inner_momentum": 0.0, "average": 0.0, "inner_lr": 1e-9}
    ends = [run(EntropySGDEstimator(iterations=n, **settings), net64())[0] for n in (1, 4)]
    one, four = (torch.cat([u.flatten() for u in end]).norm() for end in ends)
    assert four / one == pytest.approx(2.0, rel=0.15)


def test_the_pull_grows_only_to_where_the_inner_steps_stay_stable():
    method = EntropySGDEstimator(gamma=1e-4, scoping=1e-3, inner_lr=0.1)
    assert method.pull(1000) == pytest.approx(1e-4 * 1.001**1000) and method.pull(10**6) == 0.5 / 0.1
