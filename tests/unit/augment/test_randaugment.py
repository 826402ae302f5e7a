"""What is drawn for a picture depends on (seed, epoch, index) alone: not on its batch, its rank or a restart."""

import hashlib
import random

import numpy as np
import pytest
import torch

from gsam.augment import OnDevice
from gsam.augment.operations import OFFICIAL, Draw
from gsam.augment.randaugment import NAMES, drawn, official
from gsam.data import AugmentConfig, RandAugment
from tests.photos import pieces

SIZE = 32
ALL = {"layers": 2, "magnitude": 10, "color_jitter": 0.4}


def pictures(count):
    """uint8 (count, 3, 32, 32), in the memory order that loaders give."""
    small = [np.asarray(piece.resize((SIZE, SIZE))) for piece in pieces(count, seed=3)]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2)


def keys_of(indices, epoch=0):
    return torch.stack([torch.full((len(indices),), epoch), torch.as_tensor(indices)], dim=1)


def on_device(kind, **changes):
    augment = AugmentConfig(size=SIZE, randaugment=RandAugment(kind), **{**ALL, **changes})
    return OnDevice(augment, torch.device("cpu"), seed=7, num_classes=3, group_size=4)


def test_layers_draw_each_operation_and_sign_equally_often():
    keys = keys_of(np.arange(16_000))
    layers = [drawn(0, keys, layer, 20, 30) for layer in range(2)]
    for which, sign, row, column in layers:
        assert abs(np.bincount(which, minlength=16) - 1000).max() < 5 * np.sqrt(1000)
        assert set(sign) == {-1, 1} and abs(sign.mean()) < 0.04
        assert set(row) == set(range(20)) and set(column) == set(range(30))
    assert abs((layers[0][0] == layers[1][0]).mean() - 1 / 16) < 0.01
    for other in (drawn(1, keys, 0, 20, 30), drawn(0, keys_of(np.arange(16_000), epoch=1), 0, 20, 30)):
        assert abs((layers[0][0] == other[0]).mean() - 1 / 16) < 0.01


def test_draws_never_change():
    """A change here means that runs started before cannot be resumed with the same pictures."""
    keys = keys_of([0, 1, 2, 1_281_166], epoch=299)
    found = np.stack([drawn(seed, keys, layer, 224, 224) for seed in (0, 2**32 - 1) for layer in (0, 1)])
    assert hashlib.sha256(found.astype("<i8").tobytes()).hexdigest()[:16] == "9b325251bc4c7a36"
    assert [NAMES[i] for i in found[-1, 0]] == ["Invert", "ShearX", "Sharpness", "Contrast"]


def test_a_picture_goes_through_the_operations_drawn_for_it_one_after_the_other():
    x, keys = pictures(40), keys_of(range(100, 140))
    together = official(x, keys, 7, 2, 10)
    for i in range(40):
        alone = x[i : i + 1]
        for layer in range(2):
            which, *rest = drawn(7, keys[i : i + 1], layer, SIZE, SIZE)
            alone = OFFICIAL[NAMES[which[0]]](alone, 1.0, Draw(*(torch.from_numpy(values) for values in rest)))
        assert torch.equal(together[i], alone[0])


@pytest.mark.parametrize("kind", ["official", "timm"])
def test_the_same_picture_in_another_batch_or_on_another_rank_is_changed_alike(kind):
    count = 24 if kind == "official" else 4
    distort, x, keys = on_device(kind).distort, pictures(count), keys_of(range(count))
    whole = distort(x, keys)
    ranks = torch.cat([distort(*part) for part in zip(x.chunk(2), keys.chunk(2), strict=True)])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    assert torch.equal(whole, ranks) and torch.equal(whole[order], distort(x[order], keys[order]))
    assert not torch.equal(whole, distort(x, keys_of(range(count), epoch=1)))
    assert (whole != x).flatten(1).any(1).float().mean() > 0.5


def test_timms_variant_leaves_the_generators_of_the_process_alone():
    random.seed(1), np.random.seed(1)
    on_device("timm").distort(pictures(3), keys_of(range(3)))
    after = random.random(), np.random.random()
    random.seed(1), np.random.seed(1)
    assert after == (random.random(), np.random.random())


def test_timms_variant_keeps_magnitudes_above_10():
    x, keys = pictures(12), keys_of(range(12))
    assert not torch.equal(*(on_device("timm", magnitude=m, color_jitter=0).distort(x, keys) for m in (10, 15)))


def test_without_augmentation_a_batch_is_only_normalised():
    plain = OnDevice(AugmentConfig(size=SIZE), torch.device("cpu"), seed=7, num_classes=3, group_size=4)
    x, y = pictures(4), torch.arange(4)
    images, labels = plain(x, y, step=0)
    assert torch.equal(images, (x.float() - 127.5) * torch.tensor(127.5).reciprocal()) and torch.equal(labels, y)
    assert not plain.needs_keys and not plain.mixes
