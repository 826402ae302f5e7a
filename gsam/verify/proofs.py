"""The proofs that need one process, and the table of all."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gsam import optim
from gsam.optim.gsam import Minimize
from gsam.optim.perturb import Form, Perturb
from gsam.optim.schedule import follow_lr
from gsam.verify.ranks import two_ranks
from gsam.verify.task import Failed, closure, gsam_of, images, need, network, same, survives, trained

GOLDEN = Path(__file__).parent / "golden.pt"  # tests/golden/README.md describes it
VARIANTS = {
    "gsam": {}, "sam": {}, "gsam_min_f": {"minimize": Minimize.f},
    "gsam_big_vision_adaptive": {"perturb": Perturb.asam, "form": Form.big_vision},
}  # fmt: skip


def golden_numbers(device: torch.device) -> str:
    """Ten official steps of four workers in each variant against the published JAX function."""
    golden, worst = torch.load(GOLDEN, weights_only=True), 0.0
    exact = device.type != "mps"  # no float64 there
    for variant in VARIANTS:
        losses, gradient, final = official_steps(golden, variant, device, torch.float64 if exact else torch.float32)
        pairs = [(torch.tensor(losses, dtype=torch.float64), golden[f"{variant}.losses"])]
        pairs += [(gradient[k], golden[f"{variant}.grad_step3.{k}"]) for k in gradient]
        pairs += [(final[k], golden[f"{variant}.final.{k}"]) for k in final]
        worst = max([worst] + [((a.double().cpu() - b).abs().max() / b.abs().max()).item() for a, b in pairs])
    need(worst < (1e-9 if exact else 1e-3), f"relative deviation {worst:.1e}")
    return f"largest relative deviation {worst:.0e}"


def official_steps(golden: dict, variant: str, device: torch.device, dtype: torch.dtype) -> tuple[list, dict, dict]:
    """Losses of the ten steps, the gradient of step 3, the final weights."""
    names = ("w1", "b1", "w2", "b2")
    params = {k: nn.Parameter(golden[f"init.{k}"].clone().to(device, dtype)) for k in names}
    rho_max, rho_min, alpha = golden[f"{variant}.rho_max_rho_min_alpha"].tolist()
    lr_max, lr_min = golden["lr_max_lr_min"].tolist()
    base = optim.SGDW(params.values(), lr=0.0, momentum=0.9)
    estimator = optim.GSAMEstimator(rho_max=rho_max, rho_min=rho_min, alpha=alpha, **VARIANTS[variant])

    def worker(x: Tensor, y: Tensor) -> Callable[..., Tensor]:
        def run(*, again: bool = False, batch: int = 0) -> Tensor:
            base.zero_grad()
            hidden = F.gelu(x @ params["w1"] + params["b1"], approximate="tanh")
            loss = F.cross_entropy(hidden @ params["w2"] + params["b2"], y)
            loss.backward()
            return loss.detach()

        return run

    losses, gradient = [], {}
    for t, lr in enumerate(golden["lr"].tolist()):
        workers = [worker(golden["X"][t, w].to(device, dtype), golden["Y"][t, w].to(device)) for w in range(4)]
        step = optim.Step(t, lr, follow_lr(lr, lr_min, lr_max, rho_min, rho_max), alpha)
        losses.append(optim.estimate(estimator, list(params.values()), workers, step).loss.item())
        if t == 3:
            gradient = {k: p.grad.clone() for k, p in params.items()}
        base.param_groups[0]["lr"] = lr
        base.step()
    return losses, gradient, {k: p.detach() for k, p in params.items()}


def rho_zero(device: torch.device) -> str:
    same(trained(None, device), trained(lambda base, net: gsam_of(base, net, rho=0.0), device))
    return "GSAM at rho = 0 = base optimizer, bit for bit"


def alpha_zero(device: torch.device) -> str:
    sam = trained(lambda base, net: optim.SAM(base, 0.3, model=net), device)
    same(sam, trained(lambda base, net: gsam_of(base, net, alpha=0.0), device))
    need(not torch.equal(sam["0.weight"], trained(None, device)["0.weight"]), "SAM trains like the base optimizer")
    return "GSAM at alpha = 0 = SAM, bit for bit"


def batch_norm(device: torch.device) -> str:
    once, twice, (x, y) = network(device), network(device), images(device)
    once(x)
    gsam_of(torch.optim.SGD(twice.parameters(), lr=0.1), twice).step(closure(twice, x, y))
    same(dict(once.named_buffers()), dict(twice.named_buffers()))
    return "running statistics from the clean pass only"


def dropout(device: torch.device) -> str:
    net, losses = network(device), []
    optim.SAM(torch.optim.SGD(net.parameters(), lr=0.1), 0.0, model=net).step(closure(net, *images(device), losses))
    need(torch.equal(*losses), "the second pass drew other random numbers")
    return "the second pass draws the same masks"


def mixed_precision(device: torch.device) -> str:
    net, losses = network(device, dropout=0.0), []
    before = [p.detach().clone() for p in net.parameters()]
    opt = gsam_of(torch.optim.SGD(net.parameters(), lr=0.0), net, rho=1.0)
    with torch.autocast(device.type, torch.bfloat16):
        opt.step(closure(net, *images(device), losses))
    gap = (losses[1] - losses[0]).item()
    need(gap > 0.05, f"gap {gap:.3f}: the second pass did not see the perturbed weights")
    need(all(map(torch.equal, before, net.parameters())), "weights not restored")
    return f"bf16 sees the perturbation (gap {gap:.2f}), weights restored bit for bit"


def overflow(device: torch.device) -> str:
    for bad_pass in (0, 1):
        for value in (float("inf"), float("nan")):
            need(*survives(device, bad_pass, value, network(device), True))
    return "inf or NaN in either pass: nothing moves, the scale halves"


PROOFS: dict[str, Callable[[torch.device], str]] = {
    "golden numbers": golden_numbers, "rho = 0": rho_zero, "alpha = 0": alpha_zero, "BatchNorm": batch_norm,
    "dropout": dropout, "mixed precision": mixed_precision, "overflow": overflow, "two ranks": two_ranks,
}  # fmt: skip


def prove(device: torch.device) -> list[dict[str, Any]]:
    """Run every proof; one row each: name, passed, detail, seconds."""
    rows = []
    for name, proof in PROOFS.items():
        began = time.monotonic()
        try:
            passed, detail = True, proof(device)
        except Exception as error:  # a proof that cannot run has not been given
            passed, detail = False, f"{'' if isinstance(error, Failed) else type(error).__name__ + ': '}{error}"
        rows.append({"name": name, "passed": passed, "detail": detail, "seconds": round(time.monotonic() - began, 2)})
    return rows
