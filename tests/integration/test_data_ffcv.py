"""The FFCV backend on real .beton files: draws, pixels, order, damage."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms import CenterCrop, Compose, Resize

from gsam.data import (
    AugmentConfig,
    Backend,
    Crop,
    DataConfig,
    Filter,
    build_loader,
    check,
    num_classes,
    open_source,
    prepare,
)
from gsam.data.checksum import checksum
from gsam.data.folder import eval_pixels
from gsam.data.keyed import epoch_order, eval_geometry, flipped, inception_box, resmall_box, torchvision_box
from gsam.data.write import write_dataset
from tests.photos import CLASSES, TRAIN_PER_CLASS, VAL_PER_CLASS, make_folder, photograph

pytest.importorskip("ffcv")

FLAT = AugmentConfig(size=28, crop=Crop.none, eval_resize=28)
SMALL = AugmentConfig(size=48, eval_resize=56)
NUM_TRAIN = len(CLASSES) * TRAIN_PER_CLASS


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photographs as files, and as .beton files with raw pixels (ffcv/) and JPEGs (jpeg/)."""
    root = make_folder(tmp_path_factory.mktemp("photos"))
    write_dataset("imagefolder", str(root), str(root / "ffcv"), preset="raw", workers=2)
    write_dataset("imagefolder", str(root), str(root / "jpeg"), preset="500_jpeg90", workers=1)
    return root


@pytest.fixture(scope="module")
def fashion(fashion_root, tmp_path_factory):
    """Fashion-MNIST with the .beton files that `prepare` writes."""
    betons = str(tmp_path_factory.mktemp("betons"))  # the root's own may have been written by another test
    data = DataConfig("fashion_mnist", Backend.ffcv, str(fashion_root), ffcv_root=betons)
    assert list(check(data, FLAT)) == []  # nothing written yet, but it can be
    assert prepare(data) == ["train", "val"] and prepare(data) == []
    assert list(check(data, FLAT)) == []
    return data


def config(root, backend=Backend.ffcv, betons="ffcv", **more):
    return DataConfig("imagefolder", backend, str(root), ffcv_root=str(root / betons), **more)


def loader(data, split="train", augment=SMALL, batch_size=4, rank=0, world=1, seed=3):
    train = split == "train"
    return build_loader(data, augment, split, batch_size=batch_size, rank=rank, world=world, seed=seed, train=train)


def all_of(batches):
    images, labels = zip(*((images.clone(), labels.clone()) for images, labels in batches), strict=True)
    return torch.cat(images), torch.cat(labels)


def distance(a, b):
    """Mean absolute difference in grey levels."""
    return (a.float() - b.float()).abs().mean().item()


def test_compiled_draws_are_those_of_plain_python():
    from gsam.data.ffcv_guard import load

    load()  # makes the plain functions callable from compiled ones
    from numba import njit

    @njit
    def compiled(seed, epoch, index, height, width, area, aspect, resize):
        return (
            inception_box(seed, epoch, index, height, width, area[0], area[1], aspect[0], aspect[1]),
            torchvision_box(seed, epoch, index, height, width, area[0], area[1], aspect[0], aspect[1]),
            flipped(seed, epoch, index, area[0]),
            eval_geometry(height, width, resize, 28),
        )

    rng = np.random.default_rng(0)
    for _ in range(3000):
        height, width = (int(n) for n in rng.integers(1, 2000, 2))
        seed, epoch, index = int(rng.integers(2**32)), int(rng.integers(1000)), int(rng.integers(2**31))
        area, aspect = sorted(rng.uniform(0.01, 1, 2).tolist()), sorted(rng.uniform(0.3, 3, 2).tolist())
        box = (seed, epoch, index, height, width, *area, *aspect)
        plain = (
            inception_box(*box),
            torchvision_box(*box),
            flipped(seed, epoch, index, area[0]),
            eval_geometry(height, width, 256, 28),
        )
        assert compiled(seed, epoch, index, height, width, tuple(area), tuple(aspect), 256) == plain


