"""The results of a sweep: lines over one axis, a surface over two, a panel per axis over more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from matplotlib.tri import Triangulation

from .panels import COLOURS, DASHES, MARKERS, line_legend, title
from .theory_style import plain

SYMBOLS = {"optimizer.rho": "ρ", "optimizer.rho_max": "ρ_max", "optimizer.rho_min": "ρ_min", "optimizer.alpha": "α",
           "optimizer.lam": "λ", "optimizer.gamma": "γ", "base.lr": "learning rate", "base.weight_decay": "weight decay",
           "optimizer.iterations": "inner iterations"}  # fmt: skip
FEW = 12  # places that are all written below an axis
WIDE = 20.0  # ratio of an axis's ends from which it is logarithmic
Row = Mapping[str, Any]


def draw(rows: Sequence[Row], higher: bool) -> Figure:
    """rows: those of results.jsonl. higher: the highest value is the best."""
    placed = [row for row in rows if row["place"]]  # a search's trial has none until it is made up
    done = [row for row in placed if row["value"] is not None]
    names = list(dict.fromkeys(row["experiment"] for row in placed))
    axes = {name: _axes([row for row in placed if row["experiment"] == name]) for name in names}
    width = max(map(len, axes.values()))
    drawn = {row["experiment"] for row in done}
    surfaces = {
        name: keys for name, keys in axes.items() if name in drawn and len(keys) == 2 and _numbers(placed, name, keys)
    }
    if width == 2 and set(surfaces) == drawn:
        figure = Figure(figsize=(1.2 + 5.4 * len(surfaces), 4.8), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(surfaces), squeeze=False)[0])
        values = [_value(row) for row in done if row["experiment"] in surfaces]
        norm = Normalize(min(values), max(values))
        for panel, (name, keys) in zip(panels, surfaces.items(), strict=True):
            _surface(panel, [row for row in placed if row["experiment"] == name], keys, norm, higher)
            plain(panel, name, label(keys[0]), label(keys[1]))
            panel.grid(False)
    else:
        columns = [list(dict.fromkeys(k[0] for k in axes.values() if k))] if width <= 1 else None
        keys = columns or [[key] for key in dict.fromkeys(key for each in axes.values() for key in each)]
        figure = Figure(figsize=(1.4 + 5.2 * len(keys), 4.6), layout="constrained")
        for panel, own in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
            _lines(panel, done, names, own, joined=width <= 1)
            plain(panel, "", ", ".join(map(label, own)), unit(rows[0]["metric"]))
        if len(names) > 1:
            line_legend(figure, names)
    title(figure, _heading(rows, done, higher))
    return figure


def label(key: str) -> str:
    return SYMBOLS.get(key, key)


def unit(metric: str) -> str:
    return f"{metric} (nats)" if metric == "nll" else f"{metric.replace('top', 'top-')} (%)"


def _value(row: Row) -> float:
    return row["value"] if row["metric"] == "nll" else 100 * row["value"]


def _axes(rows: Sequence[Row]) -> list[str]:
    """The keys that vary between the experiment's rows; with one row, its places."""
    keys = dict.fromkeys(key for row in rows for key in row["place"])
    varied = [key for key in keys if len({row["place"].get(key) for row in rows}) > 1]
    return varied or list(keys)[:1]


def _numbers(rows: Sequence[Row], name: str, keys: Sequence[str]) -> bool:
    places = [row["place"].get(key) for row in rows if row["experiment"] == name for key in keys]
    return all(map(_is_number, places))


def _heading(rows: Sequence[Row], done: Sequence[Row], higher: bool) -> str:
    complete = [row for row in done if row["state"] == "complete"]
    seeds = max((len(row["seeds"]) for row in complete), default=1)
    sets = ", ".join(sorted({row["set"] for row in done if row["set"]}))
    told = f"{rows[0]['sweep']}: {unit(rows[0]['metric'])} on {sets}, {len(complete)} of {len(rows)} configurations"
    return told + (f", mean ± standard deviation of {seeds} seeds" if seeds > 1 else ", one seed")


# ---- one axis -------------------------------------------------------------------------------------------------------


def _lines(panel: Axes, rows: Sequence[Row], names: Sequence[str], keys: Sequence[str], joined: bool) -> None:
    """Values over the first of `keys` that a row has; joined: a line, with whiskers of a standard deviation over seeds."""
    places: list[Any] = []
    for row in rows:
        places += (
            [next(row["place"][key] for key in keys if key in row["place"])] if set(keys) & set(row["place"]) else []
        )
    words = list(dict.fromkeys(map(str, places))) if not all(map(_is_number, places)) else None
    for order, name in enumerate(names):
        mine = [row for row in rows if row["experiment"] == name and set(keys) & set(row["place"])]
        spots = [(next(row["place"][key] for key in keys if key in row["place"]), row) for row in mine]
        spots = sorted(((words.index(str(at)) if words else at, row) for at, row in spots), key=lambda spot: spot[0])
        whole = [(at, row) for at, row in spots if row["state"] == "complete"]
        style = {"color": COLOURS[order % 8], "marker": MARKERS[order % 8], "ms": 5}
        if whole:
            xs, ys = [at for at, _ in whole], [_value(row) for _, row in whole]
            scale = 1 if whole[0][1]["metric"] == "nll" else 100
            whiskers = [scale * (row["spread"] or 0.0) for _, row in whole]
            line = DASHES[order % 8] if joined and not words else "none"
            panel.errorbar(xs, ys, yerr=whiskers if any(whiskers) else None, ls=line, lw=1.8, capsize=3, **style)
        if stopped := [(at, _value(row)) for at, row in spots if row["state"] == "pruned"]:
            panel.plot(*zip(*stopped, strict=True), ls="none", mfc="none", alpha=0.6, **style)
    if words:
        panel.set_xticks(range(len(words)), words)
    else:
        _scale(panel, "x", places)
    if any(row["state"] == "pruned" for row in rows):
        hollow = Line2D([], [], color="0.4", marker="o", mfc="none", ls="none", ms=5)
        panel.legend([hollow], ["pruned, last evaluation"], frameon=False, fontsize=8)


