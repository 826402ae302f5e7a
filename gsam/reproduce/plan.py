"""What an entry of the catalogue still needs. Reads run folders; imports no torch."""

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gsam.catalogue import MINI, Entry, Job, Row, choice, choosing, departures, entry, jobs, matched
from gsam.reproduce.found import Found, scan
from gsam.reproduce.task import Request, Task, make_task


def select(target: str) -> Entry:
    """The entry of `table1`, `mini/table1`, or with some rows of it, `table1/vit_b32_gsam`: by their experiment, the last part
    of that, or their name in paper.yaml. Raises ValueError for what is not in the catalogue.
    """
    head, _, tail = target.removeprefix(MINI).partition("/")
    found = entry((MINI if target.startswith(MINI) else "") + head)
    if not tail:
        return found
    rows = [row for row in found.rows if tail in (row.experiment, row.experiment.rsplit("/", 1)[-1], row.paper)]
    if not rows:
        known = dict.fromkeys(row.experiment.rsplit("/", 1)[-1] for row in found.rows)
        near = difflib.get_close_matches(tail, known, 3, cutoff=0.4) or known
        raise ValueError(
            f"{target}: {found.name} has no row {tail}; choose one of {', '.join(near) or 'none: it has no rows'}"
        )
    return replace(found, rows=tuple(rows))


def plan(request: Request) -> list[Task]:
    """The trainings in the order in which they have to run, with what is there of each.

    Raises ValueError for an override that the grid or --seeds decide, for what Hydra refuses, and for weights that are missing.
    """
    _check(request)
    runs = scan(request.root)
    tasks: dict[str, Task] = {}
    wanted = jobs(request.entry, request.seeds)
    if request.matched_compute:
        wanted += [twice for job in wanted if (twice := _matched(job, request)) is not None]
    for job in wanted:
        for task in _fine_tuning(job, request, runs) if job.row.weights else [make_task(job, request, runs)]:
            tasks.setdefault(task.name, task)
    return list(tasks.values())


def results(request: Request, tasks: Sequence[Task]) -> list[Found]:
    """The finished runs that the entry shows."""
    return [task.found for task in tasks if task.done and not task.choosing and task.found is not None]


def unfinished(tasks: Sequence[Task], failed: Collection[str]) -> list[Task]:
    """What can be run now."""
    return [task for task in tasks if not task.done and task.waits is None and task.name not in failed]


def _matched(job: Job, request: Request) -> Job | None:
    """The vanilla job at the gradient evaluations of the two-pass methods; None for other methods."""
    found = matched(entry(request.entry.name), job.row)
    if found is None:
        return None
    experiment, epochs = found
    if mine := [each for each in request.extra if each.lstrip("+").startswith("train.epochs=")]:
        raise ValueError(f"--matched-compute sets train.epochs, so {mine[0]} cannot be given with it; leave one out")
    settings = (f"experiment={experiment}", *epochs, *job.overrides[1:])
    return Job(Row(f"{job.row.label}, equal gradient evaluations", experiment), job.seed, job.values, settings)


# ---- fine-tuning ----------------------------------------------------------------------------------------------------


def _fine_tuning(job: Job, request: Request, runs: Sequence[Found]) -> list[Task]:
    """The trainings that choose, if the row has a held-out part, and the one on all pictures."""
    start = _weights(job, request, runs)
    more = [f"model.init={start}"] if start else []
    name = choice(job.row.experiment)
    tried = [make_task(each, request, runs, more, name) for each in (choosing(job.row) if job.row.holdout else ())]
    for task in tried:
        task.choosing = True
    last = make_task(job, request, runs, more)
    if start is None:
        for task in (*tried, last):
            task.waits = (
                f"weights of {job.row.weights}: reproduce that first, or --weights <folder>, or model.init=<file>"
            )
    elif tried:
        best = _best(tried, request)
        if isinstance(best, str):
            last.waits = (
                f"the choice of {', '.join(job.row.over)} on {job.row.holdout:.0%} of the training pictures{best}"
            )
        else:
            chosen = [f"{key}={value}" for key, value in best.items()]
            last = make_task(Job(job.row, job.seed, best, (*job.overrides, *chosen)), request, runs, more)
    return [*tried, last]


def _best(tried: Sequence[Task], request: Request) -> Mapping[str, Any] | str:
    """The values of the task with the highest top-1, of equals the first's; why there is none yet, after what is waited for."""
    if any(not task.done and task.name not in request.failed for task in tried):
        return ""
    scores = [(task.found.top1(), task) for task in tried if task.done and task.found is not None]
    scores = [(top1, task) for top1, task in scores if math.isfinite(top1)]  # else a nan that comes first would win
    if not scores:
        return f": none of {len(tried)} trainings ended with a top-1"
    return max(scores, key=lambda each: each[0])[1].job.values


def _weights(job: Job, request: Request, runs: Sequence[Found]) -> str | None:
    """model.init of a fine-tuning; "" where the user gave it; None where there is nothing.

    The row's own pretraining of the lowest seed, so that its fine-tunings differ in nothing but their own; below --weights
    also a file <experiment>.<ending>.
    """
    if any(each.lstrip("+").startswith("model.init=") for each in request.extra):
        return ""
    name = job.row.weights or ""
    if request.weights is not None:
        files = [path for path in sorted(request.weights.glob(f"{name}.*")) if path.is_file()]
        files += [path for path in sorted(request.weights.glob(f"{Path(name).name}.*")) if path.is_file()]
        if files:
            return str(files[0].resolve())
        runs = scan(request.weights)
    trained = [run for run in runs if run.experiment == name and run.done]
    if request.weights is None:
        trained = [run for run in trained if not departures(run.config, Row(name, name))]
    first = min(trained, key=lambda run: run.config["train"]["seed"], default=None)
    return str(first.folder.resolve()) if first else None


def _check(request: Request) -> None:
    taken = {"experiment": "the row", "train.seed": "--seeds", "run.experiment": "the row", "run.dir": "each run"}
    taken |= {key: f"the grid of {row.experiment}" for row in request.entry.rows for key in row.over}
    for each in request.extra:
        key, equals, _ = each.lstrip("+").partition("=")
        if not equals:
            raise ValueError(f"{each}: not an override; write key=value")
        if (request.entry.theory or request.entry.settings) and not key.startswith("paths."):
            way = (
                f"use python scripts/analyze.py analysis={request.entry.theory} {each}"
                if request.entry.theory
                else "leave it out"
            )
            raise ValueError(f"{each}: {request.entry.name} trains nothing; {way}")
        if key in taken:
            raise ValueError(f"{each}: {taken[key]} decides {key}; leave it out, or use train.py for a single run")
