"""Agreement with the published JAX implementation: `gsam_gradient` of google-research/big_vision, in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from gsam.optim import SGDW, GSAMEstimator, Step, estimate
from gsam.optim.gsam import Minimize
from gsam.optim.perturb import Form, Perturb
from gsam.optim.schedule import follow_lr
from tests.ranks import run_ranks

GOLDEN = Path(__file__).parents[2] / "golden" / "big_vision_gsam.npz"
SETTINGS = {
    "gsam": {},
    "sam": {},
    "gsam_min_f": {"minimize": Minimize.f},
    "gsam_big_vision_adaptive": {"perturb": Perturb.asam, "form": Form.big_vision},
}


def train(variant, workers):
    """Ten official steps; this process does the groups `workers`. Returns losses, the gradient at step 3, final weights."""
    golden = np.load(GOLDEN)
    params = {k: torch.nn.Parameter(torch.tensor(golden[f"init.{k}"])) for k in ("w1", "b1", "w2", "b2")}
    rho_max, rho_min, alpha = golden[f"{variant}.rho_max_rho_min_alpha"].tolist()
    lr_max, lr_min = golden["lr_max_lr_min"].tolist()
    base = SGDW(params.values(), lr=0.0, momentum=0.9)
    estimator = GSAMEstimator(rho_max=rho_max, rho_min=rho_min, alpha=alpha, **SETTINGS[variant])

    def grad_fn(x, y):
        def run(*, again=False):
            base.zero_grad()
            hidden = F.gelu(x @ params["w1"] + params["b1"], approximate="tanh")
            loss = F.cross_entropy(hidden @ params["w2"] + params["b2"], y)
            loss.backward()
            return loss.detach()

        return run

    losses, grad_step3 = [], {}
    for t, lr in enumerate(golden["lr"].tolist()):
        groups = [grad_fn(torch.tensor(golden["X"][t, w]), torch.tensor(golden["Y"][t, w]).long()) for w in workers]
        rho = follow_lr(lr, lr_min, lr_max, rho_min, rho_max)
        stats = estimate(estimator, list(params.values()), groups, Step(t, lr, rho, alpha))
        losses.append(stats.loss.item())
        if t == 3:
            grad_step3 = {k: p.grad.clone() for k, p in params.items()}
        base.param_groups[0]["lr"] = lr
        base.step()
    return losses, grad_step3, {k: p.detach() for k, p in params.items()}


def check(variant, losses, grad_step3, final):
    golden = np.load(GOLDEN)
    np.testing.assert_allclose(losses, golden[f"{variant}.losses"], rtol=1e-9)
    for k in final:
        scale = 1e-9 * np.abs(golden[f"{variant}.grad_step3.{k}"]).max()
        np.testing.assert_allclose(grad_step3[k].numpy(), golden[f"{variant}.grad_step3.{k}"], rtol=1e-9, atol=scale)
        np.testing.assert_allclose(final[k].numpy(), golden[f"{variant}.final.{k}"], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("variant", SETTINGS)
def test_four_groups_in_one_process(variant):
    check(variant, *train(variant, range(4)))


def two_workers(rank, variant):
    return train(variant, [2 * dist.get_rank(), 2 * dist.get_rank() + 1])


@pytest.mark.parametrize("variant", ["gsam", "gsam_min_f"])
def test_two_ranks_with_two_groups_each(variant):
    results = run_ranks(2, two_workers, variant)
    for result in results:
        check(variant, *result)
    for k, w in results[0][2].items():
        assert torch.equal(w, results[1][2][k]), f"rank 0 and 1 differ in {k}"
