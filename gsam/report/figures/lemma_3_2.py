"""Lemma 3.2: the sign of h at small and at large radius, from the row of `analysis=lemma_3_2`."""

from __future__ import annotations

from matplotlib.figure import Figure

from .theory_style import BLUE, ORANGE, plain

NAMES = {"network": ("small network", BLUE, "o"), "surface": ("surface of Figure 3", ORANGE, "s")}


def draw(row: dict) -> Figure:
    """Left: h over its first-order value. Right: the share of points at which h is negative."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, (label, colour, marker) in NAMES.items():
        found = row[name]
        rho, low, median, high = ([line[key] for line in found["rows"]] for key in ("rho", "low", "median", "high"))
        left.fill_between(rho, low, high, color=colour, alpha=0.22, lw=0)
        left.plot(rho, median, marker=marker, color=colour, label=f"{label}, {found['points']} points")
        share = [100 * line["negative"] / found["points"] for line in found["rows"]]
        right.plot(rho, share, marker=marker, color=colour, label=label)
    left.axhline(0, color="black", lw=1)
    left.axhline(1, color="0.5", lw=1, ls="--")
    left.set_xscale("log")
    left.set_yscale("symlog", linthresh=1)
    left.set_yticks([-100, -10, -1, 0, 1, 10, 100], ["−100", "−10", "−1", "0", "1", "10", "100"])
    left.legend(frameon=False, loc="upper left")
    plain(
        left,
        "Small radius: $h$ is the first-order value",
        r"radius $\rho$",
        r"$h\, /\, (\rho\,\|\nabla f\|)$, median and range",
    )
    right.set_xscale("log")
    right.set_ylim(-2, None)
    plain(right, "Large radius: $h$ can be negative", r"radius $\rho$", "points with $h < 0$ (%)")
    return figure


def sentence(row: dict) -> str:
    """What was found, and whether it is what the paper says."""
    parts = []
    for name, (label, *_) in NAMES.items():
        rows, points = row[name]["rows"], row[name]["points"]
        negative = [line["rho"] for line in rows if line["negative"]]
        worst = max(rows, key=lambda line: line["negative"])
        text = (
            f"h is negative nowhere up to ρ = {rows[-1]['rho']:.3g}"
            if not negative
            else f"h is negative at no point below ρ = {min(negative):.3g}, and at {worst['negative']} of them at ρ = "
            f"{worst['rho']:.3g}"
        )
        parts.append(f"{label} ({points} points): {text}")
    first = row["network"]["rows"][0]
    return (
        f"{'; '.join(parts)}. At the smallest radius, ρ = {first['rho']:.0e}, h/(ρ‖∇f‖) lies between "
        f"{first['low']:.4f} and "
        f"{first['high']:.4f} on the network: h ≥ 0 holds for small ρ, as the lemma says, and only for small ρ."
    )
