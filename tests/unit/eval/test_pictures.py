"""The loader of evaluation: the pixels, the order, the processes."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from gsam.data import AugmentConfig, Backend, DataConfig, build_loader, subset
from gsam.data.fashion_mnist import DEBIAN
from gsam.eval import EvalSet
from gsam.eval.copies import Settings
from gsam.eval.corruptions import CORRUPTIONS, corrupt
from gsam.eval.evalsets import build, check, num_classes, open_pictures, origin, pictures_hash, prepare
from gsam.eval.make_c import make
from gsam.eval.pictures import PIECE, Clean, PictureLoader, centre
from gsam.eval.preprocess import Preprocess
from tests.photos import make_folder

from .pictures import clothes, fashion_mnist, gradient

NATIVE = Preprocess(28, 28)


def corrupted(**changes):
    values = {"corruptions": ["gaussian_noise", "contrast"], "severities": [2, 5], "limit": 101, "grey": True}
    return EvalSet(source="fashion_mnist", root=DEBIAN, **{**values, **changes})


def read(loader, **options):
    batches = [(images.clone(), labels.clone()) for images, labels in loader.epoch(**options)]
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def folder(tmp_path):
    """An image folder: two classes, three pictures of different sizes, all larger than the crop."""
    for split in ("train", "val"):
        for number, (kind, height, width) in enumerate((("a", 300, 280), ("b", 257, 400), ("b", 320, 320))):
            (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(gradient(400)).resize((width, height))
            image.save(tmp_path / split / kind / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_pixels_and_order_are_those_of_evaluation_while_training(photos, workers):
    augment = AugmentConfig(size=64, eval_resize=73)
    data = DataConfig("imagefolder", Backend.folder, str(photos), workers=0)
    training = build_loader(data, augment, "val", batch_size=5, rank=0, world=1, seed=0, train=False)
    evalset = EvalSet(source="imagefolder", root=str(photos))
    loader = build(evalset, Preprocess.trained(augment), batch_size=5, workers=workers)
    for (images, labels), (others, other_labels) in zip(training.epoch(), loader.epoch(), strict=True):
        assert torch.equal(images, others) and torch.equal(labels, other_labels)
    assert loader.num_examples == training.num_examples and loader.batches_per_epoch == training.batches_per_epoch


@fashion_mnist
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_copies_are_those_of_corrupt(name):
    source = clothes()
    images, labels = read(build(corrupted(grey=False, limit=20), NATIVE, name, 4, batch_size=8))
    assert images.shape == (20, 3, 28, 28) and images.dtype == torch.uint8 and labels.dtype == torch.int64
    for image, label, index in zip(images, labels, subset(len(source), 20), strict=True):
        picture, wanted = source[int(index)]
        assert label == wanted
        assert np.array_equal(image.permute(1, 2, 0), corrupt(picture, name, 4, seed=0, index=int(index)))


@fashion_mnist
def test_workers_ranks_and_batches_change_nothing():
    """Also where a batch is more than one piece of work."""
    evalset = corrupted()
    images, labels = read(build(evalset, NATIVE, "gaussian_noise", 2, batch_size=101))
    for batch_size, world, workers in ((7, 1, 0), (PIECE + 5, 1, 2), (10, 2, 0), (40, 3, 1)):
        seen = []
        for rank in range(world):
            loader = build(
                evalset, NATIVE, "gaussian_noise", 2, batch_size=batch_size, rank=rank, world=world, workers=workers
            )
            mine, answers = read(loader)
            assert torch.equal(mine, images[rank::world]) and torch.equal(answers, labels[rank::world])
            assert loader.num_examples == 101 and loader.num_classes == 10
            assert loader.batches_per_epoch == -(-len(mine) // batch_size)
            seen += loader.indices.tolist()
        assert sorted(seen) == subset(10_000, 101).tolist()


@fashion_mnist
def test_epochs_are_equal_and_batches_can_be_skipped():
    loader = build(corrupted(), NATIVE, "gaussian_noise", 2, batch_size=25)
    images, labels = read(loader)
    assert torch.equal(read(loader, epoch=3)[0], images)
    assert torch.equal(read(loader, skip=2)[0], images[50:]) and torch.equal(read(loader, skip=2)[1], labels[50:])


@fashion_mnist
def test_a_subset_holds_the_copies_of_the_whole_set():
    evalset, index = corrupted(limit=30, grey=False), int(subset(10_000, 30)[11])
    prepared = prepare(evalset, NATIVE, "gaussian_noise", 2)
    whole = PictureLoader(clothes(), prepared, indices=np.array([index]), batch_size=1)
    part = read(build(evalset, NATIVE, "gaussian_noise", 2, batch_size=30))[0][11]
    assert torch.equal(read(whole)[0][0], part)


@fashion_mnist
def test_grey_pictures_stay_grey():
    grey, _ = read(build(corrupted(), NATIVE, "gaussian_noise", 5, batch_size=101))
    colour, _ = read(build(corrupted(grey=False), NATIVE, "gaussian_noise", 5, batch_size=101))
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 0], grey[:, 2])
    assert not torch.equal(colour[:, 0], colour[:, 1])
    assert torch.equal(grey[:, 0], colour.double().mean(1).round().byte())


@fashion_mnist
def test_reading_leaves_torchs_random_numbers_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    read(build(corrupted(), NATIVE, "gaussian_noise", 2, batch_size=50, workers=1))
    assert torch.equal(torch.get_rng_state(), before)


@fashion_mnist
def test_copies_of_another_size_get_the_models_transform():
    images, _ = read(build(corrupted(), Preprocess(32, 36), "contrast", 5, batch_size=101))
    small, _ = read(build(corrupted(), NATIVE, "contrast", 5, batch_size=101))
    resize = v2.Compose([v2.Resize(36), v2.CenterCrop(32)])
    wanted = np.asarray(resize(Image.fromarray(small[0].permute(1, 2, 0).numpy())))
    assert np.array_equal(images[0].permute(1, 2, 0), wanted)


def test_the_canvas_is_cut_out_before_the_corruption(folder):
    evalset = EvalSet(source="imagefolder", root=str(folder), corruptions=["contrast"], severities=[3], canvas=224)
    images, labels = read(build(evalset, Preprocess(224, 256), "contrast", 3, batch_size=2, workers=0))
    assert images.shape == (3, 3, 224, 224) and labels.tolist() == [0, 1, 1]
    central = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
    for index, name in enumerate(("a/0.png", "b/1.png", "b/2.png")):
        square = np.asarray(central(Image.open(folder / "val" / name)))
        assert np.array_equal(images[index].permute(1, 2, 0), corrupt(square, "contrast", 3, seed=0, index=index))
    # A network for smaller pictures sees the whole square, not a crop of the crop.
    small, _ = read(build(evalset, Preprocess(112, 128), "contrast", 3, batch_size=3, workers=0))
    wanted = Image.fromarray(images[0].permute(1, 2, 0).numpy()).resize((112, 112), Image.Resampling.BILINEAR)
    assert np.array_equal(small[0].permute(1, 2, 0), np.asarray(wanted))


def test_presets_of_copies(folder):
    evalset = EvalSet(source="imagefolder", root=str(folder), corruptions=["contrast"], severities=[3])
    for canvas, preset in ((None, 224), (64, 64), (28, 32)):
        evalset.canvas = canvas
        assert prepare(evalset, NATIVE, "contrast", 3).preset(np.zeros((300, 280, 3), np.uint8)) == preset
    stored = EvalSet(layout="corrupted", corruptions=["contrast"], severities=[3])
    assert prepare(stored, NATIVE, "contrast", 3).preset(np.zeros((224, 224, 3), np.uint8)) is None


def test_a_stored_copy_smaller_than_its_canvas_is_refused():
    assert centre(gradient(8), 5).shape == (5, 5, 3)
    with pytest.raises(ValueError, match="9 x 8 pixels is smaller than its canvas of 9"):
        centre(np.zeros((8, 9, 3), np.uint8), 9)


def test_copies_in_ffcv_files_are_those_in_folders(photos, tmp_path):
    """As make_imagenet_c writes both; here without FFCV's loader."""
    pytest.importorskip("ffcv")
    stored = {"layout": "corrupted", "source": "imagefolder", "corruptions": ["contrast"], "severities": [3]}
    found = {}
    for kind in ("folders", "ffcv"):
        settings = Settings("imagefolder", str(photos), canvas=64, format=kind)
        make(settings, str(tmp_path / kind), ["contrast"], [3], 1, lambda *_: None)
        evalset = EvalSet(root=str(tmp_path / kind), canvas=64, expect_n=21, **stored)
        assert list(check("x", evalset)) == [] and origin(evalset) == "generated" and num_classes(evalset) == 3
        found[kind] = read(build(evalset, Preprocess(64, 73), "contrast", 3, batch_size=4, workers=1))
        hashes = [pictures_hash(evalset, open_pictures(evalset, "contrast", 3), "contrast", 3)]
        settings = replace(settings, seed=1)
        make(settings, str(tmp_path / f"{kind}1"), ["contrast"], [3], 1, lambda *_: None)
        evalset.root = str(tmp_path / f"{kind}1")
        hashes.append(pictures_hash(evalset, open_pictures(evalset, "contrast", 3), "contrast", 3))
        (tmp_path / f"{kind}1" / "generated.json").unlink()
        hashes.append(pictures_hash(evalset, open_pictures(evalset, "contrast", 3), "contrast", 3))
        assert len(set(hashes)) == 3
    assert torch.equal(found["ffcv"][0], found["folders"][0]) and torch.equal(found["ffcv"][1], found["folders"][1])


