"""Figure 3: on a surface with a ridge between sharp minima SGD and SAM fall off the ridge, GSAM walks along it to a flat one.

The surface, w = (x, y), with X = 6 (the constants are in `SURFACE`):

    f = c sqrt(1 + (x - X)^2)                           slope towards the flat minimum near (X, 0)
      + a exp(-y^2 / (2 u^2)) s(x) + b y^2 / 2          ridge along y = 0, which ends before X; a wall on both sides
      - sum_i d_i exp(-|w - w_i|^2 / (2 r^2))           narrow wells w_i on both sides, about as deep as the flat minimum

Why it separates the methods: near the ridge the curvature across it is -k with k = a / u^2 - b, the slope along it s. To
first order in y the gradient used has the component -k y (1 - q) across for SAM and -k y (1 - (1 + alpha) q) for GSAM,
q = rho k / s. So the ridge repels SGD (q = 0), SAM while q < 1, and GSAM only while (1 + alpha) q < 1.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gsam.analysis.theory.function import Function, descend, orthogonal, sigma_max
from gsam.analysis.theory.record import record
from gsam.optim import GSAMEstimator, SAMEstimator, VanillaEstimator
from gsam.optim.estimator import Estimator

SURFACE = {"c": 0.3, "X": 6.0, "a": 0.27, "u": 0.3, "b": 0.21, "r": 0.19}
WELLS = [(0.75, 0.72), (1.75, 0.72), (2.85, 0.72), (3.95, 0.72), (1.2, -0.72), (2.3, -0.72), (3.4, -0.72)]
METHODS = ("SGD", "SAM", "GSAM")
X_RANGE, Y_RANGE = (-0.3, 7.2), (-1.4, 1.4)  # what is drawn; starts lie in it


@dataclass
class Settings:
    rho: float = 0.085
    """radius of SAM and GSAM, constant"""
    alpha: float = 0.6
    """GSAM's ascent coefficient"""
    lr: float = 0.05
    """learning rate; over the last fifth of the steps it falls linearly to 0"""
    steps: int = 600
    start: list[float] = field(default_factory=lambda: [0.3, 0.01])
    """(x, y) of the trajectories that are drawn"""
    offsets: list[float] = field(default_factory=lambda: [-0.08, -0.06, -0.04, -0.02, 0.02, 0.04, 0.06, 0.08])
    """further starts, y beside the same x: how often each method ends where"""

    def problems(self) -> Iterator[str]:
        if not (0 < self.rho < math.inf and 0 <= self.alpha < math.inf and 0 < self.lr < math.inf and self.steps > 0):
            yield f"rho={self.rho}, alpha={self.alpha}, lr={self.lr}, steps={self.steps}: positive, alpha at least 0"
        if len(self.start) != 2:
            yield f"start={self.start}: two numbers, x and y"
            return
        (x, y), (left, right), (low, high) = self.start, X_RANGE, Y_RANGE
        if not (left <= x <= right and all(low <= at <= high for at in (y, *self.offsets))):
            yield (
                f"start={self.start}, offsets={self.offsets}: outside the surface that is drawn; x is between {left:g} and "
                f"{right:g}, y (offsets too) between {low:g} and {high:g}"
            )


def surface(w: Tensor) -> Tensor:
    """f: points (..., 2) -> losses (...)."""
    (x, y), p = w.unbind(-1), SURFACE
    ridge = p["a"] * torch.exp(-(y**2) / (2 * p["u"] ** 2)) * torch.sigmoid(4 * (p["X"] - 1.2 - x))
    loss = p["c"] * torch.sqrt(1 + (x - p["X"]) ** 2) + ridge + p["b"] * y**2 / 2
    for cx, cy in WELLS:
        depth = p["c"] * (math.sqrt(1 + (cx - p["X"]) ** 2) - 1) + p["b"] * cy**2 / 2
        loss = loss - depth * torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * p["r"] ** 2))
    return loss


def run(settings: Settings, task: Any) -> list[dict]:
    """One row: see `measure`."""
    return record("fig3", settings, task, measure)