def _is_number(at: Any) -> bool:
    return isinstance(at, (int, float)) and not isinstance(at, bool)


def _is_logarithmic(places: Sequence[float]) -> bool:
    """Whether the places span much, and most are at the low end."""
    low, high = min(places), max(places)
    return low > 0 and high / low >= WIDE and float(np.median(places)) < (low + high) / 4


def _scale(panel: Axes, which: str, places: Sequence[float]) -> None:
    """Their numbers below the axis where they are few."""
    axis = getattr(panel, f"{which}axis")
    if _is_logarithmic(places):
        getattr(panel, f"set_{which}scale")("log")
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    if len(set(places)) <= FEW:
        axis.set_major_locator(FixedLocator(sorted(set(places))))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}"))


# ---- two axes -------------------------------------------------------------------------------------------------------


def _surface(panel: Axes, rows: Sequence[Row], keys: Sequence[str], norm: Normalize, higher: bool) -> None:
    """A cell per configuration where they are a grid; else coloured contours through the points that ran."""
    x, y = (sorted({row["place"][key] for row in rows}) for key in keys)
    done = [row for row in rows if row["value"] is not None]
    ranked = [row for row in done if row["state"] == "complete"]
    first = (max if higher else min)(ranked, key=_value, default=None)
    cmap = "cividis" if higher else "cividis_r"
    if len(x) * len(y) == len(rows):
        _cells(panel, rows, keys, x, y, norm, cmap)
        if first is not None:
            at = x.index(first["place"][keys[0]]), y.index(first["place"][keys[1]])
            panel.plot(at[0], at[1] + 0.3, "*", color="white", mec="black", mew=0.7, ms=11)
        mappable = panel.images[0]
    else:
        (xs, ys), values = (
            zip(*(_spot(row, keys) for row in ranked or done), strict=True),
            list(map(_value, ranked or done)),
        )
        if len(ranked) >= 4 and len(set(xs)) > 2 and len(set(ys)) > 2:
            # Neighbours are those that are near each other in the picture.
            near = Triangulation(*(np.log(at) if _is_logarithmic(at) else at for at in (xs, ys))).triangles
            panel.tricontourf(Triangulation(xs, ys, near), values, levels=16, cmap=cmap, norm=norm, alpha=0.75)
        mappable = panel.scatter(xs, ys, c=values, cmap=cmap, norm=norm, edgecolors="white", s=48, zorder=3)
        if stopped := [row for row in done if row["state"] == "pruned"]:
            panel.scatter(*zip(*(_spot(row, keys) for row in stopped), strict=True), marker="x", label="pruned",
                          c=list(map(_value, stopped)), cmap=cmap, norm=norm, s=30, zorder=2)  # fmt: skip
        if first is not None:
            panel.plot(*_spot(first, keys), "*", color="white", mec="black", ms=15, zorder=4, label="best", ls="none")
        panel.legend(fontsize=8, loc="upper right", framealpha=0.6)
        for which, places in (("x", xs), ("y", ys)):
            _scale(panel, which, places)
    panel.figure.colorbar(mappable, ax=panel, label=unit(rows[0]["metric"]))


def _spot(row: Row, keys: Sequence[str]) -> tuple[float, float]:
    return row["place"][keys[0]], row["place"][keys[1]]


def _cells(panel: Axes, rows: Sequence[Row], keys: Sequence[str], x: list, y: list, norm: Normalize, cmap: str) -> None:
    """A heat map with its numbers; a configuration without one says why."""
    heat = np.full((len(y), len(x)), np.nan)
    for row in rows:
        if row["value"] is not None and row["state"] == "complete":
            heat[y.index(row["place"][keys[1]]), x.index(row["place"][keys[0]])] = _value(row)
    panel.imshow(heat, origin="lower", aspect="auto", cmap=cmap, norm=norm)
    panel.set_facecolor("0.92")
    for row in rows:
        at = x.index(row["place"][keys[0]]), y.index(row["place"][keys[1]])
        value = heat[at[1], at[0]]
        text = row["state"] if np.isnan(value) else f"{value:.4f}" if row["metric"] == "nll" else f"{value:.1f}"
        dark = not np.isnan(value) and (norm(value) > 0.55) == cmap.endswith("_r")
        colour = "0.4" if np.isnan(value) else "white" if dark else "black"
        panel.text(*at, text, ha="center", va="center", fontsize=9 if not np.isnan(value) else 7, color=colour)
    panel.set_xticks(range(len(x)), [f"{at:g}" for at in x])
    panel.set_yticks(range(len(y)), [f"{at:g}" for at in y])
