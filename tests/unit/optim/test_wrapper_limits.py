"""The wrapper under less usual optimizers, layers, schedules and set-ups: right, or refused with the reason."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import EvoNorm2dB0
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gsam
from gsam.optim import SGDW, BatchStats, second_pass
from gsam.optim.base import OtherConfig
from gsam.optim.engine import reduce_grads
from tests.ranks import run_ranks
from tests.unit.optim.tasks import tiny_data, tiny_net
from tests.unit.optim.test_wrapper import closure_of, reference_weights


@pytest.mark.parametrize("fused", [False, True])
def test_hooks_of_the_base_see_the_true_gradient_in_fp16(fused):
    """torch leaves the loss scale in the gradients of fused optimizers until their own step."""
    scaler, (x, y) = torch.amp.GradScaler("cpu", init_scale=2.0**12), tiny_data()
    net = tiny_net()
    base = torch.optim.SGD(net.parameters(), lr=0.1, fused=fused)
    opt, norms = gsam.SAM(base, 0.1, model=net), []
    base.register_step_pre_hook(lambda *_: norms.append(nn.utils.clip_grad_norm_(net.parameters(), 1e-3).item()))
    before = net[0].weight.detach().clone()
    opt.step(closure_of(net, x, y, scaler), scaler=scaler)
    assert norms[0] < 10 and 0 < (net[0].weight - before).norm() <= 0.1 * 1e-3 * 1.01


@pytest.mark.parametrize("disabled", [True, False])
def test_a_disabled_scaler_is_none(disabled):
    net = tiny_net()
    opt = gsam.EntropySGD(torch.optim.SGD(net.parameters(), lr=0.1), 2, model=net)
    scaler = torch.amp.GradScaler("cpu", enabled=not disabled)
    if disabled:
        assert opt.step(closure_of(net, *tiny_data()), scaler=scaler).isfinite()
    else:
        with pytest.raises(ValueError, match="no GradScaler"):
            opt.step(closure_of(net, *tiny_data()), scaler=scaler)


def test_a_skipped_step_in_fp16_leaves_batchnorm_alone():
    net, (x, y) = tiny_net(), tiny_data()
    opt, scaler = (
        gsam.GSAM(torch.optim.SGD(net.parameters(), lr=0.1), 0.1, 0.1, 0.2, lr_max=0.1, model=net),
        torch.amp.GradScaler("cpu"),
    )
    opt.step(closure_of(net, x, y, scaler), scaler=scaler)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    spoiled = x.clone()
    spoiled[0, 0] = float("inf")
    opt.step(closure_of(net, spoiled, y, scaler), scaler=scaler)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    opt.step(closure_of(net, x, y, scaler), scaler=scaler)
    assert net[1].num_batches_tracked == 2 and not torch.equal(net[1].running_mean, before["1.running_mean"])


def evo():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), EvoNorm2dB0(4), nn.Flatten(), nn.Linear(4 * 36, 5))


def spectral():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(192, 8)), nn.GELU(), nn.Linear(8, 5)
    )


@pytest.mark.parametrize("make", [evo, spectral])
def test_buffers_of_any_layer_move_in_the_clean_pass_only(make):
    """Those of EvoNorm, or spectral_norm's vectors, are after a step what one pass alone makes of them."""
    x, y = torch.randn(6, 3, 8, 8), torch.randint(0, 5, (6,))
    once, net = make(), make()
    start = {k: v.clone() for k, v in net.named_buffers()}
    once(x)
    gsam.SAM(torch.optim.SGD(net.parameters(), lr=0.1), 0.5, model=net).step(closure_of(net, x, y))
    assert all(torch.equal(v, dict(once.named_buffers())[k]) for k, v in net.named_buffers())
    assert any(not torch.equal(v, start[k]) for k, v in net.named_buffers())


def test_running_statistics_of_any_layer_are_averaged_over_ranks():
    one, other = run_ranks(2, _evo_statistics)
    assert torch.equal(one["mean"], other["mean"]) and not torch.equal(one["own"], other["own"])


def _evo_statistics(rank):
    net = evo()
    x, y = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(rank)), torch.zeros(6, dtype=torch.long)
    alone = evo()
    alone(x)
    opt = gsam.SAM(torch.optim.SGD(net.parameters(), lr=0.1), 0.1, model=DistributedDataParallel(net))
    opt.step(closure_of(opt.model, x, y))
    return {"mean": net[1].running_var, "own": alone[1].running_var}


def test_undo_takes_back_buffers_and_counts():
    net = tiny_net()
    stats = BatchStats(net)
    before = {k: v.clone() for k, v in net.named_buffers()}
    stats.begin()
    net(tiny_data()[0])
    stats.end()
    stats.undo(when=torch.tensor(False))
    assert net[1].num_batches_tracked == 1
    stats.undo(when=torch.tensor(True))
    assert all(torch.equal(before[k], v) for k, v in net.named_buffers())


