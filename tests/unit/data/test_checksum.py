"""What the checksum notices, and that the compiled loop computes the same."""

import numpy as np
import pytest

from gsam.data.checksum import add_up, checksum
from tests.photos import photograph

LENGTHS = (0, 1, 2, 3, 4, 5, 7, 8, 1000, 1001, 49_999, 196_608)


def test_by_hand():
    """1 + 2 * 256 is the first word, times 1; 5 the second, times 3; and five bytes."""
    assert checksum(np.array([1, 2, 0, 0, 5], np.uint8)) == 513 + 3 * 5 + 5
    assert checksum(np.zeros(0, np.uint8)) == 0


def test_the_compiled_loop_computes_the_same_at_every_address_and_length():
    numba = pytest.importorskip("numba")
    compiled = numba.njit(add_up)
    noise = np.random.default_rng(0).integers(0, 256, max(LENGTHS) + 3, np.uint8)
    for data in (noise, np.full_like(noise, 255)):
        for length in LENGTHS:
            for start in range(4):
                part = data[start : start + length]
                assert compiled(part) == checksum(part)


def test_every_damage_that_is_tried_changes_it():
    data = np.asarray(photograph()).reshape(-1)[:100_001].copy()
    whole, rng = checksum(data), np.random.default_rng(1)
    for at in rng.integers(0, data.size, 200):  # one byte, any other value
        changed = data.copy()
        changed[at] ^= rng.integers(1, 256, dtype=np.uint8)
        assert checksum(changed) != whole
    assert all(checksum(data[:-lost]) != whole for lost in (1, 2, 3, 4, 4096))
    assert checksum(np.append(data, np.uint8(0))) != whole
    for first, last in ((0, 4096), (8192, 12_288), (50_000, 50_200)):  # a lost block
        changed = data.copy()
        changed[first:last] = 0
        assert checksum(changed) != whole
    swapped = data.copy()
    swapped[:4096], swapped[4096:8192] = data[4096:8192], data[:4096]
    assert checksum(swapped) != whole
