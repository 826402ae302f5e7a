"""Figure 9: the surrogate gap h over the training steps, a line per α."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

from matplotlib.figure import Figure

from ..matching import Setting
from ..paper_table import Line
from .panels import curves, line_legend, title


def draw(setting: Setting, table: Sequence[Line]) -> Figure:
    """From the telemetry of training, metrics.jsonl."""
    figure = Figure(figsize=(6.5, 4.4), layout="constrained")
    axis = figure.subplots()
    series = {rf"$\alpha$ = {float(line.point.at['optimizer.alpha']):g}": line.point.runs for line in table}
    curves(axis, series, "gap")
    axis.set_ylabel("surrogate gap $h = f_p - f$ (nats)")
    line_legend(figure, list(series), marked=False)
    title(figure, "Influence of α on the surrogate gap h", setting.what() if setting.departs else "")
    return figure


def sentence(table: Sequence[Line]) -> str:
    """The mean gap over the last tenth of the logged steps by α, and whether it falls with α; "" with fewer than two."""
    found = {}
    for line in table:
        gaps = [[row["gap"] for row in run.train if row.get("gap") is not None] for run in line.point.runs]
        ends = [fmean(gap[-max(1, len(gap) // 10) :]) for gap in gaps if gap]
        if ends:
            found[float(line.point.at["optimizer.alpha"])] = fmean(ends)
    if len(found) < 2:
        return ""
    values = [found[alpha] for alpha in sorted(found)]
    falls = all(a > b for a, b in pairwise(values))
    told = ", ".join(f"{found[alpha]:.4f} at α = {alpha:g}" for alpha in sorted(found))
    return (
        f"Gap over the last tenth of training: {told}. It {'falls' if falls else 'does not fall'} with every larger α."
    )
