"""The folder backend in one process, against Pillow and torchvision."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize

from gsam.data import AugmentConfig, Backend, Crop, DataConfig, build_loader, open_source
from gsam.data.folder import eval_pixels
from gsam.data.keyed import epoch_order, flipped, inception_box, resmall_box, torchvision_box
from tests.photos import CLASSES, VAL_PER_CLASS, make_folder, pieces


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return str(make_folder(tmp_path_factory.mktemp("photos")))


def loader(root, split="train", name="imagefolder", augment=None, batch_size=4, rank=0, world=1, seed=3, **limits):
    data = DataConfig(name, Backend.folder, root, workers=0, **limits)
    augment = augment or AugmentConfig(size=48, eval_resize=56)
    train = split == "train"
    return build_loader(data, augment, split, batch_size=batch_size, rank=rank, world=world, seed=seed, train=train)


def resmall(*draw_and_ranges):
    return resmall_box(*draw_and_ranges[:5], 48 / 56)


@pytest.mark.parametrize(
    "crop, box", [(Crop.inception, inception_box), (Crop.torchvision, torchvision_box), (Crop.resmall, resmall)]
)
def test_training_pictures_are_the_keyed_boxes_resized_by_pillow(photos, crop, box):
    augment = AugmentConfig(size=48, crop=crop, eval_resize=56)
    source, training = open_source("imagefolder", photos, "train"), loader(photos, augment=augment)
    order = epoch_order(3, 2, len(source))
    seen = 0
    for images, labels in training.epoch(2):
        assert images.shape == (4, 3, 48, 48) and images.dtype == torch.uint8 and labels.dtype == torch.int64
        for image, label, index in zip(images, labels, order[seen : seen + 4].tolist(), strict=True):
            pixels, expected = source[index]
            top, left, rows, columns = box(3, 2, index, *pixels.shape[:2], 0.05, 1.0, 0.75, 1.3333333)
            picture = Image.fromarray(pixels).crop((left, top, left + columns, top + rows)).resize((48, 48), 2)
            pixels = np.asarray(picture)[:, ::-1] if flipped(3, 2, index, 0.5) else np.asarray(picture)
            assert label == expected and np.array_equal(image.permute(1, 2, 0).numpy(), pixels)
        seen += 4
    assert seen == 40 == 4 * training.batches_per_epoch


@pytest.mark.parametrize("resize, size", [(256, 224), (56, 48), (48, 48)])
def test_evaluation_is_exactly_torchvisions(resize, size):
    augment = AugmentConfig(size=size, eval_resize=resize)
    theirs = Compose([Resize(resize), CenterCrop(size)])
    for picture in pieces(12, seed=7):
        assert np.array_equal(eval_pixels(np.asarray(picture), augment), np.asarray(theirs(picture)))


def test_evaluation_of_a_picture_of_the_right_size_changes_nothing(fashion_root):
    augment = AugmentConfig(size=28, crop=Crop.none, eval_resize=28)
    source = open_source("fashion_mnist", str(fashion_root), "val")
    val = loader(str(fashion_root), "val", "fashion_mnist", augment, batch_size=1000)
    assert (val.num_examples, val.num_classes, val.batches_per_epoch) == (10_000, 10, 10)
    for number, (images, labels) in enumerate(val.epoch()):
        there = slice(1000 * number, 1000 * number + 1000)
        assert np.array_equal(images[:, 0].numpy(), source.grey[there])
        assert np.array_equal(labels.numpy(), source.labels[there])


def test_evaluation_is_the_same_in_every_epoch_and_over_ranks(photos):
    n = len(CLASSES) * VAL_PER_CLASS
    whole = torch.cat([images.clone() for images, _ in loader(photos, "val").epoch(0)])
    again = torch.cat([images.clone() for images, _ in loader(photos, "val", seed=9).epoch(5)])
    assert len(whole) == n and torch.equal(whole, again)
    for rank in range(2):
        part = loader(photos, "val", rank=rank, world=2)
        images = torch.cat([images for images, _ in part.epoch()])
        assert torch.equal(images, whole[rank::2]) and part.num_examples == n


def test_two_ranks_see_the_batches_of_one(photos):
    one = list(loader(photos, batch_size=8).epoch(1))
    two = [list(loader(photos, batch_size=4, rank=rank, world=2).epoch(1)) for rank in range(2)]
    for (images, labels), (first, first_labels), (second, second_labels) in zip(one, *two, strict=True):
        assert torch.equal(images, torch.cat([first, second]))
        assert torch.equal(labels, torch.cat([first_labels, second_labels]))


def test_skipping_epochs_and_limits(photos):
    training = loader(photos, limit_train=24)
    first, second = list(training.epoch(0)), list(training.epoch(1))
    assert len(first) == 6 and training.num_examples == 24
    assert not torch.equal(first[0][0], second[0][0])
    tail = list(training.epoch(0, skip=4))
    assert len(tail) == 2
    assert np.array_equal(training.order(0, skip=4), training.order(0)[16:])
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first[4:], tail, strict=True))


def test_one_picture_has_the_same_crop_whatever_the_limit(photos):
    """Draws belong to the picture's number in the split, not to its place among those in use."""
    flat = AugmentConfig(size=16, eval_resize=16)
    seen = {}
    for limit in (None, 24):
        training = loader(photos, augment=flat, batch_size=1, limit_train=limit)
        order = training.order(0).tolist()
        seen[limit] = {index: images.clone() for index, (images, _) in zip(order, training.epoch(0), strict=True)}
    assert len(seen[24]) == 24
    assert all(torch.equal(images, seen[None][index]) for index, images in seen[24].items())


def test_only_one_epoch_at_a_time(photos):
    training = loader(photos)
    running = training.epoch(0)
    next(running)
    with pytest.raises(RuntimeError, match="already in an epoch"):
        next(training.epoch(0))
    running.close()
    assert len(list(training.epoch(0))) == training.batches_per_epoch


def test_the_training_random_numbers_are_not_used_up(photos):
    before = torch.get_rng_state()
    list(loader(photos).epoch(0))
    assert torch.equal(before, torch.get_rng_state())
