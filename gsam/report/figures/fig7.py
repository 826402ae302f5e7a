"""Figure 7: top-1 of SAM and GSAM under different ρ, and of GSAM under different α beside vanilla and SAM."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from gsam.catalogue import expected

from ..matching import Point, Setting
from ..paper_table import Line
from .panels import Value, bar_legend, bars, title, value_of

ALPHA = "optimizer.alpha"


def draw(setting: Setting, table: Sequence[Line]) -> Figure:
    """Left: a group per ρ. Right: a bar per α."""
    figure = Figure(figsize=(12, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    first = next(iter(table[0].cells), None)
    found: dict[str, dict[float, Value]] = {}
    for line in (line for line in table if line.panel == "rho"):
        found.setdefault(line.point.row.label, {})[radius(line.point)] = value_of(line.cells.get(first))
    radii = sorted({rho for values in found.values() for rho in values})
    rows = {name: [values.get(rho, Value()) for rho in radii] for name, values in found.items()}
    bars(left, [f"{rho:g}" for rho in radii], rows, places=(1, 2))
    left.set(xlabel=r"$\rho$ (SAM: constant, GSAM: $\rho_{\max}$)")
    others = [line for line in table if line.panel == "alpha"]
    names = [f"{float(line.point.at[ALPHA]):g}" if ALPHA in line.point.at else line.point.row.label for line in others]
    _singles(right, names, [value_of(line.cells.get(first)) for line in others])
    right.set(xlabel=r"$\alpha$ of GSAM, beside vanilla and SAM")
    for axis, name in ((left, "Radius"), (right, "Ascent")):
        axis.set_ylabel(f"{first or ''} top-1 (%)".strip())
        axis.set_title(name, loc="left", fontsize=11, fontweight="bold")
    printed = any(cell.paper is not None for line in table for cell in line.cells.values())
    bar_legend(figure, ["vanilla", "SAM", "GSAM"], paper=printed)
    title(figure, "Influence of ρ and α", setting.what() if setting.departs else "")
    return figure


def radius(point: Point) -> float:
    """ρ of SAM and ρ_max of GSAM; of a recipe without axes its own."""
    place = next((value for key, value in point.at.items() if key.startswith("optimizer.rho")), None)
    values = expected(point.row.experiment)
    own = values.get("optimizer.rho_max") if values.get("optimizer.rho") is None else values["optimizer.rho"]
    return float(own if place is None else place)


def _singles(axis, names: Sequence[str], values: Sequence[Value]) -> None:
    """A bar per name, in the colour of its method."""
    series = {}
    for number, method in enumerate(("vanilla", "SAM", "GSAM")):
        mine = [name == method or (number == 2 and name not in ("vanilla", "SAM")) for name in names]
        series[method] = [value if own else None for value, own in zip(values, mine, strict=True)]
    bars(axis, names, series, stacked=True)


def sentence(table: Sequence[Line]) -> str:
    """SAM's and GSAM's best over ρ; "" unless both ran."""
    column = next(iter(table[0].cells), None)
    best: dict[str, tuple[float, float]] = {}
    for line in (line for line in table if line.panel == "rho"):
        mean = value_of(line.cells.get(column)).mean
        if mean is not None:
            name = line.point.row.label
            best[name] = max(best.get(name, (-1.0, 0.0)), (mean, radius(line.point)))
    if len(best) < 2:
        return ""
    told = ", ".join(f"{name} {rho:g} ({mean:.2f})" for name, (mean, rho) in best.items())
    return f"The best ρ, with its top-1 on {column}: {told}."
