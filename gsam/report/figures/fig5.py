"""Figure 5: top-1 of Mixer-S/32 trained with each method, a panel per set."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from gsam.catalogue import MINI

from ..matching import Setting
from ..paper_table import Line
from .panels import bar_legend, bars, title, value_of


def draw(setting: Setting, table: Sequence[Line]) -> Figure:
    """One bar per line of the table: of a grid its best run."""
    columns = list(table[0].cells) or ["top-1"]
    figure = Figure(figsize=(max(7.5, 5.4 * min(len(columns), 3)), 4.4), layout="constrained")
    names = [line.point.row.label for line in table]
    for axis, column in zip(figure.subplots(1, min(len(columns), 3), squeeze=False)[0], columns, strict=False):
        values = [value_of(line.cells.get(column)) for line in table]
        bars(axis, [""], {name: [value] for name, value in zip(names, values, strict=True)})
        axis.set(ylabel="top-1 accuracy (%)")
        axis.set_title(column, loc="left", fontsize=11, fontweight="bold")
        axis.tick_params(axis="x", length=0)
    printed = any(cell.paper is not None for line in table for cell in line.cells.values())
    bar_legend(figure, names, paper=printed)
    other = setting.departs or table[0].point.row.experiment.startswith(MINI)  # another Mixer
    title(figure, "Methods" if other else "Methods on Mixer-S/32", setting.what() if setting.departs else "")
    return figure


def sentence(table: Sequence[Line]) -> str:
    """The methods from high to low on the first set; "" if fewer than two ran."""
    column = next(iter(table[0].cells), None)
    values = [(value_of(line.cells.get(column)).mean, line.point.row.label) for line in table]
    found = sorted((pair for pair in values if pair[0] is not None), reverse=True)
    if len(found) < 2:
        return ""
    return f"{column}, from high to low: " + ", ".join(f"{name} {mean:.2f}" for mean, name in found) + "."
