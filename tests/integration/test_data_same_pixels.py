"""The same pixels for the same (seed, epoch, picture): one hash per picture, whatever the workers, ranks, batches, starts."""

import hashlib
import json
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from gsam.data import AugmentConfig, Backend, DataConfig, Order, build_loader
from gsam.data import order as orders
from tests.photos import CLASSES, TRAIN_PER_CLASS, VAL_PER_CLASS, make_folder
from tests.runs import train

CORES = len(os.sched_getaffinity(0))
NUM = {"train": len(CLASSES) * TRAIN_PER_CLASS, "val": len(CLASSES) * VAL_PER_CLASS}
BACKENDS = [Backend.folder, *([Backend.ffcv] if find_spec("ffcv") else [])]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("photos"))
    if Backend.ffcv in BACKENDS:
        from gsam.data.write import write_dataset

        write_dataset("imagefolder", str(root), str(root / "ffcv"), preset="500_jpeg90", workers=2)
    return root


def loader(root, backend, split="train", batch_size=4, rank=0, world=1, seed=3, workers=1, order=Order.random, **more):
    workers = 0 if backend is Backend.folder and workers == 1 else workers
    data = DataConfig("imagefolder", backend, str(root), workers=workers, order=order, **more)
    augment = AugmentConfig(size=48, eval_resize=56)
    which = dict(batch_size=batch_size, rank=rank, world=world, seed=seed, train=split == "train")
    return build_loader(data, augment, split, **which)


def hashes(loader, epoch, skip=0):
    """Picture number -> SHA-256 of its pixels and its label; each must come once."""
    numbers, found, place = loader.order(epoch, skip).tolist(), {}, 0
    for images, labels in loader.epoch(epoch, skip):
        for image, label in zip(images, labels.tolist(), strict=True):
            digest = hashlib.sha256(np.ascontiguousarray(image).tobytes())
            digest.update(bytes([label]))
            found[numbers[place]] = digest.hexdigest()
            place += 1
    loader.close()
    assert place == len(numbers) == len(found)
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore:This DataLoader will create 7 worker")  # more than there are cores
@pytest.mark.parametrize("workers", [2, 7])
def test_workers_change_no_picture(photos, backend, workers):
    if backend is Backend.ffcv and workers > CORES:
        pytest.skip(f"FFCV's threads are bounded by the {CORES} cores here")
    one, many = (hashes(loader(photos, backend, workers=n), 1) for n in (1, workers))
    assert len(one) == 40 and many == one


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("split", ["train", "val"])
def test_neither_ranks_nor_batches_nor_a_limit_nor_the_order_change_a_picture(photos, backend, split):
    every = hashes(loader(photos, backend, split, batch_size=1), 1)
    assert len(every) == NUM[split]
    for batch_size, world in ((5, 1), (3, 2), (2, 3)):
        parts = [hashes(loader(photos, backend, split, batch_size, rank, world), 1) for rank in range(world)]
        together = {number: digest for part in parts for number, digest in part.items()}
        dropped = NUM[split] % (batch_size * world) if split == "train" else 0  # an incomplete global batch
        assert sum(map(len, parts)) == len(together) == NUM[split] - dropped
        assert together.items() <= every.items()
    limit = {"limit_train": 12} if split == "train" else {"limit_eval": 12}
    few = hashes(loader(photos, backend, split, **limit), 1)
    assert len(few) == 12 and few.items() <= every.items()
    assert hashes(loader(photos, backend, split, batch_size=1, order=Order.quasi_random), 1) == every


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_epoch_or_seed_changes_every_training_picture_and_no_evaluation(photos, backend):
    base = hashes(loader(photos, backend, batch_size=1), 1)
    for seed, epoch in ((3, 2), (4, 1)):
        other = hashes(loader(photos, backend, batch_size=1, seed=seed), epoch)
        assert not base.items() & other.items()
    assert hashes(loader(photos, backend, "val", seed=4), 9) == hashes(loader(photos, backend, "val"), 0)


PROCESS = """
import json, sys
from pathlib import Path
from gsam.data import Backend
from tests.integration.test_data_same_pixels import hashes, loader
found = {name: hashes(loader(Path(sys.argv[1]), Backend(name)), 1, skip=6) for name in sys.argv[2:]}
print(json.dumps(found))
"""


def test_a_new_process_that_starts_inside_an_epoch_gives_its_rest(photos):
    command = [sys.executable, "-c", PROCESS, str(photos), *(backend.value for backend in BACKENDS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name, found in json.loads(done.stdout).items():
        whole = hashes(loader(photos, Backend(name)), 1)
        rest = loader(photos, Backend(name)).order(1, skip=6).tolist()
        assert len(rest) == 40 - 6 * 4
        assert [found[str(number)] for number in rest] == [whole[number] for number in rest]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("world", [1, 2, 5, 30])
def test_evaluation_takes_every_picture_exactly_once_on_any_number_of_ranks(photos, backend, world):
    """30 ranks are more than the 21 pictures: some have none, and nothing is added to fill them."""
    whole = hashes(loader(photos, backend, "val"), 0)
    parts = [hashes(loader(photos, backend, "val", rank=rank, world=world), 0) for rank in range(world)]
    assert sum(map(len, parts)) == len(whole) == NUM["val"]
    assert {number: digest for part in parts for number, digest in part.items()} == whole


@pytest.mark.skipif(Backend.ffcv not in BACKENDS, reason="ffcv is not installed")
@pytest.mark.parametrize("order", [Order.random, Order.quasi_random])
def test_backends_take_the_same_pictures_in_the_same_order(photos, order):
    folder, fast = (loader(photos, backend, order=order) for backend in BACKENDS)
    assert np.array_equal(folder.order(2, 3), fast.order(2, 3))


@pytest.mark.skipif(Backend.ffcv not in BACKENDS, reason="ffcv is not installed")
def test_a_run_chooses_its_order_once_and_continues_with_it(fashion_root, tmp_path, monkeypatch, capsys):
    """Stopped where memory was short, continued where there is plenty: bit for bit the run that was never stopped."""
    small = [
        "data.limit_train=400",
        "data.limit_eval=20",
        "train.batch_size=40",
        "train.epochs=8st",
        "train.save_every=4st",
    ]

    def run(folder, free_mib, *more):
        monkeypatch.setattr(orders, "free_memory", lambda: (free_mib << 20, "the host's memory"))
        where = [f"paths.fashion_mnist={fashion_root}", f"run.dir={tmp_path / folder}", "data.backend=ffcv"]
        trainer = train("optimizer=vanilla", "schedule.warmup_steps=2", *small, *where, *more)
        assert json.loads((trainer.folder.path / "meta.json").read_text())["order"] == "quasi_random"
        return trainer.model.state_dict()

    run("stopped", 1, "train.max_steps=4")
    assert "1 rank(s); every epoch reads it again, block by block" in capsys.readouterr().out
    continued = run("stopped", 1 << 20)
    assert "data.order=quasi_random, as the run began" in capsys.readouterr().out
    whole = run("whole", 1)
    assert all(torch.equal(continued[key], whole[key]) for key in whole)