def test_fashion_mnist_makes_the_round_trip(fashion):
    source, val = open_source("fashion_mnist", fashion.root, "val"), loader(fashion, "val", FLAT, batch_size=999)
    images, labels = all_of(val.epoch())
    assert (val.num_examples, val.num_classes, val.batches_per_epoch) == (10_000, 10, 11)
    assert images.dtype == torch.uint8 and labels.dtype == torch.int64
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), np.repeat(source.grey[..., None], 3, axis=3))
    assert np.array_equal(labels.numpy(), source.labels)


def test_both_backends_give_the_same_pixels_where_nothing_is_resized(fashion):
    folder = DataConfig("fashion_mnist", Backend.folder, fashion.root, limit_train=5000)
    fast = replace(fashion, limit_train=5000)
    for epoch in (0, 7):
        images, labels = all_of(loader(fast, augment=FLAT, batch_size=250).epoch(epoch))
        others, other_labels = all_of(loader(folder, augment=FLAT, batch_size=250).epoch(epoch))
        assert len(images) == 5000 and torch.equal(images, others) and torch.equal(labels, other_labels)


def resmall(*draw_and_ranges):
    return resmall_box(*draw_and_ranges[:5], 48 / 56)


@pytest.mark.parametrize(
    "crop, box", [(Crop.inception, inception_box), (Crop.torchvision, torchvision_box), (Crop.resmall, resmall)]
)
def test_training_pictures_are_the_keyed_boxes(photos, crop, box):
    """Against plain Python's box and OpenCV's INTER_AREA. Another OpenCV than FFCV's may round differently: MAE < 0.1."""
    import cv2

    source = open_source("imagefolder", str(photos), "train")
    order = epoch_order(3, 2, NUM_TRAIN)
    images, labels = all_of(loader(config(photos), augment=replace(SMALL, crop=crop)).epoch(2))
    assert len(images) == 40 and labels.tolist() == source.labels[order[:40]].tolist()
    for image, index in zip(images, order.tolist(), strict=False):
        pixels = source[index][0]
        top, left, rows, columns = box(3, 2, index, *pixels.shape[:2], 0.05, 1.0, 0.75, 1.3333333)
        expected = cv2.resize(pixels[top : top + rows, left : left + columns], (48, 48), interpolation=cv2.INTER_AREA)
        expected = expected[:, ::-1].copy() if flipped(3, 2, index, 0.5) else expected
        assert distance(image.permute(1, 2, 0), torch.from_numpy(expected)) < 0.1


@pytest.mark.parametrize("backend", Backend)
def test_the_held_out_part_is_read_from_the_training_file(photos, backend):
    data = config(photos, backend, workers=1, holdout=0.2)
    held, training = loader(data, "val", FLAT), loader(data, "train", FLAT)
    source = open_source("imagefolder", str(photos), "train")
    assert (held.num_examples, training.num_examples) == (9, NUM_TRAIN - 9)  # 3 of the 14 of each class
    images, labels = all_of(held.epoch())
    order = held.order()
    for image, index in zip(images, order.tolist(), strict=True):
        expected = torch.from_numpy(eval_pixels(source[index][0], FLAT).copy())
        assert distance(image.permute(1, 2, 0), expected) < 1
    assert not set(order) & set(training.order(0)) and labels.tolist() == source.labels[order].tolist()
    assert np.bincount(labels).tolist() == [3, 3, 3]
    held.close()
    training.close()


def test_backends_agree_on_photographs(photos):
    """Same order, labels and boxes; the resize differs (see gsam.data.folder): measured MAE 1.4, wrong boxes give 50."""
    images, labels = all_of(loader(config(photos)).epoch(1))
    others, other_labels = all_of(loader(config(photos, Backend.folder, workers=0)).epoch(1))
    assert torch.equal(labels, other_labels)
    assert distance(images, others) < 3
    assert distance(images, all_of(loader(config(photos)).epoch(2))[0]) > 20


