"""Faults that FFCV alone answers with another picture, a hang, a leak or a crash, and what a user sees instead."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from gsam.data import AugmentConfig, Backend, Crop, DataConfig, OnBad, build_loader, check, open_source
from gsam.data.checks import workers_of
from gsam.data.skip import stand_ins
from tests.photos import make_folder, pieces

CORES = len(os.sched_getaffinity(0))
BACKENDS = [Backend.folder, *([Backend.ffcv] if find_spec("ffcv") else [])]
AUGMENT = AugmentConfig(size=48, eval_resize=56)
needs_ffcv = pytest.mark.skipif(Backend.ffcv not in BACKENDS, reason="ffcv is not installed")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("photos"))
    if Backend.ffcv in BACKENDS:
        write(root)
    return root


def write(root, preset="500_jpeg90"):
    from gsam.data.write import write_dataset

    write_dataset("imagefolder", str(root), str(root / "ffcv"), preset=preset, workers=1)


def config(root, backend, workers=1, **more):
    return DataConfig("imagefolder", backend, str(root), workers=workers, **more)


def loader(data, split="train", augment=AUGMENT, batch_size=4, seed=3):
    which = dict(batch_size=batch_size, rank=0, world=1, seed=seed, train=split == "train")
    return build_loader(data, augment, split, **which)


def by_number(loader, epoch=0):
    """Picture number -> (pixels, label)"""
    images, labels = zip(*((images.clone(), labels.clone()) for images, labels in loader.epoch(epoch)), strict=True)
    return dict(
        zip(loader.order(epoch).tolist(), zip(torch.cat(images), torch.cat(labels).tolist(), strict=True), strict=True)
    )


# ---- pictures that cannot be read ------------------------------------------------------------------------------------

BAD = 17  # of the training split, class n02


def spoil(photos, tmp_path, backend, split="train"):
    """A copy with picture 17 (or evaluation's 17) of a split damaged, as a file or inside the .beton."""
    root = tmp_path / "copy"
    shutil.copytree(photos, root)
    if backend is Backend.folder:
        path = open_source("imagefolder", str(root), split).describe(BAD)
        with open(path, "r+b") as file:
            file.truncate(100)
    else:
        from ffcv.reader import Reader

        path = root / "ffcv" / f"{split}.beton"
        start = int(Reader(str(path)).metadata["f0"]["data_ptr"][BAD])
        with open(path, "r+b") as file:
            file.seek(start)
            file.write(bytes(200))
    return config(root, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bad_training_picture_ends_the_training_and_is_named_with_its_class(photos, tmp_path, backend):
    data = spoil(photos, tmp_path, backend)
    with pytest.raises(
        (ValueError, RuntimeError), match=r"n02/017.* cannot be decoded|sample 17 \(class n02\) is not what"
    ):
        by_number(loader(data, batch_size=1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_when_asked_another_picture_of_the_batch_takes_its_place_and_it_is_counted(photos, tmp_path, backend, capfd):
    """Pixels and label both; everything else stays; named once, however often it comes."""
    good = by_number(loader(config(photos, backend), batch_size=6))
    training = loader(replace(spoil(photos, tmp_path, backend), on_bad=OnBad.skip), batch_size=6)
    found = by_number(training)
    order = training.order(0).tolist()
    after = order.index(BAD) + 1
    stand_in = order[after if after % 6 else after - 6]
    assert torch.equal(found[BAD][0], good[stand_in][0]) and found[BAD][1] == good[stand_in][1]
    assert all(torch.equal(found[n][0], good[n][0]) and found[n][1] == good[n][1] for n in order if n != BAD)
    assert training.skipped == 1
    by_number(training)
    assert training.skipped == 2
    named = [line for line in capfd.readouterr().err.splitlines() if "data.on_bad=skip" in line]
    assert len(named) == 1 and "n02" in named[0]
    training.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_evaluation_never_leaves_a_picture_out(photos, tmp_path, backend):
    data = replace(spoil(photos, tmp_path, backend, "val"), on_bad=OnBad.skip)
    with pytest.raises((ValueError, RuntimeError), match="cannot be decoded|checksum differs"):
        by_number(loader(data, "val"))


def test_stand_ins_are_the_next_good_pictures_around_the_end():
    assert stand_ins(np.array([1, 0, 1, 1, 0, 1], bool)).tolist() == [1, 4, 4, 1]
    with pytest.raises(RuntimeError, match="none of the 3 pictures.*The first: n01/001.jpg is no picture"):
        stand_ins(np.ones(3, bool), "n01/001.jpg is no picture")


@pytest.mark.parametrize("backend", BACKENDS)
def test_grey_cmyk_alpha_palette_and_misnamed_pictures_are_what_pillow_shows(tmp_path, backend):
    """FFCV's writer waits for ever at a grey picture."""
    picture = pieces(1, seed=5)[0].resize((56, 56))
    kinds = {"L": "jpg", "CMYK": "jpg", "RGBA": "png", "P": "png", "1": "png"}
    for split in ("train", "val"):
        (tmp_path / split / "n01").mkdir(parents=True)
        for mode, extension in kinds.items():
            picture.convert(mode).save(tmp_path / split / "n01" / f"{mode}.{extension}")
        picture.save(tmp_path / split / "n01" / "really_png.jpg", format="PNG")
        picture.save(tmp_path / split / "n01" / "really_jpeg.png", format="JPEG")
    if backend is Backend.ffcv:
        write(tmp_path, "raw")
    flat = AugmentConfig(size=56, crop=Crop.none, eval_resize=56)
    found = by_number(loader(config(tmp_path, backend), "val", flat))
    files = sorted((tmp_path / "val" / "n01").iterdir())
    assert len(found) == len(files) == 7
    for number, path in enumerate(files):
        with Image.open(path) as image:
            wanted = np.asarray(image.convert("RGB"))
        assert np.array_equal(found[number][0].permute(1, 2, 0).numpy(), wanted), path


# ---- files that are not what they were -------------------------------------------------------------------------------


@needs_ffcv
def test_classes_in_another_order_are_refused(photos, tmp_path):
    shutil.copytree(photos / "ffcv", tmp_path / "ffcv")
    data = DataConfig("imagefolder", Backend.ffcv, ffcv_root=str(tmp_path / "ffcv"))
    assert list(check(data, AUGMENT)) == []
    path = tmp_path / "ffcv" / "val.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"classes": ["n02", "n01", "n03"]}))
    (problem,) = check(data, AUGMENT)
    assert "label 0 of val.beton is class n02, in train.beton it is n01" in problem and "--overwrite" in problem
    for split in ("train", "val"):  # ImageNet's own classes, two of them exchanged, in both files
        path = tmp_path / "ffcv" / f"{split}.json"
        from gsam.data.sources import imagenet_synsets

        names = imagenet_synsets()
        names[7], names[8] = names[8], names[7]
        changed = {"source": "imagenet", "classes": names, "num_classes": 1000}
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    problems = list(check(replace(data, name="imagenet"), AUGMENT))
    assert len(problems) == 2 and all("label 7 of" in each and "timm's" in each for each in problems)


@needs_ffcv
def test_a_file_of_the_same_size_with_other_labels_is_refused(photos, tmp_path):
    from ffcv.reader import Reader

    shutil.copytree(photos / "ffcv", tmp_path / "ffcv")
    path = tmp_path / "ffcv" / "train.beton"
    reader = Reader(str(path))
    table = reader.metadata.copy()
    table[f"f{reader.field_names.index('label')}"][3] = 2
    with open(path, "r+b") as file:
        file.seek(path.read_bytes().index(reader.metadata.tobytes()))
        file.write(table.tobytes())
    with pytest.raises(ValueError, match="other samples than its manifest says"):
        loader(DataConfig("imagefolder", Backend.ffcv, ffcv_root=str(tmp_path / "ffcv")))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_class_folder_is_refused(photos, tmp_path, backend):
    """With FFCV when it is written: what is in a .beton has been read once."""
    shutil.copytree(photos, tmp_path / "copy", ignore=shutil.ignore_patterns("ffcv"))
    for file in (tmp_path / "copy" / "train" / "n03").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="n03 holds no picture"):
        write(tmp_path / "copy") if backend is Backend.ffcv else loader(config(tmp_path / "copy", backend))


# ---- the loop: threads, buffers, errors, the end ---------------------------------------------------------------------


@needs_ffcv
def test_an_error_in_the_reading_thread_reaches_the_caller(photos, monkeypatch):
    """FFCV prints it and lets the caller wait for ever."""
    training = loader(config(photos, Backend.ffcv))
    monkeypatch.setattr(training._ffcv.Epoch, "run_pipeline", _fails)
    with pytest.raises(RuntimeError, match=r"reading .*train\.beton failed: the disk went away"):
        next(training.epoch(0))


@needs_ffcv
def test_a_hung_reading_thread_is_an_error_in_time_and_keeps_its_buffers(photos, monkeypatch, capfd):
    training = loader(config(photos, Backend.ffcv))
    module, go_on = sys.modules[training._ffcv.Epoch.__module__], threading.Event()
    monkeypatch.setattr(module, "FIRST_BATCH_S", 0.2)
    monkeypatch.setattr(module, "HUNG_CLOSE_S", 0.2)
    hung = []
    monkeypatch.setattr(module.Epoch, "run_pipeline", lambda epoch, *_: hung.append(epoch) or go_on.wait(20))
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="gave no batch of .* within 0 s"):
        next(training.epoch(0))
    took = time.monotonic() - start
    assert hung[0].is_alive() and not hung[0].closed and took < 15
    go_on.set()
    hung[0].join()
    hung[0].close()
    assert hung[0].closed


def _fails(*_):
    raise OSError("the disk went away")


@needs_ffcv
def test_building_a_loader_leaves_numbas_types_as_they_are(photos):
    """FFCV makes the type object of uint8 arrays, which all kernels share, read-only: a kernel compiled later then cannot
    find one compiled before, KeyError.
    """
    from numba import types

    shared = types.uint8[::1]
    before = hash(shared)
    loader(config(photos, Backend.ffcv))
    assert shared.mutable and hash(shared) == before and types.uint8[::1] is shared


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_stays_as_it_is_until_the_next_one_is_asked_for(photos, backend):
    training = loader(config(photos, backend))
    given, kept = [], []
    for images, _ in training.epoch(0):
        given.append(images.clone())
        if Backend.ffcv is backend:
            torch.ones(1 << 20).sum()  # time for the reading thread to run ahead
        kept.append(torch.equal(images, given[-1]))
    assert len(kept) == 10 and all(kept)
    assert all(torch.equal(a, b[0]) for a, b in zip(given, training.epoch(0), strict=True))


@needs_ffcv
def test_one_huge_picture_does_not_make_every_buffer_huge(tmp_path):
    """FFCV's own decoders take room for the largest picture, five batches of it: 4 GiB here."""
    for split in ("train", "val"):
        (tmp_path / split / "n01").mkdir(parents=True)
        for number, picture in enumerate(pieces(7, seed=2)):
            picture.save(tmp_path / split / "n01" / f"{number}.jpg")
        pieces(1, seed=3)[0].resize((2200, 1200)).save(tmp_path / split / "n01" / "huge.jpg")
    write(tmp_path, "raw")
    training = loader(config(tmp_path, Backend.ffcv), batch_size=8)
    order, values = training.order(0).astype(np.uint64), training._parameters(0)
    epoch = training._ffcv.Epoch(training._loader, order, values)
    buffers = sum(np.asarray(each).nbytes for each in epoch.buffers)
    epoch.close()
    assert buffers < 1.1 * epoch.slots * 8 * 48 * 48 * 3


@needs_ffcv
def test_workers_are_this_ranks_share_of_the_cores(photos, monkeypatch):
    for ranks, share in ((1, CORES), (2, max(1, CORES // 2)), (1000, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        assert workers_of(config(photos, Backend.ffcv, workers=None)) == share
        assert loader(config(photos, Backend.ffcv, workers=None))._loader.num_workers == share


PROCESS = """
import os, signal, sys, threading
from gsam.data import *
data = DataConfig("imagefolder", Backend.{backend}, {root!r}, workers={workers})
which = dict(batch_size=2, rank=0, world=1, seed=0, train=True)
loader = build_loader(data, AugmentConfig(size=48, eval_resize=56), "train", **which)
"""


def process(root, code, backend="ffcv", workers=1, **env):
    command = [sys.executable, "-c", PROCESS.format(root=str(root), backend=backend, workers=workers) + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | env)


@needs_ffcv
def test_ctrl_c_inside_an_epoch_ends_the_process_at_once(photos):
    done = process(photos, "for images, labels in loader.epoch():\n    signal.raise_signal(signal.SIGINT)")
    assert done.returncode == -signal.SIGINT
    assert done.stderr.strip().splitlines()[-1] == "KeyboardInterrupt"


@needs_ffcv
@pytest.mark.slow
@pytest.mark.skipif(CORES < 2, reason="one worker starts no threading layer")
def test_two_loaders_at_once_survive_where_numba_would_take_its_own_work_queue(photos):
    """Which aborts the process as soon as two threads use it."""
    code = "for _ in range(20):\n    assert len(list(zip(loader.epoch(0), loader.epoch(1)))) == 21\nprint('done')"
    done = process(photos, code, workers=2, NUMBA_THREADING_LAYER_PRIORITY="workqueue tbb omp")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


GROWTH = """
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

val = build_loader(data, AugmentConfig(size=48, eval_resize=56), "val", **which | dict(train=False))
sizes = []
for epoch in range(24):
    for _ in loader.epoch(epoch):
        pass
    sum(len(labels) for _, labels in val.epoch())
    for _ in loader.epoch(epoch):  # and one that is left early: FFCV keeps 170 MB and a thread of each
        break
    sizes.append((resident(), threading.active_count()))
print(*sizes[3], *sizes[-1])
"""


@needs_ffcv
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["ffcv", "folder"])
def test_twenty_epochs_take_no_more_memory_than_four(photos, backend):
    done = process(photos, GROWTH, backend)
    assert done.returncode == 0, done.stderr
    print(done.stdout)  # MiB and threads, twice
    early, early_threads, late, late_threads = map(float, done.stdout.split())
    assert late - early < 5 and late_threads == early_threads


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_held_out_part_needs_no_other_split(tmp_path, backend):
    root = make_folder(tmp_path / "photos")
    data = replace(config(root, backend), holdout=0.2)
    if backend is Backend.ffcv:
        from gsam.data.write import write_dataset

        write_dataset("imagefolder", str(root), str(root / "ffcv"), workers=1)
    shutil.rmtree(root / "val")
    for name in ("val.beton", "val.json"):
        (root / "ffcv" / name).unlink(missing_ok=True)
    assert not list(check(data, AUGMENT)) and loader(data, "val").num_examples > 0
    assert any("val" in problem for problem in check(replace(data, holdout=0.0), AUGMENT))
