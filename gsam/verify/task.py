"""A small task for the proofs, and what a proof is: a function that returns what it found, or raises."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gsam import optim


class Failed(Exception):
    """A proof that did not hold."""


def need(condition: bool, text: str) -> None:
    if not condition:
        raise Failed(text)


def network(device: torch.device, dropout: float = 0.5, norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(16, 32), nn.BatchNorm1d(32) if norm else nn.Identity(), nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(32, 5)).to(device)


def images(device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(64, 16, generator=generator), torch.randint(0, 5, (64,), generator=generator)
    return x.to(device), y.to(device)


def closure(net: nn.Module, x: Tensor, y: Tensor, losses: list[Tensor] | None = None) -> Callable[[], Tensor]:
    def run() -> Tensor:
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        if losses is not None:
            losses.append(loss.detach())
        return loss

    return run


def trained(wrap: Callable | None, device: torch.device, steps: int = 3) -> dict[str, Tensor]:
    """The state of a network with BatchNorm and dropout after some steps; wrap(base, net) gives the optimizer."""
    net, (x, y) = network(device), images(device)
    base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    opt = base if wrap is None else wrap(base, net)
    for seed in range(steps):
        torch.manual_seed(seed)
        opt.zero_grad()
        opt.step(closure(net, x, y))
    return net.state_dict()


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    differing = [k for k in one if not torch.equal(one[k], two[k])]
    need(not differing, f"not bit-identical: {', '.join(differing)}")


def gsam_of(base: torch.optim.Optimizer, net: nn.Module | None, rho: float = 0.3, alpha: float = 0.4) -> optim.GSAM:
    return optim.GSAM(base, rho, rho, alpha, lr_max=0.1, model=net)


def survives(device: torch.device, bad_pass: int, value: float, net: nn.Module, here: bool) -> tuple[bool, str]:
    """Whether a non-finite gradient in one pass (on this rank, if `here`) leaves weights, buffers and momentum as they were."""
    x, y = images(device)
    opt = gsam_of(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), net)
    scaler, calls = torch.amp.GradScaler(device.type, init_scale=1024.0), []

    def run() -> Tensor:
        with torch.autocast(device.type, torch.float16):
            loss = F.cross_entropy(net(x), y)
        scaler.scale(loss).backward()
        if here and len(calls) == bad_pass:
            next(iter(net.parameters())).grad[0, 0] = value
        calls.append(0)
        return loss

    before = {name: value.clone() for name, value in net.state_dict().items()}
    opt.step(run, scaler=scaler)
    moved = [name for name, value in net.state_dict().items() if not torch.equal(value, before[name])]
    moved += ["the base optimizer's state"] if opt.state else []
    opt.step(run, scaler=scaler)
    moves = any(not torch.equal(value, before[name]) for name, value in net.named_parameters())
    wrong = [f"{', '.join(moved)} moved"] if moved else []
    wrong += [] if moves else ["the next step moved nothing"]
    wrong += [] if scaler.get_scale() == 512.0 else [f"the loss scale is {scaler.get_scale():g}, not 512"]
    return not wrong, f"{value} in pass {bad_pass + 1}: {'; '.join(wrong)}"
