"""GSAM against SAM on the miniatures: every ρ and α of the ViT beside SAM, and what the ascent step did to sharpness."""

from __future__ import annotations

from collections.abc import Sequence

from gsam.catalogue import expected, places

from ..page import Grid, Heading, Text
from ..stats import t_interval
from ..tables import NOT_RUN
from .claims import ALPHA, RHO, Claim, difference
from .measured import Measured, last_part

RHO_MAX = f"{RHO}_max"
SAM = "mini/table1/vit_sam"
PLACES = {
    "SAM, constant ρ = {rho}": (SAM, "mini/fig7/sam_rho"),
    "GSAM, constant ρ = {rho}, α = {alpha}": ("mini/fig4",),
    "GSAM, ρ_max = {rho_max}, α = {alpha}": (
        "mini/table1/vit_gsam", "mini/table6/decayed", "mini/fig7/gsam_rho", "mini/fig9"
    ),
}  # fmt: skip
"""label of a row -> the experiments that it stands for"""
SHARPNESS = ("the larger α, the smaller h", "a larger α gives a smaller dominant eigenvalue", "a larger α gives a higher")


def why(found: Measured, lines: Sequence[Claim]) -> list:
    """A section: the comparisons of Table 1 counted, a row per setting, and the claims on what α does."""
    pairs = [claim for claim in lines if claim.says.startswith("GSAM is above SAM: ")]
    above = sum(claim.verdict == "supported" for claim in pairs)
    text = (
        f"{'GSAM is above SAM in part' if above else 'GSAM does not beat SAM here'}: of {len(pairs)} comparisons (three "
        f"networks, test and corrupted pictures) {above} are supported. Is it the choice of ρ and α? These are all that "
        "the ViT was trained with, less SAM at the radius of its search with the same seeds. A radius that is not "
        "constant falls from ρ_max to 0.02; α = 0 is SAM. h is the surrogate gap of a batch, the mean over the last tenth "
        "of training; it grows with ρ, so compare it between rows of one radius."
    )
    rows = [_row(label, found, experiment, at) for label, experiment, at in _settings()]
    said = [
        f"{claim.says}: {claim.verdict} ({claim.number}: {claim.told})"
        for start in SHARPNESS
        for claim in lines
        if claim.says.startswith(start)
    ]
    return [
        Heading("GSAM against SAM"),
        Text([text]),
        Grid(["ViT", "seeds", "test", "less SAM", "h"], rows),
        Text(said, bullets=True),
    ]


def _settings() -> list[tuple[str, str, dict]]:
    """(label, experiment, place) by method, radius and α."""
    out = []
    for label, experiments in PLACES.items():
        keys = [key for key in (RHO, RHO_MAX, ALPHA) if f"{{{key.partition('.')[2]}}}" in label]
        rows = []
        for experiment in experiments:
            own = expected(experiment)
            for at in places(experiment):
                place = {key: at.get(key, own.get(key, 0.0)) for key in keys}
                told = {key.partition(".")[2]: value for key, value in place.items()}
                rows.append((tuple(place.values()), label.format(**told), experiment, at))
        out += [row[1:] for row in sorted(rows, key=lambda row: row[0])]
    return out


def _row(label: str, found: Measured, experiment: str, at: dict) -> list[str]:
    top1, gap = found.top1(experiment, at), found.logged(experiment, "gap", last_part, at)
    less = "-" if experiment == SAM else told([*difference(top1, found.top1(SAM)).values()], "+.2f")
    return [label, str(len(top1)) if top1 else NOT_RUN, told([*top1.values()]), less, told([*gap.values()], ".4f")]


def told(values: Sequence[float], how: str = ".2f") -> str:
    """The mean ± half of its 95 % interval; how: a format of numbers."""
    if len(values) < 2:
        return format(values[0], how) if values else NOT_RUN
    mean, low, _ = t_interval(values)
    return f"{mean:{how}} ± {mean - low:{how.lstrip('+')}}"
