"""Writing .beton files: the same bytes whatever happens on the way, every picture checked, every bad one named."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gsam.data.checksum import checksum
from gsam.data.encoding import LISTED
from gsam.data.stored import PAGE_BYTES
from gsam.data.write import PRESETS, default_preset, write_dataset
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
        assert manifest["restart"] == (PRESETS[preset].write_mode == "jpg") and manifest["seconds_per_1000"] > 0
        reader = Reader(str(path))
        assert reader.field_names == ["image", "label", "checksum"]
        pictures, labels, sums = (reader.metadata[name] for name in ("f0", "f1", "f2"))
        content, sizes = np.fromfile(path, np.uint8), reader.alloc_table["size"].tolist()
        for start, size, stored_sum in zip(pictures["data_ptr"].tolist(), sizes, sums.tolist(), strict=True):
            assert checksum(content[start : start + size]) == stored_sum
            assert start // PAGE_BYTES == (start + size - 1) // PAGE_BYTES  # no picture lies across two pages
        assert labels.tolist() == np.repeat(range(3), each).tolist()  # unshuffled
        assert set(pictures["mode"]) == {1 if PRESETS[preset].write_mode == "raw" else 0}
        longest = PRESETS[preset].max_resolution or 10_000
        assert max(pictures["width"].max(), pictures["height"].max()) <= longest
    assert files(tmp_path) == ["train.beton", "train.json", "val.beton", "val.json"]


def test_all_bad_pictures_are_listed_and_without_them_it_is_written(photos, tmp_path):
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
    assert "takes 9,375,000 bytes" in message and LISTED >= 3
    assert not set(files(tmp_path / "out")) & {"train.beton", "train.json"}
    shutil.copy(photos / "train" / "n01" / "000.jpg", torn)
    (tmp_path / "root" / "train" / "n02" / "zz.jpg").unlink()
    huge.unlink()
    write_dataset("imagefolder", str(tmp_path / "root"), str(tmp_path / "out"), preset="raw", workers=2)
    write_dataset("imagefolder", str(photos), str(tmp_path / "direct"), preset="raw", workers=1)
    assert (tmp_path / "out" / "train.beton").read_bytes() == (tmp_path / "direct" / "train.beton").read_bytes()
    assert files(tmp_path / "out") == ["train.beton", "train.json", "val.beton", "val.json"]


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
    presets = [json.loads((tmp_path / f"{split}.json").read_text())["preset"] for split in ("train", "val")]
    assert presets == ["500_jpeg90", "val"] == [default_preset("imagefolder", split) for split in ("train", "val")]
    with pytest.raises(ValueError, match="preset=500_jpeg90 instead of 256_jpeg90; use --overwrite"):
        write_dataset("imagefolder", str(photos), str(tmp_path), preset="256_jpeg90", workers=1)
    (tmp_path / "val.json").unlink()
    unknown = run()
    assert unknown.returncode == 1 and "val.json is missing" in unknown.stderr and "Traceback" not in unknown.stderr
    write_dataset("imagefolder", str(photos), str(tmp_path), preset="256_jpeg90", workers=1, overwrite=True)
    assert json.loads((tmp_path / "val.json").read_text())["max_resolution"] == 256


def test_files_made_of_other_pictures_are_not_taken_for_these(photos, tmp_path):
    root, out = shutil.copytree(photos, tmp_path / "root"), tmp_path / "out"
    write_dataset("imagefolder", str(root), str(out), workers=1)
    assert write_dataset("imagefolder", str(photos), str(out), workers=1) == []  # the same ones in another place
    one = sorted((root / "train" / "n02").iterdir())[0]
    one.rename(one.with_name("zz.jpg"))  # then the order is another one
    with pytest.raises(ValueError, match="made of other pictures: 42, here are 42, .* use --overwrite"):
        write_dataset("imagefolder", str(root), str(out), workers=1)
    shutil.rmtree(root)
    assert write_dataset("imagefolder", str(root), str(out), workers=1) == []  # deleted: nothing to compare with
    with pytest.raises(ValueError, match="does not exist"):
        write_dataset("imagefolder", str(root), str(root / "ffcv"), workers=1)
    assert not root.exists()


def test_help_names_the_presets():
    text = subprocess.run([*SCRIPT, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(preset in text and how.meaning in text for preset, how in PRESETS.items()) and "fashion_mnist" in text


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def long_write(tmp_path, fashion_root, pages=1):
    """The script on Fashion-MNIST's 60,000 pictures, and its worker processes, once they write."""
    command = [*SCRIPT, "fashion_mnist", "--root", str(fashion_root), "--out", str(tmp_path), "--workers", "2"]
    unfinished = tmp_path / "train.beton.tmp"
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            deadline = time.monotonic() + 100
            while not (unfinished.exists() and unfinished.stat().st_size > pages * PAGE_BYTES):
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


def gone(pid, seconds=20):
    """Whether the process ends soon: its files are closed a moment before."""
    deadline = time.monotonic() + seconds
    with suppress(FileNotFoundError, ProcessLookupError):
        while Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
    return True


