"""Blur: defocus, glass, motion, zoom, gaussian. Each takes (image uint8 (H, W, 3), constant, stream, length scale) and
returns float64 (H, W, 3) on the 0..1 scale, or the finished uint8 image."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from gsam.data.opencv import one_threaded

if TYPE_CHECKING:
    import scipy.sparse


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
    cv2 = one_threaded()
    kernel = cv2.sepFilter2D(disc, -1, taps, taps, borderType=cv2.BORDER_REFLECT_101)
    kernel.setflags(write=False)
    return kernel


def defocus_blur(image: np.ndarray, disc: tuple[float, float], rng: np.random.Generator, scale: float) -> np.ndarray:
    """Correlate each channel with the smoothed disc (radius, sigma); border reflected without its edge pixel."""
    kernel = defocus_kernel(disc[0] * scale, disc[1] * scale)
    cv2 = one_threaded()
    return cv2.filter2D(image / 255.0, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def gaussian_blur(image: np.ndarray, sigma: float, rng: np.random.Generator, scale: float) -> np.ndarray:
    """Gaussian of `sigma`, cut at 4 sigma, edge pixels replicated."""
    return smooth(image / 255.0, sigma * scale)


def smooth(x: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian of `sigma`, cut at 4 sigma, edge pixels replicated; float64 (H, W, 3) -> the same."""
    taps = gaussian_taps(sigma, int(4.0 * sigma + 0.5))
    cv2 = one_threaded()
    return cv2.sepFilter2D(x, -1, taps, taps, borderType=cv2.BORDER_REPLICATE)


def glass_blur(image: np.ndarray, glass: tuple[float, int, int], rng: np.random.Generator, scale: float) -> np.ndarray:
    """Smooth, let each pixel take a random near pixel's place in `passes` sweeps, smooth again.

    The published sweep goes upwards from the last pixel and COPIES: a pixel takes what its partner holds by then, and the
    partner keeps it (the source reads like a swap, but both sides are views of one array).
    """
    sigma, reach, passes = glass[0] * scale, max(1, round(glass[1] * scale)), glass[2]
    height, width = image.shape[:2]
    pixels = (np.clip(smooth(image / 255.0, sigma), 0.0, 1.0) * 255.0).astype(np.uint8).reshape(-1, 3)
    source = glass_sources(height, width, reach, rng)
    for _ in range(passes - 1):
        source = source.take(glass_sources(height, width, reach, rng))
    pixels = pixels.take(source, axis=0)
    return smooth(pixels.reshape(image.shape) / 255.0, sigma)


def glass_sources(height: int, width: int, reach: int, rng: np.random.Generator) -> np.ndarray:
    """Which pixel (row-major index) each pixel holds after one sweep: int64 (height * width,).

    Sweeping from the end, pixel p takes the old content of its partner q if q comes before p or lies in the border that no
    sweep touches, else what q has taken already. So the sweep is a chain of pointers, followed for all pixels at once.
    """
    rows, columns = np.arange(height - reach, reach, -1), np.arange(width - reach, reach, -1)
    shift = rng.integers(-reach, reach, size=(len(rows), len(columns), 2))  # dx, dy; +reach is never drawn
    here = rows[:, None] * width + columns
    partner = np.arange(height * width)
    partner[here] = (rows[:, None] + shift[..., 1]) * width + columns + shift[..., 0]
    swept = np.zeros(height * width, bool)
    swept[here] = True
    source = partner.copy()
    follow = np.flatnonzero(swept & swept[source] & (source > np.arange(height * width)))
    while len(follow):
        before = source[follow]
        source[follow] = partner[before]
        follow = follow[swept[source[follow]] & (source[follow] > before)]
    return source


def motion_blur(image: np.ndarray, motion: tuple[float, float], rng: np.random.Generator, scale: float) -> np.ndarray:
    """ImageMagick's motion blur along an angle uniform in -45..45 degrees; the finished uint8 image."""
    return motion_blurred(image, motion[0] * scale, motion[1] * scale, rng.uniform(-45.0, 45.0))


def motion_blurred(image: np.ndarray, radius: float, sigma: float, degrees: float) -> np.ndarray:
    """uint8 (H, W) or (H, W, 3): mean of 2 ceil(radius) + 1 pixels along a ray, edge pixels replicated.

    One-sided, so the picture shifts; nearest pixels, no interpolation; weights exp(-i^2 / 2 sigma^2). ImageMagick computes
    in 16 bits (255 becomes 65535) and its result is cut, not rounded, to 8.
    """
    steps = np.arange(2 * int(np.ceil(radius)) + 1)
    taps = np.exp(-(steps**2) / (2.0 * sigma * sigma))
    columns = np.ceil(steps * np.cos(np.deg2rad(degrees)) - 0.5).astype(int)
    rows = np.ceil(steps * np.sin(np.deg2rad(degrees)) - 0.5).astype(int)
    kernel = np.zeros((np.ptp(rows) + 1, np.ptp(columns) + 1), np.float32)
    np.add.at(kernel, (rows - rows.min(), columns - columns.min()), taps / taps.sum())
    anchor = (int(-columns.min()), int(-rows.min()))
    cv2 = one_threaded()
    blurred = cv2.filter2D(image.astype(np.float32), -1, kernel, anchor=anchor, borderType=cv2.BORDER_REPLICATE)
    blurred *= np.float32(257.0)
    blurred += np.float32(0.5)
    return (np.floor(blurred, out=blurred) / np.float32(257.0)).astype(np.uint8)


def zoom_blur(image: np.ndarray, zooms: tuple[float, float], rng: np.random.Generator, scale: float) -> np.ndarray:
    """Mean of the picture and its central zooms by 1, 1 + step, ... below `stop`; the original thus counts twice.

    Whether `stop` itself is among the factors is decided by floating-point rounding, as in the published sets.
    """
    x = image.astype(np.float32) / np.float32(255.0)
    factors = np.arange(1.0, *zooms)
    cv2 = one_threaded()
    turned = np.zeros_like(cv2.transpose(x))  # columns first: both directions are then enlarged along rows
    for factor in factors[1:]:
        turned += enlarged(cv2.transpose(enlarged(x, factor)), factor)
    total = cv2.transpose(turned)
    total += 2 * x  # itself, and the factor 1
    total /= np.float32(len(factors) + 1)
    return total


def enlarged(x: np.ndarray, factor: float) -> np.ndarray:
    """The central rows of float (H, ...) enlarged by `factor` to all H rows."""
    return (zoom_matrix(len(x), float(factor), x.dtype.char) @ x.reshape(len(x), -1)).reshape(x.shape)


@cache
def zoom_matrix(length: int, factor: float, dtype: str) -> scipy.sparse.csr_array:
    """(length, length), two entries in a row: linear interpolation that lays the centre's first and last pixel on the
    first and last of the enlarged axis, of which the middle `length` pixels stay."""
    from scipy.sparse import csr_array

    kept = int(np.ceil(length / factor))
    grown = round(kept * factor)
    first = (length - kept) // 2
    at = (np.arange(length) + (grown - length) // 2) * (kept - 1) / (grown - 1)
    low = np.minimum(at.astype(int), kept - 2)
    weights = np.concatenate([1 - (at - low), at - low]).astype(dtype)
    rows, columns = np.tile(np.arange(length), 2), first + np.concatenate([low, low + 1])
    return csr_array((weights, (rows, columns)), shape=(length, length))
