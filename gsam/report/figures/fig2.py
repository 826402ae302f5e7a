"""Figure 2: g, g_p, g_perp and the updates of one real training step, from the row of `analysis=fig2`."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .theory_style import METHODS, PURPLE, RED, plain


def draw(row: dict) -> Figure:
    """Above: the vectors in their own plane, to scale. Below: what each method's update does to f, f_p and h."""
    figure = Figure(figsize=(10, 7.2), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[1.1, 1])
    _vectors(above, row)
    _changes(below, row)
    return figure


def _vectors(axis: Axes, row: dict) -> None:
    along = row["grad_norm"] * row["cos"]
    g, gp, perp = (
        np.array([along, row["perp_norm"]]),
        np.array([row["sharp_norm"], 0.0]),
        np.array([0.0, row["perp_norm"]]),
    )
    gsam, zero = gp - row["alpha"] * perp, np.zeros(2)
    arrows = (  # from, to, colour, dashes, text, offset of the text in points
        (zero, gp, METHODS["SAM"], "-", r"$\nabla f_p$ (SAM)", (10, 2), "left"),
        (zero, g, METHODS["vanilla"], "-", r"$\nabla f$ (vanilla)", (-10, 8), "right"),
        (zero, gsam, METHODS["GSAM"], "-", r"$\nabla f_p - \alpha\nabla f_\perp$ (GSAM)", (-6, -16), "right"),
        (np.array([along, 0.0]), g, RED, "-", r"$\nabla f_\perp$", (-6, -30), "right"),
        (gp, gsam, PURPLE, "-", r"$-\alpha\nabla f_\perp$", (8, -8), "left"),
        (g, gp, "0.4", "--", r"$\nabla h = \nabla f_p - \nabla f$", (6, 6), "left"),
    )
    for start, tip, colour, dashes, text, offset, align in arrows:
        arrow = {
            "arrowstyle": "-|>",
            "color": colour,
            "ls": dashes,
            "lw": 2.2,
            "shrinkA": 0,
            "shrinkB": 0,
            "mutation_scale": 15,
        }
        axis.annotate("", tip, start, arrowprops=arrow, zorder=3)
        at = (start + tip) / 2 if dashes == "--" or colour == PURPLE else tip
        axis.annotate(text, at, offset, textcoords="offset points", color=colour, ha=align, fontsize=11)
    axis.plot(0, 0, "o", color="black", ms=6)
    axis.text(0, 0.05 * row["perp_norm"], "$w_t$  ", ha="right", fontsize=12)
    reach = max(along, row["sharp_norm"])
    axis.set(
        xlim=(-0.08 * reach, 1.35 * reach), ylim=(-(row["alpha"] + 0.45) * row["perp_norm"], 1.35 * row["perp_norm"])
    )
    axis.set_aspect("equal")
    plain(
        axis,
        rf"Gradients, to scale: $\theta$ = {np.degrees(np.arccos(row['cos'])):.0f}°",
        r"along $\nabla f_p$",
        r"along $\nabla f_\perp$",
    )


def _changes(axis: Axes, row: dict) -> None:
    names, texts = ("f", "fp", "gap"), ("loss $f$", "perturbed loss $f_p$", "gap $h$")
    for i, (method, after) in enumerate(row["after"].items()):
        changes = [after[name] - row["before"][name] for name in names]
        places = np.arange(3) + 0.27 * (i - 1)
        bars = axis.bar(
            places, changes, 0.25, color=METHODS[method], label=method, hatch=("", "///", "...")[i], edgecolor="white"
        )
        axis.bar_label(bars, [f"{value:+.4f}" for value in changes], padding=2, fontsize=8)
    axis.axhline(0, color="black", lw=1)
    axis.set_xticks(range(3), texts)
    axis.margins(y=0.15)
    axis.legend(frameon=False)
    plain(axis, rf"What the update does, $\eta$ = {row['lr']:.3g}", "", "change on the same pictures (nats)")
    axis.grid(axis="x", visible=False)


def sentence(row: dict) -> str:
    """What was found, and whether it is what the paper says."""
    change = {m: {k: after[k] - row["before"][k] for k in after} for m, after in row["after"].items()}
    lower = change["GSAM"]["gap"] < change["SAM"]["gap"]
    return (
        f"Step {row['at_step']} of {row['optimizer']} with {row['network']} on {row['data']} ({row['m']} pictures, "
        f"ρ = {row['rho']:.3g}, "
        f"α = {row['alpha']:g}): ∇f and ∇f_p are {np.degrees(np.arccos(row['cos'])):.1f}° apart, ‖∇f_⊥‖ is "
        f"{row['perp_norm'] / row['grad_norm']:.0%} of ‖∇f‖. The update −η·direction (η = {row['lr']:.3g}, no "
        f"momentum) changes f_p by "
        f"{change['SAM']['fp']:+.4f} with SAM and {change['GSAM']['fp']:+.4f} with GSAM, and h by "
        f"{change['SAM']['gap']:+.4f} and "
        f"{change['GSAM']['gap']:+.4f} (vanilla {change['vanilla']['gap']:+.4f}): the ascent step "
        f"{'lowers' if lower else 'does NOT lower'} h "
        "beyond SAM's update."
    )
