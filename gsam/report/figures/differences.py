"""Differences of two models on every set, with their intervals."""

from __future__ import annotations

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..compare import Comparison, Difference

# Okabe and Ito's colours; the markers tell the three apart in print.
STYLES = {"B better": ("#0072B2", "o"), "A better": ("#D55E00", "s"), "interval holds 0": ("0.45", "D")}


def draw(comparison: Comparison) -> Figure:
    """B - A of top-1 (points) and of NLL (nats) with 95 % intervals: clean sets, and means over corruptions."""
    shown = [one for one in comparison.sets if one.corruption is None] + comparison.means
    if not comparison.means:
        shown = comparison.sets
    figure = Figure(figsize=(11, 0.34 * len(shown) + 2.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    _panel(left, [(one, 100 * one.difference, 100 * one.low, 100 * one.high, 1) for one in shown])
    _panel(right, [(one, one.nll, one.nll_low, one.nll_high, -1) for one in shown])
    left.set_yticks(range(len(shown)), [textwrap.fill(one.label, 60) for one in shown], fontsize=9)
    left.set(ylim=(len(shown) - 0.4, -0.6), xlabel="top-1, B - A (percentage points)")
    right.set_xlabel("NLL, B - A (nats)")
    handles = [
        Line2D([], [], color=colour, marker=marker, ls="none", label=name) for name, (colour, marker) in STYLES.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    names = [textwrap.fill(f"{letter}: {name}", 150) for letter, name in zip("AB", comparison.names, strict=True)]
    figure.suptitle("\n".join(names), fontsize=10, x=0.01, ha="left")
    return figure


def _panel(axis: Axes, points: list[tuple[Difference, float, float, float, int]]) -> None:
    """Points with whiskers; the last number says whether more is better (1) or less (-1)."""
    for y, (_, value, low, high, sign) in enumerate(points):
        name = "interval holds 0" if low <= 0 <= high else "B better" if sign * value > 0 else "A better"
        colour, marker = STYLES[name]
        whiskers = [[max(0.0, value - low)], [max(0.0, high - value)]]
        axis.errorbar(value, y, xerr=whiskers, color=colour, marker=marker, ms=5, capsize=3, lw=1.4)
    axis.axvline(0, color="black", lw=0.8)
    axis.grid(axis="x", alpha=0.25, lw=0.6)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
