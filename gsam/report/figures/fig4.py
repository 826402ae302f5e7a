"""Figure 4: top-1, 2h/ρ² and the dominant eigenvalue against α, a line per constant ρ."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from matplotlib.figure import Figure
from scipy.stats import spearmanr

from ..load import Run
from ..matching import Point, Setting
from ..paper_table import Line
from .panels import Value, line_legend, lines, title, value_of

RHO, ALPHA = "optimizer.rho", "optimizer.alpha"


def draw(setting: Setting, table: Sequence[Line]) -> Figure:
    """Three panels from the runs' results and their rows of the analyses sharpness and hessian."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    axes = figure.subplots(1, 3)
    points = [line.point for line in table]
    radii, alphas = (sorted({float(point.at[key]) for point in points}) for key in (RHO, ALPHA))
    first = next(iter(table[0].cells), None)
    tops = {id(line.point): value_of(line.cells[first]) if first else Value() for line in table}
    panels = (
        ("Top-1 accuracy", f"{first or ''} top-1 (%)".strip(), lambda point: tops[id(point)]),
        ("Estimated dominant eigenvalue", r"$2h/\rho^2$", estimated),
        ("Measured dominant eigenvalue", r"$\sigma_{\max}$", eigenvalue),
    )
    for axis, (name, ylabel, of) in zip(axes, panels, strict=True):
        places = {(float(point.at[RHO]), float(point.at[ALPHA])): point for point in points}
        rows = {rho: [of(places[rho, a]) if (rho, a) in places else Value() for a in alphas] for rho in radii}
        lines(axis, alphas, rows)
        axis.set(xlabel=r"$\alpha$", ylabel=ylabel)
        axis.set_title(name, loc="left", fontsize=11, fontweight="bold")
    line_legend(figure, [rf"$\rho$ = {rho:g}" for rho in radii])
    title(figure, "Influence of ρ (constant) and α", setting.what() if setting.departs else "")
    return figure


def estimated(point: Point) -> Value:
    """2h/ρ² at the run's own ρ after one ascent step, over the whole subset (m = null) that has most pictures."""
    return _mean([row["sigma_estimate"] for row in map(sharpness_row, point.runs) if row])


def gradient_share(point: Point) -> float | None:
    """The part of h that the gradient alone explains, ρ‖g‖/h; None where it was not measured."""
    return _mean([row["gradient_share"] for row in map(sharpness_row, point.runs) if row]).mean


def eigenvalue(point: Point) -> Value:
    """σ_max on the subset that has most pictures."""
    return _mean([row["sigma_max"] for row in map(hessian_row, point.runs) if row])


def pictures_of(point: Point) -> str:
    """Of 2h/ρ² and of σ_max: "50,000 / 1,000"."""
    rows = [(sharpness_row(run), hessian_row(run)) for run in point.runs]
    return " / ".join(
        ", ".join(sorted({f"{row['n']:,}" for row in kind if row})) or "-" for kind in zip(*rows, strict=True)
    )


def sharpness_row(run: Run) -> dict | None:
    """The measurement at the run's own ρ; None without one."""
    rho = run.setting(RHO)
    wanted = {"analysis": "sharpness", "ascent": "one_step", "perturb": "l2", "m": None}
    rows = [row for row in run.analyses if all(row.get(key) == value for key, value in wanted.items())]
    rows = [row for row in rows if rho is not None and abs(row["rho"] - rho) <= 1e-9]
    return max(rows, key=_best, default=None)


def hessian_row(run: Run) -> dict | None:
    """With sigma_max; of one without power iteration (hessian.starts=0) it is the largest eigenvalue by Lanczos, which takes a
    fraction of the products. They differ only where the eigenvalue of largest magnitude is negative. None without either."""
    rows = [row for row in run.analyses if row.get("analysis") == "hessian"]
    rows = [{**row, "sigma_max": row["top"][0]} if row.get("sigma_max") is None and row.get("top") else row for row in rows]
    rows = [row for row in rows if row.get("sigma_max") is not None]
    return max(rows, key=_best, default=None)


def _best(row: dict) -> tuple[int, int]:
    """At the last step, then with most pictures."""
    return row.get("step") or 0, row["n"]


def _mean(found: list[float]) -> Value:
    if not found:
        return Value()
    return Value(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None)


def sentence(table: Sequence[Line]) -> str:
    """How the two eigenvalues go together, and what α does at each ρ; "" without measurements."""
    pairs = [(estimated(line.point).mean, eigenvalue(line.point).mean) for line in table]
    pairs = [pair for pair in pairs if None not in pair]
    if len(pairs) < 3:
        return ""
    rank = float(spearmanr(*zip(*pairs, strict=True)).statistic)
    by_rho: dict[float, list[tuple[float, float]]] = {}
    for line in table:
        if (measured := eigenvalue(line.point).mean) is not None:
            by_rho.setdefault(float(line.point.at[RHO]), []).append((float(line.point.at[ALPHA]), measured))
    falls = sum(max(places)[1] < min(places)[1] for places in by_rho.values())
    return (
        f"Over {len(pairs)} settings the rank correlation of 2h/ρ² with the measured σ_max is {rank:+.2f}; from the smallest "
        f"to the largest α, σ_max falls at {falls} of {len(by_rho)} radii."
    )
