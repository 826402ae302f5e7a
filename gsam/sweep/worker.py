"""A worker: takes trials of the study, runs their trainings, tells how they ended, until there is nothing left to take."""

import math
import signal
import time
from collections.abc import Callable, Sequence
from types import FrameType

from optuna.exceptions import UpdateFinishedTrialError

from gsam.cli import SIGNALS
from gsam.sweep.attempt import Attempt, Outcome, Say
from gsam.sweep.plan import Plan
from gsam.sweep.storage import OUTAGES, why
from gsam.sweep.study import FAILED, Ledger
from gsam.sweep.training import Share

POLL_S = 0.5  # between looks at the trainings
LOOK_S = 5.0  # between looks at the whole study, at most: each reads all of it
OUTAGE_S = 5.0  # between tries to reach a storage that does not answer, at most
BEATS = 4  # in a grace period


class Worker:
    """shares: one per trial at a time · after: called with the worker when a trial has ended · stay: wait for the trials of
    other workers, to take over those that are lost."""

    def __init__(
        self, ledger: Ledger, plan: Plan, shares: Sequence[Share], say: Say, after: Callable[[], None], stay: bool
    ):
        self.ledger, self.plan, self._say, self._after, self._stay = ledger, plan, say, after, stay
        self.free, self.running = list(shares), list[Attempt]()
        self.asked: str | None = None  # the signal by which it was asked to leave
        self._beaten = self._told_outage = self._looked = -math.inf
        self._others = 0  # trials that other workers run, when last looked at
        self._said = False  # that the trainings save and leave, after a signal

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
        return self.asked is not None

    def _leave(self, number: int, frame: FrameType | None) -> None:
        # The trainings are asked at once: a round may be waiting for the storage. Nothing is said: the signal may have come in
        # the middle of a line.
        for attempt in self.running:
            attempt.leave(again=self.asked is not None)
        self.asked = signal.Signals(number).name

    def _round(self) -> bool:
        """A look at everything. Whether there is more to do."""
        if self.asked and not self._said:
            self._said = True
            self._say(f"{self.asked}: the trainings save and leave")
        try:
            self._look()
            self._beat()
            before = len(self.running)
            for attempt in list(self.running):
                if self.asked:  # the signal may have come while this one was being started
                    attempt.leave()
                self._advance(attempt)
            over = len(self.running) < before
            return bool(self.running) or not self.asked and (over or self._others > 0 and self._stay)
        except OUTAGES as error:
            # The trainings go on. A signal ends the wait once they have left: what was not told is lost to the study, until the
            # trials are given up for lost and continue from their checkpoints.
            if time.monotonic() - self._told_outage > 60:
                what = "" if isinstance(error, OSError) else "the study cannot be reached: "
                self._say(f"{what}{why(error)}; trying again")
                self._told_outage = time.monotonic()
            time.sleep(min(OUTAGE_S, self.plan.config.grace_s / BEATS))  # then others have a sign of life in time
            return not self.asked or any(
                each.process is not None and each.process.poll() is None for each in self.running
            )

    def _look(self) -> None:
        """At the trials of others, and for one to take."""
        if time.monotonic() - self._looked < min(LOOK_S, self.plan.config.grace_s / BEATS):
            return
        self._others = self.ledger.watch(attempt.trial.number for attempt in self.running)
        self._take()
        self._looked = time.monotonic()

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
                self._said = True
                self._leave(signal.SIGTERM, None)
        self._drop(attempt)
        self._tell(attempt, outcome)
        self._after()

    def _drop(self, attempt: Attempt) -> None:
        self.running.remove(attempt)
        self.free.append(attempt.share)
        self._looked = -math.inf  # there may be something to take

    def _tell(self, attempt: Attempt, outcome: Outcome) -> None:
        metric = self.plan.config.metric.name
        told = {
            "complete": f"{metric} {outcome.value:.4f}" + f", mean of {len(attempt.values)} seeds" * (len(attempt.values) > 1),
            "pruned": "pruned", "failed": f"failed: {outcome.reason}", "left": "saved and put back",
            "taken": "another worker has given it up for lost and continues it",
        }[outcome.kind]  # fmt: skip
        self._say(f"{attempt.name}: {told}")
