"""Theorem 5.1: mean squared gradients of f and f_p over T steps of GSAM, from the row of `analysis=theorem_5_1`."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from .theory_style import BLUE, RED, plain

KEYS = {"f": (r"$\|\nabla f\|^2$", BLUE, "o"), "fp": (r"$\|\nabla f_p\|^2$", RED, "s")}


def draw(row: dict) -> Figure:
    """Left: means up to T with the bound of the proof. Right: the same over log T / sqrt(T): bounded if the "
    "rate holds."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = np.array(row["series"]["T"])
    for key, (label, colour, marker) in KEYS.items():
        seeds = np.array(row["series"][key])
        mean, spread = seeds.mean(0), seeds.std(0)
        left.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.22, lw=0)
        left.plot(steps, mean, marker=marker, ms=3.5, color=colour, label=f"mean of {label}")
        left.plot(
            steps, row["series"][f"bound_{key}"], color=colour, ls="--", lw=1.4, label=f"bound of the proof, {label}"
        )
        late = steps >= 10
        right.plot(steps[late], mean[late] / rate(steps[late]), marker=marker, ms=3.5, color=colour, label=label)
    left.plot(
        steps[1:],
        seeds.mean(0)[-1] * rate(steps[1:]) / rate(steps[-1]),
        color="0.3",
        lw=1,
        ls=":",
        label=r"shape of $\log T/\sqrt{T}$",
    )
    left.set(xscale="log", yscale="log")
    left.set_ylim(row["series"]["f"][0][-1] / 30, None)
    left.legend(frameon=False, fontsize=8.5, loc="lower left")
    plain(left, f"GSAM, {len(seeds)} seeds", "steps $T$", "mean over the first $T$ steps")
    right.set(xscale="log", ylim=(0, None))
    right.legend(frameon=False)
    plain(right, "The rate holds if this does not grow", "steps $T$", r"mean $\times\ \sqrt{T}\, /\, \log T$")
    return figure


def rate(steps: np.ndarray) -> np.ndarray:
    """log T / sqrt(T)"""
    return np.log(steps) / np.sqrt(steps)


def sentence(row: dict) -> str:
    """What was found, and whether it is what the paper says."""
    steps, parts, holds = np.array(row["series"]["T"]), [], True
    middle = int(np.searchsorted(steps, steps[-1] ** 0.75))
    for key, name in (("f", "‖∇f‖²"), ("fp", "‖∇f_p‖²")):
        mean, bound = np.mean(row["series"][key], axis=0), np.array(row["series"][f"bound_{key}"])
        scaled = mean / np.maximum(rate(steps), 1e-12)
        slope = np.log(mean[-1] / mean[middle]) / np.log(steps[-1] / steps[middle])
        expected = np.log(rate(steps[-1]) / rate(steps[middle])) / np.log(steps[-1] / steps[middle])
        holds &= bool((mean <= bound).all() and scaled[-1] <= scaled[middle] * 1.02)
        parts.append(
            f"the mean of {name} falls to {mean[-1]:.2e} at T = {steps[-1]:,}, like T^{slope:.2f} over the last part "
            f"(log T/√T: T^{expected:.2f}), {bound[-1] / mean[-1]:,.0f} times below the proof's bound"
        )
    constants = row["constants"]
    return (
        f"{'; '.join(parts)}. Over {len(row['series']['f'])} seeds the rate "
        f"{'holds' if holds else 'is NOT confirmed'}. (Constants measured "
        f"on the way: L = {constants['L']:.2f}, G = {constants['G']:.2f}; L is the largest curvature seen, so "
        f"a lower bound of the "
        "theorem's.)"
    )
