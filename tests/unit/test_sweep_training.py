"""What a worker knows of one training: its share of the machine, who writes its folder, what it said last."""

import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from gsam.sweep.attempt import Attempt, Outcome
from gsam.sweep.training import Share, evaluations, last_words, shares, start, writer
from tests.sweeps import ledger_of, plan_of


def test_gpus_are_dealt_out_evenly_and_shared_where_they_are_fewer_than_trials(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    four = ["0", "1", "2", "5"]
    assert shares(1, four, None) == [Share(tuple(four))]
    assert [share.gpus for share in shares(2, four, None)] == [("0", "1"), ("2", "5")]
    assert [share.gpus for share in shares(3, four, None)] == [("0",), ("1",), ("2",)]
    assert [share.gpus for share in shares(3, ["0", "1"], None)] == [("0",), ("1",), ("0",)]
    assert [share.gpus for share in shares(2, four, 1)] == [("0",), ("1",)]
    assert shares(2, [], None) == [Share((), frozenset({0, 2, 4, 6})), Share((), frozenset({1, 3, 5, 7}))]
    with pytest.raises(ValueError, match="sweep.jobs=3 times sweep.gpus=2 are 6 GPUs; visible: 4"):
        shares(3, four, 2)


def test_a_training_sees_its_share_only(tmp_path, monkeypatch):
    cores = sorted(os.sched_getaffinity(0))
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], sorted(os.sched_getaffinity(0)))"
    monkeypatch.setattr("gsam.sweep.training.training_command", lambda words, gpus: [sys.executable, "-c", code])
    assert start([], Share(("3",), frozenset(cores[:1])), tmp_path / "logs" / "log").wait() == 0
    assert (tmp_path / "logs" / "log").read_text() == f"3 {cores[:1]}\n"


def test_a_training_gets_sigterm_when_its_worker_is_killed(tmp_path, monkeypatch):
    code = (
        "import signal, sys, time, pathlib;"
        "signal.signal(15, lambda *_: (pathlib.Path(sys.argv[1]).write_text('asked'), sys.exit()));"
        "print('ready', flush=True); time.sleep(60)"
    )
    monkeypatch.setattr(
        "gsam.sweep.training.training_command", lambda words, gpus: [sys.executable, "-c", code, *words]
    )

    def worker():
        start([str(tmp_path / "end")], Share(), tmp_path / "log")
        time.sleep(60)

    process = multiprocessing.get_context("fork").Process(target=worker)
    process.start()
    _until(lambda: (tmp_path / "log").exists() and "ready" in (tmp_path / "log").read_text())
    process.kill()
    _until((tmp_path / "end").exists)
    process.join()


@pytest.mark.parametrize("obeys", [True, False], ids=["SIGTERM", "SIGKILL"])
def test_a_training_that_is_done_but_does_not_end_is_ended(obeys, tmp_path, monkeypatch):
    """It is asked first: a supervisor ends its ranks then."""
    plan = plan_of(tmp_path, "optimizer.rho=choice(0.1)")
    taken, said = ledger_of(plan).take(), []
    row = '{"kind": "eval", "step": 1, "weights": "raw", "top1": 0.5}'
    code = (
        "import pathlib, signal, sys, time; folder = pathlib.Path(sys.argv[1]); folder.mkdir(parents=True);"
        f"signal.signal(15, lambda *_: ((folder / 'asked').touch(), {obeys} and sys.exit(3)));"
        f"(folder / 'metrics.jsonl').write_text('{row}\\n'); (folder / 'DONE').touch(); time.sleep(100)"
    )
    folder = str(plan.run_folder(taken.point, 0))
    monkeypatch.setattr(
        "gsam.sweep.training.training_command", lambda words, gpus: [sys.executable, "-c", code, folder]
    )
    monkeypatch.setattr("gsam.sweep.attempt.ENDING_S", 0.3)
    attempt = Attempt(taken, plan, Share(), said.append)
    _until(lambda: attempt.poll() or attempt.outcome)
    assert attempt.outcome == Outcome("complete", 0.5) and "its process has not ended" in said[-1]
    assert (plan.run_folder(taken.point, 0) / "asked").exists()


@pytest.mark.parametrize("later", ["still writing", "done", "left"])
def test_a_training_that_another_one_keeps_from_its_folder_is_no_failure(later, tmp_path, monkeypatch):
    """Two trials of one run start together: who is refused waits for the other, and goes on from what that has left."""
    plan = plan_of(tmp_path, "optimizer.rho=choice(0.1)")
    taken, said = ledger_of(plan).take(), []
    folder = plan.run_folder(taken.point, 0)
    folder.mkdir(parents=True)
    row = '{"kind": "eval", "step": 1, "weights": "raw", "top1": 0.5}'
    finish = f"(folder / 'metrics.jsonl').write_text('{row}\\n'); (folder / 'DONE').touch()"
    lock = "import fcntl, pathlib, sys; folder = pathlib.Path(sys.argv[1]); file = (folder / '.lock').open('a+');"
    refused = [sys.executable, "-c", "import sys; sys.exit('error: run.dir=x is being written by process 1')"]
    trains = [sys.executable, "-c", lock + finish, str(folder)]
    commands = [refused, trains]
    monkeypatch.setattr("gsam.sweep.training.training_command", lambda words, gpus: commands.pop(0))
    attempt = Attempt(taken, plan, Share(), said.append)
    attempt.poll()
    code = lock + f"fcntl.lockf(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read(); {finish}"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        if later == "done":
            other.communicate()
        elif later == "left":
            other.kill()
            other.wait()
        attempt.process.wait()
        _until(lambda: attempt.poll() or said or attempt.outcome)
        if later == "still writing":
            assert attempt.outcome is None and f"is still being written (process {other.pid}); waiting" in said[-1]
            other.communicate()
    _until(lambda: attempt.poll() or attempt.outcome)
    assert attempt.outcome == Outcome("complete", 0.5) and len(commands) == (0 if later == "left" else 1)


def _until(happened):
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_who_writes_a_run_folder_is_asked_without_taking_the_lock(tmp_path):
    assert writer(tmp_path / "nowhere") is None
    (tmp_path / ".lock").touch()
    assert writer(tmp_path) is None
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'a+'); fcntl.lockf(f, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        assert writer(tmp_path) == other.pid
        other.stdin.close()
        other.wait()
    assert writer(tmp_path) is None
    with (tmp_path / ".lock").open("a+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_evaluations_are_those_of_the_average_where_there_is_one(tmp_path):
    measured = [(5, "raw", 0.1), (5, "ema", 0.2), (9, "raw", 0.3)]
    rows = [{"kind": "eval", "step": step, "weights": weights, "top1": top1} for step, weights, top1 in measured]
    rows.insert(0, {"kind": "train", "step": 5})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "ev')
    assert [row["top1"] for row in evaluations(tmp_path)] == [0.2, 0.3]
    assert evaluations(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "starting\nerror: the configuration has 1 problem:\n  - x: y\n",
            "error: the configuration has 1 problem: - x: y",
        ),
        ("Traceback\n  File\nRuntimeError: boom\n", "RuntimeError: boom"),
        ("", "no output"),
    ],
)
def test_the_reason_of_a_failure_is_what_the_training_said_last(text, words, tmp_path):
    (tmp_path / "log").write_text(text)
    assert last_words(tmp_path / "log") == words
