"""Figure 8: cos θ between the gradients of f and f_p over the training steps."""

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
    curves(axis, {line.label: line.point.runs for line in table}, "cos")
    axis.set_ylabel(r"$\cos\theta_t$ of $\nabla f$ and $\nabla f_p$")
    axis.set_ylim(top=1.01)
    line_legend(figure, [line.label for line in table], marked=False)
    title(figure, "Angle between the gradients of f and f_p", setting.what() if setting.departs else "")
    return figure
