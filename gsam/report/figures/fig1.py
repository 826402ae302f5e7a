"""Figure 1: f, f_p and h around three minima, drawn from the row of `analysis=fig1`."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from .theory_style import BLUE, GREEN, RED, plain

NAMES = ("w₁", "w₂", "w₃")


def draw(row: dict) -> Figure:
    """Above: f, f_p and the gap at every minimum. Below: h along the line, and what it says of the curvature."""
    rho, minima = row["rho"], row["minima"]
    w, f, fp, gap = (np.array(row["series"][key]) for key in ("w", "f", "fp", "gap"))
    figure = Figure(figsize=(10, 6.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1.7, 1])
    above.plot(w, f, color=BLUE, lw=2.2, label="loss $f$")
    above.plot(w, fp, color=RED, lw=2.2, ls=(0, (5, 2)), label=rf"perturbed loss $f_p$, $\rho$ = {rho:g}")
    plain(above, "A low perturbed loss, but where is it flat?", "", "loss")
    if _equal(minima[0], minima[2]):
        above.axhline(minima[0]["fp"], color=RED, lw=0.9, ls=":")
        above.text(w[-1], minima[0]["fp"] - 0.03, "$f_p(w_1) = f_p(w_3)$", color=RED, ha="right", va="top")
    for i, at in enumerate(minima, start=1):
        arrow = {"arrowstyle": "<->", "color": GREEN, "lw": 2, "shrinkA": 0, "shrinkB": 0}
        above.annotate("", (at["w"], at["fp"]), (at["w"], at["f"]), arrowprops=arrow)
        text = rf"$w_{i}$:  $\sigma$ = {at['sigma']:.2f}" + "\n" + f"$f$ = {at['f']:.2f}, $f_p$ = {at['fp']:.2f}"
        above.text(at["w"], -0.25, text, ha="center", va="top")
        above.plot(at["w"], at["f"], "o", color=BLUE, ms=6)
        above.plot(at["w"], at["fp"], "s", color=RED, ms=6)
    above.plot([], [], color=GREEN, lw=2, marker="|", label="surrogate gap $h = f_p - f$")
    above.set_ylim(-0.75, 2.5)
    above.set_yticks(np.arange(0, 2.1, 0.5))
    above.legend(loc="upper right", frameon=False, ncols=3)
    below.plot(w, gap, color=GREEN, lw=2.2)
    for i, at in enumerate(minima, start=1):
        below.plot(at["w"], at["gap"], "o", color=GREEN, ms=7)
        text = f"$h(w_{i})$ = {at['gap']:.2f}\n" + rf"$2h/\rho^2$ = {at['estimate']:.2f}"
        below.text(at["w"], 1.15, text, ha="center", va="bottom", fontsize=9.5, color=GREEN)
    below.set_ylim(-0.05, 1.65)
    plain(
        below,
        f"At the minima the gap {'orders' if _ordered(minima) else 'does NOT order'} by curvature",
        "weight $w$",
        "gap $h$",
    )
    return figure


def sentence(row: dict) -> str:
    """What was found, and whether it is what the paper says."""
    minima = row["minima"]
    ranks = sorted(at["sigma"] for at in minima)
    words = {ranks[0]: ", the flattest", ranks[-1]: ", the sharpest"}
    listed = ", ".join(
        f"{at['fp']:.2f} at {name} (σ = {at['sigma']:.2f}{words.get(at['sigma'], '')})"
        for name, at in zip(NAMES, minima, strict=True)
    )
    against = [
        f"{a} has a lower f_p than {b} and is sharper"
        for a, one in zip(NAMES, minima, strict=True)
        for b, two in zip(NAMES, minima, strict=True)
        if one["fp"] < two["fp"] and one["sigma"] > two["sigma"] and not _equal(one, two)
    ]
    lower = f"does not mean a flatter minimum here ({', '.join(against)})"
    outer = "equal, so SAM, which only sees f_p, has no reason to leave one for the other"
    return (
        f"At ρ = {row['rho']:g} the perturbed loss is {listed}: a lower f_p "
        f"{lower if against else 'means a flatter minimum here, NOT as in the paper'}. At w₁ and w₃ it is "
        f"{outer if _equal(minima[0], minima[2]) else 'NOT equal'}. The gap is "
        f"{', '.join(format(at['gap'], '.2f') for at in minima)}: it {'orders' if _ordered(minima) else 'does NOT order'} the "
        "three by sharpness."
    )


def _equal(one: dict, two: dict) -> bool:
    """Whether two minima have the same f_p, but for the little that the other wells add."""
    return abs(one["fp"] - two["fp"]) < 0.005 * abs(one["fp"])


def _ordered(minima: list[dict]) -> bool:
    """Whether the gap puts the minima in the order of their curvature."""
    gap, sigma = (sorted(range(3), key=lambda i: minima[i][key]) for key in ("gap", "sigma"))
    return gap == sigma
