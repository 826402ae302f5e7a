"""Training curves of the methods side by side: loss, accuracy, surrogate gap, angle of the two gradients, schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from ..load import Run
from ..tables import Column, build_columns

# Okabe and Ito's colours, distinguishable with colour-blind eyes; the dashes tell the lines apart in print.
STYLES = {"vanilla": ("#0072B2", (0, (5, 2))), "sam": ("#E69F00", (0, (1, 1.2))), "gsam": ("#009E73", "solid")}
OTHERS = (("#D55E00", (0, (6, 2, 1, 2))), ("#CC79A7", (0, (3, 1))), ("#56B4E9", (0, (2, 2))), ("#000000", "solid"))

Points = list[tuple[float, float]]


def draw(results: Sequence[Run], title: str = "") -> Figure:
    """Six panels from the runs' metrics.jsonl, one line per method: mean over seeds, each seed as a thin line.

    Training losses, gaps, and cosines are smoothed by a running mean over a tenth of the run (the unsmoothed seeds are
    behind). A method without a quantity (vanilla has no gap and no angle) has no line in that panel.
    Returns a matplotlib Figure without a window. Raises ValueError if no run has training rows.
    """
    columns = [column for column in build_columns(results) if any(run.train for run in column.runs)]
    if not columns:
        raise ValueError("no run has training rows in its metrics.jsonl: there is nothing to draw")
    figure = Figure(figsize=(13, 7.4), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    styles = _styles(columns)
    epochs, images = "epoch", "gradient evaluations (million images)"
    _panel(axes[0], columns, styles, _train("loss"), "training loss (nats)", epochs, smooth=True)
    _panel(axes[1], columns, styles, _accuracy("epoch", 1.0), "validation top-1 (%)", epochs, mark=True)
    _panel(axes[2], columns, styles, _accuracy("grad_evals", 1e-6), "validation top-1 (%)", images, mark=True)
    _panel(axes[3], columns, styles, _train("gap"), "surrogate gap $h = f_p - f$ (nats)", epochs, smooth=True)
    _panel(axes[4], columns, styles, _train("cos"), r"$\cos\theta$ of $\nabla f$ and $\nabla f_p$", epochs, smooth=True)
    _panel(axes[5], columns, styles, _train("rho", needs="gap"), r"perturbation radius $\rho$", epochs)
    names = ("Training loss", "Accuracy by data seen", "Accuracy by cost", "Surrogate gap", "Gradient angle", "Radius")
    for axis, name in zip(axes, names, strict=True):
        axis.set_title(name, loc="left", fontsize=11, fontweight="bold")
    if all(y > 0 for line in axes[0].lines for y in line.get_ydata()):
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axes[0].yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes[0].yaxis.set_minor_formatter(NullFormatter())
    for axis in axes[1:3]:
        _zoom(axis)
    handles = [Line2D([], [], color=styles[id(c)][0], ls=styles[id(c)][1], lw=2.2) for c in columns]
    figure.legend(handles, [_name(c, columns) for c in columns], loc="outside lower center", ncols=4, frameon=False)
    if title:
        figure.suptitle(title, fontsize=13, x=0.01, ha="left")
    return figure


def _styles(columns: Sequence[Column]) -> dict[int, tuple]:
    """Colour and dashes per column; with several models or settings the second GSAM gets a colour of its own."""
    free, used, styles = cycle(OTHERS), set(), {}
    for column in columns:
        fresh = column.method in STYLES and column.method not in used
        styles[id(column)] = STYLES[column.method] if fresh else next(free)
        used.add(column.method)
    return styles


def _name(column: Column, columns: Sequence[Column]) -> str:
    model = f"{column.model} " if len({c.model for c in columns}) > 1 else ""
    seeds = len(column.runs)
    return f"{model}{column.label} ({seeds} seed{'s' * (seeds > 1)})"


def _train(key: str, needs: str = "epoch") -> Callable[[Run], Points]:
    """(epoch, value) of the rows that have `key` and `needs`: vanilla's rho, if it logs one, perturbs nothing."""

    def points(run: Run) -> Points:
        wanted = ("epoch", key, needs)
        return [(row["epoch"], row[key]) for row in run.train if all(_finite(row.get(name)) for name in wanted)]

    return points


def _accuracy(x: str, scale: float) -> Callable[[Run], Points]:
    """Top-1 in % of the evaluations during training with the raw weights, against `x` at their step."""

    def points(run: Run) -> Points:
        out = []
        for row in run.evals:
            if row.get("weights", "raw") != "raw" or not _finite(row.get("top1")):
                continue
            last = run.train[-1] if run.train else {}
            # Rows of the log need not fall on the evaluation's step; epochs and gradient evaluations grow evenly.
            value = row.get(x, last[x] * row["step"] / last["step"] if _finite(last.get(x)) else None)
            if _finite(value):
                out.append((value * scale, 100.0 * row["top1"]))
        return out

    return points


def _panel(
    axis: Axes,
    columns: Sequence[Column],
    styles: dict[int, tuple],
    points: Callable[[Run], Points],
    ylabel: str,
    xlabel: str,
    *,
    smooth: bool = False,
    mark: bool = False,
) -> None:
    empty = True
    for column in columns:
        seeds = [found for found in map(points, column.runs) if found]
        if not seeds:
            continue
        empty = False
        color, dashes = styles[id(column)]
        if smooth or len(seeds) > 1:
            for seed in seeds:
                axis.plot(*zip(*seed, strict=True), color=color, alpha=0.22, lw=0.7)
        mean = mean_curve(seeds)
        if smooth:
            mean = running_mean(mean, len(mean) // 20)
        axis.plot(*zip(*mean, strict=True), color=color, ls=dashes, lw=2.0, marker="o" if mark else None, ms=3.5)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.xaxis.set_major_locator(MaxNLocator(6))
    axis.grid(alpha=0.25, lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    if empty:
        axis.text(0.5, 0.5, "no data in these runs", transform=axis.transAxes, ha="center", va="center", color="0.4")


def mean_curve(seeds: Sequence[Points]) -> Points:
    """Mean over the seeds at every x that all of them have."""
    tables = [dict(seed) for seed in seeds]
    shared = [x for x, _ in seeds[0] if all(x in table for table in tables)]
    return [(x, math.fsum(table[x] for table in tables) / len(tables)) for x in shared] or list(seeds[0])


def running_mean(points: Points, half: int) -> Points:
    """Centred mean over up to 2 half + 1 points. The window shrinks on both sides at the start, where curves are steep,
    and only to the right at the end, where one noisy point would else stand alone."""
    out = []
    for i, (x, _) in enumerate(points):
        reach = min(half, i)
        window = [y for _, y in points[i - reach : i + reach + 1]]
        out.append((x, math.fsum(window) / len(window)))
    return out


def _zoom(axis: Axes) -> None:
    """The last two thirds of every line fill the panel: evaluations near chance would squash all that matters."""
    curves = [list(map(float, line.get_ydata())) for line in axis.lines]
    if curves:
        low, high = min(min(ys[len(ys) // 3 :]) for ys in curves), max(map(max, curves))
        pad = 0.05 * (high - low) or 1.0
        axis.set_ylim(low - pad, high + pad)


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
