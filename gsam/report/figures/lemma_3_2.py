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
        "$h$ over its first-order value",
        r"radius $\rho$",
        r"$h\, /\, (\rho\,\|\nabla f\|)$, median and range",
    )
    right.set_xscale("log")
    right.set_ylim(-2, None)
    plain(right, "Where $h$ is negative", r"radius $\rho$", "points with $h < 0$ (%)")
    return figure


def sentence(row: dict) -> str:
    """What was found, and whether it is what the paper says: that h is nowhere negative at the smallest tested radius."""
    parts, small, large = [], True, []
    for name, (label, *_) in NAMES.items():
        rows, points = sorted(row[name]["rows"], key=lambda line: line["rho"]), row[name]["points"]
        parts.append(f"{label} ({points} points): {_signs(rows)}")
        small &= not rows[0]["negative"]
        large += [label] if any(line["negative"] for line in rows[1:]) else []
    first = min(row["network"]["rows"], key=lambda line: line["rho"])
    verdict = "holds at every point there, as the lemma says" if small else "does NOT hold there, NOT as the lemma says"
    if small:
        verdict += (
            f"; it holds only for small ρ on the {' and the '.join(large)}" if large else ", and at all radii tested"
        )
    return (
        f"{'; '.join(parts)}. At the smallest radius, ρ = {first['rho']:.0e}, h/(ρ‖∇f‖) lies between {first['low']:.4f} and "
        f"{first['high']:.4f} on the network: h ≥ 0 {verdict}."
    )


def _signs(rows: list[dict]) -> str:
    """At which of the tested radii, in rising order, h is negative."""
    negative = [line for line in rows if line["negative"]]
    if not negative:
        return f"h is negative at no point, at tested radii up to ρ = {rows[-1]['rho']:.3g}"
    worst, below = max(negative, key=lambda line: line["negative"]), [r for r in rows if r["rho"] < negative[0]["rho"]]
    start = (
        f"at no point at tested radii up to ρ = {below[-1]['rho']:.3g}"
        if below
        else "already at the smallest tested radius"
    )
    return f"h is negative {start}, and at {worst['negative']} of them at ρ = {worst['rho']:.3g}"
