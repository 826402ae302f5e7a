"""Draws: the generator's published vectors, the rules of both crops, and numbers that must never change."""

import hashlib
import math

import numpy as np
import pytest
from torchvision.transforms import RandomResizedCrop

from gsam.data import keyed

AREA, ASPECT = (0.05, 1.0), (0.75, 1.3333333)
BOXES = {"inception": keyed.inception_box, "torchvision": keyed.torchvision_box}


def draw(rule, n, height, width, seed=0, epoch=0, area=AREA, aspect=ASPECT):
    return np.array([BOXES[rule](seed, epoch, i, height, width, *area, *aspect) for i in range(n)])


@pytest.mark.parametrize(
    "counter, key, expected",
    [
        ((0, 0, 0, 0), 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, 0xFFFFFFFFFFFFFFFF, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), 0x299F31D0A4093822, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_vectors_of_random123(counter, key, expected):
    index, epoch, attempt, stream = counter
    assert " ".join(f"{word:08x}" for word in keyed.words(key, epoch, index, attempt, stream)) == expected


def test_words_of_an_array_are_the_words_of_its_elements():
    indices = np.array([0, 1, 7, 2**31 - 1, 2**32 - 1])
    together = np.stack(keyed.words(2**32 - 1, 299, indices, 3, 1))
    assert together.T.tolist() == [list(keyed.words(2**32 - 1, 299, i, 3, 1)) for i in indices.tolist()]


@pytest.mark.parametrize(
    "rule, digest",
    [("inception", "69596d9ce3bb4985"), ("torchvision", "0f6d51a169faa74d")],
)
def test_boxes_never_change(rule, digest):
    """A change here means that runs started before cannot be resumed with the same pictures."""
    sizes = [(375, 500), (500, 375), (28, 28), (3, 300), (1, 1)]
    boxes = [
        BOXES[rule](seed, epoch, index, *size, *AREA, *ASPECT)
        for size in sizes
        for seed, epoch in ((0, 0), (1, 0), (0, 1), (2**32 - 1, 299))
        for index in (0, 1, 1_281_166)
    ]
    assert hashlib.sha256(np.array(boxes, "<i8").tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("rule", BOXES)
@pytest.mark.parametrize("height, width", [(375, 500), (500, 375), (28, 28), (3, 300), (300, 3), (2, 2), (1, 1)])
def test_boxes_lie_inside_the_picture(rule, height, width):
    top, left, rows, columns = draw(rule, 300, height, width).T
    assert (top >= 0).all() and (left >= 0).all() and (rows > 0).all() and (columns > 0).all()
    assert (top + rows <= height).all() and (left + columns <= width).all()


@pytest.mark.parametrize("rule", BOXES)
def test_boxes_keep_area_and_aspect(rule):
    _, _, rows, columns = draw(rule, 2000, 375, 500).T
    area, aspect = rows * columns / (375 * 500), columns / rows
    assert area.min() > 0.048 and area.max() <= 1.0
    assert aspect.min() > 0.70 and aspect.max() < 1.43  # rounding of small boxes


def test_inception_draws_smaller_crops_than_torchvision():
    """Given the aspect ratio TensorFlow's height is uniform, torchvision's area is: mean areas .34 and about .42."""
    mean = {rule: np.prod(draw(rule, 4000, 375, 500)[:, 2:], axis=1).mean() / (375 * 500) for rule in BOXES}
    assert mean["inception"] == pytest.approx(0.343, abs=0.01)
    assert mean["torchvision"] > mean["inception"] + 0.05


def test_inception_height_is_uniform_and_never_takes_the_last_offset():
    boxes = draw("inception", 20_000, 100, 100, area=(0.25, 0.25), aspect=(1.0, 1.0))
    assert (boxes[:, 2:] == 50).all()
    assert set(boxes[:, 0]) == set(range(50))  # TensorFlow draws below H - h; 50 itself would be a valid offset
    boxes = draw("inception", 20_000, 100, 100, area=(0.01, 1.0), aspect=(1.0, 1.0))
    counts = np.bincount(boxes[:, 2], minlength=101)[10:]
    assert counts.sum() == 20_000
    assert abs(counts / counts.mean() - 1).max() < 5 * math.sqrt(91 / 20_000)


def test_inception_falls_back_to_the_whole_picture():
    assert draw("inception", 50, 3, 300, area=(0.9, 1.0)).tolist() == [[0, 0, 3, 300]] * 50


def test_torchvision_rule_has_torchvisions_distribution():
    import torch

    n = 4000
    ours = draw("torchvision", n, 375, 500, area=(0.08, 1.0)).astype(float)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    picture = torch.empty(3, 375, 500)
    theirs = np.array([RandomResizedCrop.get_params(picture, (0.08, 1.0), ASPECT) for _ in range(n)], float)
    torch.set_rng_state(state)
    for column in range(4):
        spread = theirs[:, column].std()
        assert abs(ours[:, column].mean() - theirs[:, column].mean()) < 5 * spread * math.sqrt(2 / n)
        assert ours[:, column].std() == pytest.approx(spread, rel=0.05)


def test_torchvision_fallback_is_the_centre_with_a_bounded_ratio():
    assert draw("torchvision", 20, 300, 3, area=(0.9, 1.0)).tolist() == [[148, 0, 4, 3]] * 20


def test_flips_have_their_probability_and_differ_by_seed_epoch_and_index():
    indices = np.arange(20_000)
    assert not keyed.flipped(0, 0, indices, 0.0).any() and keyed.flipped(0, 0, indices, 1.0).all()
    first = keyed.flipped(0, 0, indices, 0.5)
    assert abs(first.mean() - 0.5) < 0.02
    for other in (keyed.flipped(0, 1, indices, 0.5), keyed.flipped(1, 0, indices, 0.5), first[::-1]):
        assert abs((first == other).mean() - 0.5) < 0.02


def test_epoch_orders_are_permutations_without_shared_epochs():
    orders = {(seed, epoch): tuple(keyed.epoch_order(seed, epoch, 100)) for seed in range(4) for epoch in range(4)}
    assert all(sorted(order) == list(range(100)) for order in orders.values())
    assert len(set(orders.values())) == 16  # default_rng(seed + epoch) would repeat some
    assert tuple(keyed.epoch_order(1, 2, 100)) == orders[1, 2]


@pytest.mark.parametrize(
    "height, width", [(375, 500), (500, 375), (256, 256), (300, 256), (255, 700), (28, 28), (31, 97)]
)
@pytest.mark.parametrize("resize, size", [(256, 224), (28, 28), (33, 28), (224, 224)])
def test_eval_geometry_is_torchvisions(height, width, resize, size):
    """Checked on a picture whose pixels are their coordinates: nearest-neighbour sampling shows the box."""
    from PIL import Image
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    coordinates = np.add.outer(np.arange(height) * 1000, np.arange(width)).astype(np.int32)
    small = Resize(resize, InterpolationMode.NEAREST)(Image.fromarray(coordinates, mode=None))
    rows, columns, top, left = keyed.eval_geometry(height, width, resize, size)
    assert (small.height, small.width) == (rows, columns)
    expected = np.asarray(small)[top : top + size, left : left + size]
    assert np.array_equal(np.asarray(CenterCrop(size)(small)), expected)


@pytest.mark.parametrize("height, width", [(375, 500), (500, 375), (256, 256), (30, 31)])
def test_resmall_is_a_square_of_its_share_of_the_shorter_side_anywhere(height, width):
    boxes = np.array([keyed.resmall_box(0, 0, i, height, width, 224 / 256) for i in range(3000)])
    side = round(min(height, width) * 224 / 256)
    assert (boxes[:, 2:] == side).all()
    for offsets, last in ((boxes[:, 0], height - side), (boxes[:, 1], width - side)):
        assert offsets.min() == 0 and offsets.max() == last  # unlike inception's, the last one too
        assert abs(offsets.mean() - last / 2) < 5 * last / math.sqrt(12 * 3000) + 1e-9
    assert keyed.resmall_box(0, 0, 5, 1, 1, 0.875) == (0, 0, 1, 1)


def test_resmall_of_a_picture_of_the_right_size_is_big_visions_random_crop():
    """Nothing is resized then: crops of 224 in 256 x 300, each offset equally often."""
    boxes = np.array([keyed.resmall_box(1, 2, i, 256, 300, 224 / 256) for i in range(20_000)])
    assert set(boxes[:, 0]) == set(range(33)) and set(boxes[:, 1]) == set(range(77)) and (boxes[:, 2:] == 224).all()
    counts = np.bincount(boxes[:, 0])
    assert abs(counts / counts.mean() - 1).max() < 5 * math.sqrt(33 / 20_000)
