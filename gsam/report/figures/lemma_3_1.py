"""Lemma 3.1 on minima of a real network, from the row of `analysis=lemma_3_1`."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .theory_style import GREEN, RED, plain


def draw(row: dict) -> Figure:
    """f_p and h of every minimum against its sigma_max; a dotted line joins pairs in which the lower one is sharper."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _pairs(left, row, "fp", RED, "s")
    plain(
        left,
        f"$f_p$: {row['against_fp']} of {row['pairs']} pairs against sharpness",
        r"$\sigma_{max}$",
        "perturbed loss $f_p$",
    )
    _pairs(right, row, "gap", GREEN, "o")
    plain(
        right,
        f"$h$: {row['against_gap']} of {row['pairs']} pairs against sharpness",
        r"$\sigma_{max}$",
        "surrogate gap $h$",
    )
    return figure


def sentence(row: dict) -> str:
    """What was found, and whether it is what the paper says."""
    holds = row["against_fp"] > 0
    better = row["against_gap"] < row["against_fp"]
    return (
        f"Of {row['pairs']} pairs among {len(row['minima'])} minima of a network with {row['parameters']} "
        f"weights (ρ = {row['rho']:g}), "
        f"{row['against_fp']} have the lower f_p at the sharper minimum, so a lower f_p "
        f"{'does not imply' if holds else 'implied here'} "
        f"a lower σ_max; for h there are {row['against_gap']}: the gap is "
        f"{'the better' if better else 'NOT the better'} measure."
    )


def _pairs(axis: Axes, row: dict, key: str, colour: str, marker: str) -> None:
    minima = row["minima"]
    for i, a in enumerate(minima):
        for b in minima[:i]:
            if (a[key] - b[key]) * (a["sigma_max"] - b["sigma_max"]) < 0:
                axis.plot([a["sigma_max"], b["sigma_max"]], [a[key], b[key]], color="0.6", lw=0.8, ls=":")
    axis.plot([m["sigma_max"] for m in minima], [m[key] for m in minima], marker, color=colour, ms=7)