@pytest.mark.parametrize("resize, size", [(256, 224), (56, 48), (48, 48)])
def test_evaluation_is_torchvisions(photos, resize, size):
    """Raw pixels: equal, but for rounding in tall pictures (at most 1). JPEG: measured MAE 1.0, from storing, not geometry."""
    from PIL import Image

    augment = AugmentConfig(size=size, eval_resize=resize)
    source = open_source("imagefolder", str(photos), "val")
    theirs = Compose([Resize(resize), CenterCrop(size)])
    wanted = np.stack([np.asarray(theirs(Image.fromarray(source[i][0]))) for i in range(len(source))])
    wanted = torch.from_numpy(wanted).permute(0, 3, 1, 2)
    raw, _ = all_of(loader(config(photos), "val", augment).epoch())
    jpeg, _ = all_of(loader(config(photos, betons="jpeg"), "val", augment).epoch())
    assert (raw.int() - wanted.int()).abs().max() <= 1 and distance(raw, wanted) < 0.1
    wide = torch.tensor(
        [pixels.shape[0] <= pixels.shape[1] for pixels, _ in map(source.__getitem__, range(len(source)))]
    )
    assert torch.equal(raw[wide], wanted[wide])
    assert distance(jpeg, wanted) < 2


@pytest.mark.parametrize("split", ["train", "val"])
def test_neither_workers_nor_batch_size_nor_ranks_change_a_picture(photos, split):
    one, labels = all_of(loader(config(photos, workers=1), split, batch_size=8).epoch(1))
    if len(os.sched_getaffinity(0)) > 1:
        two, _ = all_of(loader(config(photos, workers=2), split, batch_size=8).epoch(1))
        assert torch.equal(one, two)
    parts = [all_of(loader(config(photos), split, rank=rank, world=2).epoch(1)) for rank in range(2)]
    if split == "train":  # blocks side by side
        images = torch.stack([images.unflatten(0, (-1, 4)) for images, _ in parts], dim=1).flatten(0, 2)
        found = torch.stack([labels.unflatten(0, (-1, 4)) for _, labels in parts], dim=1).flatten()
        assert torch.equal(one, images) and torch.equal(labels, found)
    else:
        assert all(torch.equal(one[rank::2], parts[rank][0]) for rank in range(2))


def test_skipping_gives_the_tail_without_decoding(photos):
    training = loader(config(photos))
    full, labels = all_of(training.epoch(4))
    tail, tail_labels = all_of(training.epoch(4, skip=7))
    assert torch.equal(full[28:], tail) and torch.equal(labels[28:], tail_labels)
    assert np.array_equal(training.order(4, skip=7), epoch_order(3, 4, NUM_TRAIN)[28:40])
    assert list(training.epoch(4, skip=training.batches_per_epoch)) == []


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_counts_every_picture_once(photos, world):
    n = len(CLASSES) * VAL_PER_CLASS
    parts = [loader(config(photos), "val", batch_size=4, rank=rank, world=world) for rank in range(world)]
    sizes = [[len(labels) for _, labels in part.epoch()] for part in parts]
    assert sum(map(sum, sizes)) == n and [len(each) for each in sizes] == [part.batches_per_epoch for part in parts]
    labels = open_source("imagefolder", str(photos), "val").labels
    for rank, part in enumerate(parts):
        assert np.array_equal(all_of(part.epoch())[1].numpy(), labels[rank::world])


def test_batches_of_one(photos):
    val = loader(config(photos, limit_eval=5), "val", batch_size=1)
    batches = [(images.clone(), labels) for images, labels in val.epoch()]
    assert [tuple(images.shape) for images, _ in batches] == [(1, 3, 48, 48)] * 5
    assert all(labels.shape == (1,) for _, labels in batches)


def test_evaluation_inside_an_epoch_and_two_epochs_at_once(photos):
    training, val = loader(config(photos)), loader(config(photos), "val")
    alone = {epoch: all_of(training.epoch(epoch))[0] for epoch in (0, 1)}
    val_alone, _ = all_of(val.epoch())
    first, second = training.epoch(0), training.epoch(1)
    for number, ((a, _), (b, _)) in enumerate(zip(first, second, strict=True)):
        there = slice(4 * number, 4 * number + 4)
        assert torch.equal(a, alone[0][there]) and torch.equal(b, alone[1][there])
        if number in (2, 5):
            assert torch.equal(all_of(val.epoch())[0], val_alone)


