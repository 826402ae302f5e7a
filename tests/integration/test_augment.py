"""Augmentation in whole trainings from the real configs, and the contact sheet of what the model sees."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from gsam.augment import OnDevice
from gsam.data import Order, build_loader
from gsam.train.checkpoint import read
from scripts import show_batch
from tests.photos import TRAIN_PER_CLASS, make_folder
from tests.processes import ROOT
from tests.runs import compose_train, rows, train

SMALL = [
    "data.backend=folder", "data.limit_train=160", "data.limit_eval=20", "train.batch_size=40", "train.epochs=10st",
    "train.eval_every=10st", "train.save_every=2st", "train.log_every=1st", "schedule.warmup_steps=2",
    "optimizer.group_size=20", "augment.mixup=0.2", "augment.cutmix=1.0", "augment.randaugment=official",
    "augment.color_jitter=0.4",
]  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"))


def folder_settings(photos, *more):
    """42 photographs at 32 pixels, three batches of 14 in an epoch."""
    return [
        "data=imagefolder", "data.workers=0", f"paths.imagefolder={photos}", "augment=light", "augment.size=32",
        "augment.eval_resize=36", "train.batch_size=14", "schedule.warmup_steps=1", *more,
    ]  # fmt: skip


def test_a_run_that_stops_in_mid_epoch_continues_with_the_same_draws(fashion_root, tmp_path):
    """Weights bit for bit, and the rows that differ by nothing but times."""
    words = [*SMALL, "optimizer=gsam", f"paths.fashion_mnist={fashion_root}"]
    train(*words, f"run.dir={tmp_path}/whole")
    for stop in ("train.max_steps=3", "train.max_steps=7", "train.max_steps=null"):
        train(*words, stop, f"run.dir={tmp_path}/parts")
    whole, parts = (read(tmp_path / name / "checkpoints" / "last.pt") for name in ("whole", "parts"))
    assert all(torch.equal(t, parts["model"][k]) for k, t in whole["model"].items())
    losses = [[row["loss"] for row in rows(tmp_path / name, "train")] for name in ("whole", "parts")]
    assert losses[0] == losses[1] and len(losses[0]) == 10


def test_the_trainer_gives_the_model_what_the_loaders_pictures_become(photos, tmp_path, monkeypatch):
    """Over the border of an epoch: each picture's key is its epoch and index."""
    seen, call = [], OnDevice.__call__
    monkeypatch.setattr(
        OnDevice, "__call__", lambda self, *batch, **k: seen.append((*batch, k)) or call(self, *batch, **k)
    )
    words = folder_settings(photos, "augment.randaugment=official", "train.epochs=5st", "train.eval_every=5st")
    trainer = train(*words, f"run.dir={tmp_path}/run")
    loader = build_loader(
        trainer.config.data, trainer.config.augment, "train", batch_size=14, rank=0, world=1, seed=0, train=True
    )
    expected = [(epoch, images) for epoch in (0, 1) for images, _ in loader.epoch(epoch)][:5]
    orders = [*loader.order(0).reshape(3, 14), *loader.order(1).reshape(3, 14)]
    assert [numbers for *_, numbers in seen] == [{"step": step, "part": 0} for step in range(5)]
    for (images, _, keys, _), (epoch, wanted), order in zip(seen, expected, orders, strict=False):
        assert torch.equal(images, wanted) and (keys[:, 0] == epoch).all() and keys[:, 1].tolist() == order.tolist()


def test_metrics_count_the_pictures_that_others_stood_in_for(tmp_path):
    """One damaged picture, met once in each of three epochs; the count goes on after a stop."""
    photos = make_folder(tmp_path / "photos")
    bad = sorted((photos / "train" / "n02").iterdir())[5]
    bad.write_bytes(bad.read_bytes()[:200])
    words = folder_settings(
        photos, "data.on_bad=skip", "train.epochs=3ep", "train.log_every=1ep", "train.eval_every=3ep"
    )
    for stop in ("train.max_steps=3", "train.max_steps=null"):
        train(*words, stop, f"run.dir={tmp_path}/run")
    assert [row["skipped_pictures"] for row in rows(tmp_path / "run", "train")] == [1, 2, 3]


def test_show_batch_draws_what_the_model_gets(photos, tmp_path, monkeypatch, capsys):
    """The whole command; then its pictures against the stepper's own."""
    words = folder_settings(photos, "augment.mixup=0.2", "augment.randaugment=official", "optimizer=vanilla")
    out = tmp_path / "batch.png"
    command = [
        sys.executable,
        "scripts/show_batch.py",
        "experiment=quickstart",
        *words,
        "--n=6",
        "--step=4",
        f"--out={out}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "6 of the 14 pictures of step 4, mixup, share 0." in done.stdout
    with Image.open(out) as sheet:
        assert sheet.format == "PNG" and np.asarray(sheet).std() > 20
    monkeypatch.setattr(sys, "argv", [*command[1:], "augment.mixup=-1"])
    assert show_batch.main() == 2 and "augment.mixup=-1.0 is p of Beta(p, p)" in capsys.readouterr().err
    config = compose_train(*words)
    images, labels, _ = show_batch.seen(config, step=4)
    loader = build_loader(config.data, config.augment, "train", batch_size=14, rank=0, world=1, seed=0, train=True)
    augment = OnDevice(config.augment, torch.device("cpu"), seed=0, num_classes=3, group_size=14)
    (x, y) = list(loader.epoch(1))[1]  # step 4 is the second of epoch 1
    keys = torch.stack([torch.ones(14, dtype=torch.int64), torch.from_numpy(loader.order(1)[14:28])], dim=1)
    expected = augment(x, y, keys, step=4)
    assert torch.equal(images, expected[0]) and torch.equal(labels, expected[1])
    assert 3 * TRAIN_PER_CLASS == loader.num_examples


def shown(monkeypatch, *words):
    """scripts/show_batch.py in this process: exit code."""
    monkeypatch.setattr(sys, "argv", ["show_batch.py", "experiment=quickstart", *words])
    return show_batch.main()


def test_show_batch_follows_the_order_that_a_training_settles_on(photos, tmp_path, monkeypatch, capsys):
    """data.order=auto is no order yet; a folder for the sheet is made before the work."""
    given = []
    monkeypatch.setattr(
        show_batch,
        "settle",
        lambda data, kept: given.append((data.order, kept)) or (replace(data, order=Order.quasi_random), "why"),
    )
    loaders, build = [], show_batch.data.build_loader
    monkeypatch.setattr(
        show_batch.data, "build_loader", lambda data, *a, **k: loaders.append(data.order) or build(data, *a, **k)
    )
    out = tmp_path / "new" / "sheets" / "batch.png"
    assert shown(monkeypatch, *folder_settings(photos, "data.order=auto"), "--n=2", f"--out={out}") == 0
    assert given == [(Order.auto, None)] and loaders == [Order.quasi_random] and out.exists()
    assert capsys.readouterr().out.startswith("why\n")


def test_show_batch_asks_for_a_batch_that_the_ranks_can_share(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert shown(monkeypatch, *folder_settings(photos), f"--out={tmp_path}/batch.png") == 2
    assert "train.batch_size=14" in capsys.readouterr().err


def test_show_batch_says_when_it_cannot_write(photos, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    assert shown(monkeypatch, *folder_settings(photos), f"--out={tmp_path}/file/batch.png") == 2
    assert capsys.readouterr().err.startswith("error: ")
