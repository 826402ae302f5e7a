"""The robustness card as a picture: bars per set with intervals, and heat maps of corruption x severity."""

from __future__ import annotations

import re
import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch

from ..card import Card, Corrupted, Score
from ..render import with_interval
from ..tables import NOT_RUN

# Okabe and Ito's colours, distinguishable with colour-blind eyes; cividis is made for them too.
COLOURS = {"validation pictures": "#0072B2", "other pictures": "#E69F00", "corrupted copies": "#009E73"}
ABSENT = "0.55"


def draw(card: Card) -> Figure:
    """Top-1 with 95 % intervals per set on the left; on the right one column of heat maps per origin of corruptions, so
    that official and generated copies never share one. What was not run is named as such."""
    columns: dict[str | None, list[Corrupted]] = {}
    for group in card.corrupted:
        columns.setdefault(group.origin, []).append(group)
    tables = card.tables()
    lines = [len(entries) + 1.5 for _, entries in tables]
    heights = [sum(0.29 * len(group.corruptions) + 1.2 for group in groups) for groups in columns.values()]
    size = (7.2 + 5.6 * len(columns), max(0.4 * sum(lines) + 1.0, 2.6, *heights))
    figure = Figure(figsize=size, layout="constrained")
    parts = figure.subfigures(1, 1 + len(columns), width_ratios=[7.2, *[5.6] * len(columns)], squeeze=False)[0]
    axes = parts[0].subplots(len(tables), 1, height_ratios=lines, squeeze=False)[:, 0]
    for axis, (_, entries) in zip(axes, tables, strict=True):
        _bars(axis, entries)
    axes[-1].set_xlabel("top-1 accuracy (%); whiskers: 95 % interval")
    _legend(parts[0], [score.name for _, entries in tables for _, score in entries if not isinstance(score, str)])
    for part, groups in zip(parts[1:], columns.values(), strict=True):
        axes = part.subplots(len(groups), 1, height_ratios=[len(g.corruptions) + 2 for g in groups], squeeze=False)
        for axis, group in zip(axes[:, 0], groups, strict=True):
            _heat(axis, group)
    figure.suptitle(f"Robustness card: {card.title}", fontsize=13, x=0.01, ha="left")
    return figure


def _bars(axis: Axes, entries: list[tuple[str, Score | str]]) -> None:
    """A line of the table each, top to bottom."""
    for y, (_, score) in enumerate(entries):
        if isinstance(score, str):
            axis.text(1, y, score, va="center", color=ABSENT, style="italic", fontsize=9)
            continue
        axis.barh(y, 100 * score.top1, height=0.66, color=COLOURS[_kind(score.name)])
        below, above = 100 * (score.top1 - score.low), 100 * (score.high - score.top1)
        axis.errorbar(100 * score.top1, y, xerr=[[below], [above]], color="black", capsize=3.5, lw=1.4, capthick=1.4)
        text = with_interval(score.top1, score.low, score.high)
        axis.text(100 * score.high + 1.2, y, text, va="center", fontsize=9)
    axis.set_yticks(range(len(entries)), [textwrap.fill(name, 36) for name, _ in entries], fontsize=9)
    axis.set(xlim=(0, 136), ylim=(len(entries) - 0.4, -0.6), xticks=range(0, 101, 20))
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", alpha=0.25, lw=0.6)
    axis.set_axisbelow(True)


def _legend(part: SubFigure, names: list[str]) -> None:
    kinds = [kind for kind in COLOURS if kind in map(_kind, names)]
    if len(kinds) > 1:
        handles = [Patch(color=COLOURS[kind], label=kind) for kind in kinds]
        part.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)


def _kind(name: str) -> str:
    if re.search(r"_c(_|$)", name):
        return "corrupted copies"
    own = name.startswith("imagenet_val") or not name.startswith("imagenet_") or name == "imagenet_real"
    return "validation pictures" if own else "other pictures"


def _heat(axis: Axes, group: Corrupted) -> None:
    """Top-1 in per cent of every corruption and severity, and of their mean, on a scale from 0 to 100."""
    values = np.full((len(group.corruptions), len(group.severities) + 1), np.nan)
    for i, corruption in enumerate(group.corruptions):
        for j, severity in enumerate(group.severities):
            if (corruption, severity) in group.rows:
                values[i, j] = 100 * group.rows[corruption, severity]["top1"]
        values[i, -1] = 100 - 100 * error if (error := group.error(corruption)) is not None else np.nan
    image = axis.imshow(np.ma.masked_invalid(values), cmap="cividis", vmin=0, vmax=100, aspect="auto")
    axis.set_facecolor("0.92")
    for (i, j), value in np.ndenumerate(values):
        absent, dark = np.isnan(value), value < 50
        text = (NOT_RUN if j < len(group.severities) else "-") if absent else f"{value:.1f}"
        colour = ABSENT if absent else "white" if dark else "black"
        axis.text(j, i, text, ha="center", va="center", fontsize=6.5 if absent else 8.5, color=colour)
    axis.axvline(len(group.severities) - 0.5, color="white", lw=3)
    axis.set_xticks(range(len(group.severities) + 1), [*map(str, group.severities), "mean"], fontsize=9)
    axis.set_yticks(range(len(group.corruptions)), [name.replace("_", " ") for name in group.corruptions], fontsize=9)
    axis.set_xlabel("severity", fontsize=9)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    mce = f", mCE {100 * group.mce:.1f} %" if group.mce is not None else ""
    axis.set_title(f"{group.label}\ntop-1 (%){mce}", loc="left", fontsize=10, fontweight="bold")
    axis.figure.colorbar(image, ax=axis, fraction=0.04, pad=0.02).ax.tick_params(labelsize=8)
