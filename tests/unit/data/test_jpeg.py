"""JPEGs with restart intervals: what is written, and that cutting changes no pixel."""

import io

import numpy as np
import pytest
from PIL import Image

from gsam.data.jpeg import encode, find_intervals, restart_interval, scan_header
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


@pytest.fixture(scope="module")
def kernels():
    pytest.importorskip("ffcv")
    from gsam.data.ffcv_guard import load

    return load().kernels


@pytest.fixture(scope="module")
def compiled(kernels):
    import numba

    return numba.njit(kernels.cut)


def boxes(rng, height, width, count):
    """Random boxes, and some along each edge: (top, left, rows, columns)."""
    yield 0, 0, height, width
    yield 0, 0, 1, 1
    yield height - 1, width - 1, 1, 1
    for _ in range(count):
        rows, columns = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        yield int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1)), rows, columns


def decoded(kernels, data, height, width):
    pixels, failed = kernels.decode_jpeg(data, height, width)
    assert failed == 0
    return pixels


def test_a_box_of_the_cut_jpeg_is_that_of_the_whole(kernels, compiled):
    """Sizes with many, few and a prime number of blocks; colour and grey photographs."""
    rng, fed, stored = np.random.default_rng(0), 0, 0
    sizes = [(500, 375), (375, 500), (333, 500), (496, 300), (16, 16), (1, 90), (90, 1), (15, 17)]
    for width, height in sizes + [tuple(int(n) for n in rng.integers(1, 520, 2)) for _ in range(40)]:
        pixels = photo(width, height)
        if width % 3 == 0:
            pixels = np.repeat(pixels[..., :1], 3, axis=2)
        data = encode(pixels, 90)
        whole = decoded(kernels, data, height, width)
        for box in boxes(rng, height, width, 12):
            top, left, rows, columns = box
            part, y, x, part_rows, part_columns = compiled(data, height, width, *box)
            pixels = decoded(kernels, part, part_rows, part_columns)
            there = pixels[top - y : top - y + rows, left - x : left - x + columns]
            assert np.array_equal(there, whole[top : top + rows, left : left + columns]), (width, height, box)
            fed, stored = fed + part.size, stored + data.size
    assert fed < 0.6 * stored


def test_what_is_cut_out_is_a_jpeg_for_any_decoder(compiled):
    data = encode(photo(500, 375), 90)
    part, _, _, rows, columns = compiled(data, 375, 500, 100, 200, 90, 80)
    assert part.size < 0.2 * data.size
    with Image.open(io.BytesIO(part.tobytes())) as picture:
        assert picture.size == (columns, rows) == (128, 96) and np.asarray(picture).std() > 10


def pillow(**options):
    file = io.BytesIO()
    Image.fromarray(photo(500, 375)).convert(options.pop("mode", "RGB")).save(file, "JPEG", **options)
    return np.frombuffer(file.getvalue(), np.uint8)


@pytest.mark.parametrize("options", [
    {}, {"progressive": True, "restart_marker_blocks": 4}, {"subsampling": 0, "restart_marker_blocks": 4},
    {"restart_marker_blocks": 5}, {"mode": "L", "restart_marker_blocks": 4}, {"mode": "CMYK", "restart_marker_blocks": 4},
], ids=str)  # fmt: skip
def test_a_jpeg_that_cannot_be_cut_stays_whole(compiled, options):
    data = pillow(**options)
    part, *box = compiled(data, 375, 500, 100, 200, 90, 80)
    assert np.array_equal(part, data) and box == [0, 0, 375, 500]


def test_a_damaged_jpeg_stays_whole_for_the_decoder_to_judge(compiled):
    import numba

    data = encode(photo(500, 375), 90)
    frame, interval, codes = scan_header(data, 375, 500)
    starts = numba.njit(find_intervals)(data, codes, 24 * 8)
    assert interval == 4 and starts[-1] == data.size and starts[0] == codes
    for at, value in ((starts[5] - 1, 0xD1), (starts[5] - 2, 0x12), (frame + 5, 1), (0, 0)):
        damaged = data.copy()
        damaged[at] = value
        assert compiled(damaged, 375, 500, 100, 200, 90, 80)[1:] == (0, 0, 375, 500)
    for size in ((376, 500), (375, 499)):  # not the size that the file says it has
        assert compiled(data, *size, 100, 200, 90, 80)[1:] == (0, 0, *size)
    for length in (0, 1, 3, 30, codes, codes + 1, 5000):
        part = data[:length].copy()
        assert compiled(part, 375, 500, 100, 200, 90, 80)[0].size == length
