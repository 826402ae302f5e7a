"""metrics.jsonl: whole rows only, none lost to a disk that was full for a while, none twice after a restart."""

import json
import resource
import signal
from contextlib import contextmanager

import pytest

from gsam.train.metrics_log import MetricsLog
from gsam.train.settings import WandbConfig


def log(folder):
    return MetricsLog(folder, WandbConfig(), {}, "experiment/1", True)


def row(step, kind="train"):
    return {"kind": kind, "step": step, "loss": 1 / (step + 1), "cos": None}


def steps(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@contextmanager
def file_limit(size):
    """A real refusal by the system: no file of this process may grow beyond `size` bytes."""
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("room_again", [True, False])
def test_rows_wait_for_room_on_the_disk(room_again, tmp_path, capsys):
    made = log(tmp_path)
    made.truncate(0)
    with file_limit(120):  # two and a half rows
        for step in range(5):
            made.write(row(step))
        if not room_again:
            made.close()
        assert steps(tmp_path) == [0, 1]
        assert (tmp_path / "metrics.jsonl").read_text().endswith("}\n")
    if room_again:
        made.write(row(5))
        made.close()
        assert steps(tmp_path) == [0, 1, 2, 3, 4, 5]
    said = capsys.readouterr().out
    assert said.count("cannot be written") == 1 and ("lacks its last 3 rows" in said) != room_again


def test_no_checkpoint_is_written_while_rows_before_it_wait(tmp_path):
    made = log(tmp_path)
    made.truncate(0)
    with file_limit(120):
        for step in range(5):
            made.write(row(step))
        with pytest.raises(OSError, match=r"3 rows of metrics\.jsonl wait for room"):
            made.sync()
    made.flush()
    made.sync()
    assert steps(tmp_path) == [0, 1, 2, 3, 4]


def test_rows_after_the_checkpoint_are_dropped_with_a_torn_one(tmp_path):
    made = log(tmp_path)
    for step in (1, 2, 3):
        made.write(row(step))
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"kind": "train", "st')
    again = log(tmp_path)
    again.truncate(2)
    again.write(row(3))
    assert steps(tmp_path) == [1, 2, 3]


def test_an_intact_file_is_not_written_again(tmp_path):
    log(tmp_path).write(row(1))
    before = (tmp_path / "metrics.jsonl").stat()
    log(tmp_path).truncate(1)
    assert (tmp_path / "metrics.jsonl").stat().st_ino == before.st_ino


def test_other_ranks_write_nothing(tmp_path):
    quiet = MetricsLog(tmp_path, WandbConfig(), {}, "experiment/1", False)
    quiet.truncate(0)
    quiet.write(row(1))
    quiet.close()
    assert not list(tmp_path.iterdir())
