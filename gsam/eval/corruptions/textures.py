"""Textures of ice for the corruption frost: made here, or read from a folder of the user's.

The published set lays photographs of ice over the pictures; nobody knows who took them, so they are not shipped. The
synthetic ones meet their measured statistics: colour, luma percentiles and mean horizontal step.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from typing import NamedTuple

import numpy as np

from gsam.data.opencv import one_threaded

HEIGHT, WIDTH = 448, 640
USED = 5  # the published script draws among five files; its sixth is never used
SYNTHETIC = "synthetic"
PERCENT = (0, 1, 5, 25, 50, 75, 95, 99, 100)


class Ice(NamedTuple):
    """What a synthetic texture must look like."""

    rgb: tuple[int, int, int]  # mean colour
    luma: tuple[int, ...]  # at PERCENT
    strokes: int
    blur: float  # sigma in pixels of the strokes, chosen so that the mean horizontal luma step is the photograph's


ICE = (
    Ice((78, 149, 166), (85, 97, 104, 118, 129, 142, 163, 177, 200), 1400, 0.421),
    Ice((201, 205, 214), (120, 141, 166, 195, 210, 222, 236, 245, 255), 1100, 0.439),
    Ice((138, 153, 165), (60, 82, 104, 134, 152, 169, 199, 234, 255), 2400, 0.338),
    Ice((112, 123, 135), (30, 45, 60, 92, 119, 151, 203, 238, 255), 1300, 0.437),
)
DRAWN = (0, 1, 1, 2, 3)  # two of the five published files are the same picture


def frost_textures(folder: str | None) -> tuple[np.ndarray, ...]:
    """The textures among which frost draws with equal odds: uint8 (H, W, 3) each; folder=None: the synthetic ones.

    Of a folder the first five pictures by name are used. Made or read once per process; read-only. Raises ValueError for
    a folder that does not exist or holds no picture.
    """
    return _synthetic() if folder is None else _read(os.path.abspath(folder))


@cache
def frost_origin(folder: str | None) -> str:
    """What results must say of the textures: "synthetic", or the folder's name and 8 hex digits of its pixels."""
    if folder is None:
        return SYNTHETIC
    textures = frost_textures(folder)
    digest = hashlib.sha256(b"".join(repr(t.shape).encode() + t.tobytes() for t in textures)).hexdigest()[:8]
    return f"{os.path.basename(os.path.abspath(folder))}, {len(textures)} textures, {digest}"


@cache
def _read(folder: str) -> tuple[np.ndarray, ...]:
    from gsam.data.sources import EXTENSIONS, read_rgb

    if not os.path.isdir(folder):
        raise ValueError(
            f"frost_textures={folder} is not a folder; give one with pictures of ice, or none: synthetic ones"
        )
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith(EXTENSIONS))[:USED]
    if not names:
        raise ValueError(
            f"frost_textures={folder} holds no picture ({', '.join(EXTENSIONS)}); put pictures of ice there"
        )
    return tuple(_frozen(read_rgb(os.path.join(folder, name))) for name in names)


@cache
def _synthetic() -> tuple[np.ndarray, ...]:
    made = [_frozen(synthesise(ice, np.random.default_rng(number))) for number, ice in enumerate(ICE)]
    return tuple(made[i] for i in DRAWN)


def _frozen(texture: np.ndarray) -> np.ndarray:
    texture.setflags(write=False)
    return texture


def synthesise(ice: Ice, rng: np.random.Generator) -> np.ndarray:
    """One texture, uint8 (HEIGHT, WIDTH, 3): a random field with power spectrum f^-2.6 and feathers of equal variance,
    brought to the wanted luma percentiles by rank, then to the wanted mean colour."""
    cv2 = one_threaded()
    feathers = cv2.GaussianBlur(_feathers(ice.strokes, rng), (0, 0), ice.blur)
    field = _cloud(rng) + feathers / feathers.std()
    ranks = np.empty(field.size)
    ranks[np.argsort(field, axis=None, kind="stable")] = np.linspace(0, 100, field.size)
    luma = np.interp(ranks, PERCENT, ice.luma).reshape(field.shape)
    return np.rint(np.clip(luma[..., None] + (np.array(ice.rgb) - luma.mean()), 0, 255)).astype(np.uint8)


def _cloud(rng: np.random.Generator) -> np.ndarray:
    """float64 (HEIGHT, WIDTH), variance 1."""
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH))
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((HEIGHT, WIDTH))) * frequency**-1.3, (HEIGHT, WIDTH))
    return field / field.std()


def _feathers(count: int, rng: np.random.Generator) -> np.ndarray:
    """Strokes with side branches that shrink towards the tip, 70 % of them bright; float32 (HEIGHT, WIDTH)."""
    bright, dark = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    cv2 = one_threaded()
    for _ in range(count):
        canvas = bright if rng.random() < 0.7 else dark
        grey = int(rng.integers(90, 256))
        segments = np.rint(_feather(rng) * 16).astype(np.int32)  # in 1/16 pixels
        cv2.polylines(canvas, list(segments), False, grey, lineType=cv2.LINE_AA, shift=4)
    return bright.astype(np.float32) - dark


def _feather(rng: np.random.Generator) -> np.ndarray:
    """A stem and its branches at +-60 degrees, as lines: float64 (n, 2 ends, x and y) in pixels."""
    start, length, angle = rng.uniform(0, (WIDTH, HEIGHT)), 18 * rng.gamma(2.0), rng.uniform(0, 2 * np.pi)
    branches = int(length / 3)
    along = rng.uniform(0.1, 0.95, branches)
    turned = angle + rng.choice((-np.pi / 3, np.pi / 3), branches)
    reach = rng.uniform(0.2, 0.7, branches) * length * (1 - along)
    stem = length * np.array([np.cos(angle), np.sin(angle)])
    feet = start + along[:, None] * stem
    tips = feet + reach[:, None] * np.stack([np.cos(turned), np.sin(turned)], axis=1)
    return np.concatenate([[[start, start + stem]], np.stack([feet, tips], axis=1)])
