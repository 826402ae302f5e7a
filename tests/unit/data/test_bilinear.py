"""The evaluation decoder's resize against Pillow's."""

import numpy as np
import pytest
from PIL import Image

from gsam.data.bilinear import resize_crop
from tests.photos import photograph

numba = pytest.importorskip("numba")


@pytest.fixture(scope="module")
def compiled():
    from numba.extending import register_jitable

    from gsam.data import bilinear

    register_jitable(bilinear.taps)
    return numba.njit(resize_crop)


def both(resize, pixels, rows, columns):
    ours = np.empty((rows, columns, 3), np.uint8)
    resize(pixels, rows, columns, 0, 0, ours)
    theirs = np.asarray(Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BILINEAR))
    return ours.astype(int), theirs.astype(int)


# Heights up to the width: there Pillow, as this code, resizes along the rows first.
@pytest.mark.parametrize("height, width, rows, columns", [
    (375, 500, 256, 341), (200, 260, 256, 332), (300, 300, 300, 300), (90, 100, 28, 28), (600, 512, 300, 256),
    (1, 1, 5, 5), (40, 400, 40, 100), (2, 300, 30, 4500),
])  # fmt: skip
def test_equal_to_pillow(compiled, height, width, rows, columns):
    rng = np.random.default_rng(0)
    photo = np.asarray(photograph().resize((width, height)))
    for pixels in (
        photo,
        rng.integers(0, 256, (height, width, 3), np.uint8),
        np.full((height, width, 3), 255, np.uint8),
    ):
        ours, theirs = both(compiled, pixels, rows, columns)
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("height, width", [(700, 284), (900, 200), (300, 20)])
def test_tall_pictures_differ_by_one_level_at_most(compiled, height, width):
    """Pillow resizes these along the columns first; the rounding in between then falls differently."""
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    ours, theirs = both(compiled, pixels, height * 15 // 16, width * 15 // 16)
    assert abs(ours - theirs).max() <= 1


def test_a_part_is_the_part_of_the_whole(compiled):
    pixels = np.asarray(photograph())
    whole = np.empty((303, 256, 3), np.uint8)
    compiled(pixels, 303, 256, 0, 0, whole)
    part = np.empty((224, 224, 3), np.uint8)
    compiled(pixels, 303, 256, 40, 16, part)
    assert np.array_equal(part, whole[40:264, 16:240])


def test_plain_python_computes_the_same(compiled):
    pixels = np.asarray(photograph().resize((23, 17)))
    plain, fast = np.empty((9, 12, 3), np.uint8), np.empty((9, 12, 3), np.uint8)
    resize_crop(pixels, 13, 18, 2, 3, plain)
    compiled(pixels, 13, 18, 2, 3, fast)
    assert np.array_equal(plain, fast)
