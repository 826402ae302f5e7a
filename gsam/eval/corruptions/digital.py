"""Digital: brightness, contrast, saturate, pixelate, jpeg_compression. Each takes (image uint8 (H, W, 3), constant,
stream, length scale) and returns float64 (H, W, 3) on the 0..1 scale, not yet clipped, or the finished uint8 image."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def brightness(image: np.ndarray, shift: float, rng: np.random.Generator, scale: float) -> np.ndarray:
    """V of HSV += shift, clipped; hue and saturation stay: y = x V'/V, and V' where V = 0."""
    x = image / 255.0
    value = x.max(-1, keepdims=True)
    brighter = np.clip(value + shift, 0.0, 1.0)
    return np.where(value > 0, x * (brighter / np.where(value > 0, value, 1.0)), brighter)


def contrast(image: np.ndarray, factor: float, rng: np.random.Generator, scale: float) -> np.ndarray:
    """y = (x - mean) factor + mean, the mean being that of each channel over the image."""
    x = image / 255.0
    mean = x.mean((0, 1), keepdims=True)
    return (x - mean) * factor + mean


def saturate(image: np.ndarray, constant: tuple[float, float], rng: np.random.Generator, scale: float) -> np.ndarray:
    """S of HSV becomes clip(S factor + shift). A grey pixel has hue 0 in HSV, so with a shift it turns reddish."""
    factor, shift = constant
    x = image / 255.0
    value = x.max(-1, keepdims=True)
    span = value - x.min(-1, keepdims=True)
    saturation = np.where(value > 0, span / np.where(value > 0, value, 1.0), 0.0)
    new = np.clip(saturation * factor + shift, 0.0, 1.0)
    grey = value * np.concatenate([np.ones_like(new), 1.0 - new, 1.0 - new], axis=-1)
    coloured = value - (value - x) * (new / np.where(saturation > 0, saturation, 1.0))
    return np.where(span > 0, coloured, grey)


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
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **options)
    return np.array(Image.open(buffer))
