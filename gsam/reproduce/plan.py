"""What an entry of the catalogue still needs. Reads run folders; imports no torch."""

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from gsam.catalogue import (
    EXECUTION,
    IMAGES_AT_A_TIME,
    MINI,
    Entry,
    Job,
    Row,
    choice,
    choosing,
    departures,
    differing,
    entry,
    jobs,
    matched,
)
from gsam.cli import CONFIGS, forced
from gsam.recipes import compose, values
from gsam.reproduce.found import Found, scan
from gsam.runs import alike, origin

_missing = object()


@dataclass
class Task:
    """A training of the plan."""

    job: Job
    overrides: list[str]
    """everything train.py gets"""
    config: DictConfig
    """what train.py composes from them"""
    found: Found | None = None
    """the run, finished or not"""
    waits: str | None = None
    """what has to be done first; `overrides` are not complete before"""
    choosing: bool = False
    """compared on a held-out part, to choose settings for another task"""

    @property
    def done(self) -> bool:
        return self.found is not None and self.found.done

    @property
    def name(self) -> str:
        return " ".join(self.overrides)


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    entry: Entry
    seeds: Sequence[int] = (0,)
    matched_compute: bool = False
    extra: Sequence[str] = ()
    """overrides for every training"""
    root: Path = Path("runs")
    weights: Path | None = None
    """folder with the runs or files that fine-tunings start from; None: `root`"""
    gpus: int = 1
    failed: dict[str, str] = field(default_factory=dict)
    """name of a task that failed in this process -> what happened; not tried again, and no longer waited for"""


def select(target: str) -> Entry:
    """The entry of `table1`, `mini/table1`, or with some rows of it, `table1/vit_b32_gsam`: by their experiment, the last part
    of that, or their name in paper.yaml. Raises ValueError for what is not in the catalogue.
    """
    head, _, tail = target.removeprefix(MINI).partition("/")
    found = entry(target[: len(target) - len(target.removeprefix(MINI))] + head)
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
        for task in _fine_tuning(job, request, runs) if job.row.weights else [_task(job, request, runs)]:
            tasks.setdefault(task.name, task)
    return list(tasks.values())


def results(request: Request, tasks: Sequence[Task]) -> list[Found]:
    """The finished runs that the entry shows."""
    return [task.found for task in tasks if task.done and not task.choosing and task.found is not None]


def unfinished(tasks: Sequence[Task], failed: Collection[str]) -> list[Task]:
    """What can be run now."""
    return [task for task in tasks if not task.done and task.waits is None and task.name not in failed]


# ---- one training ---------------------------------------------------------------------------------------------------


def _task(job: Job, request: Request, runs: Sequence[Found], more: Sequence[str] = (), name: str | None = None) -> Task:
    extra = [*_own(job.row.experiment, request), *more]
    overrides, config = [*job.overrides, *extra], _composed(job, extra)
    experiment = name or job.row.experiment
    wanted, free = values(config), ["model.init"] if job.row.weights else []
    here = [run for run in runs if run.experiment == experiment and not differing(wanted, run.config, free)]
    if job.row.weights:
        here = [run for run in here if _continues(run, config.model.init, job.row.weights)]
    run = max(here, key=lambda run: (run.done, run.step), default=None)
    if run is not None:
        how = _execution_of(run, config)
    else:
        how = [f"train.accumulate={pieces}"] if (pieces := _pieces(config, request)) else []
    return Task(job, [*overrides, *how], _with(config, how), run)


def _composed(job: Job, extra: Sequence[str]) -> DictConfig:
    """compose() of the experiment once for all its grid points and seeds, which are then put in."""
    return _with(_compose(job.row.experiment, tuple(extra)).copy(), job.overrides[1:])


def _with(config: DictConfig, settings: Sequence[str]) -> DictConfig:
    for setting in settings:
        key, _, value = setting.partition("=")
        OmegaConf.update(config, key, yaml.safe_load(value), force_add=True)
    return config


def left_out(experiment: str, request: Request) -> list[str]:
    """The overrides that this experiment has no key for, but another of the entry's has: they are for that one.

    Only methods and base optimizers differ in their keys; what is a key nowhere is a mistake, which gsam.config names.
    """
    keys = {each: each.lstrip("+").partition("=")[0] for each in request.extra}
    choices = tuple(each for each, key in keys.items() if (CONFIGS / key).is_dir())

    def has(name: str, key: str) -> bool:
        return OmegaConf.select(_compose(name, choices), key, default=_missing) is not _missing

    names = {row.experiment for row in request.entry.rows}
    own = [each for each, key in keys.items() if key.startswith(("optimizer.", "base.")) and not has(experiment, key)]
    return [each for each in own if any(has(name, keys[each]) for name in names)]


def _own(experiment: str, request: Request) -> list[str]:
    without = left_out(experiment, request)
    return [each for each in request.extra if each not in without]


@cache
def _compose(experiment: str, extra: tuple[str, ...]) -> DictConfig:
    return compose([f"experiment={experiment}", f"++run.experiment={experiment}", *map(forced, extra)])


def _execution_of(run: Found, config: DictConfig) -> list[str]:
    """Overrides with which the same folder is continued: how the run is computed belongs to its hash."""
    found = []
    for key in (*EXECUTION, "model.init"):  # the latter as it was spelled
        node: Any = run.config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if node is not None and str(node) != str(OmegaConf.select(config, key)):
            found.append(f"{key}={str(node).lower() if isinstance(node, bool) else node}")
    return found


def _continues(run: Found, init: str | None, experiment: str) -> bool:
    """Whether a fine-tuning started from these weights of `experiment`; an unfinished one needs them where it found them."""
    theirs = run.config["model"]["init"]
    if theirs is None or init is None:
        return theirs == init
    return alike(theirs, init, experiment) and (run.done or theirs == init or origin(theirs).exists())


def _pieces(config: DictConfig, request: Request) -> int | None:
    """train.accumulate for a method without groups; None where nothing has to be split or the user has said something."""
    share = config.train.batch_size // request.gpus
    given = any(each.lstrip("+").startswith("train.accumulate=") for each in request.extra)
    grouped = config.optimizer.get("group_size") is not None
    if given or grouped or share <= IMAGES_AT_A_TIME or share % IMAGES_AT_A_TIME:
        return None
    return share // IMAGES_AT_A_TIME


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
    tried = [_task(each, request, runs, more, name) for each in (choosing(job.row) if job.row.holdout else ())]
    for task in tried:
        task.choosing = True
    last = _task(job, request, runs, more)
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
            last = _task(Job(job.row, job.seed, best, (*job.overrides, *chosen)), request, runs, more)
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

    The row's own pretraining with the same seed, else the first one; below --weights also a file <experiment>.<ending>.
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
    same = [run for run in trained if run.config["train"]["seed"] == job.seed]
    return str((same or trained)[0].folder.resolve()) if trained else None


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
