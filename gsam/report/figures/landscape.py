"""Slices of the loss: lines, contours and a surface, from a row of `analysis=landscape` or `analysis=between`."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .theory_style import BLUE, ORANGE, RED, plain

X = {"landscape": "random direction 1 (filter lengths)", "between": "from the checkpoint (0) to the other (1)"}
Y = {"landscape": "random direction 2 (filter lengths)", "between": "random direction (filter lengths)"}
MANY = 4.0  # ratio of highest to lowest loss from which colours and heights are logarithmic

LABEL = {False: "loss (nats)", True: "loss (nats), logarithmic"}


def pictures(row: dict) -> dict[str, Figure]:
    """Name of the picture -> figure: `<analysis>_1d`, or `<analysis>_contour` and `<analysis>_surface`."""
    name = row["analysis"]
    if row["settings"]["dims"] == 1:
        return {f"{name}_1d": _lines(row)}
    return {f"{name}_contour": _contour(row), f"{name}_surface": _surface(row)}


def sentence(name: str, row: dict) -> str:
    """The losses at the ends of what was looked at, and between them."""
    losses = np.array(row["losses"], dtype=float)
    if name == "between":
        line = losses[0] if len(losses) == 1 else losses[len(losses) // 2]
        at = [int(np.abs(np.array(row["x"]) - place).argmin()) for place in (0.0, 1.0)]
        barrier = np.nanmax(line[at[0] : at[1] + 1]) - max(line[at])
        return (
            f"loss {line[at[0]]:.4g} at the checkpoint, {line[at[1]]:.4g} at the other one, at a distance of "
            f"{row['distance']:.4g}; in between it rises {barrier:.4g} above the higher of them"
        )
    centre = losses[tuple(n // 2 for n in losses.shape)] if len(losses) > 2 else losses[0, losses.shape[1] // 2]
    lost = int((~np.isfinite(losses)).sum())
    left_out = f", and not finite at {lost} of {losses.size} points" * bool(lost)
    finite = losses[np.isfinite(losses)]
    return f"loss {centre:.4g} at the checkpoint; {finite.min():.4g} to {finite.max():.4g} on the slice{left_out}"


def _lines(row: dict) -> Figure:
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axis = figure.subplots()
    for line, at, colour, style, label in zip(
        row["losses"], (row["x"], row["y"]), (BLUE, ORANGE), ("-", (0, (5, 2))), row["directions"], strict=False
    ):
        values = np.array(line, dtype=float)
        axis.plot(at, values, color=colour, ls=style, lw=2, marker="o", ms=3.5, label=label)
    if _wide(row):
        axis.set_yscale("log")
    _mark(axis, row)
    axis.legend(edgecolor="none")  # on white: the marks' lines run behind it
    plain(axis, _title(row), X[row["analysis"]].replace(" 1", "s"), "loss (nats)")
    return figure


def _contour(row: dict) -> Figure:
    figure = Figure(figsize=(7.4, 6), layout="constrained")
    axis = figure.subplots()
    heights, text = _heights(row)
    filled = axis.contourf(row["x"], row["y"], heights, levels=24, cmap="cividis")
    lines = axis.contour(row["x"], row["y"], heights, levels=12, colors="white", linewidths=0.6, linestyles="solid")
    axis.clabel(lines, fontsize=7.5, fmt=text)
    bar = figure.colorbar(filled, ax=axis, label=LABEL[_wide(row)], format=FuncFormatter(lambda value, _: text(value)))
    bar.locator = MaxNLocator(7)
    bar.update_ticks()
    _mark(axis, row)
    plain(axis, _title(row), X[row["analysis"]], Y[row["analysis"]])
    axis.grid(False)
    return figure


def _surface(row: dict) -> Figure:
    figure = Figure(figsize=(7.4, 5.6))
    axis = figure.add_axes((0.04, 0.05, 0.86, 0.88), projection="3d")
    heights, text = _heights(row)
    x, y = np.meshgrid(row["x"], row["y"])
    axis.plot_surface(x, y, heights, cmap="cividis", rstride=1, cstride=1, lw=0.2, edgecolor=(0, 0, 0, 0.25))
    axis.zaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.view_init(elev=32, azim=-58)
    axis.set_box_aspect((1, 1, 0.75), zoom=0.92)
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.yaxis.set_major_locator(MaxNLocator(4))
    axis.set_xlabel(X[row["analysis"]], labelpad=6)
    axis.set_ylabel(Y[row["analysis"]], labelpad=6)
    axis.set_zlabel(LABEL[_wide(row)], labelpad=8)
    figure.text(0.03, 0.98, _title(row), va="top", fontsize=10.5, fontweight="bold")
    return figure


def _heights(row: dict) -> tuple[np.ndarray, object]:
    """Losses (y, x), or their logarithm where they span much, and how to write a height as a loss. Not finite: masked."""
    losses = np.array(row["losses"], dtype=float)
    if _wide(row):
        return np.ma.masked_invalid(np.log10(losses)), lambda value: f"{10**value:.3g}"
    return np.ma.masked_invalid(losses), lambda value: f"{value:.3g}"


def _wide(row: dict) -> bool:
    losses = np.array(row["losses"], dtype=float)
    return bool(np.nanmin(losses) > 0 and np.nanmax(losses) > MANY * np.nanmin(losses))


def _mark(axis: Axes, row: dict) -> None:
    plane = row["settings"]["dims"] == 2
    marks = ((0.0, "*", "checkpoint"), (1.0, "X", "other checkpoint"))
    for place, marker, label in marks[: 1 + (row["analysis"] == "between")]:
        if plane:
            axis.plot(place, 0.0, marker, color=RED, mec="white", ms=13, label=label)
        else:
            axis.axvline(place, color="0.4", lw=1, ls=":" if marker == "*" else "--", label=label)
    if plane:
        axis.legend(loc="upper right", fontsize=9)


def _title(row: dict) -> str:
    norm = {"eval": "running statistics", "batch": "batch statistics"}[row["batchnorm"]]
    step = f", step {row['step']:,}" if row.get("step") is not None else ""
    return f"{row['model']}{step}: {row['n']:,} pictures of {row['set']}\nBatchNorm: {norm}"
