"""The study as a list of work that any number of processes share: taking a trial, signs of life, what became of it.

Trial n of a study is not configuration n: a lost one is started again as a trial of its own. So every trial has an *ordinal*:
the first one of each is simply created, and its ordinal is the number of such trials before it; one that is started again is
queued with the ordinal of the lost one. Both follow from the order in which the storage numbers its trials, which is the same
for all processes: nothing has to be locked, and a process may be killed between any two steps.
"""

import itertools
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from gsam.sweep.plan import Plan, differences
from gsam.sweep.settings import Pruner, Sampler
from gsam.sweep.space import Point, params, suggest

RETRIES = 2  # of a trial whose workers died
# user_attrs of trials
BEAT = "beat"  # another value at every sign of life
OF, ATTEMPT = "of", "attempt"  # of a trial that is started again: its ordinal, and how many there were before
ASKED = "asked"  # of one that is because somebody asked for it (--retry-failed)
END, REASON = "end", "reason"  # of a failed trial: one of the following, and in words
LOST, FAILED, SURPLUS, TWICE = "lost", "failed", "surplus", "twice"
DEFINITION = "definition"  # user_attrs of the study

PRUNERS: dict[Pruner, Callable[[], BasePruner]] = {
    Pruner.none: NopPruner,
    Pruner.median: MedianPruner,
    Pruner.halving: SuccessiveHalvingPruner,
}


