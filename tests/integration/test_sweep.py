"""scripts/sweep.py with real trainings: workers that die, trainings that fail, signals, pruning, what it leaves."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from optuna.trial import TrialState
from PIL import Image

from gsam.sweep.study import ordinals
from scripts.resume_check import family, kill_all, steps_done
from tests.processes import ROOT, until
from tests.runs import rows
from tests.sweeps import ledger_of, plan_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SMALL = [
    *(
        "data.limit_train=400",
        "data.limit_eval=101",
        "train.batch_size=40",
        "schedule.warmup_steps=2",
        "data.backend=folder",
    ),
    *("data.workers=0", "train.log_every=5st", "train.eval_every=5st", "train.save_every=5st"),
]


@contextmanager
def sweeping(words, log):
    """A started worker; what is left of it ends with the block."""
    with log.open("ab") as out:
        process = subprocess.Popen([sys.executable, "scripts/sweep.py", *words], cwd=ROOT, stdout=out, stderr=out,
                                   start_new_session=True, env=os.environ | {"COLUMNS": "160"})  # fmt: skip
        try:
            yield process
        finally:
            kill_all(process)


def sweep(words, log):
    """Exit code of a worker left alone."""
    with sweeping(words, log) as process:
        return process.wait(400)


def results(root, name="rho"):
    return [json.loads(line) for line in (root / "sweeps" / name / "results.jsonl").read_text().splitlines()]


def trainings(root):
    """Process ids of the trainings below this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if f"run.root={root}".encode() in words and any(word.endswith(b"train.py") for word in words):
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_a_worker_killed_in_mid_trial_costs_nothing(storage, tmp_path, fashion_root):
    root, one, two = tmp_path / "runs", tmp_path / "one.log", tmp_path / "two.log"
    words = [
        "optimizer.rho=0.02,0.05,0.1",
        "sweep.grace_s=4",
        "train.epochs=100st",
        *SMALL,
        "train.eval_every=50st",
        f"paths.fashion_mnist={fashion_root}",
    ]
    words += [f"sweep.storage=sqlite:///{tmp_path}/study.db"] if storage == "sqlite" else []
    command = ["sweep=rho", f"run.root={root}", *words]
    with sweeping(command, one) as dying, sweeping(command, two) as living:
        until(lambda: len(list(root.glob("quickstart/*/checkpoints/last.pt"))) == 2, living, two)
        (victim,) = [pid for pid in family(dying.pid) if pid in trainings(root)]
        folder = next(path.parent for path in root.glob("quickstart/*/.lock") if str(victim) in path.read_text())
        dying.kill()
        dying.wait()
        until(lambda: victim not in trainings(root), living, two)  # it has saved and left
        assert steps_done(folder) < 100
        assert living.wait(400) == 0, two.read_text()
    (stopped_at,) = re.findall(r"SIGTERM at step (\d+) of 100; saved", _logs(root))
    assert f"continuing at step {stopped_at} of 100" in _logs(root)
    assert trainings(root) == [] and "is lost: no sign of life of" in two.read_text()
    assert [(row["state"], row["settings"]["optimizer.rho"]) for row in results(root)] == [
        ("complete", 0.02), ("complete", 0.05), ("complete", 0.1)]  # fmt: skip
    assert sorted(row["attempts"] for row in results(root)) == [1, 1, 2]
    assert len(list(root.glob("quickstart/*"))) == len(list(root.glob("quickstart/*/DONE"))) == 3
    for each in root.glob("quickstart/*"):
        assert [row["step"] for row in rows(each, "train")] == list(range(5, 101, 5))
    known = ordinals(ledger_of(plan_of(root, *words)).trials())
    assert all([trial.state for trial in trials].count(TrialState.COMPLETE) == 1 for trials in known.values())


def _logs(root):
    return "".join(path.read_text() for path in root.glob("sweeps/*/logs/*"))


