"""A worker: takes trials of the study, runs their trainings, tells how they ended, until there is nothing left to take."""

import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from sqlalchemy.exc import SQLAlchemyError

from gsam.cli import REQUEUE, SIGNALS
from gsam.launch.process import ORPHANED
from gsam.sweep.plan import Plan
from gsam.sweep.study import FAILED, Ledger, Taken
from gsam.sweep.training import Share, evaluations, last_words, start, value_of, writer

POLL_S = 0.5
OUTAGE_S = 5.0  # between tries to reach a storage that does not answer
BEATS = 4  # in a grace period
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
        self._waited = False

    def poll(self) -> None:
        """Go on; sets `outcome` at the end. May be called again after any exception of the storage."""
        if self.outcome is not None:
            return
        if self._asked and self.process is None:
            self.outcome = Outcome(self._asked)
        elif self.process is None:
            self._begin()
        else:
            code = self.process.poll()
            self._report()
            if code is not None:
                self._ended(code)

    def leave(self, why: str = "left", again: bool = False) -> None:
        """Ask the training to save and leave; why: the kind of outcome that this will be. again: although it was asked before,
        which may end it at once."""
        asked, self._asked = self._asked, why if why == "taken" else self._asked or why
        if self.process is not None and self.process.poll() is None and (again or not asked):
            self.process.send_signal(signal.SIGTERM)

    @property
    def seed(self) -> int:
        return self.plan.config.seeds[len(self.values)]

    def _begin(self) -> None:
        self.folder = self.plan.run_folder(self.point, self.seed)
        self._log = self.plan.folder / "logs" / f"{self._stem}_seed_{self.seed}.log"
        self._size = -1
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
            if self._asked is None and self.process is not None and self.trial.should_prune():
                self.leave("pruned")
        self._size = size

    def _ended(self, code: int) -> None:
        if code == 0:
            self._finished()
            self.process = None
        elif code in (REQUEUE, -signal.SIGTERM, ORPHANED):  # the latter two: before it could take the signal
            self.outcome = Outcome(self._asked or "left")
        else:
            how = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
            self.outcome = Outcome("failed", reason=f"seed {self.seed}: {how}: {last_words(self._log)}")

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
        found = {"value": value, "run": str(self.folder), "set": rows[-1].get("evalset")}
        self.trial.set_user_attr(f"seed {self.seed}", found)
        self.values.append(value)
        self._before += len(rows)
        if len(self.values) == len(self.plan.config.seeds):
            self.outcome = Outcome("complete", statistics.fmean(self.values))


class Worker:
    """shares: one per trial at a time · after: called with the worker when a trial has ended · stay: wait for the trials of
    other workers, to take over those that are lost."""

    def __init__(
        self, ledger: Ledger, plan: Plan, shares: Sequence[Share], say: Say, after: Callable[[], None], stay: bool
    ):
        self.ledger, self.plan, self._say, self._after, self._stay = ledger, plan, say, after, stay
        self.free, self.running = list(shares), list[Attempt]()
        self.asked = False
        self._beaten = self._told_outage = 0.0

    def run(self) -> bool:
        """Until nothing is left. Whether it was asked to leave before."""
        handlers = {number: signal.signal(number, self._leave) for number in SIGNALS}
        try:
            while self._round():
                time.sleep(POLL_S)
        finally:
            for attempt in self.running:  # an error of ours: nothing trains on unseen
                attempt.leave()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return self.asked

    def _leave(self, number: int, frame: FrameType | None) -> None:
        if not self.asked:
            self._say(f"{signal.Signals(number).name}: the trainings save and leave")
        for attempt in self.running:
            attempt.leave(again=self.asked)
        self.asked = True

    def _round(self) -> bool:
        """A look at everything. Whether there is more to do."""
        try:
            others = self.ledger.watch(attempt.trial.number for attempt in self.running)
            self._take()
            self._beat()
            before = len(self.running)
            for attempt in list(self.running):
                self._advance(attempt)
            over = len(self.running) < before  # then there may be something to take
            return bool(self.running) or not self.asked and (over or others > 0 and self._stay)
        except (StorageInternalError, SQLAlchemyError, OSError) as error:
            # The trainings go on. A signal ends the wait once they have left: what was not told is lost to the study, until the
            # trials are given up for lost and continue from their checkpoints.
            if time.monotonic() - self._told_outage > 60:
                self._say(f"the study cannot be reached, trying again: {str(error.__cause__ or error).splitlines()[0]}")
                self._told_outage = time.monotonic()
            time.sleep(OUTAGE_S)
            return not self.asked or any(
                each.process is not None and each.process.poll() is None for each in self.running
            )

    def _take(self) -> None:
        while self.free and not self.asked:
            taken = self.ledger.take()
            if taken is None:
                return
            self.running.append(Attempt(taken, self.plan, self.free[0], self._say))
            self.free.pop(0)
            again = f" (attempt {taken.attempt + 1})" * bool(taken.attempt)
            self._say(f"trial {taken.ordinal}{again}: {taken.point.text}")

    def _beat(self) -> None:
        if time.monotonic() - self._beaten < self.plan.config.grace_s / BEATS:
            return
        for attempt in self.running:
            try:
                self.ledger.beat(attempt.trial)
            except UpdateFinishedTrialError:
                attempt.leave("taken")
        self._beaten = time.monotonic()

    def _advance(self, attempt: Attempt) -> None:
        try:
            attempt.poll()
        except UpdateFinishedTrialError:  # this worker stood still for longer than the grace period
            attempt.leave("taken")
        outcome = attempt.outcome
        if outcome is None:
            return
        if outcome.kind == "complete":
            self.ledger.complete(attempt.trial, outcome.value)
        elif outcome.kind == "pruned":
            self.ledger.pruned(attempt.trial)
        elif outcome.kind == "failed":
            self.ledger.fail(attempt.trial, FAILED, outcome.reason)
        elif outcome.kind == "left":
            self.ledger.put_back(attempt.trial)
            if not self.asked:
                self._say(f"{attempt.name}: its training was asked to leave, and so this worker leaves")
                self._leave(signal.SIGTERM, None)
        self._drop(attempt)
        self._tell(attempt, outcome)
        self._after()

    def _drop(self, attempt: Attempt) -> None:
        self.running.remove(attempt)
        self.free.append(attempt.share)

    def _tell(self, attempt: Attempt, outcome: Outcome) -> None:
        metric = self.plan.config.metric.name
        told = {
            "complete": f"{metric} {outcome.value:.4f}" + f", mean of {len(attempt.values)} seeds" * (len(attempt.values) > 1),
            "pruned": "pruned", "failed": f"failed: {outcome.reason}", "left": "saved and put back",
            "taken": "another worker has given it up for lost and continues it",
        }[outcome.kind]  # fmt: skip
        self._say(f"{attempt.name}: {told}")