def test_leaving_an_epoch_early_ends_its_thread_and_torch_keeps_its_threads(photos):
    threads, before = torch.get_num_threads(), threading.active_count()
    training = loader(config(photos))
    for _ in range(5):
        batches = training.epoch(0)
        next(batches)
        batches.close()
    for _ in training.epoch(1):
        break
    assert threading.active_count() == before
    assert torch.get_num_threads() == threads


def damaged(photos, tmp_path, change, betons="jpeg"):
    """A copy of the .beton files, `change`d, with the manifest's size made to fit."""
    shutil.copytree(photos / betons, tmp_path / betons)
    path = tmp_path / betons / "train.beton"
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    manifest = json.loads((tmp_path / betons / "train.json").read_text())
    (tmp_path / betons / "train.json").write_text(json.dumps({**manifest, "size_bytes": len(content)}))
    return DataConfig("imagefolder", Backend.ffcv, str(photos), ffcv_root=str(tmp_path / betons))


def change_picture(photos, betons, number, change, keep_checksum=True):
    """For `damaged`: `change` the stored bytes of a training picture; else the stored checksum too, as if so written."""
    reader = loader(config(photos, betons=betons))._loader.reader
    start, size = (int(reader.alloc_table[key][number]) for key in ("ptr", "size"))
    was = int(reader.metadata["f2"][number]).to_bytes(8, "little", signed=True)

    def apply(content):
        picture = np.frombuffer(content, np.uint8)[start : start + size]
        change(picture)
        now = checksum(picture).to_bytes(8, "little", signed=True)
        del picture  # else the bytearray cannot be replaced
        if not keep_checksum:
            at = content.index(was)
            content[at : at + 8] = now

    return apply


def zero_start(picture):
    picture[:200] = 0


@pytest.mark.parametrize("workers", [1, 2])
def test_an_undecodable_jpeg_is_an_error_that_names_the_sample(photos, tmp_path, workers):
    if workers > len(os.sched_getaffinity(0)):
        pytest.skip("needs two cores")
    data = damaged(photos, tmp_path, change_picture(photos, "jpeg", 17, zero_start, keep_checksum=False))
    data.workers = workers
    with pytest.raises(
        RuntimeError, match=r"train\.beton: sample 17 \(class n02\) cannot be decoded; the file is damaged"
    ):
        for _ in range(2):  # 40 of 42 pictures an epoch
            for epoch in range(2):
                list(loader(data).epoch(epoch))


