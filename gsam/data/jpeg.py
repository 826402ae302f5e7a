"""JPEGs from which a box can be decoded without the rest.

A JPEG is one stream of codes: pixels in its middle are found only by decoding all codes before them, which costs more
than half of the decoding time. Restart intervals (ITU-T T.81, B.2.4.4 and E.1.4) make it many streams: written every
few blocks, they cost about 1 % of the bytes, and any decoder reads the file as before.
"""

import math

import numpy as np

from gsam.data.opencv import one_threaded

BLOCK = 16  # pixels, side of the unit (MCU) in which a JPEG with halved colour resolution (4:2:0) is coded
WANTED = 4  # blocks in a restart interval: shorter ones cost bytes, longer ones decode more than the box


def restart_interval(width):
    """Blocks per restart interval for a picture of this width in pixels: of the divisors of a row's blocks the one
    nearest to WANTED in ratio, so that intervals are rectangles.
    """
    blocks = -(-width // BLOCK)
    divisors = [d for d in range(blocks, 0, -1) if blocks % d == 0]
    return min(divisors, key=lambda d: abs(math.log(d / WANTED)))


def encode(pixels: np.ndarray, quality: int) -> np.ndarray:
    """A picture (H, W, 3) uint8 RGB as a baseline JPEG, 4:2:0, with restart intervals: its bytes, uint8 (n,).

    `quality` 1 to 100. Decodes to the pixels that OpenCV's JPEG of that quality has without restart intervals. Raises
    ValueError for another array or a picture that OpenCV cannot encode.
    """
    cv2 = one_threaded()
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"an array {pixels.dtype} {pixels.shape} is no picture: it must be uint8 (H, W, 3)")
    options = {
        cv2.IMWRITE_JPEG_QUALITY: quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR: cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
        cv2.IMWRITE_JPEG_RST_INTERVAL: restart_interval(pixels.shape[1]),
    }
    flat = [number for option in options.items() for number in option]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), flat)
    if not done:
        raise ValueError(f"OpenCV cannot encode a picture of {pixels.shape[0]} x {pixels.shape[1]} pixels")
    return data.reshape(-1)


def scan_header(data, height, width):
    """(start of SOF0's content, blocks per restart interval, start of the codes) of a JPEG that `cut` can cut; zeros for
    any other: not of this size, not baseline, not one scan of three components, not 4:2:0, no or uneven intervals.
    """
    size = data.size
    if size < 4 or data[0] != 0xFF or data[1] != 0xD8:
        return 0, 0, 0
    frame, interval, at = 0, 0, 2
    while at + 4 <= size and data[at] == 0xFF:
        kind, length = data[at + 1], 256 * np.int64(data[at + 2]) + np.int64(data[at + 3])
        content = at + 4
        at += 2 + length
        if at >= size:
            break
        if kind == 0xC0 and length == 17:  # SOF0: precision, height, width, then number, sampling, table of each
            sampled = data[content + 7] == 0x22 and data[content + 10] == 0x11 and data[content + 13] == 0x11
            frame = content if sampled and data[content + 5] == 3 else 0
        elif kind == 0xDD and length == 4:  # DRI
            interval = 256 * np.int64(data[content]) + np.int64(data[content + 1])
        elif kind == 0xDA:  # SOS
            if frame == 0 or interval == 0 or length != 12:
                break
            rows = 256 * np.int64(data[frame + 1]) + np.int64(data[frame + 2])
            columns = 256 * np.int64(data[frame + 3]) + np.int64(data[frame + 4])
            if rows != height or columns != width or -(-width // BLOCK) % interval != 0:
                break
            return frame, interval, at
    return 0, 0, 0


def find_intervals(data, at, count):
    """Where the first `count` restart intervals begin and, two bytes behind where it ends, the one after them: int64
    (count + 1,); empty if they are not all there with the right markers between them.

    `at`: start of the codes. Eight bytes at a time, as most groups hold no 0xFF.
    """
    starts = np.empty(count + 1, np.int64)
    starts[0] = at
    found, size = 1, data.size - 1
    low, high = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
    groups = data[at : at + (data.size - at) // 8 * 8].view(np.uint64)
    group, begin = 0, at
    while at < size:
        if at >= begin + 8 * group:  # a new group: skip those without 0xFF, which is a zero byte of the complement
            while group < groups.size and ((~groups[group] - low) & groups[group] & high) == 0:
                group += 1
            at = max(at, begin + 8 * group)
            group += 1
            if at >= size:
                break
        if data[at] != 0xFF:
            at += 1
            continue
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        at += 2
        if marker == 0:  # 0xFF in the codes
            continue
        if marker != 0xD9 and marker != 0xD0 + (found - 1) % 8:
            break
        starts[found] = at
        found += 1
        if found > count:
            return starts
        if marker == 0xD9:
            break
    return starts[:0]


def cut(data, height, width, top, left, rows, columns):
    """The restart intervals of a JPEG (n,) uint8 that a box in pixels needs, as a JPEG: (its bytes, its top, left, rows,
    columns in the picture).

    One pixel more on each side of the box decides its colours (they are interpolated), so it is kept: the decoded box
    is bit for bit that of the whole picture. The whole picture where a JPEG cannot be cut or nothing can be left out.
    """
    whole = (data, 0, 0, height, width)
    frame, interval, codes = scan_header(data, height, width)
    if frame == 0:
        return whole
    across = -(-width // (BLOCK * interval))
    first_row, last_row = max(top - 1, 0) // BLOCK, min(top + rows, height - 1) // BLOCK
    first, last = max(left - 1, 0) // (BLOCK * interval), min(left + columns, width - 1) // (BLOCK * interval)
    kept = (last_row - first_row + 1) * (last - first + 1)
    if kept == across * -(-height // BLOCK):
        return whole
    starts = find_intervals(data, codes, last_row * across + last + 1)
    if starts.size == 0:
        return whole
    new_top, new_left = first_row * BLOCK, first * BLOCK * interval
    new_rows = min((last_row + 1) * BLOCK, height) - new_top
    new_columns = min((last + 1) * BLOCK * interval, width) - new_left
    out = np.empty(codes + starts[-1] - starts[first_row * across + first], np.uint8)
    copy(data, 0, codes, out, 0)
    out[frame + 1], out[frame + 2] = new_rows >> 8, new_rows & 255
    out[frame + 3], out[frame + 4] = new_columns >> 8, new_columns & 255
    at, number = codes, 0
    for row in range(first_row, last_row + 1):
        for k in range(row * across + first, row * across + last + 1):
            count = starts[k + 1] - starts[k]
            copy(data, starts[k], count, out, at)
            at += count
            out[at - 1] = 0xD0 + number % 8  # the marker behind it; 0xFF was copied
            number += 1
    out[at - 1] = 0xD9
    return out[:at], new_top, new_left, new_rows, new_columns


def copy(source, begin, count, target, at):
    """Copy bytes; from slices, whose indices numba knows to be positive, hence with vector instructions."""
    taken, given = source[begin : begin + count], target[at : at + count]
    for i in range(count):
        given[i] = taken[i]