def open_study(storage: BaseStorage, plan: Plan) -> Study:
    """The sweep's study, made if there is none. Raises ValueError if it is that of another definition."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    name, definition = str(plan.config.name), plan.definition()
    with suppress(DuplicatedStudyError):
        direction = "maximize" if plan.config.metric.higher_is_better else "minimize"
        optuna.create_study(storage=storage, study_name=name, direction=direction)
    study = optuna.load_study(
        study_name=name, storage=storage, sampler=_sampler(plan.config.sampler), pruner=PRUNERS[plan.config.pruner]()
    )
    if DEFINITION not in study.user_attrs:
        study.set_user_attr(DEFINITION, definition)
    if lines := list(differences(study.user_attrs[DEFINITION], definition)):
        raise ValueError(
            "\n".join([f"the sweep {name} in {plan.folder} is another one:", *(f"  - {line}" for line in lines)])
            + f"\ngive sweep.name=<another name> for this one, or the settings that {name} has"
        )
    return study


def _sampler(kind: Sampler) -> BaseSampler:
    """For a grid the points are given: see Ledger.take."""
    return TPESampler(constant_liar=True) if kind is Sampler.tpe else RandomSampler()


def ordinals(trials: Sequence[FrozenTrial]) -> dict[int, list[FrozenTrial]]:
    """Ordinal -> its trials in the order in which they were made, without those that were queued twice."""
    found: dict[int, list[FrozenTrial]] = {}
    count = itertools.count()
    for trial in sorted(trials, key=lambda trial: trial.number):
        ordinal = trial.user_attrs[OF] if OF in trial.user_attrs else next(count)
        if not _is_twice(trial, found.get(ordinal, [])):
            found.setdefault(ordinal, []).append(trial)
    return found


def _is_twice(trial: FrozenTrial, before: Iterable[FrozenTrial]) -> bool:
    """Two processes queued the same attempt: the one that the storage numbered first counts."""
    attempt = trial.user_attrs.get(ATTEMPT, 0)
    return any(each.user_attrs.get(ATTEMPT, 0) == attempt for each in before)


def ended(trials: Sequence[FrozenTrial]) -> bool:
    """Whether an ordinal needs no further work."""
    last = trials[-1]
    if last.state is TrialState.FAIL:
        return not _again(trials)
    return last.state.is_finished()


def _again(trials: Sequence[FrozenTrial]) -> bool:
    """Whether an ordinal whose last trial failed is to be started again."""
    asked = max((at for at, trial in enumerate(trials) if trial.user_attrs.get(ASKED)), default=0)
    ends = [trial.user_attrs.get(END) for trial in trials[asked:]]
    return ends[-1] == SURPLUS or ends[-1] == LOST and ends.count(LOST) <= RETRIES


@dataclass
class Taken:
    """A trial that this worker has to run."""

    trial: Trial
    ordinal: int
    attempt: int
    """how often it was started before"""
    point: Point


class Ledger:
    """One worker's view of the study."""

    def __init__(self, study: Study, storage: BaseStorage, plan: Plan, say: Callable[[str], None]):
        self.study, self.plan, self._say = study, plan, say
        self._storage = storage
        self._worker = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex[:8]}"
        self._beats = itertools.count()
        self._seen: dict[int, tuple[Any, float]] = {}  # number of another's trial -> its beat, since when, on our clock
        self._looked = time.monotonic()

    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def take(self) -> Taken | None:
        """A trial to run; None when all are taken."""
        while True:
            self._queue_again(ordinals(self.trials()))
            trials = self.trials()
            waiting = any(trial.state is TrialState.WAITING for trial in trials)
            fresh = sum(OF not in trial.user_attrs for trial in trials)
            if not waiting and fresh >= self.plan.total:
                return None
            trial = self.study.ask()
            self.beat(trial)
            if (claimed := self._claim(trial)) is not None:
                ordinal, attempt = claimed
                return Taken(trial, ordinal, attempt, self._point(trial, ordinal))

    def _queue_again(self, known: dict[int, list[FrozenTrial]]) -> None:
        for ordinal, trials in known.items():
            if trials[-1].state is TrialState.FAIL and _again(trials) and ordinal < self.plan.total:
                self.queue(ordinal, trials)

    def queue(self, ordinal: int, trials: Sequence[FrozenTrial], asked: bool = False) -> None:
        """Let somebody start it again."""
        given = params(self.plan.points[ordinal], self.plan.space) if self.plan.points else trials[-1].params
        self.study.enqueue_trial(given, user_attrs={OF: ordinal, ATTEMPT: len(trials), ASKED: asked})

    def queue_failed(self) -> None:
        """All that failed for good, once more, with the retries of a new one."""
        for ordinal, trials in ordinals(self.trials()).items():
            if trials[-1].state is TrialState.FAIL and ended(trials) and ordinal < self.plan.total:
                self.queue(ordinal, trials, asked=True)

    def _claim(self, trial: Trial) -> tuple[int, int] | None:
        """Its ordinal and attempt; None, and the trial is over, where somebody else has those, or there are enough."""
        for ordinal, trials in ordinals(self.trials()).items():
            numbers = [each.number for each in trials]
            if trial.number in numbers:
                if ordinal < self.plan.total:
                    return ordinal, numbers.index(trial.number)
                self.fail(trial, SURPLUS, f"more than {self.plan.total} trials: workers took the last ones together")
                return None
        self.fail(trial, TWICE, "queued twice")
        return None

    def _point(self, trial: Trial, ordinal: int) -> Point:
        if self.plan.points is not None:
            point = self.plan.points[ordinal]
            self.study.sampler = _Given(params(point, self.plan.space))
        return suggest(trial, self.plan.space)

    # ---- signs of life ----------------------------------------------------------------------------------------------

    def beat(self, trial: Trial) -> None:
        """Show that somebody works on it. Raises UpdateFinishedTrialError when it was given up for lost meanwhile."""
        trial.set_user_attr(BEAT, f"{self._worker} {next(self._beats)}")

    def watch(self, own: Iterable[int]) -> int:
        """Give up trials of others that show no sign of life. Returns how many others are running.

        own: numbers of this worker's trials. A change of the beat is all that is looked at, and the time since the last one is
        measured here: the machines' clocks need not agree.
        """
        now, grace_s, mine = time.monotonic(), self.plan.config.grace_s, set(own)
        known = [(ordinal, each) for ordinal, trials in ordinals(self.trials()).items() for each in trials]
        running = [(n, each) for n, each in known if each.state is TrialState.RUNNING and each.number not in mine]
        # After a look that took long (the storage was away, this process stood still) nobody could have been seen.
        before, self._seen = self._seen if now - self._looked < grace_s / 2 else {}, {}
        self._looked = now
        for ordinal, trial in running:
            beat = trial.user_attrs.get(BEAT)
            last, since = before.get(trial.number, (None, now))
            self._seen[trial.number] = (beat, since if beat == last else now)
            if now - self._seen[trial.number][1] > grace_s:
                self._lost(trial, ordinal, str(beat))
        return len(running)

    def _lost(self, trial: FrozenTrial, ordinal: int, beat: str) -> None:
        who = " ".join(beat.split()[:2]) or "its worker"
        with suppress(UpdateFinishedTrialError):  # another process was faster
            self._storage.set_trial_user_attr(trial._trial_id, END, LOST)
            self._storage.set_trial_user_attr(trial._trial_id, REASON, f"no sign of life of {who}")
            self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            self._say(f"trial {ordinal} is lost: no sign of life of {who} for {self.plan.config.grace_s:g} s")

    # ---- how it ended -----------------------------------------------------------------------------------------------

    def complete(self, trial: Trial, value: float) -> None:
        self._tell(trial, TrialState.COMPLETE, value)

    def pruned(self, trial: Trial) -> None:
        self._tell(trial, TrialState.PRUNED)

    def fail(self, trial: Trial, end: str, reason: str) -> None:
        with suppress(UpdateFinishedTrialError):
            trial.set_user_attr(END, end)
            trial.set_user_attr(REASON, reason)
        self._tell(trial, TrialState.FAIL)

    def put_back(self, trial: Trial) -> None:
        """For whoever comes next; not a failure."""
        with suppress(UpdateFinishedTrialError):
            self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def _tell(self, trial: Trial, state: TrialState, value: float | None = None) -> None:
        self.study.tell(trial, value, state, skip_if_finished=True)  # given up for lost, or told before an outage


class _Given(BaseSampler):
    """The sampler of a grid: the values of the point in turn."""

    def __init__(self, values: dict[str, Any]):
        self._values = values

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict:
        return {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict) -> dict:
        return {}

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        return self._values[param_name]
