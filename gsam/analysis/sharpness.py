"""Sharpness: the surrogate gap h = f_p - f at any radius, m-sharpness, ASAM's scaled version, and what 2 h / rho^2 says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import product
from statistics import mean, stdev
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gsam.analysis.objective import Objective
from gsam.optim.ops import dot

if TYPE_CHECKING:
    from gsam.analysis.rows import Row
    from gsam.analysis.task import Task


class Ascent(Enum):
    """one_step: along the gradient, as SAM and GSAM (Foret et al. 2021, Eq. 2) · projected: the worst point found in the
    ball, by repeated steps of length rho, each projected back onto it."""

    one_step = "one_step"
    projected = "projected"


class Ball(Enum):
    """l2: ||e|| <= rho · elementwise: ||e / |w| || <= rho, which rescaling the weights does not change (Kwon et al. 2021)."""

    l2 = "l2"
    elementwise = "elementwise"


@dataclass
class Settings:
    rho: list[float] = field(default_factory=lambda: [0.05])
    """radii"""
    ascent: list[Ascent] = field(default_factory=lambda: [Ascent.one_step, Ascent.projected])
    perturb: list[Ball] = field(default_factory=lambda: [Ball.l2])
    m: list[int | None] = field(default_factory=lambda: [None])
    """pictures that share one perturbation; null: all of them"""
    steps: int = 20
    """of projected ascent, at most"""

    def problems(self) -> Iterator[str]:
        for key in ("rho", "ascent", "perturb", "m"):
            if not getattr(self, key):
                yield f"{key}=[]: give at least one"
        yield from (f"rho={rho}: a radius must be positive" for rho in self.rho if not 0 < rho < float("inf"))
        yield from (f"m={m}: must be at least 1, or null for all pictures" for m in self.m if m is not None and m < 1)
        if self.steps < 1:
            yield f"steps={self.steps}: must be at least 1"


class Gap(NamedTuple):
    """At one radius, over the pictures of one objective. first_order: <gradient, e>, the part of the gap that the gradient
    explains; cos: between the gradients at w and w + e; grad_norm: at w."""

    loss: float
    sharp_loss: float
    first_order: float
    cos: float
    grad_norm: float
    ascent_steps: int


def surrogate_gap(
    objective: Objective, rho: float, *, ascent: Ascent = Ascent.one_step, ball: Ball = Ball.l2, steps: int = 20,
    clean: tuple[float, Tensor] | None = None, start: Tensor | None = None,
) -> Gap:  # fmt: skip
    """f, f_p and what belongs to them, at the objective's own weights; rho > 0 in the ball's units.

    In coordinates u = e / t (t = 1, or |w| for the elementwise ball) both balls are round: e = t u with ||u|| <= rho. One
    step: u = rho t g / ||t g||. Projected ascent goes on with u <- project(u + rho t g_p / ||t g_p||), until u turns by less
    than 1e-3 rad, or for `steps` gradients, and the largest f_p seen counts, so it is at least that of one step. clean: (f, g)
    where they are known. start: direction (P,) of the first step, for points where the gradient vanishes.
    """
    weights = objective.weights
    scale = weights.abs() if ball is Ball.elementwise else torch.ones((), dtype=weights.dtype, device=weights.device)
    loss, gradient = clean or objective.gradient()
    u = _on_sphere(scale * (gradient if start is None else start), rho)
    best, count = None, 0
    while count < (steps if ascent is Ascent.projected else 1):
        sharp_loss, sharp = objective.gradient(weights + scale * u)
        count += 1
        if best is None or sharp_loss > best[0]:
            best = (sharp_loss, sharp, u)
        following = _on_sphere(u + _on_sphere(scale * sharp, rho), rho)
        if _norm(following - u) <= 1e-3 * rho:
            break
        u = following
    sharp_loss, sharp, u = best
    grad_norm = _norm(gradient)
    cos = _inner(gradient, sharp) / (grad_norm * _norm(sharp)) if grad_norm and _norm(sharp) else float("nan")
    return Gap(loss, sharp_loss, _inner(gradient, scale * u), cos, grad_norm, count)


def run(settings: Settings, task: Task) -> list[Row]:
    """One row per (rho, ascent, perturb, m), over the pictures of the task.

    loss (f), sharp_loss (f_p), gap (h = f_p - f), sigma_estimate (2 h / rho^2: near a minimum the largest eigenvalue, Lemma
    3.3; of the scaled Hessian for perturb=elementwise), gradient_share (<g, e> / h: near 1 the gap is the gradient's, and
    2 h / rho^2 mostly 2 ||g|| / rho), cos (between g and g_p), grad_norm, ascent_steps. With m all of them are means over
    groups of m pictures, each with its own perturbation, and <name>_std is their spread. Raises ValueError if m does not
    divide n.
    """
    n = task.pictures.n
    for m in settings.m:
        if m is not None and (m > n or n % m):
            raise ValueError(
                f"sharpness.m={m}: the {n} pictures must be whole groups; choose a divisor of n, or n={n - n % m or m}"
            )
    combinations = list(product(settings.m, settings.perturb, settings.ascent, settings.rho))
    progress = task.progress("sharpness", len(combinations))
    clean, rows = {}, []
    try:
        for done, (m, ball, ascent, rho) in enumerate(combinations, 1):
            key = {"rho": rho, "ascent": ascent.name, "perturb": ball.name, "m": m}
            key |= {"steps": settings.steps} if ascent is Ascent.projected else {}
            row = task.rows.known("sharpness", key)
            if row is None:
                gaps = _gaps(task, m, rho, {"ascent": ascent, "ball": ball, "steps": settings.steps}, clean)
                row = task.rows.add("sharpness", key, {**key, **numbers(gaps, rho)})
            rows.append(row)
            progress.update(done, f"rho {rho}, {ascent.name}, {ball.name}" + f", m {m}" * (m is not None))
    finally:
        progress.close()
    return rows


def numbers(gaps: list[Gap], rho: float) -> Row:
    """Means over the groups, and with more than one group their standard deviations, by the names of a row."""
    each = [_numbers(gap, rho) for gap in gaps]
    row = {}
    for name in each[0]:
        values = [one[name] for one in each]
        row[name] = mean(values)
        if len(values) > 1:
            row[f"{name}_std"] = stdev(values)
    if len(gaps) > 1 and row["gap"]:  # the share of the mean gap: a mean of ratios would follow the smallest gaps
        row["gradient_share"] = mean(gap.first_order for gap in gaps) / row["gap"]
    return row


def _numbers(gap: Gap, rho: float) -> dict[str, float]:
    h = gap.sharp_loss - gap.loss
    return {
        "loss": gap.loss, "sharp_loss": gap.sharp_loss, "gap": h, "sigma_estimate": 2 * h / rho**2,
        "gradient_share": gap.first_order / h if h else float("nan"), "cos": gap.cos, "grad_norm": gap.grad_norm,
        "ascent_steps": float(gap.ascent_steps),
    }  # fmt: skip


def _gaps(task: Task, m: int | None, rho: float, how: dict, clean: dict) -> list[Gap]:
    """clean: f and g of the whole subset, kept from one radius to the next."""
    if m is None:
        if "all" not in clean:
            clean["all"] = task.objective.gradient()
        found = [surrogate_gap(task.objective, rho, **how, clean=clean["all"])]
    else:
        found = [
            surrogate_gap(task.objective_of(lambda g=group: g), rho, **how) for group in _groups(task.pictures(), m)
        ]
    for gap in found:
        if not all(torch.tensor([gap.loss, gap.sharp_loss, gap.grad_norm]).isfinite()):
            raise FloatingPointError(
                f"sharpness.rho={rho}: the loss is {gap.loss} at the weights and {gap.sharp_loss} at the perturbed ones; "
                "choose a smaller radius, or precision=float64"
            )
    return found


def _groups(batches: Iterator[tuple[Tensor, Tensor]], m: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Micro-batches of at most their own size that hold m pictures together, in order."""
    group, missing = [], m
    for x, y in batches:
        while len(y):
            group.append((x[:missing], y[:missing]))
            x, y, missing = x[missing:], y[missing:], missing - len(group[-1][1])
            if not missing:
                yield group
                group, missing = [], m


def _on_sphere(vector: Tensor, rho: float) -> Tensor:
    return vector * (rho / max(_norm(vector), torch.finfo(vector.dtype).tiny))


def _inner(a: Tensor, b: Tensor) -> float:
    return dot([a], [b]).item()


def _norm(vector: Tensor) -> float:
    return _inner(vector, vector) ** 0.5
