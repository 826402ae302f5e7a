"""The checksum that is stored with every picture and compared each time it is read.

Much cheaper than decoding, and numba turns it into vector instructions. It finds damage, not an attack: every change
of one 32-bit word is noticed, so are swapped words, zeroed pages and lost ends.
"""

import numpy as np


def checksum(data):
    """Checksum of a contiguous uint8 array (n,), n < 2**32: int64.

    The bytes are little-endian 32-bit words, the last one filled up with zeros; n + sum of word[i] * (2 i + 1) modulo
    2**64. An odd weight makes the sum change with any single word. `ffcv_kernels` has numba compile `add_up`.
    """
    words = np.zeros((data.size + 3) // 4, np.uint32)
    words.view(np.uint8)[: data.size] = data
    weights = 2 * np.arange(words.size, dtype=np.uint64) + np.uint64(1)
    total = np.sum(words * weights, dtype=np.uint64) + np.array([data.size], np.uint64)
    return int(total.astype(np.int64)[0])


def add_up(data):
    """`checksum` as a loop for numba: no array is made, the words are read where they lie."""
    whole = data.size // 4
    words = data[: 4 * whole].view(np.uint32)
    total = np.uint64(data.size)
    for i in range(whole):
        total += np.uint64(words[i]) * np.uint64(np.uint32(2 * i + 1))
    last = np.uint64(0)
    for i in range(4 * whole, data.size):
        last |= np.uint64(data[i]) << np.uint64(8 * (i - 4 * whole))
    return np.int64(total + last * np.uint64(2 * whole + 1))
