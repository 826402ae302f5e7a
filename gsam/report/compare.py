"""Two models on the same pictures: paired differences with intervals and exact tests, from evaluate.py's predictions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .card import label
from .imagenet_c import is_extra
from .load import SUBJECT, choose_results, of_subject, subject_of
from .predictions import Predictions, load
from .stats import bootstrap_means, holm, mcnemar, percentile95

KEY = ("evalset", "origin", "flip_tta", "corruption", "severity")
# Results with and without flip TTA stand side by side, each paired with its like; in the rest a table has one model.
MODEL = tuple(key for key in SUBJECT if key != "flip_tta")


@dataclass
class Difference:
    """B minus A on one set, or the mean of that over several corruptions of the same pictures (then only_a to p_holm are
    None). Accuracies are fractions 0-1; intervals are 95 % percentiles of a bootstrap over pictures.

    n: pictures · passes: corruptions and severities in the mean · a, b: top-1 · only_a, only_b: pictures that one model
    alone gets right · p: McNemar's exact test · p_holm: adjusted for the number of tests · nll: B - A in nats, negative
    is better.
    """

    label: str
    evalset: str
    origin: str | None
    corruption: str | None
    severity: int | None
    n: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    nll: float
    nll_low: float
    nll_high: float
    passes: int = 1
    only_a: int | None = None
    only_b: int | None = None
    p: float | None = None
    p_holm: float | None = None


@dataclass
class Comparison:
    """names: the two models · sets: one difference per pass · means: over corruptions · unpaired: what only one folder
    has · notes: what else the reader should know."""

    names: tuple[str, str]
    sets: list[Difference]
    means: list[Difference]
    unpaired: list[str]
    notes: list[str]


def compare(
    a: Path | str,
    b: Path | str,
    *,
    checkpoint: str | None = None,
    precision: str | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Pair the predictions of two folders of results (run folders, or evaluate.py's out=).

    a, b: a folder, with @raw or @ema behind it where it has results of both. checkpoint: whose results, where a folder
    has those of several. precision: likewise. Of what is left, the rows of the model and step that were evaluated last.
    resamples, seed: of the bootstrap; the same seed gives the same intervals.
    Raises ValueError if a folder has no such results, a choice is needed, nothing can be paired, or the two were
    evaluated on different pictures.
    """
    (path_a, rows_a, dropped_a), (path_b, rows_b, dropped_b) = (_chosen(one, checkpoint, precision) for one in (a, b))
    rows = [_by_key(rows_a, rows_b), _by_key(rows_b, rows_a)]
    shared = [key for key in rows[0] if key in rows[1]]
    if not shared:
        left_out = "".join(f"\n{line}" for line in dropped_a + dropped_b)
        raise ValueError(f"{a} and {b} share no set with predictions; evaluate both on the same sets{left_out}")
    sets, means = [], []
    for keys in _groups(shared, rows[0]):
        pairs = [_pair(path_a, rows[0][key], path_b, rows[1][key]) for key in keys]
        found, over = _differences([rows[0][key] for key in keys], pairs, resamples, seed)
        sets += found
        means += over
    for difference, adjusted in zip(sets, holm([one.p for one in sets]), strict=True):
        difference.p_holm = adjusted
    names = tuple(_name(folder, next(iter(found.values()))) for folder, found in zip((a, b), rows, strict=True))
    unpaired = [
        f"{_label(row)}: only in {folder}"
        for folder, mine, other in ((a, *rows), (b, *rows[::-1]))
        for key, row in mine.items()
        if key not in other
    ]
    return Comparison(names, sets, means, unpaired, dropped_a + dropped_b + _notes(shared, *rows))


def _chosen(folder: Path | str, checkpoint: str | None, precision: str | None) -> tuple[Path, list[dict], list[str]]:
    """The folder's path, the rows with predictions of what was evaluated last, and a line about each other subject."""
    path, rows = choose_results(folder, checkpoint, precision, predictions=True)
    kept, dropped = of_subject(rows, rows[-1], MODEL)
    return path, kept, [f"{folder}: {line}" for line in dropped]


def _by_key(rows: list[dict], other: list[dict]) -> dict[tuple, dict]:
    """A row of each key: of pictures that the other folder has too, most of them; where there is none, the last row. So a
    trial on a few pictures does not hide the whole set."""
    theirs = {(subject_of(row, KEY), row["pictures"]) for row in other}
    found: dict[tuple, tuple[tuple, dict]] = {}
    for row in rows:
        key, pictures = subject_of(row, KEY), row["pictures"]
        rank = (row["n"], pictures) if (key, pictures) in theirs else (0, "")
        if key not in found or rank >= found[key][0]:
            found[key] = rank, row
    return {key: row for key, (_, row) in found.items()}


def _groups(keys: Iterable[tuple], rows: dict[tuple, dict]) -> list[list[tuple]]:
    """Keys whose passes belong in one mean: corruptions of one set and origin, ImageNet-C's extra ones apart."""
    groups: dict[tuple, list[tuple]] = {}
    for key in keys:
        corrupted = rows[key].get("corruption") is not None
        groups.setdefault((*key[:3], is_extra(rows[key]) if corrupted else None), []).append(key)
    return list(groups.values())


