"""Tables of the shape of Table 1 of the GSAM paper: top-1 per evaluation set and training method, with its cost."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from gsam.identity import deciding

from .imagenet_c import is_extra
from .load import Run
from .stats import wilson

METHODS = ("vanilla", "sam", "gsam")  # always shown, in this order; a method without a run reads "not run"
LABELS = {"vanilla": "Vanilla", "sam": "SAM", "gsam": "GSAM", "asam": "ASAM"}
BASES = {"sgd": "SGD", "adamw": "AdamW"}
NOT_RUN = "not run"


@dataclass
class Cell:
    """Top-1 of one method on one row of the table, fractions 0-1.

    top1: mean over seeds · spread: sample standard deviation over seeds, None of one run · low, high: 95 % Wilson interval
    of one run, None of several · seeds: runs in the mean · n: images per run · nll, ece: means over seeds.
    """

    top1: float
    spread: float | None
    low: float | None
    high: float | None
    seeds: int
    n: int
    nll: float
    ece: float


@dataclass
class Row:
    """evalset (as `set_name` has it) and corruption (None: clean, "mean": over all of the set's); cells per column."""

    evalset: str
    corruption: str | None
    severities: tuple[int, ...]
    cells: list[Cell | None]


@dataclass
class Column:
    """One model trained by one method with one set of settings; `runs` are its seeds, empty if it was not run."""

    model: str
    method: str
    label: str
    runs: list[Run]

    def cost(self) -> tuple[float, float] | None:
        """Mean (gradient evaluations in images, minutes of training) per run; None without finished numbers."""
        rows = [run.train[-1] for run in self.runs if run.train]
        if not rows or any(row.get("grad_evals") is None or row.get("wall_s") is None for row in rows):
            return None
        return statistics.fmean(r["grad_evals"] for r in rows), statistics.fmean(r["wall_s"] for r in rows) / 60.0


@dataclass
class Table:
    """Columns (vanilla, SAM, GSAM, others; per model) and one Row per evaluation set and corruption."""

    columns: list[Column]
    rows: list[Row]
    weights: str
    checkpoint: str


def build_table(runs: Iterable[Run], *, weights: str = "raw", checkpoint: str = "last.pt") -> Table:
    """The table of these runs' results with `weights` ("raw" or "ema") of `checkpoint`; latest step of each run.

    A cell needs every severity (and for the mean every corruption) that any run of the table has on that set: a mean
    over fewer would not be comparable. Raises ValueError if no run has such a result.
    """
    runs = list(runs)
    columns = build_columns(runs)
    scores = [[_scores(run, weights, checkpoint) for run in column.runs] for column in columns]
    found: dict[str, dict[str | None, set]] = {}
    for score in (score for column in scores for score in column):
        for evalset, corruption, severity in score:
            found.setdefault(evalset, {}).setdefault(corruption, set()).add(severity)
    if not found:
        there = sorted(
            {f"{row.get('weights')} weights of {row.get('checkpoint')}" for run in runs for row in run.results}
        )
        raise ValueError(
            f"none of {len(runs)} run(s) has a result with the {weights} weights of {checkpoint}; "
            + (f"there are results with {', '.join(there)}: choose these, or " if there else "")
            + "evaluate them first: python evaluate.py weights=<run folder> evalset=<name>"
        )
    rows = []
    for evalset, kinds in sorted(found.items(), key=lambda item: (None not in item[1], item[0])):
        corrupted = [kind for kind in kinds if kind is not None]
        for kind in ([None] if None in kinds else []) + corrupted:
            wanted = [(evalset, kind, severity) for severity in kinds[kind]]
            rows.append(_row(evalset, kind, wanted, scores))
        if len(corrupted) > 1:
            wanted = [(evalset, kind, severity) for kind in corrupted for severity in kinds[kind]]
            rows.append(_row(evalset, "mean", wanted, scores))
    return Table(columns, rows, weights, checkpoint)


def build_columns(runs: Iterable[Run]) -> list[Column]:
    """The runs grouped into columns: seeds of the same settings together, other settings of a method side by side."""
    groups: dict[tuple[str, str], list[Column]] = {}
    for run in runs:
        model, method = model_of(run), method_of(run)
        found = groups.setdefault((model, method), [])
        for column in found:
            if _settings(column.runs[0]) == _settings(run):
                column.runs.append(run)
                break
        else:
            found.append(Column(model, method, _label(method, run), [run]))
    for found in groups.values():
        _tell_apart(found)
    columns = []
    for model in sorted({model for model, _ in groups}):
        others = sorted({method for m, method in groups if m == model} - set(METHODS))
        for method in [*METHODS, *others]:
            columns += groups.get((model, method)) or [Column(model, method, LABELS.get(method, method), [])]
    return columns


def _label(method: str, run: Run) -> str:
    """As in the paper: Vanilla (SGD), SAM, GSAM."""
    base = str(run.setting("base.name", "")) if method == "vanilla" else ""
    return LABELS.get(method, method) + (f" ({BASES.get(base, base)})" if base else "")


def _tell_apart(columns: list[Column]) -> None:
    """Add the settings in which columns of one model and method differ to their labels, three at most."""
    settings = [_settings(column.runs[0]) for column in columns]
    keys = sorted({key for one in settings for key in one if any(one[key] != other.get(key) for other in settings)})
    for column, one in zip(columns, settings, strict=True):
        told = [f"{key}={one.get(key)}" for key in keys[:3]] + ["..."] * (len(keys) > 3)
        column.label += f" [{', '.join(told)}]" if told else ""


def _settings(run: Run) -> dict[str, str]:
    """What was trained, by dotted key: two runs that differ in their seed only are repeats of one experiment."""
    return {key: str(value) for key, value in deciding(run.config).items() if key != "train.seed"}


def model_of(run: Run) -> str:
    """The model's name, from the configuration, else from the results."""
    return _named(run, "model")


def method_of(run: Run) -> str:
    """The training method: vanilla, sam, gsam, …; from the configuration, else from the results."""
    return _named(run, "optimizer")


def _named(run: Run, what: str) -> str:
    found = [run.setting(f"{what}.name"), *(row.get(what) for row in run.results), run.meta.get(what)]
    return next((str(name) for name in found if name), f"unknown {what}")


def _scores(run: Run, weights: str, checkpoint: str) -> dict[tuple[str, str | None, int | None], dict]:
    rows = [row for row in run.results if row.get("weights") == weights and row.get("checkpoint") == checkpoint]
    rows.sort(key=lambda row: row.get("step") or 0)  # of several steps of one checkpoint name, the latest stays
    return {(set_name(row), row.get("corruption"), row.get("severity")): row for row in rows}


def set_name(row: dict) -> str:
    """The set of a row of results, with what makes its numbers incomparable: official and generated corruptions are other
    pictures, and so are resized ones; the extra corruptions of ImageNet-C are not in its mean; flip TTA is another way to
    predict."""
    name = row["evalset"]
    if row.get("corruption") is not None:
        name += f" (C-{row['origin']})" if row.get("origin") else ""
        name += f" (resized to {row['resized']})" if row.get("resized") else ""
        name += " (extra)" if is_extra(row) and not row["evalset"].endswith("_extra") else ""
    return name + (" (flip TTA)" if row.get("flip_tta") else "")


def _row(evalset: str, corruption: str | None, wanted: list[tuple], scores: list[list[dict]]) -> Row:
    severities = tuple(sorted({severity for _, _, severity in wanted if severity is not None}))
    cells = [_cell([[run[key] for key in wanted] for run in runs if all(k in run for k in wanted)]) for runs in scores]
    return Row(evalset, corruption, severities, cells)


def _cell(runs: list[list[dict]]) -> Cell | None:
    """The cell of some runs, each with the rows that its mean is taken over; None without a run."""
    if not runs:
        return None
    top1 = [statistics.fmean(row["top1"] for row in rows) for rows in runs]
    # The same pictures stand behind every corruption, so a mean over corruptions has no more than n independent trials.
    n = min(row["n"] for rows in runs for row in rows)
    several = len(top1) > 1
    spread = statistics.stdev(top1) if several else None
    low, high = (None, None) if several else wilson(top1[0], n)
    nll, ece = (statistics.fmean(row[name] for rows in runs for row in rows) for name in ("nll", "ece"))
    return Cell(statistics.fmean(top1), spread, low, high, len(top1), n, nll, ece)
