"""Running what a plan needs: trainings, evaluations, analyses, the report, each in a process of its own, one after another."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gsam.catalogue import sets
from gsam.cli import REQUEUE, run_child
from gsam.identity import leaves
from gsam.launch.allocation import training_command
from gsam.reproduce.found import Found
from gsam.reproduce.plan import plan, results, unfinished
from gsam.reproduce.show import name
from gsam.reproduce.task import Request

ROOT = Path(__file__).resolve().parents[2]
Say = Callable[[str], None]


class Left(Exception):
    """Asked to leave; everything is saved, and the same command continues."""


def train_command(overrides: Sequence[str], request: Request) -> list[str]:
    """The training's command line."""
    return training_command([*overrides, f"run.root={request.root}"], request.gpus)


def train(request: Request, say: Say) -> None:
    """Everything that can be trained; what waits for a choice is planned again after it. Failures go to request.failed.

    Raises Left when a training was asked to leave.
    """
    ended: set[str] = set()
    while todo := unfinished(plan(request), request.failed):
        again = {task.name for task in todo} & ended
        for number, task in enumerate(todo, start=1):
            text = name(task, request)
            if task.name in again:  # train.py would be satisfied with it for ever
                request.failed[task.name] = f"{text}: ended well, but no finished run of it is below {request.root}"
                continue
            say(f"training {number} of {len(todo)}: {text}")
            if code := _run(train_command(task.overrides, request), say):
                request.failed[task.name] = f"{text}: exit code {code}"
            ended.add(task.name)


def measure(request: Request, say: Say) -> list[str]:
    """Evaluations and analyses of the finished runs, and the experiments of theory. Returns a line per failure.

    What is measured already is recognised by evaluate.py and analyze.py themselves. Raises Left.
    """
    failures = []
    paths = [each for each in request.extra if each.lstrip("+").startswith("paths.")]
    for run in results(request, plan(request)):
        for command in [*_evaluations(run, request), *_analyses(run, request)]:
            if code := _run([*command, *paths], say):
                failures.append(f"{run.folder}: {Path(command[1]).name}: exit code {code}")
    if request.entry.theory and _run(
        [
            sys.executable,
            str(ROOT / "scripts/analyze.py"),
            f"analysis={request.entry.theory}",
            f"out={theory_folder(request)}",
            *paths,
        ],
        say,
    ):
        failures.append(f"analysis={request.entry.theory} failed")
    return failures


def report(request: Request, say: Say) -> bool:
    """The entry's table or figure. Whether it could be made."""
    return not _run([sys.executable, str(ROOT / "scripts/report.py"), request.entry.name, str(request.root)], say)


def _evaluations(run: Found, request: Request) -> list[list[str]]:
    wanted = [name for name in sets(request.entry, run.config["data"]["name"]).values() if name != "val"]
    if not wanted:
        return []
    names = ",".join(dict.fromkeys(wanted))
    return [[sys.executable, str(ROOT / "evaluate.py"), f"weights={run.folder}", f"evalset=[{names}]"]]


def _analyses(run: Found, request: Request) -> list[list[str]]:
    command = [sys.executable, str(ROOT / "scripts/analyze.py"), f"weights={run.folder}"]
    settings = dict(leaves(run.config))
    filled = [
        [re.sub(r"\{([\w.]+)\}", lambda match: str(settings[match[1]]), word) for word in words]
        for words in request.entry.analyses
    ]
    limit = settings["data.limit_train"]  # of a miniature: its subset cannot be larger
    return [[*command, *(f"n={limit}" if _larger(word, limit) else word for word in words)] for words in filled]


def _larger(word: str, limit: int | None) -> bool:
    return limit is not None and word.startswith("n=") and word != "n=null" and int(word[2:]) > limit


def theory_folder(request: Request) -> Path:
    """Where an experiment of theory leaves its rows."""
    return request.root / "theory" / str(request.entry.theory)


def _run(command: Sequence[str], say: Say) -> int:
    """The command's exit code. Raises Left when it, or this process, was asked to leave."""
    sys.stdout.flush()
    code = run_child(command)
    if code == REQUEUE:
        raise Left
    if code:
        say(f"failed with exit code {code}: {' '.join(map(os.fspath, command[1:]))}")
    return code
