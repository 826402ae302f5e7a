"""Figure 9: the surrogate gap h over the training steps, a line per α."""

from __future__ import annotations

from collections.abc import Sequence

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
