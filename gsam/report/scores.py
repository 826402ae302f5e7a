"""What runs score on each set: one number per run, the mean over seeds, and how far from a published number that may be."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from .card import Score, make_card
from .load import Run, subject_of
from .stats import wilson

# Standard deviation over seeds of ImageNet top-1, fractions: estimated for PyTorch trainings of ResNets (90-100 epochs) and
# ViTs (300 epochs) by Becker et al. 2024 (Momentum-SAM, arXiv 2401.12033, Table 2 and A.3). None is known for Mixers.
SEED_SPREAD = {"resnet": 0.0008, "vit": 0.0024, "mixer": 0.0024}
RULE = (
    "Tolerance: two standard errors of the difference between a mean over n seeds and one published run, 2 s √(1 + 1/n), plus "
    "0.05 for rounding; s is the largest of three: the standard deviation of our seeds, the spread over seeds that the "
    "literature reports (0.24 points for ViTs, taken for Mixers too, 0.08 for ResNets: Becker et al. 2024, arXiv 2401.12033), "
    "and the sampling error of the set √(p(1 − p)/pictures). Where our seeds' standard deviation is more than 3 times the "
    'larger of the other two, the verdict is "too noisy": some seed went wrong.'
)
NOISY = 3.0
OWN = ("val", "holdout")  # what a training evaluates on: the validation set, or with data.holdout that part


@dataclass
class Mean:
    """Top-1 as fraction 0-1: the mean over `seeds` runs and their sample standard deviation (None of one run); n: pictures."""

    top1: float
    spread: float | None
    seeds: int
    n: int

    def known_spread(self, model: str) -> float:
        """What runs of this model and set are known to differ by: the literature's seeds or the set's sampling error."""
        family = next((spread for name, spread in SEED_SPREAD.items() if name in model), 0.0)
        return max(family, math.sqrt(self.top1 * (1 - self.top1) / self.n))

    def tolerance(self, model: str) -> float:
        """How far the mean may be from a published number of one run, as a fraction; see RULE."""
        s = max(self.spread or 0.0, self.known_spread(model))
        return 2 * s * math.sqrt(1 + 1 / self.seeds) + 0.0005

    def noisy(self, model: str) -> bool:
        """Whether our seeds differ so much that the tolerance would accept nearly everything."""
        return (self.spread or 0.0) > NOISY * self.known_spread(model)


def scores(run: Run, weights: str = "raw", checkpoint: str = "last.pt") -> dict[str, Score]:
    """What a run scores at its last step by set, from its results with these weights ("raw" or "ema") without flip TTA.

    A mean over corruptions is there if it is complete: as the set's name for official copies, as the card's label for
    others ("ImageNet-C-generated"), so that different pictures never meet in one column. "val" is the last evaluation of the
    training itself, with data.holdout on that part. {} without results; those of an earlier step are not the run's.
    """
    found = {}
    last = max((row.get("step") or 0 for row in [*run.train, *run.evals]), default=None)
    own = [row for row in run.evals if row["evalset"] in OWN and (row["weights"], row["step"]) == (weights, last)]
    if own:
        found["val"] = Score("val", "val", own[-1]["n"], own[-1]["top1"], *wilson(own[-1]["top1"], own[-1]["n"]),
                             own[-1]["top5"], own[-1]["nll"], own[-1]["ece"])  # fmt: skip
    rows = [
        row
        for row in run.results
        if row.get("weights") == weights
        and row.get("checkpoint") == checkpoint
        and not row.get("flip_tta")
        and (last is None or row.get("step") == last)
    ]
    if not rows:
        return found
    counts = Counter(map(subject_of, rows))  # in bf16 and again in fp32: one of them, else a set would have two numbers
    chosen = max(counts, key=lambda subject: counts[subject])
    rows = [row for row in rows if subject_of(row) == chosen]
    rows.sort(key=lambda row: row["n"])  # the card takes the last: the whole set, not a trial on a few pictures
    card = make_card(rows)
    found |= {score.name: score for score in card.sets}
    for group in card.corrupted:
        if group.mean is not None:
            official = group.origin == "official" and group.mce is not None
            found[group.name if official else group.label] = group.mean
    return found


def mean(runs: Iterable[Run], evalset: str, weights: str = "raw", checkpoint: str = "last.pt") -> Mean | None:
    """Over the runs that have this set; None if none has. Of runs with unequal numbers of pictures only those with most."""
    found = [score for run in runs if (score := scores(run, weights, checkpoint).get(evalset)) is not None]
    if not found:
        return None
    n = max(score.n for score in found)
    top1 = [score.top1 for score in found if score.n == n]
    return Mean(statistics.fmean(top1), statistics.stdev(top1) if len(top1) > 1 else None, len(top1), n)