def measure(settings: Settings) -> dict[str, Any]:
    """Where the three methods go and end: `ends` by method (see `end`), paths in `series`, the ends of further starts in
    `starts`, q = rho k / s at the start, and `vectors` where SAM leaves the ridge, None if it does not."""
    start = torch.tensor(settings.start, dtype=torch.float64)
    paths = {name: trajectory(name, start, settings) for name in METHODS}
    starts = []
    for y in settings.offsets:
        at = torch.stack([start[0], torch.tensor(y, dtype=start.dtype)])
        ends = {name: end(trajectory(name, at, settings)[-1], settings.rho) for name in METHODS}
        starts.append({"y": y, **ends})
    f = Function(surface, start)
    ridge = torch.stack([start[0], torch.zeros(())])
    hessian, slope = f.hessian(ridge), f.gradient(ridge)[1][0].abs().item()
    away = paths["SAM"][paths["SAM"][:, 1].abs() > 0.1]
    return {
        "rho": settings.rho, "alpha": settings.alpha, "lr": settings.lr, "steps": settings.steps,
        "q": settings.rho * -hessian[1, 1].item() / slope,
        "ends": {name: end(path[-1], settings.rho) for name, path in paths.items()}, "starts": starts,
        "vectors": vectors(away[0], settings) if len(away) else None,
        "series": {name: path.tolist() for name, path in paths.items()},
        "grid": grid(),
    }  # fmt: skip


def trajectory(method: str, start: Tensor, settings: Settings) -> Tensor:
    """(steps + 1, 2)"""
    estimators: dict[str, Estimator] = {
        "SGD": VanillaEstimator(),
        "SAM": SAMEstimator(rho=settings.rho),
        "GSAM": GSAMEstimator(rho=settings.rho, alpha=settings.alpha),
    }

    def lr(step: int) -> float:
        return settings.lr * min(1.0, 5 * (1 - step / settings.steps))

    return descend(surface, start, estimators[method], settings.steps, lr, settings.lr)


def end(w: Tensor, rho: float) -> dict[str, float]:
    """x, y, f, fp (maximum over the ball, by points on and in the circle), gap, sigma_max, sigma_min (the lower eigenvalue:
    positive at a minimum) and grad_norm at w (2,)."""
    f = Function(surface, w)
    angles, radii = torch.arange(720) * (2 * math.pi / 720), torch.linspace(0, rho, 41)
    ball = w + (radii[:, None, None] * torch.stack([angles.cos(), angles.sin()], -1)).reshape(-1, 2)
    loss, gradient = f.gradient()
    sharp, hessian = surface(ball).max().item(), f.hessian()
    return {"x": w[0].item(), "y": w[1].item(), "f": loss, "fp": sharp, "gap": sharp - loss, "sigma_max": sigma_max(hessian),
            "sigma_min": torch.linalg.eigvalsh(hessian)[0].item(), "grad_norm": gradient.norm().item()}  # fmt: skip


def vectors(w: Tensor, settings: Settings) -> dict[str, list[float]]:
    """At one point: the gradient g, the perturbed point, the sharp gradient g_p, g_perp and GSAM's direction."""
    f = Function(surface, w)
    gradient = f.gradient()[1]
    adversary = w + settings.rho * gradient / gradient.norm()
    sharp = f.gradient(adversary)[1]
    perp = orthogonal(gradient, sharp)
    named = {
        "w": w,
        "adversary": adversary,
        "g": gradient,
        "gp": sharp,
        "perp": perp,
        "gsam": sharp - settings.alpha * perp,
    }
    return {name: vector.tolist() for name, vector in named.items()}


def grid(columns: int = 211, rows: int = 81) -> dict[str, Any]:
    """The surface for contours: x (columns), y (rows), f (rows, columns) with four digits."""
    x, y = torch.linspace(*X_RANGE, columns), torch.linspace(*Y_RANGE, rows)
    points = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).double()
    return {"x": x.tolist(), "y": y.tolist(), "f": [[round(v, 4) for v in line] for line in surface(points).tolist()]}
