"""Figure 8: cos θ between the gradients of f and f_p over the training steps."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ..matching import Setting
from ..paper_table import Line
from .panels import curves, line_legend, logged, title


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


def sentence(table: Sequence[Line]) -> str:
    """The range of cos θ over the logged steps; "" without telemetry."""
    found, lost = logged([run for line in table for run in line.point.runs], "cos")
    values = [value for of_run in found for value in of_run]
    if not values:
        return lost.strip()
    share = sum(value > 0.9 for value in values) / len(values)
    return f"cos θ is between {min(values):.3f} and {max(values):.3f}, and above 0.9 at {share:.0%} of the logged steps.{lost}"