def test_ranks_without_ddp_are_averaged_in_every_pass_of_entropy_sgd():
    """As with DDP: every inner step is that of the whole batch in one process."""
    ours, other = run_ranks(2, _bare_entropy)
    net, (x, y) = tiny_net(torch.float64, norm=False, dropout=0.0), tiny_data(torch.float64)
    opt = gsam.EntropySGD(torch.optim.SGD(net.parameters(), lr=0.5), 3, model=net)
    for _ in range(3):
        opt.step(closure_of(net, x, y))
    for one, two, expected in zip(ours, other, net.parameters(), strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(one, expected.detach(), rtol=1e-12, atol=1e-12)


def _bare_entropy(rank):
    net = tiny_net(torch.float64, norm=False, dropout=0.0)
    x, y = (t.chunk(2)[rank] for t in tiny_data(torch.float64))
    opt = gsam.EntropySGD(torch.optim.SGD(net.parameters(), lr=0.5), 3, model=net)
    for _ in range(3):
        opt.step(closure_of(net, x, y))
    return [p.detach() for p in net.parameters()]


def test_the_settings_of_an_estimator_are_the_wrappers():
    """alpha and the clamp act; what only train.py acts on is refused."""
    net = tiny_net()
    base = torch.optim.SGD(net.parameters(), lr=0.0)
    made = gsam.optim.SharpnessAware(
        base, gsam.optim.GSAMEstimator(rho_max=0.3, rho_min=0.1, alpha=0.5, clamp_rho=True), lr_max=0.1, lr_min=0.01
    )
    assert made.alpha == 0.5 and made._rho(0.0) == 0.1
    official, clamped = (gsam.GSAM(base, 0.3, 0.1, 0.5, lr_max=0.1, lr_min=0.01, clamp_rho=c) for c in (False, True))
    assert official._rho(0.0) < 0.1 == clamped._rho(0.0)
    with pytest.raises(ValueError, match=r"group_size=4 is train\.py's"):
        gsam.optim.SharpnessAware(base, gsam.optim.SAMEstimator(rho=0.1, group_size=4))


@pytest.mark.parametrize("make", [
    lambda base: gsam.GSAM(base, 0.1, 0.1, 0.3, lr_max=0.1), lambda base: gsam.ASAM(base),
    lambda base: gsam.EntropySGD(base, 2),
])  # fmt: skip
def test_sparse_gradients_are_refused_where_they_cannot_be_taken(make):
    table = nn.Embedding(10, 3, sparse=True)

    def closure():
        loss = table(torch.tensor([1, 2])).square().sum()
        loss.backward()
        return loss

    before = table.weight.detach().clone()
    with pytest.raises(ValueError, match=r"sparse gradients are not supported by .*sparse=False"):
        make(torch.optim.SGD(table.parameters(), lr=0.1)).step(closure)
    assert torch.equal(table.weight, before)


def test_ranks_without_ddp_are_averaged_by_the_wrapper():
    """Two ranks that give the plain network are two groups in one process."""
    ranks = run_ranks(2, _bare)
    for ours, other, expected in zip(*ranks, reference_weights(2), strict=True):
        assert torch.equal(ours, other)
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def _bare(rank):
    net = tiny_net(torch.float64, norm=False, dropout=0.0)
    x, y = (t.chunk(2)[rank] for t in tiny_data(torch.float64))
    base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    opt = gsam.GSAM(base, 0.5, 0.5, alpha=0.3, lr_max=0.1, model=net)
    for _ in range(3):
        opt.step(closure_of(net, x, y))
    return [p.detach() for p in net.parameters()]


def test_a_learning_rate_above_lr_max_is_refused_where_the_radius_follows_it():
    net = tiny_net()
    opt = gsam.GSAM(torch.optim.SGD(net.parameters(), lr=0.1), 0.05, 0.01, 0.3, lr_max=0.001, model=net)
    with pytest.raises(ValueError, match=r"learning rate is 0.1, above lr_max=0.001: rho would exceed rho_max=0.05"):
        opt.step(closure_of(net, *tiny_data()))


def test_a_scheduler_that_steps_after_the_bases_state_was_loaded_is_seen():
    net = tiny_net()
    base = torch.optim.SGD(net.parameters(), lr=0.1)
    opt = gsam.SAM(base, 0.1, model=net)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1, 0.5)
    opt.step(closure_of(net, *tiny_data()))
    base.load_state_dict(base.state_dict())
    scheduler.step()
    assert base.param_groups[0]["lr"] == 0.05 == opt.param_groups[0]["lr"]


