"""Effective robustness: what a model has on shifted pictures beyond what its clean accuracy lets expect.

Taori et al. 2020, "Measuring Robustness to Natural Distribution Shifts in Image Classification" (arXiv 2007.00644): on
logit axes the accuracies of standard models lie near a straight line; effective robustness is the distance above it.
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.special import expit, logit
from scipy.stats import linregress

from .card import SETS, Card, Score, label, make_card
from .load import choose_results, of_subject, subject_of

# Clean accuracy is taken on the classes of the shifted set where it has fewer.
CLEAN = {"imagenet_r_200": "imagenet_val_r", "imagenet_a": "imagenet_val_a"}
NO_SHIFT = ("imagenet", "imagenet_real", "imagenet_val_r", "imagenet_val_a")
# File names of timm's results folder (github.com/huggingface/pytorch-image-models); R and A are scored within 200 classes.
TIMM = {
    "results-imagenet": "imagenet",
    "results-imagenet-real": "imagenet_real",
    "results-imagenetv2-matched-frequency": "imagenet_v2",
    "results-imagenet-r": "imagenet_r_200",
    "results-imagenet-r-clean": "imagenet_val_r",
    "results-imagenet-a": "imagenet_a",
    "results-imagenet-a-clean": "imagenet_val_a",
    "results-sketch": "imagenet_sketch",
}
ENOUGH = 3  # baseline models for a line: with two there is no scatter to judge it by

Baselines = dict[str, dict[str, float]]


@dataclass
class Effective:
    """One shifted set of one model, accuracies as fractions 0-1.

    expected: of a baseline model with this clean accuracy · value: measured - expected · models: baselines in the fit ·
    scatter: standard deviation of the baselines' own values · outside: clean accuracy beyond that of all baselines.
    """

    label: str
    clean_label: str
    clean: float
    measured: float
    expected: float
    value: float
    models: int
    scatter: float
    outside: bool


@dataclass
class Line:
    """logit(shifted) = slope * logit(clean) + intercept, fitted to the points (clean, shifted) of the baselines."""

    slope: float
    intercept: float
    clean: np.ndarray
    shifted: np.ndarray

    def __call__(self, clean: float | np.ndarray) -> np.ndarray:
        return expit(self.slope * logit(clean) + self.intercept)


def read_baselines(paths: Iterable[Path | str], only: str | None = None) -> Baselines:
    """Top-1 by model and set (as the card labels it) from result folders and timm's results csv files.

    only: regular expression that a model's name must match. Raises ValueError for what is neither.
    """
    found: Baselines = {}
    for path in map(Path, paths):
        if path.suffix == ".csv":
            entries = _timm_csv(path)
        else:
            card = card_of(path)
            entries = {f"{card.title} [{path.name}]": {score.label: score.top1 for score in scores(card)}}
        for model, top1 in entries.items():
            if only is None or re.search(only, model):
                found.setdefault(model, {}).update(top1)
    return found


def _timm_csv(path: Path) -> Baselines:
    evalset, top1 = read_timm(path)
    # Models are listed at their training size and at a larger one: other accuracies, other points.
    return {f"{model} at {size} px": {label(evalset): value} for (model, size), value in top1.items()}


def read_timm(path: Path) -> tuple[str, dict[tuple[str, int], float]]:
    """One of timm's results csv files: the set it is about, and top-1 (0-1) by model and picture size in pixels.

    Raises ValueError for another name or other columns.
    """
    if path.stem not in TIMM:
        raise ValueError(
            f"{path}: the name must say which set it is about, one of {', '.join(f'{n}.csv' for n in TIMM)}"
        )
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return TIMM[path.stem], {(row["model"], int(row["img_size"])): float(row["top1"]) / 100 for row in rows}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not a results csv of timm with the columns model, img_size and top1 in per cent "
            f"({type(error).__name__}: {error})"
        ) from error


def card_of(folder: Path | str, checkpoint: str | None = None, precision: str | None = None) -> Card:
    """The card of what a folder holds most results of (of the last, where several have as many), without flip TTA; the
    rest is named in `dropped`. See `choose_results` for folder, checkpoint and precision."""
    path, rows = choose_results(folder, checkpoint, precision)
    rows = [row for row in rows if not row.get("flip_tta")]
    if not rows:
        raise ValueError(f"{path}: all results are with flip TTA; evaluate without it")
    counts = Counter(map(subject_of, rows))
    most = max(counts.values())
    chosen = next(row for row in reversed(rows) if counts[subject_of(row)] == most)
    kept, dropped = of_subject(rows, chosen)
    kept.sort(key=lambda row: row["n"])  # the last one counts: the whole set, not a trial on a few pictures
    return replace(make_card(kept), dropped=[f"{folder}: {line}" for line in dropped])


def scores(card: Card) -> list[Score]:
    """All of a card's numbers with a name: the sets, and the means of complete corruptions."""
    return [*card.sets, *(group.mean for group in card.corrupted if group.mean)]


def fit(set_label: str, clean_label: str, baselines: Baselines) -> Line | None:
    """The baselines' line for one shifted set; None with fewer than three models of different clean accuracy.

    Accuracies of exactly 0 or 1 have no logit and are left out.
    """
    pairs = [
        (top1[clean_label], top1[set_label]) for top1 in baselines.values() if {set_label, clean_label} <= top1.keys()
    ]
    points = np.array([pair for pair in pairs if all(0 < value < 1 for value in pair)]).reshape(-1, 2)
    if len(np.unique(points[:, 0])) < ENOUGH:
        return None
    clean, shifted = points.T
    line = linregress(logit(clean), logit(shifted))
    return Line(line.slope, line.intercept, clean, shifted)


def effective(card: Card, baselines: Baselines) -> list[Effective]:
    """Of every shifted set of the card that has its clean counterpart and enough baselines."""
    by_name = {score.name: score for score in card.sets}
    out = []
    for score in scores(card):
        clean = by_name.get(CLEAN.get(score.name, "imagenet"))
        if score.name in NO_SHIFT or score.name not in SETS or clean is None or not 0 < clean.top1 < 1:
            continue
        line = fit(score.label, clean.label, baselines)
        if line is not None:
            expected = float(line(clean.top1))
            scatter = math.sqrt(float(np.mean((line.shifted - line(line.clean)) ** 2)))
            outside = not line.clean.min() <= clean.top1 <= line.clean.max()
            out.append(
                Effective(score.label, clean.label, clean.top1, score.top1, expected, score.top1 - expected, len(line.clean),
                          scatter, outside)
            )  # fmt: skip
    return out
