"""Run folders as objects: what a training or an evaluation left behind, read without torch."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import yaml

from gsam.runs import json_lines

# What makes rows of results.jsonl those of one model, evaluated in one way.
SUBJECT = (
    "model",
    "weights",
    "checkpoint",
    "step",
    "precision",
    "flip_tta",
    "config_hash",
    "weights_hash",
    "preprocess",
)
# What a row answers: rows that agree in all of it are the same measurement, and the last one counts.
RESULT_KEY = ("evalset", "origin", "corruption", "severity", "settings", "pictures", *SUBJECT)
EVAL_KEY = ("evalset", "weights", "step")
# The same for a row of analysis.jsonl.
ANALYSIS_KEY = ("analysis", "settings", "set", "subset", "batchnorm", "batch_size", "model", "precision", "weights",
                "checkpoint", "step", "config_hash", "weights_hash")  # fmt: skip


@dataclass
class Run:
    """One run folder. Rows are the JSON objects of its files, with replaced ones left out; train and evals by step.

    train: one row per logged step · evals: evaluations during training · results: rows of evaluate.py ·
    analyses: rows of scripts/analyze.py and of the analyses during training · done: the run says it finished ·
    problems: what was wrong with the folder, for the reader.
    """

    folder: Path
    config: dict
    meta: dict
    train: list[dict] = field(default_factory=list)
    evals: list[dict] = field(default_factory=list)
    results: list[dict] = field(default_factory=list)
    analyses: list[dict] = field(default_factory=list)
    done: bool = False
    problems: list[str] = field(default_factory=list)

    def setting(self, dotted: str, default: object = None) -> object:
        """config value by dotted key, e.g. "optimizer.name"; `default` where a level is missing."""
        node: object = self.config
        for key in dotted.split("."):
            if not isinstance(node, dict) or key not in node:
                return default
            node = node[key]
        return node


def read_runs(root: Path | str) -> list[Run]:
    """Every run folder `<root>/<experiment>/<hash>` or, if root is one experiment, `<root>/<hash>`, sorted by path.

    A folder counts as a run if it holds a config.yaml. Raises ValueError if `root` holds none.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"runs folder {root} does not exist; train first, or give the folder that holds the runs")
    folders = sorted({path.parent for depth in ("*", "*/*", "*/*/*") for path in root.glob(f"{depth}/config.yaml")})
    if not folders:
        raise ValueError(
            f"no run found below {root}: a run folder holds config.yaml, meta.json and metrics.jsonl; "
            "train first, or give the folder that holds the runs"
        )
    return [read_run(folder) for folder in folders]


def read_run(folder: Path | str) -> Run:
    """One run folder. Missing or damaged files are listed in `problems`; what can be read is read. A run whose config is {} has
    none that can be read, so nothing says what it is a run of.

    Raises ValueError if the folder has no config.yaml.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} is not a run folder: it has no config.yaml")
    config, meta, problems = read_settings(folder)
    run = Run(folder, config, meta, done=(folder / "DONE").exists(), problems=problems)
    metrics = _rows(folder / "metrics.jsonl", run.problems, wanted=True)
    by_step = partial(sorted, key=lambda row: row.get("step", 0))
    run.train = by_step(_latest([row for row in metrics if row.get("kind") == "train"], ("step",)))
    run.evals = by_step(_latest([row for row in metrics if row.get("kind") == "eval"], EVAL_KEY))
    run.results = read_results(folder, run.problems)
    during = {analysis_key(row): row for row in metrics if row.get("kind") == "analysis"}
    run.analyses = read_analyses(folder, run.problems) + by_step(during.values())
    if not run.done:
        run.problems.append("not finished (no file DONE)")
    return run


def read_settings(folder: Path) -> tuple[dict, dict, list[str]]:
    """config.yaml and meta.json of a run folder, {} for what cannot be read, and what was wrong with them."""
    found: dict[str, dict] = {}
    problems = []
    for name, read, error in (
        ("config.yaml", yaml.safe_load, yaml.YAMLError),
        ("meta.json", json.loads, json.JSONDecodeError),
    ):
        found[name] = {}
        if not (folder / name).is_file():
            problems.append(f"{name} is missing")
            continue
        try:
            content = read((folder / name).read_text(encoding="utf-8"))
        except (error, UnicodeDecodeError) as why:
            problems.append(f"{name} is damaged ({' '.join(str(why).split())})")
            continue
        if isinstance(content, dict) and content:
            found[name] = content
        else:
            problems.append(f"{name} is {'damaged: it holds no settings' if content else 'empty'}")
    return found["config.yaml"], found["meta.json"], problems


def read_results(folder: Path | str, problems: list[str] | None = None) -> list[dict]:
    """The rows that evaluate.py left in a folder, without replaced ones; [] if there is no results.jsonl.

    problems: gets what was wrong with the file.
    """
    rows = _rows(Path(folder) / "results.jsonl", [] if problems is None else problems, wanted=False)
    return _latest([row for row in rows if row.get("kind") == "result" and "top1" in row], RESULT_KEY)


def read_analyses(folder: Path | str, problems: list[str] | None = None) -> list[dict]:
    """The rows that analyze.py left in a folder, without replaced ones; [] if there is no analysis.jsonl."""
    rows = _rows(Path(folder) / "analysis.jsonl", [] if problems is None else problems, wanted=False)
    last: dict[tuple, dict] = {}
    for row in rows:
        if row.get("kind") == "analysis":
            last.pop(analysis_key(row), None)
            last[analysis_key(row)] = row
    return list(last.values())


def analysis_key(row: dict) -> tuple:
    """What an analysis's row answers: rows with the same key are the same measurement, and the last one counts."""
    return tuple(json.dumps(row.get(name), sort_keys=True) for name in ANALYSIS_KEY)