def one_bit(picture):
    picture[len(picture) // 2] ^= 1


@pytest.mark.parametrize("betons, train", [("jpeg", True), ("ffcv", True), ("jpeg", False)])
def test_one_changed_bit_is_noticed_in_training_and_evaluation(photos, tmp_path, betons, train):
    """In raw pixels it would never be seen; a JPEG decodes to something else without a word."""
    data = damaged(photos, tmp_path, change_picture(photos, betons, 17, one_bit), betons)
    reading = build_loader(data, SMALL, "train", batch_size=4, rank=0, world=1, seed=3, train=train)
    with pytest.raises(RuntimeError, match=r"sample 17 \(class n02\) is not what was written: its checksum differs"):
        for epoch in range(2):
            list(reading.epoch(epoch))


@pytest.mark.parametrize("rows, columns", [(300, 400), (90, 61), (20, 300), (1, 1)])
def test_the_filters_are_opencvs(photos, rows, columns):
    """area: bit for bit what FFCV's library gives. linear: against another OpenCV's, which may round differently."""
    import cv2
    from ffcv.libffcv import ctypes_resize

    kernels = loader(config(photos))._ffcv.kernels
    pixels, (top, left) = np.asarray(photograph()), (37, 50)
    ours, theirs = np.empty((2, 224, 224, 3), np.uint8)
    kernels.resize_box(pixels, top, left, rows, columns, kernels.FILTERS["area"], ours)
    height, width = pixels.shape[:2]
    box = top, top + rows, left, left + columns
    ctypes_resize(0, pixels.ctypes.data, height, width, *box, theirs.ctypes.data, 224, 224)
    assert np.array_equal(ours, theirs)
    kernels.resize_box(pixels, top, left, rows, columns, kernels.FILTERS["linear"], ours)
    linear = cv2.resize(pixels[top : top + rows, left : left + columns], (224, 224), interpolation=cv2.INTER_LINEAR)
    assert abs(ours.astype(int) - linear).max() <= 1


def test_the_linear_filter_changes_pixels_and_nothing_else(photos):
    images, labels = all_of(loader(config(photos)).epoch(0))
    others, other_labels = all_of(loader(config(photos), augment=replace(SMALL, filter=Filter.linear)).epoch(0))
    assert torch.equal(labels, other_labels) and 0.5 < distance(images, others) < 6


def test_training_pixels_of_cut_jpegs_are_those_of_whole_ones(photos):
    """The loader decodes what a box needs; here every picture is decoded whole, then the same box is resized."""
    training = loader(config(photos, betons="jpeg"))
    kernels, reader = training._ffcv.kernels, training._loader.reader
    mapped, order = np.memmap(reader._fname, np.uint8, mode="r"), training.order(1)
    images, _ = all_of(training.epoch(1))
    for image, index in zip(images.permute(0, 2, 3, 1).numpy(), order.tolist(), strict=True):
        field, (_, start, size) = reader.metadata["f0"][index], reader.alloc_table[index].tolist()
        height, width = int(field["height"]), int(field["width"])
        pixels, failed = kernels.decode_jpeg(np.array(mapped[start : start + size]), height, width)
        wanted, box = (
            np.empty((48, 48, 3), np.uint8),
            inception_box(3, 1, index, height, width, 0.05, 1.0, 0.75, 1.3333333),
        )
        kernels.resize_box(pixels, *box, kernels.FILTERS["area"], wanted)
        assert failed == 0
        assert np.array_equal(image, wanted[:, ::-1] if flipped(3, 1, index, 0.5) else wanted)


def test_a_truncated_file_is_refused(photos, tmp_path):
    def truncate(content):
        del content[len(content) // 2 :]

    data = damaged(photos, tmp_path, truncate)
    with pytest.raises(ValueError, match="not a readable .beton|other samples than its manifest"):
        loader(data)


def test_small_sets_of_an_older_format_are_written_again(fashion, tmp_path):
    data = replace(fashion, ffcv_root=str(shutil.copytree(fashion.ffcv_root, tmp_path / "ffcv")))
    manifest = tmp_path / "ffcv" / "val.json"
    good = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**good, "format_version": 1, "sha256": "old"}))
    assert list(check(data, FLAT)) == [] and prepare(data) == ["val"]
    assert json.loads(manifest.read_text())["sha256"] == good["sha256"]
    other = config(tmp_path)  # an imagefolder: nobody writes its files by themselves
    manifest.write_text(json.dumps({**good, "format_version": 1}))
    assert any("format version 1" in problem and "--overwrite`" in problem for problem in check(other, FLAT))


def test_a_lost_allocation_table_is_refused(photos, tmp_path):
    def truncate(content):
        del content[-48:]

    with pytest.raises(ValueError, match="other samples than its manifest"):
        loader(damaged(photos, tmp_path, truncate))


def test_a_file_that_does_not_fit_its_manifest_is_a_problem_with_a_way_out(photos, tmp_path):
    shutil.copytree(photos / "jpeg", tmp_path / "ffcv")
    data = DataConfig("imagefolder", Backend.ffcv, str(photos), ffcv_root=str(tmp_path / "ffcv"))
    assert list(check(data, SMALL)) == []
    assert num_classes(data) == 3
    (tmp_path / "ffcv" / "val.json").unlink()
    with open(tmp_path / "ffcv" / "train.beton", "ab") as file:
        file.write(b"x")
    first, second = check(data, SMALL)
    command = f"python scripts/write_ffcv.py imagefolder --root {photos} --out {tmp_path / 'ffcv'}"
    assert "train.beton does not fit: size_bytes is" in first and command in first
    assert "val.json is missing" in second and command in second
    other = DataConfig("imagenet", Backend.ffcv, str(photos), ffcv_root=str(photos / "jpeg"))
    assert all("source is imagenet, its manifest says imagefolder" in problem for problem in check(other, SMALL))
    with pytest.raises(ValueError, match="source is imagenet"):
        loader(other)


