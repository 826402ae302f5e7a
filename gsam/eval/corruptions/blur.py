"""Blur: defocus, gaussian. Each takes (image uint8 (H, W, 3), constant, stream, length scale) and returns float64
(H, W, 3) on the 0..1 scale."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

import numpy as np


@contextmanager
def one_thread() -> Iterator[ModuleType]:
    """OpenCV on this thread alone: loader workers must not each start a pool, and a forked pool can hang.

    Imported here, so that naming the corruptions (for a configuration) does not need it.
    """
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield cv2
    finally:
        cv2.setNumThreads(before)


def gaussian_taps(sigma: float, reach: int) -> np.ndarray:
    """Weights exp(-i^2 / 2 sigma^2) for |i| <= reach, sum 1. float64 (2 reach + 1,)."""
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return taps / taps.sum()


@cache
def defocus_kernel(radius: float, sigma: float) -> np.ndarray:
    """The disc i^2 + j^2 <= radius^2, of sum 1, its edge smoothed by a Gaussian of `sigma`. float32.

    (17, 17) for a radius up to 8, (2 ceil(radius) + 1) squared above. Read-only, since it is cached. Where the disc
    touches the grid's edge (224 pixels, severities 4 and 5) smoothing reflects at that edge and the sum becomes 1.013
    and 1.011: the published sets have this slight brightening, so it is kept.
    """
    reach = 8 if radius <= 8 else int(np.ceil(radius))
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (rows**2 + columns**2 <= radius**2).astype(np.float32)
    disc /= disc.sum()
    taps = gaussian_taps(sigma, 1 if radius <= 8 else 2)
    with one_thread() as cv2:
        kernel = cv2.sepFilter2D(disc, -1, taps, taps, borderType=cv2.BORDER_REFLECT_101)
    kernel.setflags(write=False)
    return kernel


def defocus_blur(image: np.ndarray, disc: tuple[float, float], rng: np.random.Generator, scale: float) -> np.ndarray:
    """Correlate each channel with the smoothed disc (radius, sigma); border reflected without its edge pixel."""
    kernel = defocus_kernel(disc[0] * scale, disc[1] * scale)
    with one_thread() as cv2:
        return cv2.filter2D(image / 255.0, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def gaussian_blur(image: np.ndarray, sigma: float, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Gaussian of `sigma`, cut at 4 sigma, edge pixels replicated."""
    taps = gaussian_taps(sigma * scale, int(4.0 * sigma * scale + 0.5))
    with one_thread() as cv2:
        return cv2.sepFilter2D(image / 255.0, -1, taps, taps, borderType=cv2.BORDER_REPLICATE)
