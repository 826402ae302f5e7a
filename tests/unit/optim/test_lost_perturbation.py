"""In weights of low precision w + e may round to w: the warning, and that it comes only then."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F

import gsam
from tests.unit.optim.tasks import tiny_data, tiny_net


def losses(dtype, rho, make=gsam.SAM, steps=1):
    """Clean and perturbed losses of the last step."""
    net, (x, y) = tiny_net(dtype, norm=False, dropout=0.0), tiny_data(dtype)
    opt, seen = make(torch.optim.SGD(net.parameters(), lr=0.0), rho, model=net), []

    def closure():
        loss = F.cross_entropy(net(x).float(), y)
        loss.backward()
        seen.append(loss.item())
        return loss

    for _ in range(steps):
        opt.step(closure)
    return seen[-2:]


@pytest.mark.parametrize("make", [gsam.SAM, gsam.ASAM, gsam.WeightedSAM], ids=lambda m: m.__name__)
def test_a_perturbation_that_rounds_away_in_bfloat16_is_named_once(make):
    with pytest.warns(
        UserWarning, match=r"lost in rounding: \d+% of the bfloat16 weights.*float32 and use autocast"
    ) as found:
        losses(torch.bfloat16, 1e-3, make, steps=10)
    assert len(found) == 1


@pytest.mark.parametrize(("dtype", "rho"), [(torch.bfloat16, 1.0), (torch.float32, 1e-3), (torch.float32, 0.0)])
def test_no_warning_where_it_arrives_or_none_is_wanted(dtype, rho):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clean, sharp = losses(dtype, rho)
    assert sharp > clean or rho == 0.0


def test_a_radius_that_shrinks_below_rounding_later_is_noticed():
    net, (x, y) = tiny_net(torch.bfloat16, norm=False, dropout=0.0), tiny_data(torch.bfloat16)
    opt = gsam.SAM(torch.optim.SGD(net.parameters(), lr=0.0), 1.0, model=net)

    def closure():
        loss = F.cross_entropy(net(x).float(), y)
        loss.backward()
        return loss

    for _ in range(3):
        opt.step(closure)
    opt.estimator.rho = 1e-3
    opt.step(closure)  # step 3: not looked at
    with pytest.warns(UserWarning, match="lost in rounding"):
        opt.step(closure)


def test_the_small_radii_of_a_warm_up_do_not_use_up_the_warning():
    """Neither warned about, where the largest radius arrives, nor instead of a largest radius that does not."""
    for rho_max, warned in ((1.0, 0), (1e-3, 1)):
        net, (x, y) = tiny_net(torch.bfloat16, norm=False, dropout=0.0), tiny_data(torch.bfloat16)
        opt = gsam.GSAM(torch.optim.SGD(net.parameters(), lr=1e-4), rho_max, 0.0, 0.1, lr_max=1.0, model=net)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            for lr in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
                opt.param_groups[0]["lr"] = lr
                weights = copy.deepcopy(net.state_dict())
                opt.step(lambda net=net, x=x, y=y: backward(F.cross_entropy(net(x).float(), y)))
                net.load_state_dict(weights)
        assert len(found) == warned


def backward(loss):
    loss.backward()
    return loss


def test_autocast_of_float32_weights_keeps_a_perturbation_far_below_the_rounding_of_the_casts():
    """Why the rule is about the weights' own precision: casting rounds w and w + e apart wherever they lie on two sides of a
    rounding boundary, so that the gap survives on average (here |e| is about 1/8 of half a unit of bfloat16)."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(256, 1024), torch.nn.GELU(), torch.nn.Linear(1024, 5))
    x, y = torch.randn(512, 256), torch.randint(0, 5, (512,))
    gaps = {}
    for enabled in (False, True):
        twin, seen = copy.deepcopy(net), []
        opt = gsam.SAM(torch.optim.SGD(twin.parameters(), lr=0.0), 5e-3, model=twin)

        def closure(twin=twin, enabled=enabled, seen=seen):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                loss = F.cross_entropy(twin(x).float(), y)
            loss.backward()
            seen.append(loss.item())
            return loss

        opt.step(closure)
        gaps[enabled] = seen[1] - seen[0]
    weight = net[0].weight.detach()
    size = 5e-3 / sum(p.numel() for p in net.parameters()) ** 0.5
    assert size < 0.25 * (torch.finfo(torch.bfloat16).eps / 2 * weight.abs()).median()
    assert gaps[True] == pytest.approx(gaps[False], rel=0.25) and gaps[False] > 0
