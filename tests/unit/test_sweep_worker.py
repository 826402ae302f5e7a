"""A worker without trainings: signals, storages that are away, what it says when it ends, the journal's lock."""

import os
import signal
import threading
import time

import pytest
from optuna.trial import TrialState

from gsam.sweep import run, storage, worker
from gsam.sweep.storage import DamagedJournal, open_storage
from gsam.sweep.study import FAILED
from scripts import sweep as script
from tests.sweeps import ledger_of, plan_of

WORDS = ["optimizer.rho=0.1,0.2", "sweep.grace_s=3"]


@pytest.fixture
def ledger(tmp_path):
    return ledger_of(plan_of(tmp_path, *WORDS))


def worker_of(ledger, said, after=lambda: None):
    return worker.Worker(ledger, ledger.plan, [], said, after, stay=True)


def test_a_signal_is_told_by_the_next_round(ledger):
    """The handler may have interrupted a line that is being printed."""
    said = []
    one = worker_of(ledger, said.append)
    one._leave(signal.SIGUSR1, None)
    assert said == []
    assert one._round() is False and one._round() is False
    assert said == ["SIGUSR1: the trainings save and leave"]


def test_the_study_is_read_now_and_then_only(ledger, monkeypatch):
    ledger_of(ledger.plan).take()
    one, read = worker_of(ledger, print), ledger.trials
    looks = []
    monkeypatch.setattr(ledger, "trials", lambda: (looks.append(1), read())[1])
    assert [one._round() for _ in range(5)] == [True] * 5 and len(looks) == 1  # it waits for the other's trial


def test_an_error_of_a_file_is_told_with_its_path(ledger, monkeypatch):
    monkeypatch.setattr(worker, "OUTAGE_S", 0.0)
    said = []
    one = worker_of(ledger, said.append)
    monkeypatch.setattr(one, "_look", lambda: (ledger.plan.folder / "none" / "results.csv").write_text(""))
    one._round()
    assert said == [f"[Errno 2] No such file or directory: '{ledger.plan.folder}/none/results.csv'; trying again"]


def test_asked_to_leave_while_the_study_is_away_it_leaves(ledger, monkeypatch):
    monkeypatch.setattr(worker, "OUTAGE_S", 0.05)
    said = []
    ledger.plan.folder.rename(ledger.plan.folder.with_name("elsewhere"))
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert run.work(ledger, [], said.append, said.append) == (True, False)
    assert "journal.log'; trying again" in said[0] and said[1] == "SIGINT: the trainings save and leave"
    assert said[-1].startswith("no results now, the study or its folder cannot be reached: ")


def test_a_worker_of_a_slurm_job_says_that_others_are_still_at_work(ledger, monkeypatch):
    """It does not wait for them: its GPUs would be idle."""
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    said, other = [], ledger_of(ledger.plan)
    taken = [other.take(), other.take()]
    other.complete(taken[0].trial, 0.5)
    assert run.work(ledger, [], said.append, lambda table: None) == (False, False)
    assert said[-1] == "not the end: 1 of 2 trials are with other workers; the same command continues what these leave"
    other.complete(taken[1].trial, 0.5)
    assert run.work(ledger, [], said.append, lambda table: None) == (False, False) and "not the end" not in said[-1]


def test_what_failed_is_queued_once_when_workers_are_submitted(ledger, tmp_path, monkeypatch):
    """Not by every worker, nor whenever one of them starts again."""
    monkeypatch.setenv("PATH", "")  # so that nothing is submitted
    ledger.fail(ledger.take().trial, FAILED, "nan")
    sweep = run.prepare(["sweep=rho", f"run.root={tmp_path}", *WORDS, "launcher=slurm"])
    for _ in range(2):
        with pytest.raises(ValueError, match="no sbatch"):
            run.submit(sweep, print, retry_failed=True)
    assert [trial.state for trial in ledger.trials()] == [TrialState.FAIL, TrialState.WAITING]
    assert not any("retry" in word for word in sweep.words)


# ---- the journal ----------------------------------------------------------------------------------------------------


def test_a_damaged_journal_is_named_and_no_wrong_input(ledger, tmp_path, monkeypatch, capsys):
    one = ledger.take()
    path = ledger.plan.folder / "journal.log"
    with path.open("ab") as file:
        file.write(b"\xff\n{}\n")
    with pytest.raises(DamagedJournal, match=f"{path} is damaged: "):
        worker_of(ledger, print).run()
    assert not isinstance(DamagedJournal(), ValueError) and one.ordinal == 0
    monkeypatch.setattr("sys.argv", ["sweep.py", "sweep=rho", f"run.root={tmp_path}", *WORDS, "data.backend=folder"])
    monkeypatch.setattr(run.Plan, "check", lambda plan, world: None)
    assert script.main() == 2 and f"error: {path} is damaged: " in capsys.readouterr().err


def test_a_lock_is_removed_by_its_owner_only(tmp_path, monkeypatch):
    """Whoever stood still for longer than a lock holds finds it broken, perhaps another's, and goes on."""
    monkeypatch.setattr(storage, "LOCK_S", 0.2)
    open_storage(tmp_path, None)
    path, file = tmp_path / "journal.log", tmp_path / "journal.log.lock"
    slow, other = storage._Lock(str(path)), storage._Lock(str(path))
    slow.acquire()
    start = time.monotonic()
    other.acquire()
    assert time.monotonic() - start > 0.2
    slow.release()
    assert file.exists()
    other.release()
    other.release()
    assert not file.exists()


def test_a_lock_whose_journal_is_gone_is_given_back(tmp_path):
    lock = storage._Lock(str(tmp_path / "journal.log"))
    with pytest.raises(FileNotFoundError):
        lock.acquire()
    assert not list(tmp_path.iterdir())
