"""evaluate.py's work: one model, any number of sets, one row per set and corruption in results.jsonl."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from gsam.config import ConfigError, EvalConfig, as_dict
from gsam.eval import checks, evalsets
from gsam.eval.evalsets import EvalSet, Pass
from gsam.eval.runner import score
from gsam.eval.scoring import Scored
from gsam.eval.subject import Subject, load_subject
from gsam.report import predictions
from gsam.report.card import write_card
from gsam.report.load import RESULT_KEY, read_results
from gsam.report.stats import wilson
from gsam.runtime import Runtime, SharedError
from gsam.train.progress import Progress

NOT_PICTURES = ("root", "corruptions", "severities", "expect_n")  # a root may move; the others are in no single row
PACKAGES = {"torch": ("torch",), "timm": ("timm",), "numpy": ("numpy",), "pillow": ("pillow",),
            "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless",
                       "opencv-contrib-python")}  # fmt: skip

Row = dict[str, Any]


def run(config: EvalConfig, runtime: Runtime) -> list[Row]:
    """Evaluate what results.jsonl does not hold yet, one pass over the pictures for all sets that share them; append a pass's
    rows when it is done, so that a killed evaluation goes on after it; print and return all rows of the call.

    A set of which nothing is there gives a row with "not_run", or with strict=true an error. Raises ConfigError for what is
    wrong with the sets, ValueError for weights that cannot be used and sets that the model does not fit.
    """
    missing, problems = runtime.broadcast(_checked(config) if runtime.is_main else None)
    if problems:
        raise ConfigError(problems)
    sets = {name: evalset for name, evalset in config.evalsets.items() if name not in missing}
    subject = load_subject(config, runtime)
    _fit(subject, sets)
    path = subject.out / "results.jsonl"
    passes = evalsets.passes(sets)
    stored, pictures = runtime.on_main(lambda: ([] if config.force else read_results(subject.out), _pictures(passes)))
    known = {_key(row): row for row in stored}

    asked, plan = _questions(config, subject, sets, pictures), []
    for one in passes:
        rows = {name: asked[name, one.corruption, one.severity] for name in one.names}
        new = {name: row for name, row in rows.items() if _key(row) not in known}
        plan += [(one, new)] if new else []
    answered = _Evaluation(config, runtime, subject, sets, path).run(plan)
    rows = [known.get(_key(row)) or answered[_key(row)] for row in asked.values()]
    if runtime.is_main:
        print(f"{write_card(subject.out, rows, missing)}\nresults: {path}", flush=True)
    return rows + [{"kind": "result", "evalset": name, "not_run": why} for name, why in missing.items()]


@dataclass
class _Evaluation:
    config: EvalConfig
    runtime: Runtime
    subject: Subject
    sets: dict[str, EvalSet]
    path: Path

    def run(self, plan: list[tuple[Pass, dict[str, Row]]]) -> dict[tuple, Row]:
        """The rows of the plan's passes, by key. Each pass is a pass and the rows it shall complete, by set."""
        compiled = self.runtime.device.type == "cuda" if self.config.compile is None else self.config.compile
        if compiled and plan:
            self.subject.model = torch.compile(self.subject.model, dynamic=False)
        sizes = [evalsets.size(one.evalset) for one, _ in plan]
        progress = Progress("evaluate", sum(sizes), active=self.runtime.is_main)
        done, answered = 0, {}
        try:
            for (one, rows), size in zip(plan, sizes, strict=True):
                label = " ".join(str(word) for word in (*rows, one.corruption, one.severity) if word is not None)

                def on_batch(mine: int, done: int = done, size: int = size, label: str = label) -> None:
                    progress.update(done + min(size, mine * self.runtime.world), label)

                self._pass(one, rows, self.config.batch_size if compiled else None, on_batch)
                done += size
                for row in rows.values():
                    answered[_key(row)] = row
                    progress.note(_line(row))
        finally:
            progress.close()
        return answered

    def _pass(self, one: Pass, rows: dict[str, Row], pad_to: int | None, on_batch: Callable[[int], None]) -> None:
        """Complete `rows`, and put them into results.jsonl."""
        config, subject, runtime = self.config, self.subject, self.runtime
        source = evalsets.open_pictures(one.evalset, one.corruption, one.severity)
        loader = evalsets.build(
            one.evalset, subject.preprocess, one.corruption, one.severity, batch_size=config.batch_size,
            rank=runtime.rank, world=runtime.world, workers=config.workers, source=source,
        )  # fmt: skip
        scored = score(
            subject.model, loader, {name: evalsets.scoring(self.sets[name], source) for name in rows},
            device=runtime.device, autocast=lambda: runtime.autocast(config.precision),
            mean=subject.preprocess.mean, std=subject.preprocess.std, channels_last=subject.channels_last,
            flip_tta=config.flip_tta, pad_to=pad_to, on_batch=on_batch,
        )  # fmt: skip
        prepare = evalsets.prepare(one.evalset, subject.preprocess, one.corruption, one.severity)
        same = {
            "backend": getattr(source, "backend", "folder"),
            "versions": _versions(),
            "corruption_preset": prepare.preset(source[0][0]),
            "resized": prepare.resized,
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        for name, row in rows.items():
            row |= _measured(scored[name]) | same
            tta = "; mean logits with the mirror image" if config.flip_tta else ""
            scoring = evalsets.scoring_text(self.sets[name], subject.num_classes)
            row["protocol"] = f"{evalsets.origin_text(one.evalset, one.corruption)}{prepare.text()}; {scoring}{tta}"
            row["predictions"] = f"predictions/{predictions.file_name(row)}"
        runtime.on_main(lambda: self._store(rows, scored))

    def _store(self, rows: dict[str, Row], scored: dict[str, Scored]) -> None:
        for name, row in rows.items():
            predictions.save(
                self.path.parent / row["predictions"], **scored[name].predictions, pictures=row["pictures"]
            )
        _append(self.path, list(rows.values()))


def _pictures(passes: list[Pass]) -> dict[tuple, str]:
    """The hash of the pictures that lie there now, by (set, corruption, severity): a row of another root is no answer."""
    found = {}
    for one in passes:
        source = evalsets.open_pictures(one.evalset, one.corruption, one.severity)
        pictures = evalsets.pictures_hash(one.evalset, source, one.corruption, one.severity)
        found |= {(name, one.corruption, one.severity): pictures for name in one.names}
    return found


def _questions(config: EvalConfig, subject: Subject, sets: dict[str, EvalSet], pictures: dict) -> dict[tuple, Row]:
    """A row for everything that is to be known, without the answers, by (set, corruption, severity)."""
    found = {}
    for name, evalset in sets.items():
        same = {**subject.facts, "preprocess": subject.preprocess.text(), "origin": evalsets.origin(evalset),
                "precision": config.precision.name, "flip_tta": config.flip_tta,
                "settings": _settings(evalset)}  # fmt: skip
        for corruption, severity in evalsets.rows(evalset):
            at = (name, corruption, severity)
            row = {"kind": "result", "evalset": name, "corruption": corruption, "severity": severity, **same}
            found[at] = row | {"pictures": pictures[at]}
    return found


def _measured(scored: Scored) -> Row:
    metrics = scored.metrics
    low, high = wilson(metrics.top1, metrics.n)
    return {**vars(metrics), "top1_low": low, "top1_high": high}


def _checked(config: EvalConfig) -> tuple[dict[str, str], list[str]]:
    """Sets of which nothing is there, with the reason; and every other problem, of all sets."""
    missing, problems = {}, []
    for name, evalset in config.evalsets.items():
        problems += checks.settings_problems(f"evalsets.{name}", evalset)
        found = checks.picture_problems(f"evalsets.{name}", evalset)
        if found and checks.is_absent(evalset) and not config.strict:
            missing[name] = found[0]
        else:
            problems += found
    return missing, problems


def _fit(subject: Subject, sets: dict[str, EvalSet]) -> None:
    """Raises SharedError if a set has other classes than the model."""
    wrong: dict[int, list[str]] = {}
    for name, evalset in sets.items():
        wrong.setdefault(evalsets.num_classes(evalset), []).append(name)
    wrong.pop(subject.num_classes, None)
    if wrong:
        listed = "; ".join(f"{', '.join(names)}: {classes} classes" for classes, names in wrong.items())
        raise SharedError(
            f"the model has {subject.num_classes} classes, which does not fit {listed}. Choose an evalset of the data that it "
            "was trained on"
        )


def _settings(evalset: EvalSet) -> str:
    """8 hex digits of what decides the set's pictures and what is right."""
    plain = {k: v for k, v in as_dict(evalset).items() if k not in NOT_PICTURES}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]


def _versions() -> dict[str, str | None]:
    return {name: next(filter(None, map(_version, names)), None) for name, names in PACKAGES.items()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _key(row: Row) -> tuple:
    return tuple(row.get(k) for k in RESULT_KEY)


def _append(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
    with open(path, "a") as f:
        f.write("\n" * torn + "".join(json.dumps(row) + "\n" for row in rows))


def _line(row: Row) -> str:
    name = " ".join(str(row[key]) for key in ("evalset", "corruption", "severity") if row[key] is not None)
    return f"{name}: top-1 {row['top1']:.2%} of {row['n']:,}"