def first_result(folder: Path | str) -> dict | None:
    """The oldest row that evaluate.py left in a folder, replaced or not."""
    rows = _rows(Path(folder) / "results.jsonl", [], wanted=False)
    return next((row for row in rows if row.get("kind") == "result" and "top1" in row), None)


def choose_results(
    folder: Path | str, checkpoint: str | None = None, precision: str | None = None, *, predictions: bool = False
) -> tuple[Path, list[dict]]:
    """A folder of results, which may be given with @raw or @ema behind it, and its rows of one set of weights.

    predictions: only rows that have them. Raises ValueError if there are none, or of several weights or checkpoints.
    """
    head, at, ending = str(folder).rpartition("@")
    path, weights = (head, ending) if at and ending in ("raw", "ema") else (str(folder), None)
    rows = [row for row in read_results(path) if row.get("predictions") or not predictions]
    if not rows:
        what = " with predictions (evaluate with force=true to get them)" if predictions else ""
        raise ValueError(f"{path}: no results.jsonl{what}; give a run folder or the out= folder of evaluate.py")
    there = sorted({str(row.get("precision")) for row in rows})
    rows = [row for row in rows if precision in (None, row.get("precision"))]
    if not rows:
        raise ValueError(f"{path}: no results with --precision {precision}; there are results with {', '.join(there)}")
    wanted = {"weights": weights, "checkpoint": checkpoint}
    chosen = [row for row in rows if all(value in (None, row[key]) for key, value in wanted.items())]
    if len({(row["checkpoint"], row["weights"]) for row in chosen}) != 1:
        there = sorted({f"{row['weights']} weights of {row['checkpoint']}" for row in rows})
        raise ValueError(
            f"{folder}: there are results of {', '.join(there)}; choose with {path}@raw or {path}@ema, and --checkpoint"
        )
    return Path(path), chosen


def of_subject(rows: list[dict], wanted: dict, keys: tuple[str, ...] = SUBJECT) -> tuple[list[dict], list[str]]:
    """The rows that agree with the row `wanted` in `keys`, and a line per other subject: in what it differs."""
    subject = subject_of(wanted, keys)
    others = Counter(found for row in rows if (found := subject_of(row, keys)) != subject)
    dropped = []
    for other, count in others.items():
        pairs = zip(keys, other, subject, strict=True)
        differing = ", ".join(f"{key} {theirs} (not {ours})" for key, theirs, ours in pairs if theirs != ours)
        dropped.append(f"left out: {count} {'result' if count == 1 else 'results'} with {differing}")
    return [row for row in rows if subject_of(row, keys) == subject], dropped


def subject_of(row: dict, keys: tuple[str, ...] = SUBJECT) -> tuple:
    """The row's values of SUBJECT; what a row does not have and what it says no to (flip_tta) are the same."""
    return tuple(row.get(key) or None for key in keys)


def _rows(path: Path, problems: list[str], *, wanted: bool) -> list[dict]:
    """JSON objects of a JSONL file. A last line cut off by a crash is dropped silently: its writer was killed."""
    if not path.is_file():
        if wanted:
            problems.append(f"{path.name} is missing")
        return []
    rows = []
    for number, row in json_lines(path):
        if row is ValueError:
            problems.append(f"{path.name} line {number} is no JSON and was skipped")
        if not isinstance(row, dict):
            continue
        if row.get("kind") in ("result", "eval") and not _fraction(row.get("top1", 0.0)):
            problems.append(f"{path.name} line {number}: top1 is {row['top1']}, no fraction of pictures; skipped")
            continue
        rows.append(row)
    return rows


def _fraction(value: object) -> bool:
    return isinstance(value, (int, float)) and 0.0 <= value <= 1.0  # NaN is neither


def _latest(rows: list[dict], key: tuple[str, ...]) -> list[dict]:
    """The last row of each key, at the place where it was written."""
    last: dict[tuple, dict] = {}
    for row in rows:
        identity = tuple(row.get(name) for name in key)
        last.pop(identity, None)
        last[identity] = row
    return list(last.values())
