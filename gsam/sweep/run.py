"""What scripts/sweep.py does: make a sweep of the command line, show it, submit it, work on it."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Group
from rich.table import Table
from rich.text import Text

from gsam.cli import CONFIGS
from gsam.fill import ConfigError, advice, fill
from gsam.launch import slurm
from gsam.launch.settings import SlurmConfig
from gsam.reproduce.cost import evaluations
from gsam.reproduce.show import millions
from gsam.sweep.plan import Plan
from gsam.sweep.results import best, number, picture, progress, rows, shown, write
from gsam.sweep.settings import put, read, split
from gsam.sweep.space import Point, corners, described
from gsam.sweep.storage import OUTAGES, open_storage, why
from gsam.sweep.study import Ledger, open_study
from gsam.sweep.training import Share, shares
from gsam.sweep.worker import Worker

SCRIPT = "scripts/sweep.py"
Say = Callable[[str], None]
Show = Callable[[Any], None]


@dataclass
class Sweep:
    plan: Plan
    words: list[str]
    """of the command line, without launcher.*"""
    launcher: SlurmConfig | None
    shares: list[Share]
    """of this machine, a trial's each"""
    world: int
    """ranks of a training"""


def prepare(words: Sequence[str]) -> Sweep:
    """Everything read, but for the trainings' own settings, which `plan.check(world)` checks. Raises ValueError."""
    own = [word for word in words if not word.lstrip("+").startswith(("launcher=", "launcher."))]
    launcher = _launcher([word.lstrip("+") for word in words if word not in own])
    plan = Plan(*read(own))
    config = plan.config
    here = shares(config.jobs, _gpus(), config.gpus)
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", "1"))
    if nodes > 1 and config.jobs > 1:
        raise ValueError(f"sweep.jobs={config.jobs}: on {nodes} nodes a trial takes all of them; leave it out")
    return Sweep(plan, own, launcher, here, launcher.world if launcher else nodes * max(1, len(here[0].gpus)))


def preview(sweep: Sweep, show: Show) -> None:
    """The points, or the space, and what they cost in gradient evaluations."""
    plan, config = sweep.plan, sweep.plan.config
    tried = plan.points if plan.points is not None else corners(plan.space)
    costs = [_cost(plan, point) for point in tried]
    keys = list(dict.fromkeys(key for axes in plan.space.values() for key in axes))
    table = Table("experiment", *keys, "gradient evaluations")
    if plan.points is not None:
        for point, cost in zip(plan.points, costs, strict=True):
            values = [str(point.values.get(key, "")) for key in keys]
            table.add_row(*map(Text, [point.experiment, *values, millions(cost and cost * len(config.seeds))]))
        known = [cost for cost in costs if cost is not None]
        total = millions(sum(known) * len(config.seeds) if len(known) == len(costs) else None)
    else:
        for experiment, axes in described(plan.space).items():
            table.add_row(*map(Text, [experiment, *(_range(axes.get(key)) for key in keys), ""]))
        most = max((cost for cost in costs if cost is not None), default=None)
        total = f"at most {millions(most and most * len(config.seeds) * plan.total)}"
    lines = [
        f"{config.name}: {plan.total} trials by {config.sampler.name}, {len(config.seeds)} seed(s) each, in {plan.folder}"
    ]
    lines += [f"with {' '.join(plan.overrides)}"] if plan.overrides else []
    show(Group(*map(Text, lines), table, Text(f"together {total} gradient evaluations")))


def _cost(plan: Plan, point: Point) -> float | None:
    """Gradient evaluations of a training; None where that cannot be said: `plan.check` says why."""
    try:
        return evaluations(plan.config_of(point, plan.config.seeds[0]))
    except (ValueError, ArithmeticError, TypeError):
        return None


def join(sweep: Sweep, say: Say, retry_failed: bool) -> Ledger:
    """A part in the study, which is made if there is none; retry_failed: all that failed is queued. Raises ValueError."""
    plan = sweep.plan
    try:
        storage = open_storage(plan.folder, plan.config.storage)
        ledger = Ledger(open_study(storage, plan), storage, plan, say)
        if retry_failed:
            ledger.queue_failed()
    except OUTAGES as error:
        raise ValueError(f"the study cannot be reached: {why(error)}") from error
    return ledger


def submit(sweep: Sweep, say: Say, retry_failed: bool) -> None:
    """An array of workers. Raises ValueError."""
    plan = sweep.plan
    assert sweep.launcher is not None
    if plan.folder.exists() or plan.config.storage:
        # A study of this name may be another sweep's: the workers would all refuse. And what failed is queued here, once:
        # workers come and go.
        join(sweep, say, retry_failed)
    slurm.submit_workers(SCRIPT, sweep.words, f"sweep-{plan.config.name}", plan.folder, plan.root, sweep.launcher)


def work(ledger: Ledger, parts: Sequence[Share], say: Say, show: Show) -> tuple[bool, bool]:
    """(whether it left before the end, whether a trial failed), after all that could be taken is done. parts: of this machine,
    one per trial at a time."""
    plan = ledger.plan

    def after() -> None:
        trials = ledger.trials()
        table = rows(plan, trials)
        write(plan, table)
        picture(plan, table, say)
        say(progress(plan, trials))

    # Waiting for others' trials costs nothing here; a Slurm job would hold GPUs meanwhile.
    stay = "SLURM_JOB_ID" not in os.environ
    left = Worker(ledger, plan, parts, say, after, stay).run()
    try:
        table = rows(plan, ledger.trials())
        write(plan, table)
    except OUTAGES as error:
        say(f"no results now, the study or its folder cannot be reached: {why(error)}")
        return True, False
    picture(plan, table, say)
    show(shown(plan, table))
    if (first := best(table, plan.config.metric.higher_is_better)) is not None:
        settings = [
            f"experiment={first['experiment']}",
            *(f"{key}={value}" for key, value in first["settings"].items()),
        ]
        say(f"best: {number(first)} with {' '.join(settings)}")
    say(f"{plan.folder}: {', '.join(sorted(path.name for path in plan.folder.glob('[rs]*.*')))}")
    undone = plan.total - sum(row["state"] in ("complete", "pruned", "failed") for row in table)
    if undone and not left:  # in a Slurm job
        say(
            f"not the end: {undone} of {plan.total} trials are with other workers; the same command continues what these leave"
        )
    return left, any(row["state"] == "failed" for row in table)


def _launcher(words: Sequence[str]) -> SlurmConfig | None:
    given = dict(map(split, words))
    if not words:
        return None
    name, known = given.pop("launcher", None), sorted(path.stem for path in (CONFIGS / "launcher").glob("*.yaml"))
    if name not in known:
        raise ConfigError([f"launcher={name}: unknown" + advice(str(name), known, "launcher=", "choose")])
    document = OmegaConf.load(CONFIGS / "launcher" / f"{name}.yaml")
    put(document, given, "launcher.")
    problems: list[str] = []
    config: SlurmConfig = fill(document, SlurmConfig, problems, at="launcher.")
    if problems := problems or list(config.problems()):
        raise ConfigError(problems)
    return config


def _gpus() -> list[str]:
    """Names of the visible GPUs, as CUDA_VISIBLE_DEVICES has them."""
    count = torch.cuda.device_count()
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return names[:count] if len(names) >= count and names != [""] else [str(i) for i in range(count)]


def _range(axis: Any) -> str:
    return "" if axis is None else axis if isinstance(axis, str) else " | ".join(map(str, axis))
