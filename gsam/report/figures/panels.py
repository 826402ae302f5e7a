"""Bars and lines as the paper's figures have them: means with their standard deviation, "not run" where nothing ran."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ..load import Run
from ..paper_table import Cell
from ..tables import NOT_RUN
from .training_curves import mean_curve, running_mean

# Okabe and Ito's colours, distinguishable with colour-blind eyes; hatches, dashes and markers tell them apart in print.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#999999")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "---", "++")
DASHES = ("solid", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (3, 1)), (0, (2, 2)), "solid", "solid")
MARKERS = "osD^vPX*"
PAPER = "paper's value"


@dataclass
class Value:
    """A number of a figure, in its unit: measured mean (None: not run), standard deviation over seeds, the paper's number."""

    mean: float | None = None
    spread: float | None = None
    paper: float | None = None


def value_of(cell: Cell | None) -> Value:
    """A cell of a table, in per cent."""
    if cell is None or cell.ours is None:
        return Value(paper=cell and cell.paper)
    return Value(100 * cell.ours.top1, None if cell.ours.spread is None else 100 * cell.ours.spread, cell.paper)


def bars(
    axis: Axes,
    groups: Sequence[str],
    series: dict[str, Sequence[Value | None]],
    places: Sequence[int] = (),
    *,
    stacked: bool = False,
) -> None:
    """A group of bars per name in `groups`, one bar per series; a black dash is the paper's value.

    series: its name -> one Value per group, None for no bar · places: the series' numbers in COLOURS, by default in order ·
    stacked: the series share one place, of each group only one has a bar.
    """
    places = places or range(len(series))
    width = 0.8 if stacked else 0.8 / len(series)
    values = [value for row in series.values() for value in row if value is not None]
    low, high = _limits(values)
    for place, at, row in zip(places, range(len(series)), series.values(), strict=True):
        for group, value in enumerate(row):
            x = group + (0 if stacked else (at + 0.5) * width - 0.4)
            if value is None:
                continue
            if value.mean is None:
                axis.text(
                    x,
                    low + 0.02 * (high - low),
                    NOT_RUN,
                    rotation=90,
                    ha="center",
                    va="bottom",
                    fontsize=7,
                    color="0.4",
                )
            else:
                axis.bar(x, value.mean - low, 0.92 * width, bottom=low, color=COLOURS[place], hatch=HATCHES[place],
                         edgecolor="white", lw=0.5)  # fmt: skip
                axis.errorbar(x, value.mean, yerr=value.spread, color="black", capsize=2.5, lw=1)
            if value.paper is not None:
                axis.plot([x - 0.46 * width, x + 0.46 * width], [value.paper] * 2, color="black", lw=2, zorder=4)
    axis.set_xticks(range(len(groups)), groups)
    axis.set(xlim=(-0.55, len(groups) - 0.45), ylim=(low, high))
    _plain(axis)
    if low > 0:  # the sign of a cut axis: bars are not as long as their values
        for y in (0.02, 0.035):
            axis.plot([-0.008, 0.008], [y - 0.01, y + 0.01], transform=axis.transAxes, clip_on=False, color="black", lw=1)
    axis.grid(axis="y", alpha=0.25, lw=0.6)


def lines(axis: Axes, x: Sequence[float], series: dict[str, Sequence[Value]]) -> None:
    """A line with markers per series over the places x; whiskers: standard deviation over seeds."""
    for place, row in enumerate(series.values()):
        points = [(at, v.mean, v.spread or 0.0) for at, v in zip(x, row, strict=True) if v.mean is not None]
        if points:
            xs, means, spreads = zip(*points, strict=True)
            axis.errorbar(xs, means, yerr=spreads if any(spreads) else None, color=COLOURS[place], ls=DASHES[place],
                          marker=MARKERS[place], ms=5, lw=1.8, capsize=3)  # fmt: skip
        papers = [(at, v.paper) for at, v in zip(x, row, strict=True) if v.paper is not None]
        if papers:
            axis.plot(
                *zip(*papers, strict=True), color=COLOURS[place], marker=MARKERS[place], mfc="none", ms=8, ls="none"
            )
    margin = 0.06 * (max(x) - min(x)) or 1.0
    axis.set_xlim(min(x) - margin, max(x) + margin)  # also where there is no line
    axis.set_xticks(x)
    _plain(axis)
    axis.grid(alpha=0.25, lw=0.6)
    if all(value.mean is None and value.paper is None for row in series.values() for value in row):
        nothing(axis)