def test_a_killed_worker_ends_the_writing(fashion_root, tmp_path):
    with long_write(tmp_path, fashion_root) as (process, workers):
        os.kill(workers[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and "a writing process died" in errors and "Traceback" not in errors
    assert "train.beton" not in files(tmp_path) and all(gone(pid) for pid in workers)


def test_a_killed_writer_leaves_no_process_and_is_continued_to_the_same_bytes(fashion_root, tmp_path):
    with long_write(tmp_path, fashion_root, pages=5) as (process, workers):
        process.kill()
        process.communicate(timeout=30)  # ends when the last process has closed its output
    assert all(gone(pid) for pid in workers)
    assert files(tmp_path) == ["train.beton.tmp", "train.beton.tmp.journal"]
    journal = tmp_path / "train.beton.tmp.journal"
    journal.write_bytes(journal.read_bytes()[:-1000])  # in the middle of a page's samples
    unfinished = tmp_path / "train.beton.tmp"
    with open(unfinished, "r+b") as file:  # as after a power cut: what the journal says has not all reached the disk
        file.seek(unfinished.stat().st_size - PAGE_BYTES // 2)
        file.write(b"\0" * 1000)
    told = []
    write_dataset("fashion_mnist", str(fashion_root), str(tmp_path), splits=["train"], workers=2,
                  report=lambda what, *_: told.append(what))  # fmt: skip
    assert "after the" in told[0]
    assert json.loads((tmp_path / "train.json").read_text())["sha256"] == written_at_once(fashion_root, tmp_path / "2")
    assert files(tmp_path) == ["2", "train.beton", "train.json"]


def written_at_once(fashion_root, out):
    """SHA-256 of Fashion-MNIST's training file, written without interruption by one worker."""
    write_dataset("fashion_mnist", str(fashion_root), str(out), splits=["train"], workers=1)
    return hashlib.sha256((out / "train.beton").read_bytes()).hexdigest()


def test_other_pictures_are_not_continued(photos, tmp_path):
    """A broken off file is of the folder as it was then."""
    root = shutil.copytree(photos, tmp_path / "root")
    last = sorted((root / "train" / "n03").iterdir())[-1]
    good = last.read_bytes()
    last.write_bytes(b"broken")
    for _ in range(2):
        with pytest.raises(ValueError, match="1 of 42 pictures cannot be stored"):
            write_dataset("imagefolder", str(root), str(tmp_path / "out"), splits=["train"], preset="raw", workers=1)
    journal = tmp_path / "out" / "train.beton.tmp.journal"
    assert b'"n": 42' in journal.read_bytes()
    last.write_bytes(good)
    first = sorted((root / "train" / "n01").iterdir())[0]
    first.unlink()
    first.with_name("000_new.jpg").write_bytes(good)  # its place has been written already
    write_dataset("imagefolder", str(root), str(tmp_path / "out"), splits=["train"], preset="raw", workers=1)
    write_dataset("imagefolder", str(root), str(tmp_path / "direct"), splits=["train"], preset="raw", workers=1)
    assert (tmp_path / "out" / "train.beton").read_bytes() == (tmp_path / "direct" / "train.beton").read_bytes()


def test_two_writers_in_one_folder(fashion_root, tmp_path):
    with long_write(tmp_path, fashion_root) as (process, _):
        with pytest.raises(ValueError, match="another process is writing into"):
            write_dataset("fashion_mnist", str(fashion_root), str(tmp_path), workers=1)
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C: its workers get it too
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted; the same command continues" in errors
    assert "Traceback" not in errors and "train.beton" not in files(tmp_path)


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


@pytest.mark.slow  # FFCV compiles its pipeline
@pytest.mark.parametrize("preset", ["raw", "500_jpeg90"])
def test_ffcvs_own_loader_reads_the_files(photos, tmp_path, preset):
    """Bare FFCV 1.0.2 with its own decoder: every picture and label, the checksums as one more field of integers."""
    import cv2

    from gsam.data import ffcv_guard, open_source

    write_dataset("imagefolder", str(photos), str(tmp_path), preset=preset, splits=["val"], workers=1)
    with ffcv_guard.torch_threads_kept():
        from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder
        from ffcv.loader import Loader, OrderOption

        loader = Loader(
            str(tmp_path / "val.beton"), batch_size=7, num_workers=1, order=OrderOption.SEQUENTIAL, drop_last=False,
            pipelines={
                "image": [CenterCropRGBImageDecoder((32, 32), 1.0)], "label": [IntDecoder()], "checksum": [IntDecoder()]
            },
        )  # fmt: skip
        batches = [tuple(np.array(part) for part in batch) for batch in loader]
    images, labels, sums = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    source = open_source("imagefolder", str(photos), "val")
    assert labels[:, 0].tolist() == source.labels.tolist() and len(set(sums[:, 0].tolist())) == len(source)
    for index, image in enumerate(images):
        pixels = source[index][0]
        side = min(pixels.shape[:2])
        top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
        expected = cv2.resize(pixels[top : top + side, left : left + side], (32, 32), interpolation=cv2.INTER_AREA)
        assert np.abs(image.astype(int) - expected).mean() < (1 if preset == "raw" else 6)
