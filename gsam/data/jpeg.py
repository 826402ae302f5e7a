"""JPEGs from which a box can be decoded without the rest.

A JPEG is one stream of codes: pixels in its middle are found only by decoding all codes before them, which costs more
than half of the decoding time. Restart intervals (ITU-T T.81, B.2.4.4 and E.1.4) make it many streams: written every
few blocks, they cost about 1 % of the bytes, and any decoder reads the file as before.
"""

import math

import numpy as np

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
    import cv2

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
