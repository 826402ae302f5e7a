"""Noise: gaussian, shot, impulse, speckle. Each takes (image uint8 (H, W, 3), constant, stream, length scale) and
returns float (H, W, 3) on the 0..1 scale, not yet clipped, or the finished uint8 image."""

from __future__ import annotations

import numpy as np

from .pixels import to_uint8


def gaussian_noise(image: np.ndarray, std: float, rng: np.random.Generator, scale: float) -> np.ndarray:
    """y = x + N(0, std), one draw per pixel and channel."""
    y = rng.standard_normal(image.shape, np.float32)
    y *= np.float32(std)
    y += image / np.float32(255.0)
    return y


def shot_noise(image: np.ndarray, photons: float, rng: np.random.Generator, scale: float) -> np.ndarray:
    """y = Poisson(photons * x) / photons."""
    counts = rng.poisson((np.arange(256) / 255.0 * photons).take(image))
    return to_uint8(np.arange(photons + 1) / photons).take(np.minimum(counts, photons))


def impulse_noise(image: np.ndarray, probability: float, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Each channel value on its own becomes 0 or 255, with equal odds, with this probability."""
    draw = rng.random(image.shape, np.float32)
    y = image.copy()
    y[draw < probability] = 255
    y[draw < probability / 2] = 0
    return y


def speckle_noise(image: np.ndarray, std: float, rng: np.random.Generator, scale: float) -> np.ndarray:
    """y = x + x N(0, std)."""
    y = rng.standard_normal(image.shape, np.float32)
    y *= np.float32(std)
    y += 1
    y *= image / np.float32(255.0)
    return y
