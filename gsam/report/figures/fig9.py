"""Figure 9: the surrogate gap h over the training steps, a line per α."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

from matplotlib.figure import Figure

from ..matching import Setting
from ..paper_table import Line
from .panels import curves, line_legend, logged, title


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
    """The mean gap over the last tenth of the logged steps by α, whether it falls with α, and whether it is above that of the
    second tenth, after the warm-up; "" with fewer than two α."""
    first, last = {}, {}
    for line in table:
        gaps, _ = logged(line.point.runs, "gap")
        if gaps:
            alpha = float(line.point.at["optimizer.alpha"])
            first[alpha], last[alpha] = fmean(map(first_part, gaps)), fmean(map(last_part, gaps))
    _, lost = logged([run for line in table for run in line.point.runs], "gap")
    if len(last) < 2:
        return lost.strip()
    falls = all(a > b for a, b in pairwise(last[alpha] for alpha in sorted(last)))
    grows = sum(last[alpha] > first[alpha] for alpha in last)
    told = ", ".join(f"{last[alpha]:.4f} at α = {alpha:g}" for alpha in sorted(last))
    return (
        f"Gap over the last tenth of training: {told}. It {'falls' if falls else 'does not fall'} with every larger α, and is "
        f"larger than over the second tenth at {grows} of {len(last)} α.{lost}"
    )


def first_part(values: Sequence[float]) -> float:
    """The mean over the second tenth of a log: after the warm-up."""
    tenth = max(1, len(values) // 10)
    return fmean(values[tenth : 2 * tenth] or values)


def last_part(values: Sequence[float]) -> float:
    """The mean over the last tenth of a log."""
    return fmean(values[-max(1, len(values) // 10) :])
