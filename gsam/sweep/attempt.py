"""A trial that runs in this worker: its trainings one after another, their evaluations told to the study."""

import signal
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from optuna.trial import TrialState

from gsam import runs
from gsam.cli import REQUEUE
from gsam.launch.process import ORPHANED
from gsam.sweep.plan import Plan
from gsam.sweep.settings import Pruner
from gsam.sweep.study import Taken
from gsam.sweep.training import Share, evaluations, last_words, start, value_of, writer

ENDING_S = 60  # for the process of a training that is done, and again after SIGTERM
PRUNE_AFTER = 0.25  # part of a trial's evaluations before which the pruner is not asked: warm-up tells nothing
Say = Callable[[str], None]


@dataclass
class Outcome:
    """How a trial ended here. kind: complete (value: the mean over seeds) | pruned | failed (reason) | left | taken (by another
    worker, which had given it up for lost)."""

    kind: str
    value: float = 0.0
    reason: str = ""


class Attempt:
    """A trial that runs in this worker: its trainings one after another, a seed each."""

    def __init__(self, taken: Taken, plan: Plan, share: Share, say: Say):
        self.trial, self.point, self.plan, self.share = taken.trial, taken.point, plan, share
        self.name = f"trial {taken.ordinal}"
        self._stem, self._say = f"trial_{taken.ordinal}", say
        self.values: list[float] = []
        self.process: subprocess.Popen | None = None
        self.outcome: Outcome | None = None
        self._before = 0  # evaluations of the seeds before
        known = taken.trial.study.get_trials(deepcopy=False)[taken.trial.number]
        self._reported = max(known.intermediate_values, default=-1) + 1
        self._size = -1  # of metrics.jsonl when it was last read
        self._asked: str | None = None  # to leave, and the kind of outcome that this will be: pruned | left | taken
        self._told: subprocess.Popen | None = None  # the process that was asked
        self._waited = False
        self._done = 0.0  # when the training was first seen to be, or was asked to end after that
        self._ending = False  # it was

    def poll(self) -> None:
        """Go on; sets `outcome` at the end. May be called again after any exception of the storage."""
        if self.outcome is not None:
            return
        if self._asked and self.process is None:
            self.outcome = Outcome(self._asked)
        elif self.process is None:
            self._begin()
        else:
            code = self._code(self.process)
            self._report()
            if code is not None:
                self._ended(code)

    def _code(self, process: subprocess.Popen) -> int | None:
        """Its exit code; None while it runs. A training that is done, but whose process does not end, is ended: libraries hang
        at exit now and then, and would hold the GPUs for ever."""
        if (code := process.poll()) is not None or not (self.folder / "DONE").exists():
            return code
        self._done = self._done or time.monotonic()
        if time.monotonic() - self._done < ENDING_S:
            return None
        if self._ending:
            process.kill()
            return process.wait()
        self._say(f"{self.name}: its training is done, but its process has not ended for {ENDING_S} s; ending it")
        process.terminate()  # a supervisor then ends its ranks
        self._ending, self._done = True, time.monotonic()
        return None

    def leave(self, why: str = "left", again: bool = False) -> None:
        """Ask the training to save and leave, once; why: the kind of outcome that this will be. again: although it was asked
        before, which may end it at once."""
        self._asked = why if why == "taken" else self._asked or why
        if self.process is not None and self.process.poll() is None and (again or self._told is not self.process):
            self._told = self.process
            self.process.send_signal(signal.SIGTERM)

    @property
    def seed(self) -> int:
        return self.plan.config.seeds[len(self.values)]

    def _begin(self) -> None:
        self.folder = self.plan.run_folder(self.point, self.seed)
        self._log = self.plan.folder / "logs" / f"{self._stem}_seed_{self.seed}.log"
        self._size, self._done, self._ending = -1, 0.0, False
        if (self.folder / "DONE").exists():  # by an attempt before, or another sweep
            self._report()
            self._finished()
        elif (pid := writer(self.folder)) is not None:
            if not self._waited:
                self._say(f"{self.name}: {self.folder} is still being written (process {pid}); waiting for its end")
            self._waited = True
        else:
            self.process = start(self.plan.training(self.point, self.seed), self.share, self._log)

    def _report(self) -> None:
        """Evaluations since the last look, to the study; asks its pruner after each."""
        try:
            size = (self.folder / "metrics.jsonl").stat().st_size
        except OSError:
            return
        if size == self._size or self._asked == "taken":
            return
        for number, row in enumerate(evaluations(self.folder), start=self._before):
            value = value_of(row, self.plan.config.metric.name)
            if number < self._reported or value != value:
                continue
            self.trial.report(value, number)
            self._reported = number + 1
            if self._asked is None and self.process is not None and self._may_prune() and self.trial.should_prune():
                self.leave("pruned")
        self._size = size

    def _may_prune(self) -> bool:
        """Whether the trial is far enough, by the evaluations of those that are complete."""
        if self.plan.config.pruner is Pruner.none:
            return False
        complete = self.trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        whole = max((len(trial.intermediate_values) for trial in complete), default=0)
        return bool(whole) and self._reported > PRUNE_AFTER * whole

    def _ended(self, code: int) -> None:
        if code == 0 or (self.folder / "DONE").exists():
            self._finished()
            self.process = None
        elif self._was_refused():  # another trial of the same run was faster
            self.process = None
        elif code in (REQUEUE, -signal.SIGTERM, ORPHANED):  # the latter two: before it could take the signal
            self.outcome = Outcome(self._asked or "left")
        else:
            how = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
            self.outcome = Outcome("failed", reason=f"seed {self.seed}: {how}: {last_words(self._log)}")

    def _was_refused(self) -> bool:
        """Whether the training ended because another one writes its folder, or did when this one started."""
        return writer(self.folder) is not None or "is being written by" in last_words(self._log)

    def _finished(self) -> None:
        """One seed is trained."""
        if self._asked == "taken":
            return
        rows = evaluations(self.folder)
        metric = self.plan.config.metric.name
        value = value_of(rows[-1], metric) if rows else float("nan")
        if value != value:
            what = f"{metric} is not finite" if rows else f"no evaluation in {self.folder}/metrics.jsonl"
            self.outcome = Outcome("failed", reason=f"seed {self.seed}: {what}")
            return
        whole = runs.read(self.folder)
        m = whole[0].get("m") if whole else None
        found = {"value": value, "run": str(self.folder), "set": rows[-1].get("evalset"), "m": m}
        self.trial.set_user_attr(f"seed {self.seed}", found)
        self.values.append(value)
        self._before += len(rows)
        if len(self.values) == len(self.plan.config.seeds):
            self.outcome = Outcome("complete", statistics.fmean(self.values))
