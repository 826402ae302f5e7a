"""What a Slurm job does, on the first of its nodes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gsam.cli import REQUEUE
from gsam.launch.allocation import command
from gsam.launch.child import run
from gsam.launch.nodes import down, silent

ASK_S = 5
ASK_NODES_S = 30
TIME_LIMIT = signal.SIGUSR2  # `--signal=B:USR2@<grace_s>`
RETRY_S = 60  # for a controller of Slurm that is busy or starts again
NOTICED_S = 240  # after which Slurm says that a node is down, or does not respond: it asks each SlurmdTimeout / 3
GIVEN_UP_S = 900  # after which Slurm surely has ended the jobs of a node that is gone (SlurmdTimeout, 300 by default)


@dataclass
class Job:
    """Runs a command; when that was asked to leave and has saved, the job starts again and so continues it. submitit calls this
    after each start of the job."""

    words: list[str]
    """a script and its arguments"""
    processes: int | None
    """ranks per node; None: a script that starts trainings itself"""
    folder: str
    """of the run, or of all runs; checkpoints there tell whether a start has brought anything"""

    def __call__(self) -> None:
        """Raises SystemExit with the command's exit code unless that is 0."""
        start = os.environ.get("SLURM_RESTART_COUNT", "0")
        _say(f"start {int(start) + 1}, nodes {os.environ['SLURM_JOB_NODELIST']}")
        before = self._checkpoints()
        words = [sys.executable, *self.words] if self.processes is None else command(self.words, self.processes)
        # SIGTERM comes when Slurm ends the job; all its processes get it, srun's tasks too.
        code, seen = run(words, (TIME_LIMIT, signal.SIGTERM, signal.SIGUSR1))
        if code == REQUEUE and _state() in ("RUNNING", ""):  # else Slurm has ended it: scancel, requeue or preemption
            if TIME_LIMIT in seen and self._checkpoints() == before:
                _say("the time limit came before this start's first checkpoint: it ends here; give more launcher.time")
            else:
                _start_again("left and saved")
        elif code and not seen and silent() and _within(NOTICED_S, lambda: down() or not silent(), ASK_NODES_S):
            _say("a node is lost; waiting for it, or for Slurm to give it up and to start this job again")
            if _within(GIVEN_UP_S, lambda: not silent(), ASK_NODES_S):
                _start_again("it answers")
        if code:
            sys.exit(code)

    def _checkpoints(self) -> dict[Path, int]:
        depths = ["*/" * depth for depth in range(4)]  # runs/<experiment, which may have a slash>/<hash>
        files = [file for depth in depths for file in Path(self.folder).glob(f"{depth}checkpoints/last.pt")]
        return {file: file.stat().st_mtime_ns for file in files}


def job_id() -> str:
    """With its index for a task of an array: the number alone may mean all of them."""
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


def _start_again(why: str) -> None:
    _say(f"{why}; starting again")
    if not _within(RETRY_S, lambda: _slurm("scontrol", "requeue", job_id()) is not None):
        _say("Slurm has not taken that: it ends here; the same command submits it again")
        sys.exit(REQUEUE)


def _state() -> str:
    """Nothing where Slurm does not say."""
    found: list[str] = []

    def ask() -> bool:
        found.append(_slurm("squeue", "--noheader", f"--jobs={job_id()}", "--format=%T") or "")
        return found[-1] != ""

    _within(RETRY_S, ask)
    return found[-1]


def _slurm(*words: str) -> str | None:
    """Output; None when the command fails, which has said why."""
    run = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    return None if run.returncode else run.stdout.strip()


def _within(seconds: float, happened: Callable[[], bool], every_s: float | None = None) -> bool:
    """Whether it does."""
    deadline = time.monotonic() + seconds
    while not (true := happened()) and time.monotonic() < deadline:
        time.sleep(every_s or ASK_S)
    return true


def _say(text: str) -> None:
    print(f"slurm job {job_id()}: {text}", flush=True)
