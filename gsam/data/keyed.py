"""Random draws that depend on (seed, epoch, index) and on nothing else: crops, flips and the order of an epoch.

Worker count, batch size, rank and backend cannot change a draw, so a run resumed in the middle of an epoch, or
started on another number of GPUs, sees the same pictures. Plain Python, no state; `ffcv_kernels` has numba compile
this same source. `epoch`, `index` and `attempt` are counters of the generator, `seed` its key: seeds 0 to 2**32 - 1.

Sources: Philox4x32-10, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); TensorFlow's kernel of
`sample_distorted_bounding_box`; torchvision's `RandomResizedCrop`.
"""

import math

import numpy as np

WORD = 0xFFFFFFFF  # mask of 32 bits
MAX_SEED = WORD
CROP_STREAM, FLIP_STREAM, RANDAUGMENT_STREAM, JITTER_STREAM = 0, 1, 2, 3
INCEPTION_ATTEMPTS, TORCHVISION_ATTEMPTS = 100, 10


def words(seed, epoch, index, attempt, stream):
    """Four independent words of 32 bits, one call of Philox4x32-10.

    Arguments and results are int, or int64 arrays that broadcast. Compiled and numpy products wrap at 64 bits where
    Python's do not; only bits below 64 are ever kept, so all three agree.
    """
    key0, key1 = seed & WORD, (seed >> 32) & WORD
    c0, c1, c2, c3 = index & WORD, epoch & WORD, attempt & WORD, stream & WORD
    for _ in range(10):
        product0, product1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c2 = ((product1 >> 32) & WORD) ^ c1 ^ key0, ((product0 >> 32) & WORD) ^ c3 ^ key1
        c1, c3 = product1 & WORD, product0 & WORD
        key0, key1 = (key0 + 0x9E3779B9) & WORD, (key1 + 0xBB67AE85) & WORD
    return c0, c1, c2, c3


def below(word, n):
    """A word as an integer uniform on 0 .. n-1 (0 for n = 0); n < 2**31."""
    return (word * n) >> 32


def between(word, low, high):
    """A word as a float uniform on [low, high)."""
    return low + (high - low) * (word / 4294967296.0)


def flipped(seed, epoch, index, probability):
    """Whether this picture is mirrored, drawn with `probability` (0 to 1); `index` may be an int64 array, then bool
    of its shape.
    """
    return between(words(seed, epoch, index, 0, FLIP_STREAM)[0], 0.0, 1.0) < probability


def inception_box(seed, epoch, index, height, width, area_min, area_max, aspect_min, aspect_max):
    """Crop box (top, left, rows, columns) in pixels by TensorFlow's rule (`sample_distorted_bounding_box`, the whole
    picture as object).

    The aspect ratio is uniform, then the height is uniform over what the area range (fractions of the picture)
    allows: small crops come more often than with torchvision's rule. After 100 failures the whole picture. As in
    TensorFlow the last possible offset is never drawn.
    """
    least, most = area_min * height * width, area_max * height * width
    for attempt in range(INCEPTION_ATTEMPTS):
        word_aspect, word_rows, word_top, word_left = words(seed, epoch, index, attempt, CROP_STREAM)
        aspect = between(word_aspect, aspect_min, aspect_max)
        low, high = int(round(math.sqrt(least / aspect))), int(round(math.sqrt(most / aspect)))
        if int(round(high * aspect)) > width:  # then the tallest box that is not too wide
            high = int((width + 0.5 - 1e-7) / aspect)
            if int(round(high * aspect)) > width:
                high -= 1
        high = min(high, height)
        rows = min(low, high) + below(word_rows, max(high - low, 0) + 1)
        if rows * int(round(rows * aspect)) < least:  # rounding may break an area bound by one row
            rows += 1
        if rows * int(round(rows * aspect)) > most:
            rows -= 1
        columns = int(round(rows * aspect))
        if least <= rows * columns <= most and 0 < rows <= height and 0 < columns <= width:
            return below(word_top, height - rows), below(word_left, width - columns), rows, columns
    return 0, 0, height, width


def torchvision_box(seed, epoch, index, height, width, area_min, area_max, aspect_min, aspect_max):
    """Crop box (top, left, rows, columns) in pixels by the rule of torchvision's `RandomResizedCrop`.

    The area is uniform and the logarithm of the aspect ratio is uniform; after 10 failures a centred crop with its
    ratio inside the bounds.
    """
    for attempt in range(TORCHVISION_ATTEMPTS):
        word_area, word_aspect, word_top, word_left = words(seed, epoch, index, attempt, CROP_STREAM)
        size = height * width * between(word_area, area_min, area_max)
        aspect = math.exp(between(word_aspect, math.log(aspect_min), math.log(aspect_max)))
        rows, columns = int(round(math.sqrt(size / aspect))), int(round(math.sqrt(size * aspect)))
        if 0 < rows <= height and 0 < columns <= width:
            return below(word_top, height - rows + 1), below(word_left, width - columns + 1), rows, columns
    rows = max(1, min(height, int(round(width / aspect_min))))
    columns = max(1, min(width, int(round(height * aspect_max))))
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def resmall_box(seed, epoch, index, height, width, share):
    """Crop box (top, left, rows, columns) in pixels by big_vision's `resize_small(r)` and `random_crop(s)`, share = s / r.

    A square whose side is `share` of the picture's shorter side, anywhere; it is resized once instead of twice.
    """
    side = max(1, int(round(share * min(height, width))))
    word_top, word_left, _, _ = words(seed, epoch, index, 0, CROP_STREAM)
    return below(word_top, height - side + 1), below(word_left, width - side + 1), side, side


def eval_geometry(height, width, resize, size):
    """(rows, columns) after torchvision's Resize(`resize`), then (top, left) of its CenterCrop(`size`): four ints,
    pixels.

    The shorter side becomes `resize`, the longer one is truncated; the offset rounds half to even. Needs resize >=
    size.
    """
    if height <= width:
        rows, columns = resize, int(resize * width / height)
    else:
        rows, columns = int(resize * height / width), resize
    return rows, columns, int(round((rows - size) / 2.0)), int(round((columns - size) / 2.0))


def epoch_order(seed, epoch, n):
    """Order of one training epoch: a permutation of range(n), int64 (n,), the same on every rank and backend.

    numpy's `default_rng([seed, epoch])`: unlike `seed + epoch`, neighbouring seeds share no epoch.
    """
    return np.random.default_rng([seed, epoch]).permutation(n)
