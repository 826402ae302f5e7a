"""Noise: gaussian, shot, impulse, speckle. Each takes (image uint8 (H, W, 3), constant, stream, length scale) and
returns float64 (H, W, 3) on the 0..1 scale, not yet clipped."""

from __future__ import annotations

import numpy as np


def gaussian_noise(image: np.ndarray, std: float, rng: np.random.Generator, scale: float) -> np.ndarray:
    """y = x + N(0, std), one draw per pixel and channel."""
    return image / 255.0 + rng.normal(0.0, std, image.shape)


def shot_noise(image: np.ndarray, photons: float, rng: np.random.Generator, scale: float) -> np.ndarray:
    """y = Poisson(photons * x) / photons."""
    return rng.poisson(image / 255.0 * photons) / photons


def impulse_noise(image: np.ndarray, probability: float, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Each channel value on its own becomes 0 or 1, with equal odds, with this probability."""
    draw = rng.random(image.shape)
    return np.where(draw < probability / 2, 0.0, np.where(draw < probability, 1.0, image / 255.0))


def speckle_noise(image: np.ndarray, std: float, rng: np.random.Generator, scale: float) -> np.ndarray:
    """y = x + x N(0, std)."""
    return image / 255.0 * (1.0 + rng.normal(0.0, std, image.shape))
