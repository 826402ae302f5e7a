"""Lemma 3.3: 2 h / rho^2 against sigma_max as rho -> 0, from the row of `analysis=lemma_3_3`."""

from __future__ import annotations

from matplotlib.figure import Figure

from .theory_style import BLUE, GREEN, ORANGE, RED, plain


def draw(row: dict) -> Figure:
    """Left: the estimate at the minimum and before it. Right: its relative error at the minimum."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    rho, estimate, error = ([line[key] for line in row["rows"]] for key in ("rho", "estimate", "error"))
    left.axhline(
        row["sigma_max"],
        color="black",
        lw=1.2,
        ls="--",
        label=rf"$\sigma_{{max}}$ = {row['sigma_max']:.3f} at the minimum",
    )
    for at, colour, marker in zip(row["before"], (RED, ORANGE, BLUE), "s^v", strict=False):
        label = rf"before it, $\|\nabla f\|$ = {at['grad_norm']:.1e}"
        left.plot(*_columns(at["rows"]), marker=marker, color=colour, label=label, ms=5)
        left.plot(rho, [2 * at["grad_norm"] / r for r in rho], color=colour, lw=1, ls=":")
    left.plot(rho, estimate, "o-", color=GREEN, label=rf"at the minimum, $\|\nabla f\|$ = {row['grad_norm']:.0e}")
    left.plot([], [], color="0.4", lw=1, ls=":", label=r"gradient term alone, $2\|\nabla f\|/\rho$")
    left.set(xscale="log", yscale="log", ylim=(0.3 * row["sigma_max"], None))
    left.legend(frameon=False, fontsize=9)
    plain(left, "The estimate needs a minimum", r"radius $\rho$", r"$2h/\rho^2$")
    right.plot(rho, error, "o-", color=GREEN, label="measured")
    right.plot(rho, [error[0] * r / rho[0] for r in rho], color="0.4", lw=1, ls=":", label=r"proportional to $\rho$")
    right.set(xscale="log", yscale="log")
    right.legend(frameon=False)
    plain(
        right,
        "There the error vanishes with the radius",
        r"radius $\rho$",
        r"$|2h/\rho^2 - \sigma_{max}|\, /\, \sigma_{max}$",
    )
    return figure


def sentence(row: dict) -> str:
    """What was found, and whether it is what the paper says."""
    smallest = min(row["rows"], key=lambda line: line["rho"])
    near = min(row["rows"], key=lambda line: abs(line["rho"] - 0.1))
    holds = smallest["error"] < 1e-3
    text = (
        f"At a minimum of a network with {row['parameters']} weights on {row['pictures']} pictures (‖∇f‖ = "
        f"{row['grad_norm']:.0e}) "
        f"2h/ρ² is {near['estimate']:.3f} at ρ = {near['rho']:.2g} and {smallest['estimate']:.4f} at ρ = "
        f"{smallest['rho']:.2g}, "
        f"against σ_max = {row['sigma_max']:.4f} (relative errors {near['error']:.1%} and "
        f"{smallest['error']:.1e}): the lemma "
        f"{'holds' if holds else 'is NOT confirmed'}."
    )
    for at in row["before"][-1:]:
        line = min(at["rows"], key=lambda line: abs(line["rho"] - 0.01))
        text += (
            f" Where training has not converged (‖∇f‖ = {at['grad_norm']:.1e}) it says {line['estimate']:.3g} "
            f"at ρ = {line['rho']:.2g}, "
            f"with σ_max = {at['sigma_max']:.3g}: {line['gradient_share']:.0%} of h is the gradient term ρ‖∇f‖ there."
        )
    return text


def _columns(rows: list[dict]) -> tuple[list[float], list[float]]:
    return [line["rho"] for line in rows], [line["estimate"] for line in rows]
