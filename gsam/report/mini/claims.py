"""The paper's claims, each as one number per seed with an interval, and what the miniatures say of it.

Every number is a difference between two runs of one seed (or something else that the claim says to be positive), so the rule
is one: supported if its 95 % interval lies above 0, not supported if it lies below, undecided if it holds 0. Of a claim that
two things are similar the interval is held against ±SIMILAR instead.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from gsam.catalogue import places

from ..figures.fig9 import first_part, last_part
from ..stats import t_interval
from ..tables import NOT_RUN
from .measured import CORRUPTED, TEST, Measured, Values

SIMILAR = 0.5  # points of top-1 within which "similarly" holds; this project's choice
RULE = (
    "Supported: the 95 % interval (paired t over seeds) lies above 0; not supported: below 0; undecided: it holds 0, or fewer "
    f'than two seeds ran. Where the claim is "similarly": supported if the interval lies within ±{SIMILAR} points (a margin '
    "chosen here), not supported if outside. Where it is about the best of several settings, the best is chosen on the "
    "pictures that are reported, by the seeds that all of them have; where about every one, the one with the lowest interval "
    "counts"
)
MODELS = {"resnet": "ResNet", "vit": "ViT", "mixer": "Mixer"}
EQUAL, HALF = "at equal gradient evaluations", "with half of its gradient evaluations"
TABLE1, ASCENT = "table 1", "ascent"  # topics
ALPHA, RHO, LAMBDA = "optimizer.alpha", "optimizer.rho", "optimizer.lam"


@dataclass(frozen=True)
class Claim:
    """One line. values: seed -> what the claim says to be positive; within: it says that |values| is below this."""

    says: str
    where: str
    """in the paper"""
    number: str
    """what `values` are, with their unit"""
    values: Values
    within: float | None = None
    topic: str = ""
    """what shows it elsewhere on the page: TABLE1 or ASCENT"""

    @property
    def interval(self) -> tuple[float, float, float] | None:
        """(mean, low, high); None of fewer than two seeds."""
        return t_interval(list(self.values.values())) if len(self.values) > 1 else None

    @property
    def told(self) -> str:
        """ "+0.12 [-0.05, +0.29]" """
        if not self.values:
            return NOT_RUN
        how = "+.2f" if self.number.startswith("points") else "+.3g"
        if self.interval is None:
            return f"{next(iter(self.values.values())):{how}} (one seed)"
        mean, low, high = self.interval
        return f"{mean:{how}} [{low:{how}}, {high:{how}}]"

    @property
    def verdict(self) -> str:
        if not self.values:
            return NOT_RUN
        if self.interval is None:
            return "undecided"
        _, low, high = self.interval
        if self.within is not None:
            low, high = self.within - max(abs(low), abs(high)), self.within - _nearest_to_zero(low, high)
        return "supported" if low > 0 else "not supported" if high < 0 else "undecided"


def _nearest_to_zero(low: float, high: float) -> float:
    return 0.0 if low <= 0 <= high else min(abs(low), abs(high))


def difference(a: Values, b: Values) -> Values:
    """a - b of the seeds that both have."""
    return {seed: a[seed] - b[seed] for seed in a if seed in b}


def claims(found: Measured) -> list[Claim]:
    """Every claim that is looked at, in the paper's order, whether its runs are there or not."""
    return [*_table1(found), *_others(found), *_figures(found)]


def _table1(found: Measured) -> Iterator[Claim]:
    def top1(name: str, evalset: str) -> Values:
        return found.top1(f"mini/table1/{name}", evalset=evalset)

    pairs = (
        (f"SAM is above vanilla {EQUAL}", "sam", "vanilla_80"),
        ("GSAM is above SAM", "gsam", "sam"),
        (f"GSAM is above vanilla {EQUAL}", "gsam", "vanilla_80"),
    )
    for says, a, b in pairs:
        for model, name in MODELS.items():
            for evalset, pictures in ((TEST, "test"), (CORRUPTED, "corrupted")):
                values = difference(top1(f"{model}_{a}", evalset), top1(f"{model}_{b}", evalset))
                yield Claim(f"{says}: {name}, {pictures} pictures", "Table 1", "points of top-1", values, topic=TABLE1)


