"""A table of the catalogue as a picture: a panel per set, a line per row, the paper's value and ours."""

from __future__ import annotations

import re
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..matching import Setting
from ..paper_table import Line
from ..tables import NOT_RUN
from .panels import COLOURS, MARKERS, PAPER, columns_of_legend, title, value_of

METHODS = ("vanilla", "GSAM", "SAM")  # by the first that is a word of the label; in COLOURS as in the other figures
PLACES = {"vanilla": 0, "SAM": 1, "GSAM": 2}


def draw(setting: Setting, table: Sequence[Line]) -> Figure:
    """Whiskers: standard deviation over seeds. Rows and panels in the order of the table."""
    columns = list(table[0].cells) or ["top-1"]
    figure = Figure(figsize=(max(7.5, 3.2 + 2.3 * len(columns)), 1.6 + 0.24 * len(table)), layout="constrained")
    axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axis, column in zip(axes, columns, strict=True):
        for y, line in enumerate(table):
            axis.axhspan(y - 0.5, y + 0.5, color="0.95" if y % 2 else "white", lw=0)
            value = value_of(line.cells.get(column))
            if value.paper is not None:
                axis.plot(value.paper, y, color="black", marker="|", ms=11, mew=2)
            if value.mean is not None:
                at = place(line.label)
                style = {"color": COLOURS[at], "marker": MARKERS[at], "ms": 5}
                axis.errorbar(value.mean, y, xerr=value.spread, capsize=2.5, **style)
        axis.margins(x=0.1)
        axis.set_xlabel("top-1 (%)")
        axis.set_title(column, loc="left", fontsize=10, fontweight="bold")
        axis.grid(axis="x", alpha=0.3, lw=0.6)
        axis.tick_params(axis="y", length=0)
        axis.spines[["top", "right", "left"]].set_visible(False)
    names = [line.label + ("" if line.point.runs else f" ({NOT_RUN})") for line in table]
    axes[0].set_yticks(range(len(table)), names, fontsize=8.5)
    axes[0].set_ylim(len(table) - 0.5, -0.5)
    printed = any(cell.paper is not None for line in table for cell in line.cells.values())
    handles = {PAPER: Line2D([], [], color="black", marker="|", ls="none", ms=11, mew=2)} if printed else {}
    for line in table:
        style = {"color": COLOURS[place(line.label)], "marker": MARKERS[place(line.label)], "ls": "none", "ms": 5}
        handles[f"{'ours, ' if printed else ''}{method(line.label) or 'other methods'}"] = Line2D([], [], **style)
    width = columns_of_legend(figure, list(handles))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=width, frameon=False, fontsize=9)
    what = "Top-1, rows named after the experiments" if setting.departs else "Top-1"
    title(figure, what, setting.what() if setting.departs else "")
    return figure


def place(label: str) -> int:
    """In COLOURS, by method."""
    return PLACES.get(method(label), 3)


def method(label: str) -> str | None:
    """ "SAM" of "ViT · SAM, ρ = 0.1"; None of "ASAM", which is another."""
    return next((name for name in METHODS if re.search(rf"\b{name}\b", label)), None)


def sentence(table: Sequence[Line]) -> str:
    """The table says it itself."""
    return ""
