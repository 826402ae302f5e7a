"""Corrupted copies of images by the published rules of ImageNet-C, Tiny ImageNet-C and CIFAR-C, in own code.

Source: Hendrycks & Dietterich 2019. The random numbers are this project's own (the published sets were made with an
unseeded generator): one stream per (seed, corruption, severity, image index), so a copy depends neither on the order
of the images nor on the number of workers.
"""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Callable

import numpy as np

from . import blur, digital, elastic, noise, textures, weather
from .constants import CONSTANTS, PRESETS, length_scale, preset_for
from .pixels import to_uint8
from .textures import frost_origin

__all__ = [
    "BENCHMARK",
    "CONSTANTS",
    "CORRUPTIONS",
    "EXTRA",
    "JPEG85",
    "PRESETS",
    "SMALLEST",
    "SEVERITIES",
    "corrupt",
    "frost_origin",
    "length_scale",
    "preset_for",
    "unknown_corruption",
]

SMALLEST = 16  # pixels; below, the weaker constants of 32 pixels change nothing
SEVERITIES = (1, 2, 3, 4, 5)

JPEG85 = {"quality": 85, "optimize": True}
"""How the published sets store a copy: Pillow's JPEG options."""

BENCHMARK: dict[str, Callable[..., np.ndarray]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": digital.brightness,
    "contrast": digital.contrast,
    "elastic_transform": elastic.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}
"""The 15 that the benchmark's mean is over, in its order."""

EXTRA: dict[str, Callable[..., np.ndarray]] = {
    "speckle_noise": noise.speckle_noise,
    "gaussian_blur": blur.gaussian_blur,
    "spatter": weather.spatter,
    "saturate": digital.saturate,
}
"""The 4 published beside it for validation."""

CORRUPTIONS = BENCHMARK | EXTRA


def corrupt(
    image: np.ndarray,
    name: str,
    severity: int,
    *,
    seed: int,
    index: int,
    preset: int | None = None,
    save_jpeg85: bool | None = None,
    grey: bool = False,
    frost_textures: str | None = None,
) -> np.ndarray:
    """One corrupted copy of one image.

    image: uint8 (H, W, 3) RGB. severity: 1..5. preset: 32, 64 or 224, the published size whose constants are used;
    None = by the short side (`preset_for`). save_jpeg85: store the copy as JPEG of quality 85 (optimised, 4:2:0) and
    decode it, as ImageNet-C and Tiny ImageNet-C do (it removes much of the colour noise); None = yes for the presets
    224 and 64, no for 32 (CIFAR-C stores arrays). grey: the image is a grey one; average the copy's channels before it
    is stored, so that it is grey again. frost_textures: folder of pictures of ice for frost; None = synthetic
    ones (`frost_origin` says which were used, and so must every result).
    Returns a new uint8 (H, W, 3) array; values are TRUNCATED to uint8, not rounded, as in the published sets.
    Raises ValueError for an unknown name, severity or preset, an image of another type or shape, a wrong folder.
    """
    _check(image, name, severity, preset)
    preset = preset_for(*image.shape[:2]) if preset is None else preset
    stream = np.random.SeedSequence([seed, zlib.crc32(name.encode()), severity, index])
    constant = CONSTANTS[name][preset][severity - 1]
    scale = length_scale(*image.shape[:2], preset)
    rng = np.random.Generator(np.random.PCG64(stream))
    options = {"textures": textures.frost_textures(frost_textures)} if name == "frost" else {}
    copy = to_uint8(CORRUPTIONS[name](image, constant, rng, scale, **options))
    if grey:
        copy = np.repeat(np.rint(copy.mean(-1, keepdims=True)).astype(np.uint8), 3, axis=-1)
    if preset != 32 if save_jpeg85 is None else save_jpeg85:
        copy = digital.jpeg_round_trip(copy, **JPEG85)
    return copy


def unknown_corruption(name: str) -> str | None:
    """None if `name` is a key of CORRUPTIONS, else a message that names the nearest key and lists all of them."""
    if name in CORRUPTIONS:
        return None
    near = difflib.get_close_matches(str(name), CORRUPTIONS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown corruption {name!r}{hint} (known: {', '.join(CORRUPTIONS)})"


def _check(image: np.ndarray, name: str, severity: int, preset: int | None) -> None:
    if problem := unknown_corruption(name):
        raise ValueError(problem)
    if severity not in SEVERITIES:
        raise ValueError(f"severity={severity!r} is not one of 1, 2, 3, 4, 5")
    if preset not in (None, *PRESETS):
        raise ValueError(f"preset={preset!r} is not one of {', '.join(map(str, PRESETS))}; None chooses by image size")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a corruption needs a uint8 (H, W, 3) image, not {image.dtype} {image.shape}")
    if min(image.shape[:2]) < SMALLEST:
        raise ValueError(f"a corruption needs an image of at least {SMALLEST} pixels a side, not {image.shape[:2]}")
