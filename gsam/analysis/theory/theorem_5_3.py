"""Theorem 5.3: the ascent step along g_perp lowers the surrogate gap; all its decreases together lie between two bounds.

GSAM on a small network with the theorem's schedules eta_0 / sqrt(t), rho_0 / sqrt(t) and gradients over all pictures. Per
step, the decrease that the proof writes down, alpha eta_t |g_perp|^2 (eq. 71), and the true one, with the maximum over the
ball: h(w) - h(w + alpha eta_t g_perp). The bounds (eq. 9) with L and |sigma|_min as the largest and smallest |eigenvalue| of
the Hessian at some points of the path, G and c as the largest and smallest gradient norm.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gsam.analysis.theory import network
from gsam.analysis.theory.function import Function, descend, one_step_gap, orthogonal, sigma_max, worst_gap
from gsam.analysis.theory.record import record
from gsam.optim import GSAMEstimator, SAMEstimator


@dataclass
class Settings(network.Network):
    eta: float = 0.5
    """eta_0"""
    rho: float = 0.1
    """rho_0"""
    alpha: float = 0.4
    steps: int = 150
    hessians: int = 6
    """points of the path whose Hessian gives L and |sigma|_min"""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not (0 < self.eta < math.inf and 0 < self.rho < math.inf and 0 < self.alpha < math.inf):
            yield f"eta={self.eta}, rho={self.rho}, alpha={self.alpha}: must be positive"
        if self.steps < 10 or self.hessians < 1:
            yield f"steps={self.steps}, hessians={self.hessians}: at least 10 and 1"


def run(settings: Settings, task: Any) -> list[dict]:
    """One row: see `measure`."""
    return record("theorem_5_3", settings, task, measure)


def measure(settings: Settings) -> dict[str, Any]:
    """Per step `predicted` (eq. 71) and `measured` decrease of h in `series`; `lower`, `upper` bounds of their sum;
    `constants`; `ends`: f, h at rho_0 and sigma_max after SAM and after GSAM."""
    f = network.objective(settings)
    path = _path(f, GSAMEstimator(rho_max=settings.rho, rho_min=0.0, alpha=settings.alpha), settings)
    predicted, measured, norms = [], [], []
    for t, w in enumerate(path[:-1], start=1):
        eta, rho = settings.eta / math.sqrt(t), settings.rho / math.sqrt(t)
        gradient = f.gradient(w)[1]
        perp = orthogonal(gradient, one_step_gap(f, w, rho)[1])
        predicted.append(settings.alpha * eta * (perp @ perp).item())
        measured.append(worst_gap(f, w, rho, steps=20) - worst_gap(f, w + settings.alpha * eta * perp, rho, steps=20))
        norms.append(gradient.norm().item())
    looked = [path[round(settings.steps ** (k / (settings.hessians - 0.999)))] for k in range(settings.hessians)]
    eigenvalues = torch.stack([torch.linalg.eigvalsh(f.hessian(w)).abs() for w in looked])
    c = {"L": eigenvalues.max().item(), "sigma_min": eigenvalues.min().item(), "G": max(norms), "c": min(norms)}
    scale = settings.alpha * settings.eta * settings.rho**2
    plain = _path(f, SAMEstimator(rho_max=settings.rho, rho_min=0.0), settings)
    return {
        "eta": settings.eta, "rho": settings.rho, "alpha": settings.alpha, "constants": c,
        "hessians": settings.hessians,
        "lower": scale * (c["c"] * c["sigma_min"] / c["G"]) ** 2, "upper": 2.7 * scale * c["L"] ** 2,
        "series": {"predicted": predicted, "measured": measured},
        "ends": {name: _end(f, w, settings.rho) for name, w in (("SAM", plain[-1]), ("GSAM", path[-1]))},
    }  # fmt: skip


def _path(f: Function, method: Any, settings: Settings) -> Tensor:
    return descend(f.f, f.weights, method, settings.steps, lambda t: settings.eta / math.sqrt(t + 1), settings.eta)


def _end(f: Function, w: Tensor, rho: float) -> dict[str, float]:
    return {"f": f.loss(w), "gap": worst_gap(f, w, rho), "sigma_max": sigma_max(f.hessian(w))}