def curves(axis: Axes, series: dict[str, Sequence[Run]], key: str) -> None:
    """A number of the training's log against the step, a line per series: the mean over seeds, and every seed as a thin line.
    A mean of 100 points or more is smoothed by a running mean over a tenth of the run; fewer would lose their peaks."""
    for place, runs in enumerate(series.values()):
        seeds = [[(row["step"], row[key]) for row in run.train if _finite(row.get(key))] for run in runs]
        seeds = [points for points in seeds if points]
        if not seeds:
            continue
        for points in seeds:
            axis.plot(*zip(*points, strict=True), color=COLOURS[place], alpha=0.25, lw=0.7)
        mean = mean_curve(seeds)
        if len(mean) >= 100:
            mean = running_mean(mean, len(mean) // 20)
        axis.plot(*zip(*mean, strict=True), color=COLOURS[place], ls=DASHES[place], lw=2)
    axis.set_xlabel("training step")
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _plain(axis)
    axis.grid(alpha=0.25, lw=0.6)
    if not axis.lines:
        nothing(axis)


def logged(runs: Sequence[Run], key: str) -> tuple[list[list[float]], str]:
    """The finite values of a number of the training's log, a list per run that has any, in the order of steps; and what to say
    of those that are not: " 3 logged values are not finite and left out.", or ""."""
    values = [[row[key] for row in run.train if row.get(key) is not None] for run in runs]
    finite = [[value for value in of_run if _finite(value)] for of_run in values]
    lost = sum(map(len, values)) - sum(map(len, finite))
    told = f" {lost} logged value{'s are' if lost > 1 else ' is'} not finite and left out." if lost else ""
    return [of_run for of_run in finite if of_run], told


def nothing(axis: Axes) -> None:
    """Say in an empty panel that there is nothing to draw."""
    axis.text(0.5, 0.5, NOT_RUN, transform=axis.transAxes, ha="center", va="center", color="0.4", fontsize=12)
    axis.set_yticks([])


def bar_legend(figure: Figure, names: Sequence[str], paper: bool, places: Sequence[int] = ()) -> None:
    """Below the panels, a patch per series and, where one is drawn, the paper's dash."""
    places = places or range(len(names))
    handles = [Patch(facecolor=COLOURS[p], hatch=HATCHES[p], edgecolor="white") for p in places]
    handles += [Line2D([], [], color="black", lw=2)] * paper
    names = [*names, *[PAPER] * paper]
    figure.legend(handles, names, loc="outside lower center", ncols=columns_of_legend(figure, names), frameon=False)


def line_legend(figure: Figure, names: Sequence[str], marked: bool = True) -> None:
    """Below the panels, a line per series."""
    handles = [
        Line2D([], [], color=COLOURS[i], ls=DASHES[i], marker=MARKERS[i] if marked else None, lw=1.8, ms=5)
        for i in range(len(names))
    ]
    figure.legend(handles, names, loc="outside lower center", ncols=columns_of_legend(figure, names), frameon=False)


def columns_of_legend(figure: Figure, names: Sequence[str]) -> int:
    """Of a legend that fits the figure: a letter is about 0.09 inches wide, a handle 0.7."""
    return max(1, int(figure.get_figwidth() / (0.7 + 0.09 * max(map(len, names)))))


def title(figure: Figure, text: str, below: str = "") -> None:
    """What the figure shows; below: what sets its runs apart from the paper's."""
    lines = textwrap.wrap(below, int(11 * figure.get_figwidth()))
    figure.suptitle("\n".join([text, *lines]), fontsize=11, x=0.01, ha="left")


def _limits(values: Sequence[Value]) -> tuple[float, float]:
    """Cut below, as the paper's axes, so that differences can be seen; room for whiskers above."""
    ends = [
        end
        for v in values
        for end in (v.paper, *((v.mean - (v.spread or 0), v.mean + (v.spread or 0)) if v.mean is not None else ()))
        if end is not None
    ]
    if not ends:
        return 0.0, 100.0
    pad = max(0.12 * (max(ends) - min(ends)), 0.5)
    return max(0.0, math.floor(min(ends) - 2 * pad)), max(ends) + pad


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _plain(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
