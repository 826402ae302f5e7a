"""Figure 1 and Lemma 3.1: of three minima the sharpest can have the lowest perturbed loss f_p; the gap h orders them by
sharpness.

The written-down loss has three Gaussian wells of depth d_i and width s_i at w_i:

    f(w) = 2 - sum_i d_i exp(-(w - w_i)^2 / (2 s_i^2)),    curvature at w_i: about d_i / s_i^2.

w_2 and w_3 are equally deep; w_1 is as much deeper as makes f_p(w_1) = f_p(w_3).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gsam.analysis.theory.function import Function
from gsam.analysis.theory.record import record

HEIGHT = 2.0


@dataclass
class Settings:
    rho: float = 0.5
    """radius of the neighbourhood"""
    centres: list[float] = field(default_factory=lambda: [0.0, 4.0, 10.0])
    widths: list[float] = field(default_factory=lambda: [0.45, 0.65, 1.2])

    def problems(self) -> Iterator[str]:
        if not 0 < self.rho < math.inf:
            yield f"rho={self.rho}: a radius is positive"
        if len(self.centres) != 3 or len(self.widths) != 3 or min(self.widths, default=0) <= 0:
            yield f"centres={self.centres}, widths={self.widths}: three each, and widths are positive"


def run(settings: Settings, task: Any) -> list[dict]:
    """One row: see `measure`."""
    return record("fig1", settings, task, measure)


def measure(settings: Settings) -> dict[str, Any]:
    """f, f_p and h on a line with the three minima in `minima`: w, f, fp, gap, sigma (second derivative), estimate
    (2 h / rho^2)."""
    rho, f = settings.rho, wells(settings)
    low, high = settings.centres[0] - 2.0, settings.centres[-1] + 3.5
    grid = torch.linspace(low, high, 1501, dtype=torch.float64)
    found = [_minimum(f, centre) for centre in settings.centres]
    minima = []
    for w in found:
        loss, sharp = f(w).item(), perturbed(f, w[None], rho).item()
        gap, sigma = sharp - loss, Function(lambda v: f(v[0]), w[None]).hessian().item()
        minima.append({"w": w.item(), "f": loss, "fp": sharp, "gap": gap, "sigma": sigma, "estimate": 2 * gap / rho**2})
    sharp = perturbed(f, grid, rho)
    series = {"w": grid.tolist(), "f": f(grid).tolist(), "fp": sharp.tolist(), "gap": (sharp - f(grid)).tolist()}
    return {"rho": rho, "minima": minima, "series": series}


def wells(settings: Settings) -> Any:
    """f: weights of any shape -> losses of that shape."""
    rho, (first, _, last) = settings.rho, settings.widths
    depth = math.exp(rho**2 / 2 * (1 / first**2 - 1 / last**2))  # f_p(w_1) = f_p(w_3)
    shape = list(zip(settings.centres, settings.widths, (depth, 1.0, 1.0), strict=True))

    def f(w: Tensor) -> Tensor:
        return HEIGHT - sum(d * torch.exp(-((w - c) ** 2) / (2 * s**2)) for c, s, d in shape)

    return f


def perturbed(f: Any, w: Tensor, rho: float, points: int = 2001) -> Tensor:
    """f_p(w) = max of f over [w - rho, w + rho], (n,) -> (n,); exact up to the spacing of `points` (eq. 1)."""
    offsets = torch.linspace(-rho, rho, points, dtype=w.dtype)
    return torch.cat([f(part[:, None] + offsets).amax(1) for part in w.split(200)])


def _minimum(f: Any, start: float, steps: int = 50) -> Tensor:
    """Newton's method from a centre that other wells move a little."""
    w = torch.tensor(start, dtype=torch.float64)
    for _ in range(steps):
        w = w - torch.func.grad(f)(w) / torch.func.grad(torch.func.grad(f))(w)
    return w
