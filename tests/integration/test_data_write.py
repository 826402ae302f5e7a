"""Writing .beton files: whole or nothing, every bad picture named, a killed process never waited for."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gsam.data.beton import LISTED
from gsam.data.write import PRESETS, write_dataset
from tests.photos import CLASSES, TRAIN_PER_CLASS, VAL_PER_CLASS, make_folder

pytest.importorskip("ffcv")

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = [sys.executable, str(REPOSITORY / "scripts" / "write_ffcv.py")]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"))


def files(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_store_what_they_say(photos, tmp_path, preset):
    from ffcv.reader import Reader

    assert write_dataset("imagefolder", str(photos), str(tmp_path), preset=preset, workers=2) == ["train", "val"]
    for split, each in (("train", TRAIN_PER_CLASS), ("val", VAL_PER_CLASS)):
        path, manifest = tmp_path / f"{split}.beton", json.loads((tmp_path / f"{split}.json").read_text())
        assert manifest["n"] == each * len(CLASSES) and manifest["classes"] == list(CLASSES)
        assert manifest["size_bytes"] == path.stat().st_size
        assert manifest["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert manifest["source"] == "imagefolder" and manifest["preset"] == preset and manifest["ffcv"] == "1.0.2"
        reader = Reader(str(path))
        pictures, labels = reader.metadata["f0"], reader.metadata["f1"]
        assert labels.tolist() == np.repeat(range(3), each).tolist()  # unshuffled
        assert set(pictures["mode"]) == {1 if PRESETS[preset].write_mode == "raw" else 0}
        longest = PRESETS[preset].max_resolution or 10_000
        assert max(pictures["width"].max(), pictures["height"].max()) <= longest
    assert files(tmp_path) == ["train.beton", "train.json", "val.beton", "val.json"]


def test_all_bad_pictures_are_listed_and_nothing_is_left(photos, tmp_path):
    shutil.copytree(photos / "val", tmp_path / "root" / "val")
    shutil.copytree(photos / "train", tmp_path / "root" / "train")
    torn = tmp_path / "root" / "train" / "n01" / "000.jpg"
    torn.write_bytes(torn.read_bytes()[:200])
    (tmp_path / "root" / "train" / "n02" / "zz.jpg").write_text("no picture")
    huge = tmp_path / "root" / "train" / "n03" / "huge.png"  # 9.4 MB of pixels, more than a page of the file
    Image.new("RGB", (2500, 1250)).save(huge)
    with pytest.raises(ValueError) as caught:
        write_dataset("imagefolder", str(tmp_path / "root"), str(tmp_path / "out"), preset="raw", workers=2)
    message = str(caught.value)
    assert f"3 of {3 * TRAIN_PER_CLASS + 2} pictures cannot be stored" in message
    assert str(torn) in message and "n02/zz.jpg cannot be decoded" in message and f"{huge}: " in message
    assert files(tmp_path / "out") == []
    assert LISTED >= 3
    huge.unlink()


def test_writing_again_changes_nothing_and_another_preset_is_refused(photos, tmp_path):
    def run(*arguments):
        command = [*SCRIPT, "imagefolder", "--root", str(photos), "--out", str(tmp_path), "--workers", "1", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    first = run()
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("written") == 2 and "pictures: 42/42 (100 %)" in first.stderr
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)}
    again = run()
    assert again.returncode == 0 and again.stdout.count("already there") == 2
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)} == before
    with pytest.raises(ValueError, match="preset=500_jpeg90 instead of 256_jpeg90; use --overwrite"):
        write_dataset("imagefolder", str(photos), str(tmp_path), preset="256_jpeg90", workers=1)
    (tmp_path / "val.json").unlink()
    unknown = run()
    assert unknown.returncode == 1 and "val.json is missing" in unknown.stderr and "Traceback" not in unknown.stderr
    write_dataset("imagefolder", str(photos), str(tmp_path), preset="256_jpeg90", workers=1, overwrite=True)
    assert json.loads((tmp_path / "val.json").read_text())["max_resolution"] == 256


def test_help_names_the_presets():
    text = subprocess.run([*SCRIPT, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(preset in text for preset in PRESETS) and "fashion_mnist" in text


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def long_write(tmp_path, fashion_root):
    """The script on Fashion-MNIST's 60,000 pictures, and its worker processes, once they write."""
    command = [*SCRIPT, "fashion_mnist", "--root", str(fashion_root), "--out", str(tmp_path), "--workers", "2"]
    unfinished = tmp_path / "train.beton.tmp"
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 100
            while not (unfinished.exists() and unfinished.stat().st_size > 1 << 23):
                assert process.poll() is None and time.monotonic() < deadline, "the writer did not start"
                time.sleep(0.005)
            commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children(process.pid)}
            workers = [
                pid for pid, command in commands.items() if b"write_ffcv" in command
            ]  # the other tracks resources
            assert len(workers) == 2
            yield process, workers
        finally:
            process.kill()


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_killed_worker_ends_the_writing(fashion_root, tmp_path):
    with long_write(tmp_path, fashion_root) as (process, workers):
        os.kill(workers[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1 and "a writing process died (exit code -9" in errors
    assert files(tmp_path) == [] and all(gone(pid) for pid in workers)


def test_a_killed_writer_leaves_no_process_and_no_file_that_counts(fashion_root, tmp_path):
    with long_write(tmp_path, fashion_root) as (process, workers):
        process.kill()
        process.communicate(timeout=30)  # ends when the last process has closed its output
    assert all(gone(pid) for pid in workers)
    assert set(files(tmp_path)) <= {"train.beton.tmp"}
    # What is left does not hinder the next one.
    assert write_dataset("fashion_mnist", str(fashion_root), str(tmp_path), splits=["val"], workers=1) == ["val"]


def test_two_writers_in_one_folder(fashion_root, tmp_path):
    with long_write(tmp_path, fashion_root) as (process, _):
        with pytest.raises(ValueError, match="another process is writing into"):
            write_dataset("fashion_mnist", str(fashion_root), str(tmp_path), workers=1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    "change, words",
    [({"name": "cifar"}, "source cifar"), ({"preset": "huge"}, "preset huge"), ({"workers": 0}, "workers=0")],
)
def test_bad_arguments(photos, tmp_path, change, words):
    arguments = {"name": "imagefolder", "root": str(photos), "out": str(tmp_path / "out"), **change}
    with pytest.raises(ValueError, match=words):
        write_dataset(**arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written.*--out, data.ffcv_root"):
        write_dataset("imagefolder", str(photos), str(tmp_path / "file" / "out"))
