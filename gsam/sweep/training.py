"""One training of a trial: train.py in a process of its own, on its share of the machine, and what it has written."""

import fcntl
import math
import os
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gsam.launch.allocation import training_command
from gsam.launch.process import end_with
from gsam.runs import json_lines


@dataclass(frozen=True)
class Share:
    """What one of several trials at a time may use of this machine."""

    gpus: tuple[str, ...] = ()
    """as CUDA_VISIBLE_DEVICES names them"""
    cores: frozenset[int] | None = None
    """None: all"""


def shares(jobs: int, gpus: Sequence[str], per_trial: int | None) -> list[Share]:
    """The machine in `jobs` parts. With fewer GPUs than trials some share one. Raises ValueError for too many `per_trial`."""
    count = per_trial if per_trial is not None else max(1, len(gpus) // jobs)
    if per_trial is not None and jobs * per_trial > len(gpus):
        raise ValueError(
            f"sweep.jobs={jobs} times sweep.gpus={per_trial} are {jobs * per_trial} GPUs; visible: {len(gpus)}"
        )
    dealt = [
        tuple(gpus[i % len(gpus)] for i in range(job * count, (job + 1) * count)) if gpus else () for job in range(jobs)
    ]
    cores = sorted(os.sched_getaffinity(0))
    # Threads, data workers and FFCV's workers all go by the cores that a process may use: no setting has to name them.
    own = [frozenset(cores[job::jobs] or [cores[job % len(cores)]]) if jobs > 1 else None for job in range(jobs)]
    return [Share(mine, part) for mine, part in zip(dealt, own, strict=True)]


def start(overrides: Sequence[str], share: Share, log: Path) -> subprocess.Popen:
    """The training's process; it saves and leaves when it gets SIGTERM, and gets that when this process is killed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if share.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(share.gpus)
    with log.open("ab") as out:
        return subprocess.Popen(
            training_command(overrides, len(share.gpus)), env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True,  # Ctrl-C is for the sweep, which passes it on
            preexec_fn=partial(_begin, os.getpid(), share.cores),
        )  # fmt: skip


def _begin(parent: int, cores: frozenset[int] | None) -> None:
    end_with(parent)
    if cores is not None:
        os.sched_setaffinity(0, cores)


def writer(folder: Path) -> int | None:
    """Process id of whoever holds the run folder's lock: a training that was asked to leave may still be saving. 0 where it is
    on another machine; None: nobody. Asks the kernel and takes nothing, so that no training is refused because of it."""
    try:
        with (folder / ".lock").open("rb+") as file:
            asked = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack("hhqqi", fcntl.fcntl(file, fcntl.F_GETLK, asked))
    except OSError:  # no folder yet, or a file system without locks
        return None
    return None if kind == fcntl.F_UNLCK else max(0, pid)


def evaluations(folder: Path) -> list[dict[str, Any]]:
    """The evaluation rows in order, one per evaluation: of the weights' average where the run has one, as best.pt."""
    rows = [
        row for _, row in json_lines(folder / "metrics.jsonl") if isinstance(row, dict) and row.get("kind") == "eval"
    ]
    by_step = {row["step"]: row for row in rows if "step" in row}  # the average's row comes after the weights'
    return list(by_step.values())


def value_of(row: dict[str, Any], metric: str) -> float:
    """nan where it was not finite."""
    value = row.get(metric)
    return math.nan if value is None else float(value)


def last_words(log: Path) -> str:
    """The error message that the training ended with, else its last line."""
    lines = [line.strip() for line in _tail(log) if line.strip()]
    said = [i for i, line in enumerate(lines) if line.startswith("error")]
    return " ".join(lines[said[-1] :])[:500] if said else (lines[-1][:500] if lines else "no output")


def _tail(log: Path) -> Iterator[str]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            yield from file.read().decode(errors="replace").splitlines()
    except OSError:
        return