def _others(found: Measured) -> Iterator[Claim]:
    def of(name: str, at: dict | None = None) -> Values:
        return found.top1(f"mini/{name}", at)

    gsam, points = of("table1/vit_gsam"), "points of top-1"
    lambdas = {0.0: of("table6/decayed")}
    lambdas |= {at[LAMBDA]: of("table2/weighted", at) for at in places("mini/table2/weighted")}
    best = _best([*lambdas.values()])
    told = next((f" = {value:g}" for value, values in lambdas.items() if values is best), "")
    yield Claim(f"GSAM is above min(f_p + λh) at its best λ{told}", "Table 2", points, difference(gsam, best))
    ascent, constant, decayed = of("table6/constant_ascent"), of("table1/vit_sam"), of("table6/decayed")
    yield Claim("the ascent step helps at a constant ρ", "Table 6", points, difference(ascent, constant))
    yield Claim("the ascent step helps at a decayed ρ", "Table 6", points, difference(gsam, decayed))
    mixer, entropy, asam = of("table1/mixer_gsam"), of("fig5/mixer_entropy_sgd"), of("fig5/mixer_asam_ascent")
    yield Claim("the ascent step helps SAM", "Figure 5", points, difference(mixer, of("table1/mixer_sam")))
    yield Claim("the ascent step helps ASAM", "Figure 5", points, difference(asam, of("fig5/mixer_asam")))
    yield Claim("SAM with ascent is above Entropy-SGD", "Figure 5", points, difference(mixer, entropy))
    yield Claim("ASAM with ascent is above Entropy-SGD", "Figure 5", points, difference(asam, entropy))
    vanilla, longer = of("table1/mixer_vanilla"), of("table1/mixer_vanilla_80")
    yield Claim(f"SAM with ascent is above vanilla {HALF}", "Figure 5", points, difference(mixer, vanilla))
    yield Claim(f"ASAM with ascent is above vanilla {HALF}", "Figure 5", points, difference(asam, vanilla))
    yield Claim(f"ASAM with ascent is above vanilla {EQUAL}", "Figure 5", points, difference(asam, longer))
    yield Claim(f"min(f, h) does similarly to min(f_p, h): within {SIMILAR} points", "Figure 6", points,
                difference(gsam, of("fig6/min_f_h")), within=SIMILAR)  # fmt: skip
    sam, ours = (
        _best(_all(found, name, grid)) for name, grid in (("vit_sam", "fig7/sam_rho"), ("vit_gsam", "fig7/gsam_rho"))
    )
    yield Claim("no radius brings SAM to GSAM (each at its best ρ)", "Figure 7", points, difference(ours, sam))
    beside = {"SAM": "vit_sam", f"vanilla {HALF}": "vit_vanilla", f"vanilla {EQUAL}": "vit_vanilla_80"}
    for name, other in beside.items():
        alphas = [difference(values, of(f"table1/{other}")) for values in _all(found, "vit_gsam", "fig9")]
        yield Claim(f"GSAM is above {name} at every α (the worst α)", "Figure 7", points, _worst(alphas))


def _all(found: Measured, name: str, grid: str) -> list[Values]:
    """Top-1 of a run of Table 1 and at the other places of its axis."""
    return [found.top1(f"mini/table1/{name}"),
            *(found.top1(f"mini/{grid}", at) for at in places(f"mini/{grid}"))]  # fmt: skip


def _best(those: list[Values]) -> Values:
    """Those with the largest mean over the seeds that all places have: means over other seeds are of other luck. None while a
    place has not run: it could be the best."""
    shared = set.intersection(*(set(values) for values in those))
    return max(those, key=lambda values: statistics.fmean(values[seed] for seed in shared)) if shared else {}