def test_a_missing_file_names_the_command_and_small_data_do_not_overwrite(photos, fashion, tmp_path):
    data = DataConfig("imagenet", Backend.ffcv, str(tmp_path))
    command = f"python scripts/write_ffcv.py imagenet --root {tmp_path} --out {tmp_path / 'ffcv'}"
    assert all(command in problem for problem in check(data, SMALL))
    assert prepare(data) == []
    wrong = DataConfig("fashion_mnist", Backend.ffcv, fashion.root, ffcv_root=str(photos / "jpeg"))
    assert prepare(wrong) == []
    assert all("source is fashion_mnist, its manifest says imagefolder" in problem for problem in check(wrong, FLAT))


def test_more_workers_than_cores_are_refused(photos):
    (problem,) = check(config(photos, workers=10_000), SMALL)
    assert "data.workers=10000" in problem


@pytest.mark.slow
def test_two_processes_compile_once(photos, tmp_path):
    """Both start without a cache; afterwards a third finds everything there."""
    code = (
        "from gsam.data import *; from numba.core import event\n"
        f"data = DataConfig('imagefolder', Backend.ffcv, {str(photos)!r}, workers=1)\n"
        "which = dict(batch_size=4, rank=0, world=1, seed=0, train=True)\n"
        "loader = build_loader(data, AugmentConfig(size=32, eval_resize=32), 'train', **which)\n"
        "with event.install_recorder('numba:compile') as recorder:\n"
        "    pixels = sum(int(images.long().sum()) for images, _ in loader.epoch())\n"
        "print(pixels, len(recorder.buffer))\n"
    )
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    env.pop("NUMBA_CACHE_DIR", None)

    def start():
        return subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)

    running = [start(), start()]
    results = [process.communicate(timeout=200)[0].split() for process in running]
    results.append(start().communicate(timeout=200)[0].split())
    assert len({pixels for pixels, _ in results}) == 1
    assert int(results[0][1]) > 0 and int(results[2][1]) == 0
    assert (tmp_path / "gsam" / "numba").is_dir()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_on_a_single_core_a_process_that_wrote_and_read_ends(photos, tmp_path):
    """It would hang in the end of numba's TBB pool of one thread."""
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from gsam.data import *; from gsam.data.write import write_dataset\n"
        f"write_dataset('imagefolder', {str(photos)!r}, {str(tmp_path)!r}, preset='raw', workers=1)\n"
        f"data = DataConfig('imagefolder', Backend.ffcv, {str(photos)!r}, ffcv_root={str(tmp_path)!r})\n"
        "which = dict(batch_size=4, rank=0, world=1, seed=0, train=True)\n"
        "loader = build_loader(data, AugmentConfig(size=32, eval_resize=32), 'train', **which)\n"
        "print('pictures', sum(len(labels) for _, labels in loader.epoch()))\n"
    )
    env = {key: value for key, value in os.environ.items() if key != "NUMBA_THREADING_LAYER"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "pictures" in done.stdout, done.stderr


def test_a_stalled_first_batch_is_an_error(photos, monkeypatch, capfd):
    training = loader(config(photos))
    monkeypatch.setattr(training._ffcv, "FIRST_BATCH_S", 0.2)
    monkeypatch.setattr(training._ffcv.Epoch, "run_pipeline", lambda *_: time.sleep(1))
    with pytest.raises(RuntimeError, match="gave no batch of .*train.beton within 0 s"):
        next(training.epoch(0))
    assert "Thread" in capfd.readouterr().err