def test_sgdw_runs_each_hook_once_a_step():
    net, calls = tiny_net(), []
    torch.optim.SGD(net.parameters(), lr=0.1)  # torch wraps the class's step at the first instance
    opt = SGDW(net.parameters(), lr=0.1)
    opt.register_step_post_hook(lambda *_: calls.append(1))
    closure_of(net, *tiny_data())()
    opt.step()
    assert calls == [1]
    with pytest.raises(TypeError, match="fused"):
        SGDW(net.parameters(), lr=0.1, fused=True)


def test_sparse_gradients_work():
    net = nn.Sequential(nn.Embedding(20, 8, sparse=True), nn.Flatten(), nn.Linear(24, 5))
    opt = gsam.SAM(torch.optim.SGD(net.parameters(), lr=0.1), 0.1)
    before = net[0].weight.detach().clone()
    opt.step(closure_of(net, torch.arange(12).view(4, 3), torch.zeros(4, dtype=torch.long)))
    assert not torch.equal(before, net[0].weight) and torch.equal(before[12:], net[0].weight[12:])


def test_sparse_gradients_are_refused_on_several_ranks():
    """Of the model before the first step: a rank that meets them alone would leave the others waiting."""
    for messages in run_ranks(2, _sparse):
        assert all("sparse gradients are not supported on several ranks" in message for message in messages)


def _sparse(rank):
    net = nn.Sequential(nn.Embedding(20, 8, sparse=True), nn.Flatten(), nn.Linear(24, 5))
    base = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError) as first:
        gsam.SAM(base, 0.1, model=net)
    closure_of(net, torch.arange(12).view(4, 3), torch.zeros(4, dtype=torch.long))()
    with pytest.raises(ValueError) as second:
        reduce_grads(list(net.parameters()))
    return str(first.value), str(second.value)


def test_weights_of_zero_that_asam_leaves_alone_are_no_lost_perturbation():
    net = tiny_net(norm=False, dropout=0.0)
    with torch.no_grad():
        net[0].weight[:14].zero_()
    gsam.ASAM(torch.optim.SGD(net.parameters(), lr=0.1), 0.5, model=net).step(closure_of(net, *tiny_data()))


def test_a_second_pass_without_gradients_is_named():
    net, (x, y), calls = tiny_net(), tiny_data(), []

    def closure():
        loss = F.cross_entropy(net(x), y)
        if not calls:
            loss.backward()
        calls.append(1)
        return loss

    with pytest.raises(ValueError, match="in the second pass no parameter received a gradient"):
        gsam.SAM(torch.optim.AdamW(net.parameters(), lr=0.1), 0.1).step(closure)


def test_a_gradient_of_zero_gives_cosine_zero_not_nan():
    w = nn.Parameter(torch.ones(3))
    for make in (gsam.SAM, gsam.WeightedSAM):
        opt = make(torch.optim.SGD([w], lr=0.1), 0.1)

        def closure():
            loss = (0 * w).sum()
            loss.backward()
            return loss

        opt.step(closure)
        assert opt.stats.cos == 0 and torch.equal(w.detach(), torch.ones(3))


def ddp(rank):
    net = DistributedDataParallel(tiny_net(), static_graph=True)
    with pytest.raises(ValueError, match="static_graph"):
        gsam.SAM(torch.optim.SGD(net.parameters(), lr=0.1), 0.1, model=net)
    return True


def test_ddp_with_a_static_graph_is_refused():
    assert all(run_ranks(2, ddp))


@pytest.mark.parametrize("name", ["LBFGS", "SparseAdam", "Muon"])
def test_bases_that_cannot_step_are_named_before_training(name):
    if hasattr(torch.optim, name):
        (problem,) = OtherConfig(name=name).problems()
        assert problem.startswith(f"base.name={name}: ") and "without a closure" in problem
    assert not list(OtherConfig(name="RAdam").problems())


def test_every_other_training_buffer_survives_the_second_pass_only_in_training_mode():
    net = evo().eval()
    with second_pass(net):
        net[1].running_var.add_(1)
    assert torch.equal(net[1].running_var, torch.full((4,), 2.0))


def test_bases_that_would_train_the_wrong_way_are_refused():
    net = tiny_net()
    with pytest.raises(ValueError, match="maximize=True would perturb towards the best loss"):
        gsam.SAM(torch.optim.SGD(net.parameters(), lr=0.1, maximize=True), 0.1)
    with pytest.raises(ValueError, match="base is a SAM itself"):
        gsam.GSAM(gsam.SAM(torch.optim.SGD(net.parameters(), lr=0.1), 0.1), 0.1, 0.1, 0.3, lr_max=0.1)