def test_a_failed_trial_is_recorded_and_the_rest_of_two_experiments_is_done(tmp_path, fashion_root):
    """A learning rate that gives nan; two at a time; two seeds. The second call only prints."""
    root, log = tmp_path / "runs", tmp_path / "log"
    command = [
        "sweep=rho", "sweep.name=rho", f"run.root={root}", "experiment=fig7/sam_rho,table6/decayed", "base.lr=0.03,1e30",
        "optimizer.rho=0.1",
        "sweep.jobs=2", "sweep.seeds=[0,1]", "train.epochs=10st", "model=small_convnet", "data=fashion_mnist",
        "augment=fashion_mnist", "train.loss=softmax", "train.precision=fp32", "optimizer.group_size=null", *SMALL,
        f"paths.fashion_mnist={fashion_root}",
    ]  # fmt: skip
    assert sweep(command, log) == 1, log.read_text()
    table = results(root)
    assert [(row["experiment"], row["state"]) for row in table] == [
        ("fig7/sam_rho", "complete"), ("fig7/sam_rho", "failed"), ("table6/decayed", "complete"), ("table6/decayed", "failed"),
    ]  # fmt: skip
    for row in table:
        assert row["settings"]["base.lr"] == (0.03 if row["state"] == "complete" else 1e30)
        if row["state"] == "failed":
            assert row["reason"].startswith("seed 0: exit code 2: error: ") and row["value"] is None
            continue
        tops = [rows(Path(run), "eval")[-1]["top1"] for run in row["runs"]]
        assert (
            row["value"] == pytest.approx(sum(tops) / 2) and list(row["seeds"].values()) == tops and row["spread"] >= 0
        )
        assert [Path(run).parent for run in row["runs"]] == [root / row["experiment"]] * 2 and row["set"] == "val"
    with (root / "sweeps/rho/results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["base.lr"] for line in lines] == ["0.03", "1e+30", "0.03", "1e+30"] and float(
        lines[0]["value"]
    ) == table[0]["value"]
    with Image.open(root / "sweeps/rho/sweep.png") as picture:
        assert min(picture.size) > 500

    before = {path: path.stat().st_mtime_ns for path in root.glob("*/*/*/metrics.jsonl")}
    log.unlink()
    assert sweep(command, log) == 1
    assert before == {path: path.stat().st_mtime_ns for path in root.glob("*/*/*/metrics.jsonl")}
    assert "trial 0" not in log.read_text() and "failed: seed 0: exit code 2" in log.read_text()


@pytest.mark.parametrize("to", ["worker", "training"])
def test_asked_to_leave_it_puts_its_trials_back_and_the_same_command_continues(to, tmp_path, fashion_root):
    """A scheduler may signal the worker, or all processes at once."""
    root, log = tmp_path / "runs", tmp_path / "log"
    words = [
        "optimizer.rho=0.02,0.05",
        "sweep.jobs=2",
        *SMALL,
        "train.epochs=60st",
        f"paths.fashion_mnist={fashion_root}",
    ]
    command = ["sweep=rho", f"run.root={root}", *words]
    with sweeping(command, log) as process:
        until(lambda: len(list(root.glob("quickstart/*/checkpoints/last.pt"))) == 2, process, log)
        os.kill(process.pid if to == "worker" else trainings(root)[0], signal.SIGTERM)
        assert process.wait(60) == 75, log.read_text()
    assert log.read_text().splitlines()[-1] == "left before the end; what was done is saved, the same command continues"
    assert trainings(root) == []
    trials = ledger_of(plan_of(root, *words)).trials()
    assert [trial.state for trial in trials] == [TrialState.WAITING] * 2
    if to == "training":
        return
    assert sweep(command, log) == 0, log.read_text()
    assert [(row["state"], row["attempts"]) for row in results(root)] == [("complete", 1)] * 2
    assert _logs(root).count("continuing at step") == 2
    for each in root.glob("quickstart/*"):
        assert [row["step"] for row in rows(each, "eval")] == list(range(5, 61, 5))


