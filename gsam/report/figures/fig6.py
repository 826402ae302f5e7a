"""Figure 6: augmentations, base optimizers, and min(f_p, h) against min(f, h)."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ..matching import Setting
from ..paper_table import Line
from .panels import Value, bar_legend, bars, title, value_of

METHODS = ("vanilla", "SAM", "GSAM")


def draw(setting: Setting, table: Sequence[Line]) -> Figure:
    """Labels of the rows are "group · method" in the first two panels; the third has a group per set."""
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[3, 2, 3])
    columns = list(table[0].cells)
    first = columns[0] if columns else None
    for axis, panel, name in ((left, "augmentation", "Augmentations"), (middle, "base optimizer", "Base optimizers")):
        found = {line.point.row.label: line for line in table if line.panel == panel}
        groups = list(dict.fromkeys(label.split(" · ")[0] for label in found))
        rows = {method: [_value(found, group, method, first) for group in groups] for method in METHODS}
        bars(axis, groups, rows)
        axis.set_ylabel(f"{first or ''} top-1 (%)".strip())
        axis.set_title(name, loc="left", fontsize=11, fontweight="bold")
    objectives = [line for line in table if line.panel == "objective"]
    rows = {line.point.row.label: [value_of(line.cells[c]) for c in columns] or [Value()] for line in objectives}
    bars(right, columns or [""], rows, places=(2, 5))
    right.set_ylabel("top-1 (%)")
    right.set_title("Objectives", loc="left", fontsize=11, fontweight="bold")
    printed = any(cell.paper is not None for line in table for cell in line.cells.values())
    labels = [line.point.row.label for line in objectives]
    bar_legend(figure, [*METHODS[:2], f"{METHODS[2]}, {labels[0]}", labels[1]], paper=printed, places=(0, 1, 2, 5))
    title(figure, "Additional studies", setting.what() if setting.departs else "")
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
