"""Theorem 5.3: what the ascent step takes off h, against its bounds, from the row of `analysis=theorem_5_3`."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from .theory_style import BLUE, GREEN, RED, plain


def draw(row: dict) -> Figure:
    """Left: the decreases added up, between the bounds. Right: each step's measured decrease against the "
    "predicted one."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    predicted, measured = (np.array(row["series"][key]) for key in ("predicted", "measured"))
    steps = np.arange(1, len(predicted) + 1)
    left.axhline(
        row["upper"], color=RED, ls="--", label=rf"upper bound $2.7\,\alpha L^2\eta_0\rho_0^2$ = {row['upper']:.1e}"
    )
    left.plot(
        steps, predicted.cumsum(), color=BLUE, lw=2.2, label=r"first order, $\sum\alpha\eta_t\|\nabla f_\perp\|^2$"
    )
    left.plot(steps, measured.cumsum(), color=GREEN, lw=2.2, ls=(0, (5, 2)), label="measured decrease of $h$, added up")
    left.axhline(row["lower"], color="0.4", ls=":", lw=1.6, label=f"lower bound = {row['lower']:.1e}")
    left.set(xscale="log", yscale="log", ylim=(row["lower"] / 30, row["upper"] * 30))
    left.legend(frameon=False, fontsize=9, loc="center")
    plain(left, "All decreases together", "step $t$", r"$\sum \Delta h_t$ (nats)")
    lowered = measured > 0
    right.scatter(predicted[lowered], measured[lowered], c=steps[lowered], cmap="cividis", s=16)
    ends = [predicted.min(), predicted.max()]
    right.plot(ends, ends, color="black", lw=1, ls="--", label="equal")
    right.set(xscale="log", yscale="log")
    right.legend(frameon=False)
    figure.colorbar(right.collections[0], ax=right, label="step $t$")
    plain(
        right,
        f"Step by step ({lowered.sum()} of {len(steps)} lower $h$)",
        r"first order, $\alpha\eta_t\|\nabla f_\perp\|^2$",
        "measured decrease of $h$",
    )
    return figure


def sentence(row: dict) -> str:
    """What was found, and whether it is what the paper says."""
    predicted, measured = (np.array(row["series"][key]) for key in ("predicted", "measured"))
    total, lower = measured.sum(), row["lower"]
    inside = lower <= total <= row["upper"]
    sam, gsam = row["ends"]["SAM"], row["ends"]["GSAM"]
    empty = total > 0 and lower / total < 1e-3
    return (
        f"{(measured > 0).sum()} of {len(measured)} ascent steps lower h. Together they take off {total:.2e} (first order "
        f"{predicted.sum():.2e}), {'within' if inside else 'NOT within'} the bounds {lower:.1e} and {row['upper']:.1e}. "
        f"{'The lower bound is nearly empty, because' if empty else 'In the lower bound'} "
        f"|σ|_min = {row['constants']['sigma_min']:.1e} enters squared; it is the smallest seen at {row['hessians']} points of "
        f"the path, so the theorem's may be smaller and the lower bound shown may be too high. After {len(measured)} steps "
        f"with the theorem's radius ρ₀/√t GSAM's h(ρ₀) {_lower(gsam, sam, 'gap')} ({gsam['gap']:.5f}, SAM "
        f"{sam['gap']:.5f}) and its σ_max {_lower(gsam, sam, 'sigma_max')} ({gsam['sigma_max']:.3f}, SAM "
        f"{sam['sigma_max']:.3f})."
    )


def _lower(gsam: dict, sam: dict, key: str) -> str:
    return "is the lower" if gsam[key] < sam[key] else "is NOT the lower"
