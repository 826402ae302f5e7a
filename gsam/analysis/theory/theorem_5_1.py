"""Theorem 5.1: with eta_t = eta_0 / sqrt(t) and rho_t = rho_0 / sqrt(t) the means of |grad f|^2 and |grad f_p|^2 over the
first T steps of GSAM fall like log T / sqrt(T).

A small network, batches drawn at random, several seeds. The constants of the proof (appendix A.4, eq. 36 to 39 and 56 to 60)
are filled in with what was measured on the way: L as the largest |eigenvalue| of the Hessian at some points of the path, G as
the largest gradient seen, f_min = 0, beta between the smallest and largest <g, g_p> / |g_p|^2.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gsam.analysis.theory import network
from gsam.analysis.theory.function import Function, descend, sigma_max
from gsam.analysis.theory.record import record
from gsam.optim import GSAMEstimator


@dataclass
class Settings(network.Network):
    eta: float = 0.5
    """eta_0"""
    rho: float = 0.1
    """rho_0"""
    alpha: float = 0.4
    steps: int = 2000
    batch: int = 32
    seeds: int = 3
    """of first weights and batches, from `seed` on"""
    hessians: int = 8
    """points of each path whose Hessian gives L"""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not (0 < self.eta < math.inf and 0 < self.rho < math.inf and 0 <= self.alpha < math.inf):
            yield f"eta={self.eta}, rho={self.rho}, alpha={self.alpha}: positive, alpha at least 0"
        if self.steps < 100 or self.seeds < 1 or self.hessians < 1:
            yield f"steps={self.steps}, seeds={self.seeds}, hessians={self.hessians}: at least 100, 1 and 1"
        if not 1 <= self.batch <= self.pictures:
            yield f"batch={self.batch}: between 1 and pictures={self.pictures}"


def run(settings: Settings, task: Any) -> list[dict]:
    """One row: see `measure`."""
    return record("theorem_5_1", settings, task, measure)


def measure(settings: Settings) -> dict[str, Any]:
    """`T` and per seed the means up to T of |grad f|^2 (`f`) and |grad f_p|^2 (`fp`); constants; `bound_f`, `bound_fp` at T."""
    seen = [_path(settings, seed) for seed in range(settings.seed, settings.seed + settings.seeds)]
    constants = {key: max(path[key] for path in seen) for key in ("L", "G", "f0", "fp0", "beta_max")}
    constants["beta_min"] = min(path["beta_min"] for path in seen)
    marks = sorted({round(settings.steps ** (k / 40)) for k in range(41)} - {0})
    series = {
        "T": marks,
        "f": [_means(path, "f", marks) for path in seen],
        "fp": [_means(path, "fp", marks) for path in seen],
    }
    bounds = {f"bound_{key}": [bound(settings, constants, T) for T in marks] for key, bound in
              (("f", bound_f), ("fp", bound_fp))}  # fmt: skip
    return {
        "eta": settings.eta,
        "rho": settings.rho,
        "alpha": settings.alpha,
        "constants": constants,
        "series": series | bounds,
    }


def bound_fp(settings: Settings, c: dict[str, float], T: int) -> float:
    """Eq. 39, with 1 + log T for the sum of 1 / t, which the proof writes as log T."""
    eta, rho, grow = settings.eta, settings.rho, 1 + settings.alpha
    d = c["L"] * grow**2 * c["G"] ** 2 * eta**2 + c["L"] * grow * c["G"] * rho * eta
    e = c["L"] ** 3 * grow**2 * eta**2 * rho**2
    return (c["fp0"] + math.pi**2 / 6 * e + d * (1 + math.log(T))) / (eta * math.sqrt(T))


def bound_f(settings: Settings, c: dict[str, float], T: int) -> float:
    """Eq. 59 and 60."""
    eta, rho, grow = settings.eta, settings.rho, 1 + settings.alpha
    first = (1 / c["beta_min"] + settings.alpha) * c["L"] * c["G"] * eta * rho
    second = c["L"] / 2 * grow**2 * c["G"] ** 2 * eta**2
    return c["beta_max"] * (c["f0"] + (first + second) * (1 + math.log(T))) / (eta * math.sqrt(T))


def _path(settings: Settings, seed: int) -> dict[str, Any]:
    """One run of GSAM: |grad f|^2 and |grad f_p|^2 at steps `t`, each of which stands for `weight` steps."""
    x, y = network.pictures(settings)
    whole = Function(network.loss(settings, x, y), network.start(network.Network(hidden=settings.hidden, seed=seed)))
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Any] = {
        "t": [],
        "weight": [],
        "f": [],
        "fp": [],
        "L": 0.0,
        "G": 0.0,
        "beta_min": math.inf,
        "beta_max": 0.0,
    }
    batch: list[Tensor] = []

    def watch(step: int, w: Tensor) -> None:
        batch[:] = [torch.randperm(len(y), generator=generator)[: settings.batch]]
        every = 1 if step < 100 else 10
        if step % every == 0:
            _look(found, whole, w, step + 1, every, settings.rho / math.sqrt(step + 1))
            noisy = Function(network.loss(settings, x[batch[0]], y[batch[0]]), w).gradient()[1].norm().item()
            found["G"] = max(found["G"], noisy)

    def noisy_loss(w: Tensor) -> Tensor:
        return network.loss(settings, x[batch[0]], y[batch[0]])(w)

    method = GSAMEstimator(rho_max=settings.rho, rho_min=0.0, alpha=settings.alpha)  # rho follows the learning rate
    path = descend(noisy_loss, whole.weights, method, settings.steps, lambda t: settings.eta / math.sqrt(t + 1), settings.eta,
                   watch)  # fmt: skip
    looked = [path[round(settings.steps ** (k / (settings.hessians - 0.999)))] for k in range(settings.hessians)]
    found["L"] = max(abs(sigma_max(whole.hessian(w))) for w in looked)
    return found


def _look(found: dict[str, Any], whole: Function, w: Tensor, t: int, weight: int, rho: float) -> None:
    """Both gradients over all pictures."""
    loss, gradient = whole.gradient(w)
    sharp_loss, sharp = whole.gradient(w + rho * gradient / gradient.norm())
    if t == 1:
        found |= {"f0": loss, "fp0": sharp_loss}
    beta = (gradient @ sharp / (sharp @ sharp)).item()
    found["beta_min"], found["beta_max"] = min(found["beta_min"], beta), max(found["beta_max"], beta)
    for key, value in (
        ("t", t),
        ("weight", weight),
        ("f", (gradient @ gradient).item()),
        ("fp", (sharp @ sharp).item()),
    ):
        found[key].append(value)


def _means(path: dict[str, Any], key: str, marks: list[int]) -> list[float]:
    """Mean over t = 1 ... T of path[key]; a measured step stands for those up to the next one."""
    t, weight, value = (torch.tensor(path[name], dtype=torch.float64) for name in ("t", "weight", key))
    return [((value * torch.minimum(weight, T - t + 1).clamp(min=0)).sum() / T).item() for T in marks]
