"""Lemma 3.3: at a minimum 2 h / rho^2 tends to sigma_max, the Hessian's dominant eigenvalue, as rho -> 0.

h is the true one, the maximum over the ball (projected ascent). Away from a minimum, where the training of real networks
stops, h = rho |g| + O(rho^2), so 2 h / rho^2 is mostly 2 |g| / rho: measured too, at points before the minimum.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from gsam.analysis.theory import network
from gsam.analysis.theory.function import one_step_gap, random_direction, sigma_max, worst_gap
from gsam.analysis.theory.record import record


@dataclass
class Settings(network.Network):
    rhos: list[float] = field(default_factory=lambda: [1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0])
    """radii"""
    before: list[int] = field(default_factory=lambda: [20, 100])
    """iterations of L-BFGS after which the one-step estimate is looked at too"""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.rhos or not all(0 < rho < math.inf for rho in self.rhos):
            yield f"rhos={self.rhos}: positive radii"
        if min(self.before, default=0) < 0:
            yield f"before={self.before}: iterations are not negative"


def run(settings: Settings, task: Any) -> list[dict]:
    """One row: see `measure`."""
    return record("lemma_3_3", settings, task, measure)


def measure(settings: Settings) -> dict[str, Any]:
    """At the minimum: f, grad_norm, sigma_max, lowest eigenvalue, and `rows` of rho, gap, estimate, error (relative). `before`:
    grad_norm, sigma_max and rows of rho, estimate, gradient_share of points on the way."""
    f = network.objective(settings)
    w = network.converge(f)
    hessian = f.hessian(w)
    dominant, rows, rhos = sigma_max(hessian), [], sorted(settings.rhos)
    for rho in rhos:
        gap = worst_gap(f, w, rho, random_direction(w))
        estimate = 2 * gap / rho**2
        rows.append({"rho": rho, "gap": gap, "estimate": estimate, "error": abs(estimate / dominant - 1)})
    return {
        "parameters": len(w), "pictures": settings.pictures, "f": f.loss(w), "grad_norm": f.gradient(w)[1].norm().item(),
        "sigma_max": dominant, "sigma_min": torch.linalg.eigvalsh(hessian)[0].item(), "rows": rows,
        "before": [_before(f, i, point, rhos) for i, point in
                   zip(settings.before, network.iterates(f, settings.before) if settings.before else [], strict=True)],
    }  # fmt: skip


def _before(f: Any, iterations: int, w: torch.Tensor, rhos: list[float]) -> dict[str, Any]:
    norm, rows = f.gradient(w)[1].norm().item(), []
    for rho in rhos:
        gap, _ = one_step_gap(f, w, rho)
        rows.append({"rho": rho, "estimate": 2 * gap / rho**2, "gradient_share": rho * norm / gap})
    return {"iterations": iterations, "grad_norm": norm, "sigma_max": sigma_max(f.hessian(w)), "rows": rows}
