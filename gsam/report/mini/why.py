"""GSAM against SAM on the miniatures: every ρ and α of the ViT beside SAM, what the ascent step did to sharpness, and on which
corruptions the methods differ."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gsam.catalogue import expected, places

from ..figures.fig9 import last_part
from ..page import Grid, Heading, Text
from ..stats import t_interval
from ..tables import NOT_RUN
from .claims import ALPHA, ASCENT, MODELS, RHO, TABLE1, Claim, difference
from .measured import Measured, Values

RHO_MAX = f"{RHO}_max"
SAM = "mini/table1/vit_sam"
EXPERIMENTS = (SAM, "mini/fig7/sam_rho", "mini/fig4", "mini/table6/constant_ascent",
               "mini/table1/vit_gsam", "mini/table6/decayed", "mini/fig7/gsam_rho", "mini/fig9")  # fmt: skip
LIGHT = ("brightness", "contrast", "fog", "frost", "snow")
PAIRS = {"SAM - vanilla, 80 epochs": ("sam", "vanilla_80"), "GSAM - vanilla, 80 epochs": ("gsam", "vanilla_80"),
         "GSAM - SAM": ("gsam", "sam")}  # fmt: skip


def why(found: Measured, lines: Sequence[Claim]) -> list:
    """Two sections: the comparisons of Table 1 counted, a row per ρ and α, and the claims on what α does; and the corruptions
    in two groups."""
    pairs = [claim for claim in lines if claim.topic == TABLE1 and claim.says.startswith("GSAM is above SAM")]
    above = sum(claim.verdict == "supported" for claim in pairs)
    text = (
        f"{'GSAM is above SAM in part' if above else 'GSAM does not beat SAM here'}: of {len(pairs)} comparisons (three "
        f"networks, test and corrupted pictures) {above} are supported. Is it the choice of ρ and α? These are all of SAM and "
        "GSAM that the ViT was trained with outside the search, less SAM at the radius of its search with the same seeds. A "
        "radius that is not constant falls from ρ_max to 0.02. GSAM with a constant ρ and α = 0 is SAM, bit for bit. h is the "
        "surrogate gap of a batch, the mean over the last tenth of training; it grows with ρ, so compare it between rows of "
        "one radius."
    )
    rows = [_row(label, found, those) for label, those in _settings().items()]
    ascent = [claim for claim in lines if claim.topic == ASCENT]
    said = [f"{claim.says}: {claim.verdict} ({claim.number}: {claim.told})" for claim in ascent]
    return [
        Heading("GSAM against SAM"),
        Text([text]),
        Grid(["ViT", "seeds", "test", "less SAM", "h"], rows),
        Text(said, bullets=True),
        *_conclusion(ascent),
        *_corruptions(found),
    ]


def _conclusion(ascent: Sequence[Claim]) -> list:
    """Of the claims on what a larger α does, where they agree on the reason."""
    higher = [claim for claim in ascent if "top-1" in claim.says]
    flatter = [claim for claim in ascent if claim not in higher]
    if not all(claim.verdict == "supported" for claim in flatter) or any(claim.verdict == "supported" for claim in higher):
        return []
    return [Text(["So the ascent step makes the minima of the ViT flatter, as it should; top-1 is not seen to rise by it."])]


def _settings() -> dict[str, list[tuple[str, dict]]]:
    """Label -> the (experiment, place) that have this setting, by method, radius and α."""
    found: dict[tuple, list[tuple[str, dict]]] = {}
    for experiment in EXPERIMENTS:
        own = expected(experiment)
        for at in places(experiment):
            rho, rho_max, alpha = (at.get(key, own.get(key)) or 0.0 for key in (RHO, RHO_MAX, ALPHA))
            if rho_max:
                setting = (2, rho_max, alpha, f"GSAM, ρ_max = {rho_max}, α = {alpha}")
            elif alpha:
                setting = (1, rho, alpha, f"GSAM, constant ρ = {rho}, α = {alpha}")
            else:
                setting = (0, rho, alpha, f"SAM, constant ρ = {rho}")
            found.setdefault(setting, []).append((experiment, at))
    return {setting[-1]: found[setting] for setting in sorted(found)}


def _row(label: str, found: Measured, those: Sequence[tuple[str, dict]]) -> list[str]:
    """Of a seed that two experiments have, the runs are the same."""
    top1, gap = {}, {}
    for experiment, at in those:
        top1 |= found.top1(experiment, at)
        gap |= found.logged(experiment, "gap", last_part, at)
    less = "-" if (SAM, {}) in those else _told(difference(top1, found.top1(SAM)), "+.2f")
    return [label, str(len(top1)) if top1 else NOT_RUN, _told(top1), less, _told(gap, ".4f")]


def _corruptions(found: Measured) -> list:
    """Differences of Table 1 on the corruptions of brightness and contrast, and on the others."""
    others = {row["corruption"] for run in found.runs(SAM) for row in run.results if row.get("corruption")} - set(LIGHT)

    def differ(model: str, methods: Sequence[str], group: Collection[str]) -> str:
        return _told(difference(*(found.corrupted(f"mini/table1/{model}_{name}", group) for name in methods)), "+.2f")

    rows = [
        [f"{name}: {pair}", differ(model, methods, LIGHT), differ(model, methods, others)]
        for model, name in MODELS.items()
        for pair, methods in PAIRS.items()
    ]
    text = (
        f"Looked at after the results were known, so no claim: {', '.join(LIGHT[:-1])} and {LIGHT[-1]} change the light of a "
        "picture, which training never does: there seeds differ by many points, and the interval of the mean over all 15 is "
        "mostly theirs. On the other ten intervals are narrower."
    )
    return [Heading("Corruptions of light and others"), Text([text]), Grid(["points of top-1", "light", "others"], rows)]


def _told(values: Values, how: str = ".2f") -> str:
    return told([*values.values()], how)


def told(values: Sequence[float], how: str = ".2f") -> str:
    """The mean ± half of its 95 % interval; how: a format of numbers."""
    if len(values) < 2:
        return format(values[0], how) if values else NOT_RUN
    mean, low, _ = t_interval(values)
    return f"{mean:{how}} ± {mean - low:{how.lstrip('+')}}"
