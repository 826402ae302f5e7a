"""Weights & Biases without a server: what is in the offline file, from a run that was interrupted and from wandb_push."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gsam.train.wandb_copy import copy_rows, named, start
from scripts.resume_check import kill_all
from tests.processes import ROOT, finish, training, until_step
from tests.runs import rows

pytestmark = pytest.mark.slow
BLOCK = 32768


def records(path):
    """The records of a .wandb file: 7 bytes, then LevelDB's log format (blocks; parts with checksum, length and kind)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        if kind == 0 or BLOCK - at % BLOCK < 7:  # the rest of a block that no part fitted into
            at += BLOCK - at % BLOCK
            continue
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def history(path):
    """What was logged: (wandb's step, numbers) in order."""
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            found = {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in items}
            yield found["_step"], {k: v for k, v in found.items() if not k.startswith("_")}


def run_of(path):
    return next(record.run for record in records(path) if record.WhichOneof("record_type") == "run")


def files(folder):
    return sorted((folder / "wandb").glob("offline-run-*/*.wandb"))


def assert_whole(path, folder):
    """Every row of metrics.jsonl once, in order."""
    found = list(history(path))
    assert [step for step, _ in found] == list(range(len(found)))
    assert [numbers for _, numbers in found] == [named(row) for row in rows(folder)]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.fixture(scope="module")
def interrupted(fashion_root, tmp_path_factory):
    """A run that was killed, continued, signalled and continued to its end, with its copy in wandb's files."""
    folder = tmp_path_factory.mktemp("interrupted")
    words = [
        "experiment=quickstart", "optimizer=gsam", "ema.decay=0.9", "data.limit_train=400", "data.limit_eval=101",
        "train.batch_size=40", "train.epochs=100st", "schedule.warmup_steps=2", "train.log_every=3st",
        "train.eval_every=20st", "train.save_every=5st", "wandb.mode=offline", "wandb.project=faults",
        f"paths.fashion_mnist={fashion_root}", f"run.dir={folder}/run",
    ]  # fmt: skip
    with training(words, folder / "log") as process:
        until_step(folder / "run", 20, process, folder / "log")
        kill_all(process)
    with training(words, folder / "log") as process:
        until_step(folder / "run", 50, process, folder / "log")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
    assert finish(words, folder / "log") == 0, (folder / "log").read_text()
    return folder / "run"


def test_the_last_file_of_an_interrupted_run_is_the_whole_run(interrupted):
    *earlier, last = files(interrupted)
    assert_whole(last, interrupted)
    assert len(earlier) == 2 and run_of(earlier[1]).run_id == run_of(last).run_id  # the killed one's may be empty
    names = set().union(*(numbers for _, numbers in history(last)))
    assert {"step", "train/loss", "train/gap", "val/top1", "val_ema/top1"} <= names


def test_a_push_is_that_run(interrupted, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(interrupted, folder, ignore=shutil.ignore_patterns("wandb"))
    with open(folder / "metrics.jsonl", "a") as f:
        f.write('{"kind": "train", "st')  # a row that is just being written
    words = [sys.executable, "scripts/wandb_push.py", str(folder), "--mode", "offline"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200)
    count = len(rows(interrupted))
    assert done.returncode == 0 and f"{count} rows of {count} sent (offline)" in done.stdout, done.stderr
    (path,) = files(folder)
    assert_whole(path, interrupted)
    ours, trained = run_of(path), run_of(files(interrupted)[-1])
    meta = json.loads((folder / "meta.json").read_text())
    assert ours.run_id == trained.run_id == f"quickstart-{meta['config_hash']}"
    assert ours.display_name == trained.display_name and ours.project == trained.project == "faults"
    assert {update.key for update in ours.config.update} >= yaml.safe_load((folder / "config.yaml").read_text()).keys()


def test_only_rows_that_the_run_does_not_have_are_sent(interrupted, tmp_path):
    import wandb

    every = rows(interrupted)
    run = start(tmp_path, "faults", {}, "quickstart/again", "offline")
    counts = [copy_rows(run, every[:count]) for count in (5, 5, 30, len(every))]
    run.finish()
    wandb.teardown()  # its process has written everything only then
    assert counts == [5, 0, 25, len(every) - 30]
    (path,) = files(tmp_path)
    assert_whole(path, interrupted)


@pytest.mark.parametrize("case", ["no run", "no server"])
def test_what_cannot_be_pushed_is_one_message(case, interrupted, tmp_path):
    folder = tmp_path if case == "no run" else interrupted
    env = {**os.environ, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    before = sorted(Path(folder).rglob("*"))
    words = [sys.executable, "scripts/wandb_push.py", str(folder)]
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200)
    said = {"no run": "is no run folder of train.py: no ", "no server": "the server does not answer; try again later"}
    assert done.returncode == 2 and said[case] in done.stderr and "Traceback" not in done.stderr
    assert sorted(Path(folder).rglob("*")) == before