# ---- processes ------------------------------------------------------------------------------------------------------


@dataclass
class Noted(Clean):
    """Leaves a file per picture prepared."""

    folder: Path = None

    def __call__(self, pixels, index):
        (self.folder / str(index)).touch()
        return super().__call__(pixels, index)


def test_the_next_batch_is_prepared_while_the_model_has_the_last(photos, tmp_path):
    source = open_pictures(EvalSet(source="imagefolder", root=str(photos)))
    loader = PictureLoader(
        source, Noted(Preprocess(32, 36), tmp_path), indices=np.arange(10), batch_size=3, workers=1
    )  # fmt: skip
    batches = loader.epoch()
    next(batches)
    deadline = time.monotonic() + 60
    while not {"3", "4", "5"} <= {path.name for path in tmp_path.iterdir()} and time.monotonic() < deadline:
        time.sleep(0.01)
    assert {"3", "4", "5"} <= {path.name for path in tmp_path.iterdir()}  # nobody has asked for them yet
    batches.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_decoded_is_named(folder, workers):
    (folder / "val" / "b" / "1.png").write_bytes(b"no picture")
    loader = build(EvalSet(source="imagefolder", root=str(folder)), NATIVE, batch_size=2, workers=workers)
    with pytest.raises(ValueError, match=r"b/1\.png cannot be decoded"):
        list(loader.epoch())


def test_processes_end_with_the_epoch(photos):
    loader = build(EvalSet(source="imagefolder", root=str(photos)), NATIVE, batch_size=2, workers=1)
    batches = loader.epoch()
    next(batches)
    (worker,) = loader._loader._iterator._workers
    batches.close()
    assert not worker.is_alive()
    assert len(list(loader.epoch())) == loader.batches_per_epoch