def test_a_worker_that_stands_still_loses_its_trial_and_nothing_is_trained_twice(tmp_path, fashion_root):
    """Its training goes on meanwhile: the worker that takes over waits for the run folder's lock."""
    root, one, two = tmp_path / "runs", tmp_path / "one.log", tmp_path / "two.log"
    command = ["sweep=rho", f"run.root={root}", "optimizer.rho=choice(0.02)", "sweep.grace_s=3", *SMALL, "train.epochs=800st",
               "train.eval_every=100st", f"paths.fashion_mnist={fashion_root}"]  # fmt: skip
    with sweeping(command, one) as still, sweeping(command, two) as other:
        until(lambda: list(root.glob("quickstart/*/checkpoints/last.pt")), other, two)
        (process, log, taker, said) = (
            (still, one, other, two) if "trial 0:" in one.read_text() else (other, two, still, one)
        )
        process.send_signal(signal.SIGSTOP)
        try:
            assert taker.wait(200) == 0, said.read_text()
        finally:
            process.send_signal(signal.SIGCONT)
        assert process.wait(60) == 0, log.read_text()
    assert "trial 0 (attempt 2)" in said.read_text() and "is still being written" in said.read_text()
    assert "another worker has given it up for lost and continues it" in log.read_text()
    (row,) = results(root)
    assert (row["state"], row["attempts"]) == ("complete", 2) and _logs(root).count("small_convnet, 281,258") == 1


def test_two_trials_of_one_run_train_it_once(tmp_path, fashion_root):
    """A sampler may draw the same point twice."""
    root, log = tmp_path / "runs", tmp_path / "log"
    command = ["sweep=rho", f"run.root={root}", "optimizer.rho=choice(0.02)", "sweep.sampler=random", "sweep.trials=2",
               "sweep.jobs=2", *SMALL, "train.epochs=10st", f"paths.fashion_mnist={fashion_root}"]  # fmt: skip
    assert sweep(command, log) == 0, log.read_text()
    one, two = results(root)
    assert one["state"] == two["state"] == "complete" and one["runs"] == two["runs"] and one["value"] == two["value"]
    assert len(list(root.glob("quickstart/*"))) == 1 and _logs(root).count("small_convnet, 281,258") == 1


def test_trainings_that_start_together_write_the_data_set_once(tmp_path, fashion_root):
    """FFCV's files of Fashion-MNIST are made by the first training that finds none: the others wait for it."""
    root, log = tmp_path / "runs", tmp_path / "log"
    command = ["sweep=rho", f"run.root={root}", "optimizer.rho=0.02,0.05", "sweep.jobs=2", *SMALL, "data.workers=1",
               "data.backend=ffcv", f"data.ffcv_root={tmp_path}/ffcv", "train.epochs=4st",
               f"paths.fashion_mnist={fashion_root}"]  # fmt: skip
    assert sweep(command, log) == 0, log.read_text()
    assert {path.name for path in (tmp_path / "ffcv").glob("*.beton")} == {"train.beton", "val.beton"}


def test_a_pruned_trial_ends_its_training_early(tmp_path, fashion_root):
    """Learning rates that learn, then one of next to nothing: after a quarter of its evaluations it is the worse one. (Halving
    sets its first stage by a trial that is complete, so that the second one is the first to be compared with.)"""
    root, log = tmp_path / "runs", tmp_path / "log"
    command = ["sweep=rho", f"run.root={root}", "optimizer.rho=choice(0.02)", "base.lr=0.05,0.06,1e-9", "schedule.lr_min=0",
               "sweep.pruner=halving", *SMALL, "train.epochs=200st", f"paths.fashion_mnist={fashion_root}"]  # fmt: skip
    assert sweep(command, log) == 0, log.read_text()
    _, good, bad = results(root)
    assert (good["state"], bad["state"]) == ("complete", "pruned") and bad["value"] < good["value"]
    (stopped,) = [path.parent for path in root.glob("quickstart/*/.lock") if not (path.parent / "DONE").exists()]
    assert (
        50 <= steps_done(stopped) < 200
        and "SIGTERM at step" in _logs(root)
        and list(stopped.glob("checkpoints/last.pt"))
    )
    assert "pruned" in log.read_text()
