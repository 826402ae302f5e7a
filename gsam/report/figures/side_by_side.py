"""Several models: top-1 on every set, and against clean accuracy with the line of the baselines."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter
from scipy.special import expit, logit

from ..card import Score
from ..effective import fit
from ..side_by_side import SideBySide

# Okabe and Ito's colours, distinguishable with colour-blind eyes; markers tell the models apart in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX*<>"
FEW_TICKS, TICKS = (
    (0.1, 1, 5, 20, 50, 80, 95, 99),
    (0.1, 1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99),
)  # per cent


def draw(models: SideBySide) -> Figure:
    """Left: a line per set with every model's top-1 and 95 % interval, generated corruptions apart. Below: with baselines,
    one panel per shifted set on logit axes; above the line is effective robustness."""
    blocks = [lines for lines in (models.lines(False), models.lines(True)) if lines]
    panels = list(dict.fromkeys((one.label, one.clean_label) for found in models.effective for one in found))
    rows = -(-len(panels) // 3)
    each = 0.24 + 0.13 * len(models.names)
    heights = [each * len(lines) + 0.9 for lines in blocks]
    legend = 0.24 * -(-len(models.names) // 2) + 0.5
    figure = Figure(figsize=(11, sum(heights) + 3.6 * rows + legend), layout="constrained")
    parts = figure.subfigures(
        2 if panels else 1, 1, height_ratios=[sum(heights), 3.6 * rows] if panels else None, squeeze=False
    )
    axes = parts[0, 0].subplots(len(blocks), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axis, lines in zip(axes, blocks, strict=True):
        _dots(axis, [(label, found) for label, _, found in lines])
    axes[-1].set_xlabel("top-1 accuracy (%); whiskers: 95 % interval")
    if panels:
        grid = parts[1, 0].subplots(rows, 3, squeeze=False).ravel()
        for axis, (label, clean_label) in zip(grid, panels, strict=False):
            _scatter(axis, models, label, clean_label)
        for axis in grid[len(panels) :]:
            axis.set_axis_off()
    handles = [Line2D([], [], color=_colour(i), marker=_marker(i), ls="none") for i in range(len(models.names))]
    names = [textwrap.fill(name, 70) for name in models.names]
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _dots(axis: Axes, lines: list[tuple[str, list[Score | None]]]) -> None:
    for y, (_, found) in enumerate(lines):
        axis.axhspan(y - 0.5, y + 0.5, color="0.95" if y % 2 else "white", lw=0)
        for i, score in enumerate(found):
            if score is not None:
                whiskers = [[100 * (score.top1 - score.low)], [100 * (score.high - score.top1)]]
                height = y + 0.7 * ((i + 0.5) / len(found) - 0.5)
                axis.errorbar(
                    100 * score.top1,
                    height,
                    xerr=whiskers,
                    color=_colour(i),
                    marker=_marker(i),
                    ms=5,
                    capsize=2.5,
                    lw=1.2,
                )
    axis.set_yticks(range(len(lines)), [textwrap.fill(label, 40) for label, _ in lines], fontsize=9)
    axis.set(xlim=(0, 100), ylim=(len(lines) - 0.5, -0.5))
    axis.grid(axis="x", alpha=0.3, lw=0.6)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _scatter(axis: Axes, models: SideBySide, label: str, clean_label: str) -> None:
    line = fit(label, clean_label, models.baselines)
    points = [(i, one) for i, found in enumerate(models.effective) for one in found if one.label == label]
    axis.plot(100 * line.clean, 100 * line.shifted, ".", color="0.6", ms=4, zorder=1)
    every = np.concatenate([line.clean, [one.clean for _, one in points]])
    clean = np.linspace(every.min(), every.max(), 50)
    axis.plot(100 * clean, 100 * line(clean), color="0.3", lw=1, zorder=2)
    for i, one in points:
        axis.plot(100 * one.clean, 100 * one.measured, color=_colour(i), marker=_marker(i), ms=7, zorder=3)
    measured = np.concatenate([line.shifted, [one.measured for _, one in points if one.measured > 0]])
    _logit_axis(axis.set_xscale, axis.set_xlim, axis.xaxis, every)
    _logit_axis(axis.set_yscale, axis.set_ylim, axis.yaxis, measured)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3, lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(label, loc="left", fontsize=9, fontweight="bold")
    axis.set_xlabel(f"{clean_label} (%)", fontsize=8)
    axis.set_ylabel("top-1 (%)", fontsize=8)


def _logit_axis(set_scale: Callable, set_limits: Callable, axis: Axis, values: np.ndarray) -> None:
    """A scale on which the logit of per cents is even, around fractions `values`."""
    low, high = logit(values.min()), logit(values.max())
    set_scale("function", functions=(lambda p: logit(np.clip(p, 1e-3, 100 - 1e-3) / 100), lambda x: 100 * expit(x)))
    limits = [100 * expit(low - 0.08 * (high - low)), 100 * expit(high + 0.08 * (high - low))]
    set_limits(*limits)
    axis.set_ticks([tick for tick in (FEW_TICKS if high - low > 4 else TICKS) if limits[0] <= tick <= limits[1]])
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _marker(i: int) -> str:
    return MARKERS[i % len(MARKERS)]
