"""Pillow's antialiased bilinear resize of a uint8 RGB picture in code that numba can compile.

FFCV can only resize with OpenCV's INTER_AREA, which differs from what torchvision's transforms do and so shifts
measured accuracies. The evaluation decoder uses this instead: the pixels of `Resize` + `CenterCrop` on a PIL picture,
computed for the crop only. Bit for bit equal where Pillow resizes along the rows first; Pillow 13 starts with the
columns for pictures about twice as high as wide, whose pixels then differ by at most 1 of 255 (rounding between the
passes).
"""

import math

import numpy as np

BITS = 22  # Pillow's fixed-point weights: 32 bits less 8 of the pixel and 2 of head room
HALF = 1 << (BITS - 1)


def taps(source, target, first, count):
    """Weights of `count` output pixels, from `first`, when `source` pixels are resized to `target`: (starts (count,),
    weights (count, k)) int32.

    A triangle as wide as the reduction (never narrower than a pixel), normalised, then rounded to 22 bits.
    """
    scale = source / target
    reach = max(scale, 1.0)
    width = int(math.ceil(reach)) * 2 + 1
    starts = np.zeros(count, np.int32)
    weights = np.zeros((count, width), np.int32)
    triangle = np.zeros(width)
    for i in range(count):
        centre = (first + i + 0.5) * scale
        start = max(int(centre - reach + 0.5), 0)
        n = min(int(centre + reach + 0.5), source) - start
        total = 0.0
        for k in range(n):
            triangle[k] = max(1.0 - abs((k + start - centre + 0.5) * (1.0 / reach)), 0.0)
            total += triangle[k]
        starts[i] = start
        for k in range(n):
            weights[i, k] = int(0.5 + triangle[k] / total * (1 << BITS))
    return starts, weights


def resize_crop(pixels, rows, columns, top, left, out):
    """Resize `pixels` (H, W, 3) to rows x columns and write its part at (top, left), of the size of `out` (h, w, 3)
    uint8, into `out`.

    Two passes, along the rows first, rounded to uint8 in between. Stands for `Image.resize((columns, rows),
    BILINEAR)` followed by `crop`; the box must lie inside rows x columns.
    """
    height, width = pixels.shape[0], pixels.shape[1]
    x_starts, x_weights = taps(width, columns, left, out.shape[1])
    y_starts, y_weights = taps(height, rows, top, out.shape[0])
    y_first, y_last = y_starts[0], min(y_starts[-1] + y_weights.shape[1], height)
    narrow = np.empty((y_last - y_first, out.shape[1], 3), np.uint8)
    for y in range(y_last - y_first):
        for x in range(out.shape[1]):
            red = green = blue = HALF
            at = x_starts[x]
            for k in range(min(x_weights.shape[1], width - at)):
                weight = x_weights[x, k]
                red += pixels[y_first + y, at + k, 0] * weight
                green += pixels[y_first + y, at + k, 1] * weight
                blue += pixels[y_first + y, at + k, 2] * weight
            narrow[y, x, 0], narrow[y, x, 1], narrow[y, x, 2] = red >> BITS, green >> BITS, blue >> BITS
    flat = narrow.reshape(narrow.shape[0], -1)
    total = np.empty(flat.shape[1], np.int32)
    for y in range(out.shape[0]):
        total[:] = HALF
        at = y_starts[y] - y_first
        for k in range(min(y_weights.shape[1], narrow.shape[0] - at)):
            weight = y_weights[y, k]
            for x in range(flat.shape[1]):
                total[x] += flat[at + k, x] * weight
        for x in range(out.shape[1]):
            for c in range(3):
                out[y, x, c] = total[3 * x + c] >> BITS
