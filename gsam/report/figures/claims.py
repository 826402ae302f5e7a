"""The miniatures' headline: top-1 of three methods on three models, and the differences that the paper claims."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..mini.claims import EQUAL, MODELS, TABLE1, Claim
from ..mini.measured import CORRUPTED, TEST, Measured
from ..stats import t_interval
from .panels import COLOURS, MARKERS, nothing, title

METHODS = {"vanilla": "vanilla", "vanilla_80": "vanilla, twice the epochs", "sam": "SAM", "gsam": "GSAM"}
PLACES = {"vanilla": 0, "vanilla_80": 4, "sam": 1, "gsam": 2}
VERDICTS = {"supported": ("black", "o"), "not supported": ("#D55E00", "s"), "undecided": ("0.6", "D")}


def draw(found: Measured, lines: Sequence[Claim]) -> Figure:
    """Left: a dot per method and model with its 95 % interval and every seed, clean and corrupted test pictures. Right: the
    differences of Table 1's claims, paired over seeds."""
    shown = [claim for claim in lines if claim.topic == TABLE1]
    figure = Figure(figsize=(13, 1.8 + 0.27 * len(shown)), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.15])
    for axis, evalset, name in ((left, TEST, "Test pictures"), (middle, CORRUPTED, "Corrupted test pictures")):
        _methods(axis, found, evalset)
        axis.set_title(name, loc="left", fontsize=11, fontweight="bold")
        axis.set_ylabel("top-1 (%)")
    _differences(right, shown)
    right.set_title("Differences, paired over seeds", loc="left", fontsize=11, fontweight="bold")
    handles = [
        Line2D([], [], color=COLOURS[PLACES[key]], marker=MARKERS[PLACES[key]], ls="none", label=name)
        for key, name in METHODS.items()
    ]
    handles += [Line2D([], [], color=c, marker=m, ls="none", label=name) for name, (c, m) in VERDICTS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=7, frameon=False, fontsize=9)
    title(figure, "5,000 pictures of Fashion-MNIST, 40 epochs; whiskers: 95 % intervals over seeds")
    return figure


def _methods(axis: Axes, found: Measured, evalset: str) -> None:
    for number, model in enumerate(MODELS):
        for at, method in enumerate(METHODS):
            values = list(found.top1(f"mini/table1/{model}_{method}", evalset=evalset).values())
            if not values:
                continue
            x, place = number + 0.2 * (at - 1.5), PLACES[method]
            axis.plot([x] * len(values), values, color=COLOURS[place], marker=".", ms=3, ls="none", alpha=0.6)
            if len(values) > 1:
                mean, low, _ = t_interval(values)
                axis.errorbar(x, mean, yerr=mean - low, color=COLOURS[place], marker=MARKERS[place], ms=6, capsize=3)
    axis.set_xticks(range(len(MODELS)), MODELS.values())
    axis.set_xlim(-0.5, len(MODELS) - 0.5)
    axis.grid(axis="y", alpha=0.25, lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    if not axis.lines:
        nothing(axis)


def _differences(axis: Axes, claims: Sequence[Claim]) -> None:
    for y, claim in enumerate(claims):
        if (interval := claim.interval) is not None:
            mean, low, high = interval
            colour, marker = VERDICTS[claim.verdict]
            axis.errorbar(mean, y, xerr=[[mean - low], [high - mean]], color=colour, marker=marker, ms=5, capsize=3)
    axis.axvline(0, color="black", lw=0.8)
    axis.set_yticks(range(len(claims)), [_short(claim) for claim in claims], fontsize=8)
    axis.set(ylim=(len(claims) - 0.4, -0.6), xlabel="points of top-1")
    axis.grid(axis="x", alpha=0.25, lw=0.6)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _short(claim: Claim) -> str:
    """ "GSAM - SAM: ViT, test pictures"."""
    says, _, which = claim.says.partition(": ")
    a, _, b = says.removesuffix(f" {EQUAL}").partition(" is above ")
    return f"{a} − {b}{' (equal cost)' if says.endswith(EQUAL) else ''}: {which.removesuffix(' pictures')}"