def _worst(those: list[Values]) -> Values:
    """Those whose interval begins lowest; none while a place has fewer than two seeds."""
    whole = all(len(values) > 1 for values in those)
    return min(those, key=lambda values: t_interval([*values.values()])[1]) if whole else {}


def _figures(found: Measured) -> Iterator[Claim]:
    """Of curvature and of the log of training."""
    grid = places("mini/fig4")
    radii, alphas = sorted({at[RHO] for at in grid}), sorted({at[ALPHA] for at in grid})
    ends = [({RHO: rho, ALPHA: alphas[0]}, {RHO: rho, ALPHA: alphas[-1]}) for rho in radii]
    falls = [_share(found.sigma_max("mini/fig4", a), found.sigma_max("mini/fig4", b)) for a, b in ends]
    yield Claim("a larger α gives a smaller dominant eigenvalue at a fixed ρ", "Figure 4",
                "fall of σ_max from the smallest to the largest α, %, mean over ρ", _mean(falls), topic=ASCENT)  # fmt: skip
    rises = [difference(found.top1("mini/fig4", b), found.top1("mini/fig4", a)) for a, b in ends]
    yield Claim("a larger α gives a higher top-1 at a fixed ρ", "Figure 4", "points from the smallest to the largest α",
                _mean(rises), topic=ASCENT)  # fmt: skip
    yield Claim("2h/ρ² and the dominant eigenvalue fall alike", "Figure 4", "their rank correlation over the grid",
                _correlation(found, grid))  # fmt: skip
    least = found.logged("mini/table1/vit_gsam", "cos", min)
    yield Claim("cos θ stays above 0.9", "Figure 8", "its smallest logged value, a mean over 50 steps, - 0.9",
                {seed: value - 0.9 for seed, value in least.items()})  # fmt: skip
    by_alpha = places("mini/fig9")
    without = found.logged("mini/table6/decayed", "gap", last_part)
    most = found.logged("mini/fig9", "gap", last_part, by_alpha[-1])
    yield Claim("h at the largest α is smaller than at α = 0", "Figure 9", "fall of h at the end, %", _share(without, most),
                topic=ASCENT)  # fmt: skip
    runs = [("mini/table6/decayed", None), ("mini/table1/vit_gsam", None), *(("mini/fig9", at) for at in by_alpha)]

    def growth(name: str, at: dict | None = None) -> Values:
        return difference(*(found.logged(name, "gap", part, at) for part in (last_part, first_part)))

    says, number = "h grows during training", "h at the end - h after the warm-up"
    yield Claim(f"{says} at every α (the worst α)", "Figure 9", number, _worst([growth(*run) for run in runs]))
    yield Claim(f"{says} at a constant ρ (SAM)", "Figure 9", number, growth("mini/table1/vit_sam"))


def _share(before: Values, after: Values) -> Values:
    """By how many per cent of `before` a number has fallen."""
    return {seed: 100 * (before[seed] - after[seed]) / before[seed] for seed in before if seed in after}


def _mean(parts: list[Values]) -> Values:
    """Per seed over the parts; of the seeds that all have."""
    seeds = set.intersection(*(set(part) for part in parts)) if parts else set()
    return {seed: statistics.fmean(part[seed] for part in parts) for seed in sorted(seeds)}


def _correlation(found: Measured, grid: list[dict]) -> Values:
    from scipy.stats import spearmanr

    pairs: dict[int, list[tuple[float, float]]] = {}
    for at in grid:
        one, other = found.estimate("mini/fig4", at), found.sigma_max("mini/fig4", at)
        for seed in one.keys() & other.keys():
            pairs.setdefault(seed, []).append((one[seed], other[seed]))
    return {
        seed: float(spearmanr(*zip(*of_seed, strict=True)).statistic)
        for seed, of_seed in pairs.items()
        if len(of_seed) == len(grid)
    }
