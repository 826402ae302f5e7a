"""`gsam.GSAM` and friends in somebody else's loop."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

import gsam
from gsam.optim import SGDW
from tests.ranks import run_ranks
from tests.unit.optim.tasks import tiny_data, tiny_net

MAKERS = {
    "sam": lambda base, net: gsam.SAM(base, rho=0.1, model=net),
    "asam": lambda base, net: gsam.ASAM(base, rho=0.5, model=net),
    "asam_original": lambda base, net: gsam.ASAM(base, rho=0.1, form="original", model=net),
    "weighted": lambda base, net: gsam.WeightedSAM(base, rho=0.1, lam=0.3, model=net),
    "entropy": lambda base, net: gsam.EntropySGD(base, 3, inner_lr=0.05, gamma=0.01, seed=4, model=net),
    "gsam": lambda base, net: gsam.GSAM(base, rho_max=0.1, rho_min=0.02, alpha=0.3, lr_max=0.1, lr_min=0.01, model=net),
}


def closure_of(net, x, y, scaler=None):
    def closure():
        loss = F.cross_entropy(net(x), y)
        (loss if scaler is None else scaler.scale(loss)).backward()
        return loss

    return closure


@pytest.mark.parametrize("name", MAKERS)
def test_it_trains_in_a_plain_loop(name):
    torch.manual_seed(3)
    net, (x, y) = tiny_net(), tiny_data()
    opt = MAKERS[name](torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), net)
    for group in opt.param_groups:
        group["lr"] = 0.5 if name == "entropy" else 0.1
    losses = [opt.step(closure_of(net, x, y)).item() for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    assert net[1].num_batches_tracked == 60 * opt.estimator.batches_per_step


def test_a_scheduler_and_the_base_share_the_groups_also_after_loading():
    net = tiny_net()
    base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    opt = MAKERS["gsam"](base, net)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1, 0.5)
    opt.step(closure_of(net, *tiny_data()))
    scheduler.step()
    assert base.param_groups is opt.param_groups and base.param_groups[0]["lr"] == 0.05
    opt.load_state_dict(opt.state_dict())
    assert base.param_groups is opt.param_groups and opt.state is base.state
    opt.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))]})
    assert len(base.param_groups) == 2


@pytest.mark.parametrize("name", MAKERS)
def test_a_saved_state_continues_bit_for_bit(name):
    def run(steps, net, opt, start=0):
        for i in range(start, start + steps):
            torch.manual_seed(i)
            opt.step(closure_of(net, *tiny_data()))

    def make():
        net = tiny_net()
        return net, MAKERS[name](torch.optim.AdamW(net.parameters(), lr=0.01), net)

    whole, opt = make()
    run(6, whole, opt)
    first, opt = make()
    run(3, first, opt)
    resumed, opt2 = make()
    resumed.load_state_dict(first.state_dict())
    opt2.load_state_dict(opt.state_dict())
    run(3, resumed, opt2, start=3)
    for (key, a), (_, b) in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert torch.equal(a, b), key


@pytest.mark.parametrize("which_pass", [1, 2])
def test_an_overflow_in_either_pass_moves_nothing(which_pass):
    net, (x, y) = tiny_net(), tiny_data()
    opt = MAKERS["gsam"](torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), net)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = [p.detach().clone() for p in net.parameters()]
    calls = []

    def closure():
        calls.append(0)
        loss = F.cross_entropy(net(x), y)
        scaler.scale(loss).backward()
        if len(calls) == which_pass:
            net[0].bias.grad[3] = float("inf")
        return loss

    opt.step(closure, scaler=scaler)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert scaler.get_scale() == 512.0
    opt.step(closure, scaler=scaler)
    assert not torch.equal(before[0], net[0].weight)


def test_dropout_is_replayed_so_that_rho_zero_is_the_base_optimizer():
    nets = [tiny_net(dropout=0.5) for _ in range(2)]
    plain = torch.optim.SGD(nets[0].parameters(), lr=0.1)
    opt = gsam.SAM(torch.optim.SGD(nets[1].parameters(), lr=0.1), rho=0.0, model=nets[1])
    for i in range(3):
        torch.manual_seed(i)
        plain.zero_grad()
        closure_of(nets[0], *tiny_data())()
        plain.step()
        torch.manual_seed(i)
        opt.step(closure_of(nets[1], *tiny_data()))
    for (key, a), (_, b) in zip(nets[0].state_dict().items(), nets[1].state_dict().items(), strict=True):
        assert torch.equal(a, b), key


def ddp_weights(rank, model):
    net = DistributedDataParallel(tiny_net(torch.float64, norm=False, dropout=0.0), gradient_as_bucket_view=True)
    x, y = (t.chunk(2)[rank] for t in tiny_data(torch.float64))
    base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    opt = gsam.GSAM(base, 0.5, 0.5, alpha=0.3, lr_max=0.1, model={"ddp": net, "inner": net.module, None: None}[model])
    for _ in range(3):
        opt.step(closure_of(net, x, y))
    return [p.detach() for p in net.parameters()]


def reference_weights(groups):
    from gsam.optim import GSAMEstimator, Step, estimate
    from tests.unit.optim.test_estimators import grad_fn

    net = tiny_net(torch.float64, norm=False, dropout=0.0)
    x, y = tiny_data(torch.float64)
    base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        fns = [grad_fn(net, xs, ys) for xs, ys in zip(x.chunk(groups), y.chunk(groups), strict=True)]
        estimate(GSAMEstimator(rho=0.5), list(net.parameters()), fns, Step(0, 0.1, 0.5, 0.3))
        base.step()
    return [p.detach() for p in net.parameters()]


@pytest.mark.parametrize(("model", "groups"), [("ddp", 2), ("inner", 1), (None, 1)])
def test_ddp_perturbs_per_rank_with_the_ddp_model_and_globally_without(model, groups):
    """The inner module is what Lightning gives: DDP is out of reach, synchronises both passes, and writes the second over the
    first's gradients."""
    ranks = run_ranks(2, ddp_weights, model)
    for ours, other, expected in zip(*ranks, reference_weights(groups), strict=True):
        assert torch.equal(ours, other)
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_bad_settings_say_what_to_do():
    base = torch.optim.SGD(tiny_net().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="larger than"):
        gsam.GSAM(base, rho_max=0.1, rho_min=0.2, alpha=0.1, lr_max=0.1)
    with pytest.raises(ValueError, match="choose one of elementwise, original, big_vision"):
        gsam.ASAM(base, form="original?")
    with pytest.raises(ValueError, match="pass model="):
        gsam.ASAM(base, form="original")
    with pytest.raises(ValueError, match="no GradScaler"):
        gsam.EntropySGD(base).step(lambda: torch.zeros(()), scaler=torch.amp.GradScaler("cpu"))
    with pytest.raises(ValueError, match="no parameter received a gradient"):
        gsam.SAM(base).step(lambda: torch.zeros((), requires_grad=True))


def test_sgdw_decay_is_decoupled_and_the_groups_keep_their_value():
    w = torch.nn.Parameter(torch.tensor([2.0]))
    opt = SGDW([w], lr=0.5, momentum=0.9, weight_decay=0.1)
    expected, momentum = 2.0, 0.0
    for grad in (1.0, -2.0, 0.5):
        w.grad = torch.tensor([grad])
        opt.step()
        momentum = 0.9 * momentum + grad
        expected = expected - 0.5 * (momentum + 0.1 * expected)
        assert w.item() == pytest.approx(expected, rel=1e-6)
    assert opt.param_groups[0]["weight_decay"] == 0.1
