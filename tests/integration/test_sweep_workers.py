"""Many processes on one study, some killed, in every kind of storage; their trainings are naps."""

import multiprocessing
import os
import random
import signal
import threading
import time
from contextlib import suppress

import pytest
from optuna.trial import TrialState

from gsam.sweep.storage import OUTAGES
from gsam.sweep.study import END, FAILED, ordinals
from tests import postgres
from tests.sweeps import ledger_of, plan_of, work

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
POINTS = 16
FORK = multiprocessing.get_context("fork")  # what is imported need not be imported again


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def storage(request, tmp_path):
    """(the sweep's words, the server if it is one)"""
    if request.param != "postgresql":
        yield ([f"sweep.storage=sqlite:///{tmp_path}/study.db"] if request.param == "sqlite" else []), None
        return
    try:
        with postgres.server() as server:
            yield [f"sweep.storage={server.url}"], server
    except postgres.Unavailable as why:
        pytest.skip(str(why))


def start(*arguments):
    process = FORK.Process(target=work, args=arguments)
    process.start()
    return process


def test_no_trial_is_lost_or_doubled_when_workers_that_start_together_are_killed(storage, tmp_path):
    """All make the storage and the study at the same moment; two are killed somewhere and replaced."""
    words = [*storage[0], "sweep.grace_s=3", f"optimizer.rho=range(1,{POINTS + 1})"]
    claims = tmp_path / "claims"
    claims.mkdir()
    workers = [start(tmp_path, words, claims) for _ in range(4)]
    for _ in range(2):
        known = len(list(claims.iterdir()))
        while len(list(claims.iterdir())) < known + 2:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.3))
        victim = next(worker for worker in workers if worker.is_alive())
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        workers.append(start(tmp_path, words, claims))
    for worker in workers:
        worker.join(120)
    # 1 would be a claim that another process had: the same trial twice.
    assert sorted(worker.exitcode for worker in workers) == [-9, -9, 0, 0, 0, 0]
    known = ordinals(ledger_of(plan_of(tmp_path, *words)).trials())
    for ordinal in range(POINTS):
        complete = [trial for trial in known[ordinal] if trial.state is TrialState.COMPLETE]
        assert [trial.value for trial in complete] == [float(ordinal)], ordinal
        assert known[ordinal][-1].params == {"optimizer.rho": ordinal + 1}
    others = [trial for trials in known.values() for trial in trials if trial.state is not TrialState.COMPLETE]
    assert all(trial.state is TrialState.FAIL and trial.user_attrs.get(END) != FAILED for trial in others)


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_trials_that_were_put_back_are_taken_once_in_sqlite_too(storage, tmp_path):
    """It has no row locks: with transactions that begin as readers two processes see one trial waiting, and both take it."""
    words, claims = [*storage[0], "optimizer.rho=range(1,21)"], tmp_path / "claims"
    claims.mkdir()
    ledger = ledger_of(plan_of(tmp_path, *words))
    for taken in [ledger.take() for _ in range(20)]:
        ledger.put_back(taken.trial)
    workers = [start(tmp_path, words, claims) for _ in range(4)]
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 4 and len(list(claims.iterdir())) == 20


@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
def test_a_database_that_is_away_for_a_while_is_waited_for(storage, tmp_path):
    """One of the worker's trials ends during the outage, which is told when the database is back; another goes on, and nobody
    gives it up, though the outage is longer than the grace period."""
    from gsam.sweep.attempt import Outcome
    from gsam.sweep.worker import Worker

    class Nap:
        """An attempt without a training."""

        share = None

        def __init__(self, taken, seconds):
            self.trial, self.values, self.outcome, self.until = taken.trial, [0.5], None, time.monotonic() + seconds
            self.name = f"trial {taken.ordinal}"

        def poll(self):
            if time.monotonic() > self.until:
                self.outcome = Outcome("complete", 0.5)

        def leave(self, *_, **__):
            pass

    words, server = storage
    plan = plan_of(tmp_path, *words, "sweep.grace_s=4", "optimizer.rho=0.1,0.2")
    told: list[str] = []
    ledger = ledger_of(plan)
    worker = Worker(ledger, plan, [], told.append, lambda: None, stay=False)
    worker.running += [Nap(ledger.take(), 2), Nap(ledger.take(), 12)]
    watcher, over, looks = ledger_of(plan), threading.Event(), []

    def watch():
        while not over.wait(0.2):
            with suppress(*OUTAGES):
                looks.append(watcher.watch(()))

    looking, away = threading.Thread(target=watch), threading.Timer(6, server.start)
    looking.start()
    while not looks:
        time.sleep(0.05)
    server.stop()
    away.start()
    assert worker.run() is False
    over.set()
    looking.join()
    away.join()
    assert any("cannot be reached: " in line for line in told) and {
        "trial 0: top1 0.5000",
        "trial 1: top1 0.5000",
    } <= set(told)
    assert [trial.state for trial in watcher.trials()] == [TrialState.COMPLETE] * 2
    assert {1, 2} <= set(looks)  # it saw both, and later the one that went on