def _pair(folder_a: Path, a: dict, folder_b: Path, b: dict) -> tuple[Predictions, Predictions]:
    first, second = _predictions(folder_a, a), _predictions(folder_b, b)
    same = first.pictures == second.pictures and np.array_equal(first.index, second.index)
    if not same or not np.array_equal(first.label, second.label):
        raise ValueError(
            f"{_label(a)}: {folder_a} and {folder_b} were evaluated on different pictures or labels ({len(first.index):,} of "
            f"{first.pictures}, {len(second.index):,} of {second.pictures}); evaluate both with the same settings of the set "
            "(limit, seed) and the same files"
        )
    return first, second


def _predictions(folder: Path, row: dict) -> Predictions:
    found = load(folder / row["predictions"])
    if (
        found.pictures != row["pictures"]
        or len(found.index) != row["n"]
        or abs(found.correct.mean() - row["top1"]) > 1e-6
    ):
        raise ValueError(
            f"{folder / row['predictions']} is not of the row in results.jsonl: a later evaluation of {_label(row)} with other "
            "settings replaced it; evaluate again with force=true"
        )
    return found


def _differences(
    rows: list[dict], pairs: list[tuple[Predictions, Predictions]], resamples: int, seed: int
) -> tuple[list[Difference], list[Difference]]:
    """Of passes over the same pictures: each, and (of several) the mean over all and over each corruption's severities."""
    aligned = all(np.array_equal(pairs[0][0].index, first.index) for first, _ in pairs)
    right = [second.correct.astype(float) - first.correct for first, second in pairs]
    nats = [second.nll.astype(float) - first.nll for first, second in pairs]
    if aligned:
        draws = bootstrap_means(np.stack([*right, *nats], axis=1), resamples, seed)
        right_draws, nats_draws = draws[:, : len(pairs)], draws[:, len(pairs) :]
    else:  # a limit of its own per corruption: no common pictures to resample, and no mean
        each = [
            bootstrap_means(np.stack(columns, axis=1), resamples, seed) for columns in zip(right, nats, strict=True)
        ]
        right_draws, nats_draws = (np.stack([draws[:, i] for draws in each], axis=1) for i in (0, 1))

    def over(members: list[int], text: str, row: dict, **more) -> Difference:
        top1 = [float(np.mean([pairs[i][model].correct.mean() for i in members])) for model in (0, 1)]
        means = [float(np.mean([values[i].mean() for i in members])) for values in (right, nats)]
        return Difference(
            text, *(row.get(key) for key in ("evalset", "origin", "corruption", "severity")), len(right[members[0]]), *top1,
            means[0], *percentile95(right_draws[:, members].mean(axis=1)),
            means[1], *percentile95(nats_draws[:, members].mean(axis=1)), passes=len(members), **more,
        )  # fmt: skip

    sets = []
    for i, row in enumerate(rows):
        only_a, only_b = int((right[i] < 0).sum()), int((right[i] > 0).sum())
        sets.append(over([i], _label(row), row, only_a=only_a, only_b=only_b, p=mcnemar(only_a, only_b)))
    means = []
    if aligned and len(rows) > 1:
        whole = {**rows[0], "corruption": None, "severity": None}
        means.append(over(list(range(len(rows))), f"{_group_label(rows[0])}, mean of {len(rows)}", whole))
        corruptions = list(dict.fromkeys(row["corruption"] for row in rows))
        for corruption in corruptions if len(corruptions) < len(rows) else []:
            members = [i for i, row in enumerate(rows) if row["corruption"] == corruption]
            text = f"{_group_label(rows[0])} {corruption}, mean of {len(members)}"
            means.append(over(members, text, {**whole, "corruption": corruption}))
    return sets, means


def _group_label(row: dict) -> str:
    return (
        label(row["evalset"], row.get("origin"))
        + ", 4 extra" * is_extra(row)
        + " with flip TTA" * bool(row.get("flip_tta"))
    )


def _label(row: dict) -> str:
    """The row's set in words."""
    if row.get("corruption") is None:
        return label(row["evalset"]) + " with flip TTA" * bool(row.get("flip_tta"))
    return f"{_group_label(row)} {row['corruption']} {row['severity']}"


def _name(folder: Path | str, row: dict) -> str:
    shared = f", m = {row['m']}" if row.get("m") else ""  # results of different m cannot be compared
    return f"{row.get('model')} ({row['weights']} weights of {row['checkpoint']}{shared}, {folder})"


def _notes(shared: list[tuple], a: dict[tuple, dict], b: dict[tuple, dict]) -> list[str]:
    """Differences in how the two were evaluated, which are not differences of the models."""
    notes = []
    for what in ("precision", "protocol"):
        values = {(a[key].get(what), b[key].get(what)) for key in shared}
        other = sorted({f"{x} and {y}" for x, y in values if x != y})
        if other:
            notes.append(
                f"not the same {what}: {other[0]}" + (f" (and {len(other) - 1} more)" if len(other) > 1 else "")
            )
    return notes
