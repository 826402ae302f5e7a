"""reproduce.py in processes of its own: killed and run again, the two stages of fine-tuning, failures, the listing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gsam.reproduce.found import scan
from scripts import reproduce
from scripts.resume_check import kill_all
from tests.runs import rows, train

ROOT = Path(__file__).parents[2]
MINIATURE = (
    *("data=fashion_mnist", "data.backend=folder", "data.workers=0", "data.limit_eval=100", "model=small_convnet"),
    *("augment=fashion_mnist", "train.loss=softmax", "train.batch_size=64", "train.precision=fp32"),
)


def command(target: str, root: Path, *words: str) -> list[str]:
    return [sys.executable, "scripts/reproduce.py", target, f"--runs={root}", *MINIATURE, *words]


def run(target: str, root: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(target, root, *words), cwd=ROOT, capture_output=True, text=True, timeout=300)


def until(happened, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_in_a_training_it_continues_there_and_ends_with_the_report(tmp_path, fashion_root):
    settings = (f"paths.fashion_mnist={fashion_root}", "data.limit_train=400", "train.epochs=400st", "train.save_every=20st",
                "train.log_every=20st", "train.eval_every=400st", "schedule.warmup_steps=10", "--no-hours")  # fmt: skip
    folder = tmp_path / "table6" / "decayed"
    process = subprocess.Popen(command("table6/decayed", tmp_path, *settings), cwd=ROOT, start_new_session=True)
    try:
        until(lambda: list(folder.glob("*/checkpoints/last.pt")), process)
    finally:
        kill_all(process)  # SIGKILL, the training too
    (found,) = scan(tmp_path)
    assert not found.done
    shown = run("table6/decayed", tmp_path, *settings, "--dry-run")
    assert shown.returncode == 0 and "started, step" in shown.stdout and "1 of 1 trainings left: 51,200" in shown.stdout

    second = run("table6/decayed", tmp_path, *settings)
    assert second.returncode == 0, second.stdout + second.stderr
    assert re.search(r"continuing at step [1-9]\d* of 400", second.stdout)
    assert [row["step"] for row in rows(found.folder, "train")] == list(range(20, 401, 20))
    result = [json.loads(line) for line in (found.folder / "results.jsonl").read_text().splitlines()]
    assert [row["evalset"] for row in result] == ["fashion_mnist"]
    assert (tmp_path / "report" / "table6.md").is_file() and "decayed ρ" in second.stdout

    before = (found.folder / "metrics.jsonl").read_bytes()
    third = run("table6/decayed", tmp_path, *settings)
    assert third.returncode == 0 and "0 of 1 trainings left" in third.stdout
    assert (found.folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_asked_to_leave_it_saves_and_says_that_the_same_command_continues(tmp_path, fashion_root):
    settings = (f"paths.fashion_mnist={fashion_root}", "data.limit_train=400", "train.epochs=100000st",
                "train.log_every=5st", "schedule.warmup_steps=10", "--no-hours")  # fmt: skip
    process = subprocess.Popen(
        command("table6/decayed", tmp_path, *settings),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        until(lambda: any(p.stat().st_size for p in tmp_path.glob("table6/decayed/*/metrics.jsonl")), process)
        os.kill(process.pid, signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    finally:
        kill_all(process)
    assert process.returncode == 75 and errors.splitlines()[-1].endswith("the same command continues")
    assert list(tmp_path.glob("table6/decayed/*/checkpoints/last.pt"))


@pytest.mark.slow
def test_fine_tuning_chooses_on_held_out_pictures_then_trains_on_all(tmp_path, fashion_root):
    settings = (f"paths.fashion_mnist={fashion_root}", "data.limit_train=200", "train.epochs=12st", "schedule.warmup_steps=2",
                "train.eval_every=12st", "--no-hours")  # fmt: skip
    pretrained = tmp_path / "pretrained"
    first = train(*MINIATURE, *settings[:-1], f"run.dir={pretrained}/table1/vit_s16_gsam/somewhere",
                  experiment="table1/vit_s16_gsam")  # fmt: skip
    target, runs = "table3/vit_s16_gsam_pets", tmp_path / "runs"
    done = run(target, runs, *settings, f"--weights={pretrained}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = scan(runs)
    tried = {run.config["base"]["lr"]: run.top1() for run in found if run.experiment == f"{target}/choice"}
    (final,) = [run for run in found if run.experiment == target]
    assert sorted(tried) == [0.001, 0.003, 0.01, 0.03] and all(0 <= top1 <= 1 for top1 in tried.values())
    assert final.config["base"]["lr"] == max(sorted(tried), key=tried.get)
    assert {run.config["data"]["holdout"] for run in found} == {0.0, 0.1} and final.config["data"]["holdout"] == 0.0
    assert final.config["model"]["init"] == str(first.folder.path)
    evalsets = {run.experiment: rows(run.folder, "eval")[-1]["evalset"] for run in found}
    assert evalsets == {f"{target}/choice": "holdout", target: "val"}


@pytest.mark.slow
def test_a_failed_training_is_reported_and_the_others_go_on(tmp_path, fashion_root):
    settings = (f"paths.fashion_mnist={fashion_root}", "data.limit_train=64", "train.epochs=2st", "schedule.warmup_steps=1",
                "--no-hours")  # fmt: skip
    (tmp_path / "table5").mkdir()
    (tmp_path / "table5" / "vit_b32_vanilla_600").write_text("a file where the run's folder would have to be")
    result = run("table5", tmp_path, *settings)
    assert result.returncode == 1
    assert (
        "cannot be written" in result.stderr
        and "failed: table5/vit_b32_vanilla_600 train.seed=0: exit code 2\n" in result.stdout
    )
    assert {run.experiment for run in scan(tmp_path) if run.done} == {
        "table1/vit_b32_vanilla", "table1/vit_b32_gsam",
    }  # fmt: skip


@pytest.mark.slow
def test_a_training_that_ends_well_without_finishing_is_not_repeated_for_ever(tmp_path, fashion_root):
    settings = (f"paths.fashion_mnist={fashion_root}", "data.limit_train=64", "train.epochs=2st", "schedule.warmup_steps=1",
                "train.max_steps=1", "--no-hours")  # fmt: skip
    result = run("table6/decayed", tmp_path, *settings)
    assert result.returncode == 1 and result.stdout.count("training 1 of 1: ") == 1
    assert "failed: table6/decayed train.seed=0: ended well, but no finished run of it is below" in result.stdout


@pytest.mark.slow
def test_the_listing_shows_costs_hours_and_what_has_been_run(tmp_path):
    def listed(*words: str) -> str:
        command = [
            sys.executable,
            "scripts/catalogue.py",
            "table6/decayed",
            "fig1",
            "table4",
            f"--runs={tmp_path}",
            *words,
        ]
        result = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ | {"COLUMNS": "160"}
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    text = listed()
    assert re.search(r"table6/decayed +│ +│ 0 of 1 │ +768\.7 M │ +[\d,]+ │", text) and "hours: on " in text
    assert "nothing to train: analysis=fig1" in text and "read from the configurations" in text
    assert "measuring" in text and "measuring" not in listed()  # the second time it is known
    assert re.search(r"768\.7 M │ +- │", listed("--no-hours"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table7"], "error: table7: not in configs/catalogue.yaml"),
        (["table1", "--seeds", "a"], "error: --seeds a: whole numbers"),
        (["table1", "--gpus", "0"], "error: --gpus 0: at least 1"),
        (["table3", "--weights", "/nowhere"], "error: --weights /nowhere: no folder"),
        (
            ["table6/decayed", "optimizer.rhomax=1"],
            "error: the configuration has 1 problem:\n  - optimizer.rhomax: unknown key",
        ),
    ],
)
def test_wrong_words_are_refused_before_anything_runs(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words, "--no-hours", f"--runs={tmp_path}"])
    assert reproduce.main() == 2
    assert capsys.readouterr().err.startswith(message) and not list(tmp_path.iterdir())
