"""Real processes that leave early: sweeps, starts, proofs; and real starts that must not begin."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gsam.train import trainer
from scripts.resume_check import family, kill_all
from tests.integration.test_faults import SMALL, settings
from tests.processes import ROOT, finish, last_line, training, until, until_step
from tests.ranks import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def start(words, log):
    with log.open("ab") as out:
        return subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=out, stderr=out, start_new_session=True,
                                env={**os.environ, "PYTHONUNBUFFERED": "1"})  # fmt: skip


@pytest.mark.parametrize("to", ["sweep", "terminal"])
def test_a_signal_to_a_sweep_lets_its_job_save_and_starts_no_further_one(to, fashion_root, tmp_path):
    log, root = tmp_path / "log", tmp_path / "runs"
    process = start(
        ["train.py", "-m", *SMALL, "optimizer=vanilla,sam", "train.epochs=4000st", f"run.root={root}",
         f"paths.fashion_mnist={fashion_root}"], log)  # fmt: skip
    try:
        until(lambda: list(root.glob("quickstart/*/checkpoints/last.pt")), process, log)
        if to == "sweep":
            process.send_signal(signal.SIGTERM)
        else:
            os.killpg(process.pid, signal.SIGINT)  # Ctrl-C
        assert process.wait(60) == 75, log.read_text()[-2000:]
        assert "saved, the same command continues" in log.read_text()
        assert len(list(root.glob("quickstart/*"))) == 1 and not list(root.rglob("*.tmp"))
    finally:
        kill_all(process)


def test_a_signal_before_the_first_step_leaves_with_75(fashion_root, tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    with training(settings(SMALL, folder, fashion_root), log) as process:
        until(lambda: b"gsam" in _maps(process.pid) or folder.exists(), process, log)  # past Python's own start
        until(lambda: b"libtorch" in _maps(process.pid), process, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75, log.read_text()
    assert "the same command continues" in last_line(log)


def _maps(pid):
    return Path(f"/proc/{pid}/maps").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_resume_check_leaves_no_training_behind(number, fashion_root, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    words = [*SMALL, "train.epochs=4000st", f"paths.fashion_mnist={fashion_root}", "--out", str(out)]
    process = start(["scripts/resume_check.py", *words], log)
    until_step(out / "whole", 7, process, log)
    pids = family(process.pid)
    process.send_signal(number)
    assert process.wait(60) != 0 and len(pids) > 1
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert finish_check([*SMALL, "train.epoch=1", "--out", str(tmp_path / "typo")]) == 2
    assert not (tmp_path / "typo").exists()  # the corrected command may use it


def finish_check(words):
    return subprocess.run([sys.executable, "scripts/resume_check.py", *words], cwd=ROOT, capture_output=True).returncode


WRONG_STARTS = {
    "run.dir=/dev/null": "run.dir=/dev/null cannot be written",
    "run.root=/proc/nope": "make room there, or give run.dir=<another folder> or run.root=<another>",
    "~train.epochs": "~train.epochs: a setting cannot be deleted, it would silently take another value; give train.epochs=…",
    "~optimizer": "give optimizer=…",
    "train.epoch=3": "train.epoch: unknown key; did you mean train.epochs?",
}


@pytest.mark.parametrize("word", WRONG_STARTS)
def test_a_wrong_start_is_one_message(word, fashion_root, tmp_path):
    log = tmp_path / "log"
    words = [*SMALL, f"paths.fashion_mnist={fashion_root}", f"run.root={tmp_path}/runs", word]
    assert finish(words, log) in (1, 2)
    assert WRONG_STARTS[word] in log.read_text() and "Traceback" not in log.read_text(), log.read_text()
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_of_another_run_starts_nothing(fashion_root, tmp_path):
    """Copied into a folder of its own, and into the folder of another run."""
    one, alone, other, log = (tmp_path / name for name in ("one", "alone", "other", "log"))
    words = ["train.epochs=20st", "model=small_convnet"]
    assert finish([*settings(SMALL, one, fashion_root), *words], log) == 0
    assert finish([*settings(SMALL, other, fashion_root), *words, "train.seed=9", "train.max_steps=5"], log) == 0
    for folder in (alone, other):
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints" / "last.pt").unlink(missing_ok=True)
        os.link(one / "checkpoints" / "last.pt", folder / "checkpoints" / "last.pt")
    assert finish([*settings(SMALL, alone, fashion_root), *words, "train.seed=9"], log) == 2
    assert "has checkpoints but no meta.json" in last_line(log) and [p.name for p in alone.iterdir()] == ["checkpoints"]
    assert finish([*settings(SMALL, other, fashion_root), *words, "train.seed=9"], log) == 2
    assert "last.pt is of another run (configuration" in last_line(log), log.read_text()


def _drifting(rank, words, folder):
    """A training on two ranks, of which rank 1 changes a weight of its own at step 8."""
    import torch

    from gsam.runtime import Runtime
    from tests.runs import compose_train

    made = trainer.Trainer(compose_train(*words), Runtime(torch.device("cpu"), rank, 2))
    step = made.stepper.train_step

    def drifted(batches):
        if rank == 1 and made.step == 8:
            next(made.model.parameters()).data[0] += 0.5
        return step(batches)

    made.stepper.train_step = drifted
    try:
        made.fit()
    except ValueError as error:
        return str(error), sorted(str(p.name) for p in (Path(folder) / "checkpoints").glob("*")), made.step
    return "", [], made.step


def test_weights_that_differ_between_ranks_are_never_saved(fashion_root, tmp_path):
    """A row comes each 30 steps, a checkpoint each 5: the one of step 10 must not be written."""
    folder = tmp_path / "run"
    words = [
        *settings(SMALL[1:], folder, fashion_root),
        "train.epochs=60st",
        "train.log_every=30st",
        "data.backend=folder",
    ]
    for text, names, step in run_ranks(2, _drifting, words, str(folder), start="spawn"):
        assert "step 9" in text or "step 10" in text, text
        assert "the ranks have drifted apart" in text and step == 10
        assert names == ["last.pt"]
    from gsam.train.checkpoint import read

    assert read(folder / "checkpoints" / "last.pt")["step"] == 5
