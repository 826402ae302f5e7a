"""The folder backend's worker processes: same pictures, no lost errors, survive signals, end with the program."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from gsam.data import AugmentConfig, Backend, DataConfig, build_loader, folder
from gsam.data.folder import open_workers, read
from tests.photos import make_folder

AUGMENT = AugmentConfig(size=32, eval_resize=36)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"))


def loader(root, workers, batch_size=4):
    data = DataConfig("imagefolder", Backend.folder, str(root), workers=workers)
    return build_loader(data, AUGMENT, "train", batch_size=batch_size, rank=0, world=1, seed=1, train=True)


def worker_pids(training):
    return [worker.pid for worker in training._loader._iterator._workers]


def test_worker_count_changes_nothing_and_workers_persist(photos):
    alone, two = loader(photos, 0), loader(photos, 2)
    pids = set()
    for epoch, skip in ((0, 0), (1, 0), (1, 4)):
        one, many = list(alone.epoch(epoch, skip)), list(two.epoch(epoch, skip))
        pids.add(tuple(worker_pids(two)))
        assert len(one) == 10 - skip
        for (images, labels), (others, other_labels) in zip(one, many, strict=True):
            assert torch.equal(images, others) and torch.equal(labels, other_labels)
    assert len(pids) == 1


def test_an_epoch_left_early_does_not_disturb_the_next(photos):
    two = loader(photos, 2)
    batches = two.epoch(0)
    next(batches)
    batches.close()
    expected = list(loader(photos, 0).epoch(1))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(expected, two.epoch(1), strict=True))


def test_an_unreadable_picture_is_named(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "copy")
    (tmp_path / "copy" / "train" / "n02" / "020.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"n02/020\.jpg cannot be decoded"):
        for epoch in range(3):
            list(loader(tmp_path / "copy", 1).epoch(epoch))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_at_which_pillow_raises_value_error_is_named_whole(photos, tmp_path, workers):
    """Its message has the same words in it as the one that names the file."""
    shutil.copytree(photos, tmp_path / "copy")
    for path in (tmp_path / "copy" / "train").rglob("*.*"):
        path.unlink()
        path.with_suffix(".ppm").write_bytes(b"P6\n12")
    training = loader(tmp_path / "copy", workers)
    with pytest.raises(ValueError, match=r"^/.*/n0\d/\d+\.ppm cannot be decoded \(ValueError: .*; replace or remove"):
        list(training.epoch(0))
    training.close()


def test_a_hung_worker_ends_the_run_and_shows_where_it_hangs(photos, tmp_path, monkeypatch, capfd):
    """A pipe in the place of a picture: opening it waits for ever, as a file system that is gone does."""
    shutil.copytree(photos, tmp_path / "copy")
    picture = tmp_path / "copy" / "train" / "n02" / "020.jpg"
    monkeypatch.setattr(folder, "PATIENCE_S", 3.0)
    training = loader(tmp_path / "copy", 1)
    picture.unlink()
    os.mkfifo(picture)
    with pytest.raises(RuntimeError, match="no batch for 3 s: the disk or a data worker process hangs"):
        for epoch in range(3):
            list(training.epoch(epoch))
    assert "__getitems__" in capfd.readouterr().err
    training.close()


def test_an_error_in_a_worker_is_not_taken_for_its_death():
    def fails(rows):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug") as caught:
        list(read(open_workers([0, 1], [[0], [1]], fails, 1)))
    assert "process died" not in str(caught.value)


def test_workers_ignore_the_signals_of_a_scheduler(photos):
    two = loader(photos, 2)
    batches = two.epoch(0)
    next(batches), next(batches)  # one from each worker: both have started
    for pid in worker_pids(two):
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGUSR1)
    assert len(list(batches)) == 8


PREAMBLE = """
import os, signal, sys, time
from gsam.data import *

def pids():
    return [worker.pid for worker in loader._loader._iterator._workers]

data = DataConfig("imagefolder", Backend.folder, {root!r}, workers=2)
which = dict(batch_size=1, rank=0, world=1, seed=0, train=True)
loader = build_loader(data, AugmentConfig(size=32, eval_resize=36), "train", **which)
batches = loader.epoch()
next(batches)
"""


def run(root, code):
    command = [sys.executable, "-c", PREAMBLE.format(root=str(root)) + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_a_killed_worker_is_an_error(photos):
    """In a process of its own: torch raises from a signal handler, wherever the program happens to be."""
    done = run(
        photos, "os.kill(pids()[0], signal.SIGKILL)\nwhile True:\n    list(batches)\n    batches = loader.epoch()"
    )
    assert done.returncode == 1
    assert "a data worker process died" in done.stderr and "lower data.workers" in done.stderr


COLLECTED = "import gc\nbox = [loader, batches]\nbox.append(box)\ndel loader, batches, box\ngc.collect()"


@pytest.mark.parametrize(
    "way",
    [
        "pass",
        "sys.exit(3)",
        "raise KeyboardInterrupt",
        "os.kill(os.getpid(), 9)",
        "loader.close()",
        pytest.param(COLLECTED, id="collected"),
    ],
)
def test_the_program_ends_with_its_workers(photos, way):
    """Workers ignore SIGTERM, which is what multiprocessing would end them with at exit."""
    done = run(photos, f"print(*pids(), flush=True)\n{way}")
    expected = {"sys.exit(3)": (3,), "raise KeyboardInterrupt": (-2, 130), "os.kill(os.getpid(), 9)": (-9,)}
    assert done.returncode in expected.get(way, (0,)), done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    deadline = time.monotonic() + 20  # a worker looks after a killed parent every 5 s
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(pids) == 2 and not any(os.path.exists(f"/proc/{pid}") for pid in pids)
