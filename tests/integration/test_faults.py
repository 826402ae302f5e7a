"""Signals, deaths, full disks, to real processes of train.py: the same command then ends like a run that was left alone."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from gsam.train.checkpoint import read
from scripts.resume_check import differences, rows
from tests.processes import ROOT, certificate, finish, last_line, ranks, training, until_step

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SMALL = [
    "experiment=quickstart", "optimizer=gsam", "data.limit_train=400", "data.limit_eval=101", "train.batch_size=40",
    "schedule.warmup_steps=2", "train.log_every=7st", "train.eval_every=50st", "train.save_every=5st",
]  # fmt: skip
ONE = [*SMALL, "train.epochs=200st", "ema.decay=0.9"]
MIXED = ["augment.mixup=0.2", "augment.randaugment=official"]
TWO = [*SMALL, "train.epochs=150st", "data.backend=folder", "data.workers=1"]


def settings(base, folder, fashion_root):
    return [*base, f"paths.fashion_mnist={fashion_root}", f"run.dir={folder}"]


@pytest.fixture(scope="module")
def whole(fashion_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    assert finish(settings(ONE, folder / "run", fashion_root), folder / "log") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def whole_of_two(fashion_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    assert finish(settings(TWO, folder / "run", fashion_root), folder / "log", world=2) == 0
    return folder / "run"


def step_saved(folder):
    return read(folder / "checkpoints" / "last.pt")["step"]


def assert_like(whole, folder):
    assert differences(whole, folder) == []
    assert (folder / "DONE").exists() and not list(folder.rglob("*.tmp"))


def test_a_signal_saves_and_leaves_with_75_and_the_same_command_continues(whole, fashion_root, tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    words = settings(ONE, folder, fashion_root)
    for number, step in ((signal.SIGTERM, 7), (signal.SIGINT, 42), (signal.SIGUSR1, 84)):
        with training(words, log) as process:
            until_step(folder, step, process, log)
            process.send_signal(number)
            process.send_signal(number)  # a scheduler and a launcher often both send it
            assert process.wait(60) == 75
        said = f"{number.name} at step {step_saved(folder)} of 200; saved, the same command continues"
        assert last_line(log).endswith(said), log.read_text()
        assert step <= step_saved(folder) < 200
    assert finish(words, log) == 0
    assert_like(whole, folder)


def test_a_signal_to_one_rank_of_two_ends_both(whole_of_two, fashion_root, tmp_path):
    """Once to one rank and its loader worker; once to torchrun, as a scheduler does."""
    folder, log = tmp_path / "run", tmp_path / "log"
    words = settings(TWO, folder, fashion_root)
    for step in (7, 70):
        with training(words, log, world=2) as process:
            until_step(folder, step, process, log)
            if step == 7:
                os.killpg(ranks(process)[1], signal.SIGUSR1)
            else:
                process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 1  # torchrun's own; the ranks leave with 75
        name = "SIGUSR1" if step == 7 else "SIGTERM"
        text = log.read_text()
        assert f"{name} at step {step_saved(folder)} of 150; saved, the same command continues" in text, text
        assert "Error:" not in text.replace("ChildFailedError:", "") and step <= step_saved(folder) < 150, text
    assert text.count("exitcode  : 75") >= 1
    assert finish(words, log, world=2) == 0
    assert_like(whole_of_two, folder)


def test_a_dead_rank_ends_the_run_and_torchrun_can_restart_it(whole_of_two, fashion_root, tmp_path):
    """First a rank dies for good; then, with --max-restarts, rank 0, whose loader worker outlives it for a while."""
    folder, log = tmp_path / "run", tmp_path / "log"
    words = settings(TWO, folder, fashion_root)
    with training(words, log, world=2) as process:
        until_step(folder, 21, process, log)
        began = time.monotonic()
        os.kill(ranks(process)[1], signal.SIGKILL)
        assert process.wait(60) != 0, "it hangs"
    assert time.monotonic() - began < 60 and "Signal 9 (SIGKILL)" in log.read_text()
    last = folder / "checkpoints" / "last.pt"
    torn = last.with_name(".last.pt.1.tmp")
    torn.write_bytes(last.read_bytes()[:100_000])
    with training(words, log, world=2, launcher=("--max-restarts=1",)) as process:
        until_step(folder, 70, process, log)
        os.kill(ranks(process)[0], signal.SIGKILL)
        assert process.wait(200) == 0, log.read_text()[-3000:]
    assert log.read_text().count("continuing at step") == 2
    assert_like(whole_of_two, folder)


def test_a_full_disk_leaves_the_records_and_the_checkpoints_before(whole, fashion_root, tmp_path):
    """No file may grow beyond 32 KiB: a checkpoint would (2.4 MB) and wandb's file, metrics.jsonl does not."""
    folder, log = tmp_path / "run", tmp_path / "log"
    words = settings(ONE, folder, fashion_root)
    with training(words, log) as process:
        until_step(folder, 14, process, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
    step = step_saved(folder)
    limited = ("bash", "-c", 'ulimit -f 32; exec "$@"', "limited")
    assert finish([*words, "wandb.mode=offline"], log, prefix=limited) == 2
    text = log.read_text()
    assert "last.pt could not be written" in text and "Is the disk full?" in text and "Traceback" not in text
    assert "the last checkpoint could not be written, so the run is not finished; make room" in text
    assert rows(folder) == rows(whole)
    assert [path.stat().st_size for path in folder.glob("wandb/offline-run-*/*.wandb")] == [32 * 1024]
    assert step_saved(folder) == step < 200 and not list(folder.rglob("*.tmp")) and not (folder / "DONE").exists()
    assert finish(words, log) == 0
    assert_like(whole, folder)


def test_a_damaged_checkpoint_names_the_whole_ones_beside_it(whole, fashion_root, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    last = folder / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:-100_000])
    (folder / "checkpoints" / "best.pt").write_bytes(b"no checkpoint")

    def evaluate(*more):
        words = [sys.executable, "evaluate.py", f"weights={folder}", "evalset=fashion_mnist", *more]
        words += ["evalsets.fashion_mnist.limit=60", f"paths.fashion_mnist={fashion_root}"]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200)

    refused = evaluate()
    (line,) = [line for line in refused.stderr.splitlines() if "error:" in line]
    assert refused.returncode == 2 and "last.pt cannot be read" in line and "Traceback" not in refused.stderr
    assert line.endswith("whole ones beside it: last-1.pt")
    done = evaluate("checkpoint=last-1.pt")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("more", "ranks", "kills"),
    [
        (["optimizer.group_size=10", "ema.decay=0.9", "train.accumulate=2"], 1, 4),
        (["train.accumulate=2"], 2, 2),
        (["optimizer.group_size=10", *MIXED, "augment.color_jitter=0.4"], 1, 4),
        ([*MIXED, "augment.cutmix=1.0"], 2, 2),
    ],
    ids=["groups and average", "two ranks", "mixed in groups", "mixed on two ranks"],
)
def test_resume_check_proves_it(more, ranks, kills, fashion_root, tmp_path):
    words = [*SMALL, "train.epochs=100st", *more, f"paths.fashion_mnist={fashion_root}", f"--kills={kills}"]
    words += [f"--ranks={ranks}", f"--out={tmp_path}/out"]
    done = subprocess.run(
        [sys.executable, "scripts/resume_check.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = certificate(tmp_path / "out")
    assert found["passed"] and len(found["kills"]) == kills and found["steps"] == 100 and found["differences"] == []
    assert any("checkpoint" in where for where in found["kills"])
