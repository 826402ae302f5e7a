"""A picture as a .beton file holds it: reduced, encoded, decoded again to be sure, with its checksum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gsam.data.checksum import checksum
from gsam.data.jpeg import encode
from gsam.data.opencv import one_threaded

JPEG, RAW = 0, 1  # FFCV's codes
PAGE_BYTES = 1 << 23  # the file has pages, a picture must fit into one
LONGEST = 65535  # pixels of a side: the file has 16 bits for it


@dataclass(frozen=True)
class Preset:
    """How pictures are stored; `meaning` is for people."""

    write_mode: str  # "jpg" or "raw"
    max_resolution: int | None  # longer side in pixels; larger pictures are reduced, None: as they are
    jpeg_quality: int  # 1 to 100; without meaning for raw
    meaning: str


class Stored(NamedTuple):
    """What the file keeps of a picture, besides its label."""

    mode: int
    height: int
    width: int
    data: bytes
    checksum: int


def store(pixels: np.ndarray, preset: Preset) -> Stored:
    """The stored form of a picture, uint8 (H, W, 3) RGB.

    A JPEG is decoded again, because FFCV shows another picture in place of one that does not decode. Raises ValueError
    if the picture is too large or does not come back.
    """
    pixels = reduced(pixels, preset.max_resolution)
    height, width = pixels.shape[:2]
    if max(height, width) > LONGEST:
        raise ValueError(f"{width} x {height} pixels: a side may have {LONGEST} at most")
    if preset.write_mode == "raw":
        data, mode = np.ascontiguousarray(pixels).reshape(-1), RAW
    else:
        data, mode = encode(pixels, preset.jpeg_quality), JPEG
        require_decodable(data, height, width)
    if data.size > PAGE_BYTES:
        raise ValueError(
            f"takes {data.size:,} bytes of {PAGE_BYTES:,}; choose a preset that reduces or compresses more"
        )
    return Stored(mode, height, width, data.tobytes(), checksum(data))


def require_decodable(data: np.ndarray, height: int, width: int) -> None:
    """Raises ValueError unless the JPEG decodes to (height, width) pixels."""
    cv2 = one_threaded()
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if decoded is None or decoded.shape != (height, width, 3):
        found = "nothing" if decoded is None else f"{decoded.shape[1]} x {decoded.shape[0]} pixels"
        raise ValueError(f"encoded as JPEG it decodes to {found} instead of {width} x {height} pixels")


def reduced(pixels: np.ndarray, longest: int | None) -> np.ndarray:
    """The picture with its longer side at most `longest` pixels, by OpenCV's INTER_AREA; sizes as FFCV's RGBImageField."""
    cv2 = one_threaded()
    height, width = pixels.shape[:2]
    if longest is None or max(height, width) <= longest:
        return pixels
    ratio = longest / max(height, width)
    size = max(1, int(ratio * width)), max(1, int(ratio * height))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
