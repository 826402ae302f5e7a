"""Digital: brightness, contrast, saturate, pixelate, jpeg_compression. Each takes (image uint8 (H, W, 3), constant,
stream, length scale) and returns float64 (H, W, 3) on the 0..1 scale, not yet clipped, or the finished uint8 image."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image

from gsam.data.opencv import one_threaded

from .pixels import byte_pairs, to_uint8


def brightness(image: np.ndarray, shift: float, rng: np.random.Generator, scale: float) -> np.ndarray:
    """V of HSV becomes V' = clip(V + shift); hue and saturation stay: y = V' (1 - (V - x) / V), and V' where V = 0. The
    finished uint8 image."""
    return byte_pairs(brightness_table(shift), over_channels(np.maximum, image)[..., None], image)


@cache
def brightness_table(shift: float) -> np.ndarray:
    """The new grey level for every (V, channel value) pair: uint8 (256, 256)."""
    value, x = np.arange(256)[:, None] / 255.0, np.arange(256) / 255.0
    brighter = np.clip(value + shift, 0.0, 1.0)
    saturation = np.where(value > 0, (value - x) / np.where(value > 0, value, 1.0), 0.0)
    return to_uint8(brighter * (1.0 - saturation))  # in HSV's own order: many results are whole, the last bit decides


def contrast(image: np.ndarray, factor: float, rng: np.random.Generator, scale: float) -> np.ndarray:
    """y = (x - mean) factor + mean, the mean being that of each channel over the image. The finished uint8 image."""
    grey = np.arange(256)[:, None] / 255.0
    cv2 = one_threaded()
    mean = np.array(cv2.mean(image)[:3]) / 255.0
    return cv2.LUT(image, to_uint8((grey - mean) * factor + mean)[None])


def saturate(image: np.ndarray, constant: tuple[float, float], rng: np.random.Generator, scale: float) -> np.ndarray:
    """S of HSV becomes S' = clip(S factor + shift): y = V (1 - S' (V - x) / (V - least)). A grey pixel has hue 0 in HSV,
    so with a shift it turns reddish.

    In the order of HSV's own formulas: a factor of 2 gives whole grey levels, where the last bit decides the cut.
    """
    most, least = over_channels(np.maximum, image), over_channels(np.minimum, image)
    new = byte_pairs(new_saturation(*constant), most, least)
    grey, value = most == least, most / 255.0
    span = np.where(grey, 1.0, value - least / 255.0)
    y = np.empty(image.shape)
    for channel in range(3):
        share = np.where(grey, float(channel > 0), (value - image[..., channel] / 255.0) / span)
        y[..., channel] = value * (1.0 - share * new)
    return y


@cache
def new_saturation(factor: float, shift: float) -> np.ndarray:
    """S' for every (largest, least channel value) pair: float64 (256, 256)."""
    value, least = np.arange(256)[:, None] / 255.0, np.arange(256) / 255.0
    return np.clip((value - least) / np.maximum(value, 1 / 255.0) * factor + shift, 0.0, 1.0)


def over_channels(best: np.ufunc, image: np.ndarray) -> np.ndarray:
    """np.maximum or np.minimum of the three channels, (H, W); numpy's reduction over so short an axis is 20 times slower."""
    return best(best(image[..., 0], image[..., 1]), image[..., 2])


def pixelate(image: np.ndarray, factor: float, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Box filter down to (int(W factor), int(H factor)), at least 1 pixel, and back up."""
    height, width = image.shape[:2]
    small = (max(1, int(width * factor)), max(1, int(height * factor)))
    picture = Image.fromarray(image).resize(small, Image.Resampling.BOX)
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX))


def jpeg_compression(image: np.ndarray, quality: int, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Encode as JPEG of this quality (4:2:0) and decode again."""
    return jpeg_round_trip(image, quality=quality)


def jpeg_round_trip(image: np.ndarray, **options: object) -> np.ndarray:
    """uint8 (H, W, 3) through a JPEG file in memory; options as for Pillow's JPEG writer."""
    return np.array(Image.open(io.BytesIO(jpeg_bytes(image, **options))))


def jpeg_bytes(image: np.ndarray, **options: object) -> bytes:
    """uint8 (H, W, 3) as a JPEG file (4:2:0); options as for Pillow's JPEG writer."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def png_bytes(image: np.ndarray) -> bytes:
    """uint8 (H, W, 3) as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
