"""One training of a plan: its settings, and the run folder that is its own. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from gsam.catalogue import EXECUTION, IMAGES_AT_A_TIME, Entry, Job, differing
from gsam.cli import CONFIGS, forced
from gsam.recipes import compose, values
from gsam.reproduce.found import Found
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


def make_task(
    job: Job, request: Request, runs: Sequence[Found], more: Sequence[str] = (), name: str | None = None
) -> Task:
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
