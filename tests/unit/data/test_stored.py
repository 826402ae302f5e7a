"""How a picture is stored: sizes, pixels, and the check that it comes back."""

import cv2
import numpy as np
import pytest

from gsam.data.checksum import checksum
from gsam.data.jpeg import encode
from gsam.data.stored import JPEG, PAGE_BYTES, RAW, Preset, reduced, require_decodable, store
from tests.photos import photograph, pieces

PHOTO = np.asarray(photograph())  # 600 rows, 512 columns
SMALL_JPEG = Preset("jpg", 100, 90, "")


def test_decoded_pictures_are_kept_to_the_bit():
    stored = store(PHOTO, Preset("raw", None, 100, ""))
    pixels = np.frombuffer(stored.data, np.uint8)
    assert stored.mode == RAW and np.array_equal(pixels.reshape(stored.height, stored.width, 3), PHOTO)
    assert stored.checksum == checksum(pixels)


def test_jpegs_come_back_in_their_colours():
    stored = store(PHOTO, SMALL_JPEG)
    data = np.frombuffer(stored.data, np.uint8)
    back = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert stored.mode == JPEG and stored.checksum == checksum(data)
    assert (stored.height, stored.width) == back.shape[:2] == (100, 85)
    given = reduced(PHOTO, 100).astype(int)
    assert np.abs(back - given).mean() < 6 and np.abs(back[..., ::-1] - given).mean() > 12  # red and blue exchanged


def test_only_larger_pictures_are_reduced_and_to_ffcvs_sizes():
    resizer = pytest.importorskip("ffcv.fields.rgb_image").resizer
    for picture in pieces(20, seed=3):
        pixels = np.asarray(picture)
        for longest in (40, 256, 500):
            assert np.array_equal(reduced(pixels, longest), resizer(pixels, longest))
    assert reduced(PHOTO, 600) is PHOTO and reduced(PHOTO, None) is PHOTO
    assert reduced(np.zeros((1, 900, 3), np.uint8), 100).shape == (1, 100, 3)  # FFCV fails: 0 rows


@pytest.mark.parametrize("damage, found", [("zeroed", "nothing"), ("other", "40 x 30 pixels")])
def test_a_jpeg_that_does_not_come_back_is_refused(damage, found):
    data = np.zeros(500, np.uint8) if damage == "zeroed" else encode(np.ascontiguousarray(PHOTO[:30, :40]), 90)
    with pytest.raises(ValueError, match=f"decodes to {found} instead of 512 x 600 pixels"):
        require_decodable(data, 600, 512)


def test_what_the_file_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="70000 x 2 pixels: a side may have 65535"):
        store(np.zeros((2, 70_000, 3), np.uint8), Preset("raw", None, 100, ""))
    with pytest.raises(ValueError, match=f"takes 9,000,000 bytes of {PAGE_BYTES:,}"):
        store(np.zeros((1000, 3000, 3), np.uint8), Preset("raw", None, 100, ""))
