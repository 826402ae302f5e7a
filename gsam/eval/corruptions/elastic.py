"""Elastic transform: an affine warp, then smooth random displacements."""

from __future__ import annotations

from functools import cache

import numpy as np

from gsam.data.opencv import one_threaded

from .blur import gaussian_taps


def elastic_transform(
    image: np.ndarray, elastic: tuple[float, float, float], rng: np.random.Generator, scale: float
) -> np.ndarray:
    """image uint8 (H, W, 3), constants in pixels -> float32 (H, W, 3) on the 0..1 scale.

    Three points of the picture move by up to `shift` pixels each way and take the picture along; then each pixel is read
    from a place displaced by Gaussian-smoothed uniform noise times `strength`. Severities 1 and 2 of the 224 preset are
    stronger than 3 to 5: so it was published.
    """
    strength, sigma, shift = (value * scale for value in elastic)
    x = image.astype(np.float32) / np.float32(255.0)
    height, width = image.shape[:2]
    centre, arm = np.float32((height, width)) // 2, min(height, width) // 3
    points = np.float32([centre + arm, [centre[0] + arm, centre[1] - arm], centre - arm])
    moved = points + rng.uniform(-shift, shift, (3, 2)).astype(np.float32)
    cv2 = one_threaded()
    matrix = cv2.getAffineTransform(points, moved)
    x = cv2.warpAffine(x, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    noise = np.stack([rng.uniform(-1.0, 1.0, (height, width)) for _ in range(2)])
    across, down = (smooth_reflected(noise, sigma) * strength).astype(np.float32)
    return sampled(x, np.arange(height)[:, None] + down, np.arange(width) + across)


def smooth_reflected(fields: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian of `sigma` cut at 3 sigma, the border reflected with its edge pixel; float64 (N, H, W) -> the same.

    As a product in the cosine transform, which is this convolution exactly, also where the kernel is larger than the field.
    """
    from scipy.fft import dctn, idctn

    height, width = fields.shape[1:]
    transfer = cosine_transfer(height, sigma)[:, None] * cosine_transfer(width, sigma)
    return idctn(dctn(fields, axes=(1, 2)) * transfer, axes=(1, 2))


@cache
def cosine_transfer(length: int, sigma: float) -> np.ndarray:
    """What smoothing multiplies each of `length` cosine coefficients with; float64 (length,)."""
    if sigma == 0:
        return np.ones(length)
    reach = int(3.0 * sigma + 0.5)
    angles = np.pi / length * np.arange(length)[:, None] * np.arange(-reach, reach + 1)
    return np.cos(angles) @ gaussian_taps(sigma, reach)


def sampled(x: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """x float32 (H, W, 3) at places (H, W) in pixels, bilinear, the border reflected with its edge pixel.

    Not OpenCV's remap: before version 5 it rounds places to 1/32 pixel.
    """
    height, width = x.shape[:2]
    (above, below, lower), (left, right, further) = _neighbours(rows, height), _neighbours(columns, width)
    planes = np.ascontiguousarray(x.transpose(2, 0, 1)).reshape(3, -1)
    above, below = above * width, below * width
    top = _mix(planes.take(above + left, 1), planes.take(above + right, 1), further)
    bottom = _mix(planes.take(below + left, 1), planes.take(below + right, 1), further)
    return np.ascontiguousarray(_mix(top, bottom, lower).transpose(1, 2, 0))


def _neighbours(places: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the pixels before and after each place, and the share of the one after; indices reflected."""
    low = np.floor(places)
    share = (places - low).astype(np.float32)
    period = np.concatenate([np.arange(length), np.arange(length)[::-1]])
    before = low.astype(np.intp)
    return period.take(before, mode="wrap"), period.take(before + 1, mode="wrap"), share


def _mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """first + (second - first) * share; overwrites `second`."""
    second -= first
    second *= share
    second += first
    return second
