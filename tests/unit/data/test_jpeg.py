"""JPEGs with restart intervals: what is written, and that cutting changes no pixel."""

import io

import numpy as np
import pytest
from PIL import Image

from gsam.data.jpeg import encode, restart_interval
from tests.photos import photograph

cv2 = pytest.importorskip("cv2")


def photo(width, height):
    return np.asarray(photograph().resize((width, height)))


def test_intervals_divide_the_row_and_are_near_four_blocks():
    widths = (16, 64, 333, 350, 375, 400, 500, 496)
    assert [restart_interval(width) for width in widths] == [1, 4, 3, 2, 4, 5, 4, 1]
    assert all(-(-width // 16) % restart_interval(width) == 0 for width in range(1, 2000))


@pytest.mark.parametrize("width, height", [(500, 375), (333, 500), (1, 1), (17, 40)])
def test_an_encoded_picture_is_an_ordinary_jpeg_with_the_pixels_of_one_without_intervals(width, height):
    pixels = photo(width, height)
    data = encode(pixels, 90)
    assert data.dtype == np.uint8 and data.ndim == 1
    assert b"\xff\xdd\x00\x04" + restart_interval(width).to_bytes(2, "big") in data.tobytes()  # the DRI segment
    plain = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].reshape(-1)
    assert np.array_equal(cv2.imdecode(data, 1), cv2.imdecode(plain, 1))
    assert len(data) < 1.03 * len(plain)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (width, height) and picture.mode == "RGB" and "progression" not in picture.info
        assert abs(np.asarray(picture).astype(int) - pixels).mean() < 8


def test_what_cannot_be_encoded_is_refused():
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"must be uint8 \(H, W, 3\)"):
            encode(wrong, 90)
