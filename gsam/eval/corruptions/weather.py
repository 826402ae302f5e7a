"""Weather: snow, frost, fog, spatter. Each takes (image uint8 (H, W, 3), constant, stream, length scale) and returns
float (H, W, 3) on the 0..1 scale, not yet clipped, or the finished uint8 image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from gsam.data.opencv import one_threaded

from .blur import enlarged, motion_blurred, smooth
from .pixels import byte_pairs

WATER = np.float32([175, 238, 238]) / np.float32(255.0)  # pale turquoise
MUD = np.float32([63, 42, 20]) / np.float32(255.0)


def snow(image: np.ndarray, flakes: tuple[float, ...], rng: np.random.Generator, scale: float) -> np.ndarray:
    """Whitened picture, plus motion-blurred flakes and the same flakes turned by 180 degrees."""
    mean, std, zoom, threshold, radius, sigma, share = flakes
    layer = enlarged(enlarged(rng.normal(mean, std, image.shape[:2]), zoom).T, zoom).T
    layer[layer < threshold] = 0
    layer = (np.clip(layer, 0.0, 1.0) * 255.0).astype(np.uint8)
    layer = motion_blurred(layer, radius * scale, sigma * scale, rng.uniform(-135.0, -45.0)).astype(np.float32)
    layer = (layer + layer[::-1, ::-1]) / np.float32(255.0)
    x = image.astype(np.float32) / np.float32(255.0)
    grey = np.float32(0.299) * x[..., 0] + np.float32(0.587) * x[..., 1] + np.float32(0.114) * x[..., 2]
    white = np.maximum(x, (1.5 * grey + 0.5)[..., None])
    white *= np.float32(1 - share)
    x *= np.float32(share)
    x += white
    x += layer[..., None]
    return x


def frost(
    image: np.ndarray,
    shares: tuple[float, float, float],
    rng: np.random.Generator,
    scale: float,
    textures: Sequence[np.ndarray],
) -> np.ndarray:
    """share * picture + share * a random piece of one of the textures; the finished uint8 image.

    A texture that does not cover the picture is enlarged until it does.
    """
    of_picture, of_texture, factor = shares
    height, width = image.shape[:2]
    chosen = int(rng.integers(len(textures)))
    texture = textures[chosen]
    factor = max(factor, (height + 1) / texture.shape[0], (width + 1) / texture.shape[1])
    if factor != 1:
        size = (round(texture.shape[1] * factor), round(texture.shape[0] * factor))
        cv2 = one_threaded()
        texture = cv2.resize(texture, size, interpolation=cv2.INTER_LINEAR)
    top, left = int(rng.integers(texture.shape[0] - height)), int(rng.integers(texture.shape[1] - width))
    piece = texture[top : top + height, left : left + width]
    return byte_pairs(frost_table(of_picture, of_texture), image, piece)


@cache
def frost_table(of_picture: float, of_texture: float) -> np.ndarray:
    """The mixed grey level for every (picture, texture) pair: uint8 (256, 256)."""
    grey = np.arange(256)
    return np.clip(of_picture * grey[:, None] + of_texture * grey, 0, 255).astype(np.uint8)


def fog(image: np.ndarray, fog: tuple[float, float], rng: np.random.Generator, scale: float) -> np.ndarray:
    """A plasma is added and the sum scaled so that the brightest value stays."""
    strength, decay = fog
    height, width = image.shape[:2]
    brightest = int(image.max()) / 255.0
    layer = plasma(1 << (max(height, width) - 1).bit_length(), decay, rng)[:height, :width]
    x = image / np.float32(255.0)
    x += (strength * layer).astype(np.float32)[..., None]
    x *= np.float32(brightest / (brightest + strength))
    return x


def plasma(side: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """Diamond-square height map on a torus, float64 (side, side) in 0..1; side is a power of two.

    Each octave's noise is uniform in +-width squared, and the width shrinks by `decay`.
    """
    height = np.zeros((side, side))
    step, width = side, 100.0
    while step >= 2:
        half = step // 2
        corner = height[::step, ::step]

        def mean(total: np.ndarray) -> np.ndarray:
            return total / 4 + width * rng.uniform(-width, width, total.shape)  # noqa: B023

        across = corner + np.roll(corner, -1, axis=0)
        centre = height[half::step, half::step] = mean(across + np.roll(across, -1, axis=1))
        height[::step, half::step] = mean(centre + np.roll(centre, 1, axis=0) + corner + np.roll(corner, -1, axis=1))
        height[half::step, ::step] = mean(centre + np.roll(centre, 1, axis=1) + corner + np.roll(corner, -1, axis=0))
        step, width = half, width / decay
    height -= height.min()
    return height / height.max()


def spatter(
    image: np.ndarray, spatter: tuple[float, float, float, float, float, bool], rng: np.random.Generator, scale: float
) -> np.ndarray:
    """Drops of water (severities 1 to 3) or of mud."""
    mean, std, sigma, threshold, strength, is_mud = spatter
    x = image.astype(np.float32) / np.float32(255.0)
    liquid = smooth(rng.normal(mean, std, image.shape[:2]), sigma * scale)
    liquid[liquid < threshold] = 0
    if not is_mud:
        return x + (strength * drops(liquid))[..., None] * WATER
    mud = smooth((liquid > threshold).astype(np.float32), strength * scale)
    mud[mud < 0.8] = 0
    return x * (1 - mud[..., None]) + mud[..., None] * MUD


def drops(liquid: np.ndarray) -> np.ndarray:
    """How much water lies where, largest value 1: the liquid times an embossed distance to the drops' edges.

    liquid: float (H, W) -> float32 (H, W); zeros where there is no edge at all.
    """
    liquid = (np.minimum(liquid, 1.0) * 255).astype(np.uint8)
    cv2 = one_threaded()
    distance = cv2.distanceTransform(255 - cv2.Canny(liquid, 50, 150), cv2.DIST_L2, 5)
    distance = cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8)
    relief = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    distance = cv2.filter2D(cv2.equalizeHist(distance), cv2.CV_8U, relief)
    water = liquid * cv2.blur(distance, (3, 3)).astype(np.float32)
    return water / max(water.max(), 1e-6)
