"""Figure 6: augmentations, base optimizers, and min(f_p, h) against min(f, h)."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ..matching import Setting
from ..paper_table import Line
from .panels import Value, bar_legend, bars, title, value_of

METHODS = ("vanilla", "SAM", "GSAM")
PANELS = {
    "augmentation": ("Augmentations", 3),
    "base optimizer": ("Base optimizers", 2),
    "objective": ("Objectives", 3),
}
"""panel of the rows -> its title and width"""


def draw(setting: Setting, table: Sequence[Line]) -> Figure:
    """The panels that have rows. Labels of the rows are "group · method" in the first two; the third has a group per set."""
    panels = [panel for panel in PANELS if any(line.panel == panel for line in table)]
    widths = [PANELS[panel][1] for panel in panels]
    figure = Figure(figsize=(max(6.5, 1.6 * sum(widths)), 4.4), layout="constrained")
    axes = dict(zip(panels, figure.subplots(1, len(panels), width_ratios=widths, squeeze=False)[0], strict=True))
    columns = list(table[0].cells)
    first = columns[0] if columns else None
    objectives = [line for line in table if line.panel == "objective"]
    for panel, axis in axes.items():
        axis.set_title(PANELS[panel][0], loc="left", fontsize=11, fontweight="bold")
        if panel == "objective":
            rows = {
                line.point.row.label: [value_of(line.cells[c]) for c in columns] or [Value()] for line in objectives
            }
            bars(axis, columns or [""], rows, places=(2, 5))
            axis.set_ylabel("top-1 (%)")
            continue
        found = {line.point.row.label: line for line in table if line.panel == panel}
        groups = list(dict.fromkeys(label.split(" · ")[0] for label in found))
        bars(axis, groups, {method: [_value(found, group, method, first) for group in groups] for method in METHODS})
        axis.set_ylabel(f"{first or ''} top-1 (%)".strip())
    printed = any(cell.paper is not None for line in table for cell in line.cells.values())
    labels = [line.point.row.label for line in objectives]
    legend = dict(zip((0, 1, 2, 5), [*METHODS[:2], f"{METHODS[2]}, {labels[0]}", labels[1]], strict=True))
    if panels == ["objective"]:
        legend = {place: legend[place] for place in (2, 5)}
    bar_legend(figure, [*legend.values()], paper=printed, places=tuple(legend))
    what = "Additional studies" if len(panels) > 1 else " against ".join(labels)
    title(figure, what, setting.what() if setting.departs else "")
    return figure


def _value(found: dict[str, Line], group: str, method: str, column: str | None) -> Value:
    line = next((line for label, line in found.items() if label.startswith(f"{group} · {method}")), None)
    return value_of(line.cells.get(column)) if line else Value()


def sentence(table: Sequence[Line]) -> str:
    """In how many groups GSAM is above SAM and SAM above vanilla, on the first set; "" without a complete group."""
    column = next(iter(table[0].cells), None)
    groups: dict[tuple, dict[str, float]] = {}
    for line in table:
        group, _, method = line.point.row.label.partition(" · ")
        mean = value_of(line.cells.get(column)).mean
        if method and mean is not None:
            groups.setdefault((line.panel, group), {})[method.split(",")[0]] = mean
    whole = [found for found in groups.values() if found.keys() >= set(METHODS)]
    if not whole:
        return ""
    first = sum(found["GSAM"] > found["SAM"] for found in whole)
    second = sum(found["SAM"] > found["vanilla"] for found in whole)
    return f"{column}: GSAM is above SAM in {first}, SAM above vanilla in {second} of the {len(whole)} groups of bars that ran."
