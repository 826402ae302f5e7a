"""The evaluation transform of a model: resize, centre crop, and the numbers it was normalised with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from gsam.data import AugmentConfig
from gsam.data.keyed import eval_geometry

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocess:
    """torchvision's Resize(resize) and CenterCrop(size) with Pillow's antialiased filter; picklable, for data workers.

    size: side of the square picture, pixels · resize: the shorter side before the crop; where it is smaller than size
    (VOLO), black fills the border · mean, std: of each channel on the scale 0 to 1, applied later on the device ·
    squash: resize to a square of side `resize`, whatever the picture's shape (timm's crop_mode="squash") · trained_size:
    side of the pictures it was trained on, of a network that is published with another one to test at and runs at both.
    """

    size: int
    resize: int
    interpolation: str = "bilinear"
    mean: Sequence[float] = (0.5, 0.5, 0.5)
    std: Sequence[float] = (0.5, 0.5, 0.5)
    squash: bool = False
    trained_size: int | None = None

    def __post_init__(self) -> None:
        if self.interpolation not in FILTERS:
            raise ValueError(f"interpolation={self.interpolation} is not one of {', '.join(FILTERS)}")

    @classmethod
    def trained(cls, augment: AugmentConfig) -> Preprocess:
        """The transform with which this project evaluates what it trains."""
        return cls(augment.size, augment.eval_resize, "bilinear", tuple(augment.mean), tuple(augment.std))

    @classmethod
    def published(cls, settings: Mapping[str, Any], whose: str) -> Preprocess:
        """The transform of timm's validate.py for a pretrained_cfg: the test size and crop where it has them.

        Raises ValueError, which begins with `whose`, for what this class cannot do.
        """
        from timm.data import resolve_data_config

        data = resolve_data_config({}, pretrained_cfg=dict(settings), use_test_size=True)
        (_, height, width), mode = data["input_size"], data["crop_mode"]
        if height != width or mode not in ("center", "squash"):
            raise ValueError(
                f"{whose}: wants pictures of {height} x {width} with crop_mode={mode}; supported are squares with the modes "
                "center and squash"
            )
        resize = math.floor(height / data["crop_pct"])
        mean, std = tuple(data["mean"]), tuple(data["std"])
        trained = settings.get("input_size", data["input_size"])[-1]
        other = trained if trained != height and not settings.get("fixed_input_size") else None
        try:
            return cls(height, resize, data["interpolation"], mean, std, mode == "squash", other)
        except ValueError as error:
            raise ValueError(f"{whose}: {error}") from error

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) -> uint8 (size, size, 3)."""
        shape = (self.resize, self.resize) if self.squash else pixels.shape[:2]
        rows, columns, top, left = eval_geometry(*shape, self.resize, self.size)
        if pixels.shape[:2] != (rows, columns):
            picture = Image.fromarray(np.ascontiguousarray(pixels))
            pixels = np.asarray(picture.resize((columns, rows), FILTERS[self.interpolation]))
        if self.resize >= self.size:
            return pixels[top : top + self.size, left : left + self.size]
        return self._bordered(pixels, max(top, 0), max(left, 0))

    def _bordered(self, pixels: np.ndarray, top: int, left: int) -> np.ndarray:
        """torchvision's CenterCrop of a picture that is too small: black around it."""
        inside = pixels[top : top + self.size, left : left + self.size]
        square = np.zeros((self.size, self.size, 3), np.uint8)
        down, right = ((self.size - length) // 2 for length in inside.shape[:2])
        square[down : down + inside.shape[0], right : right + inside.shape[1]] = inside
        return square

    def text(self) -> str:
        """One line, for printing and for a row's protocol."""
        side = "square" if self.squash else "short side"
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"{side} to {self.resize} ({self.interpolation}), centre crop {self.size}, mean {mean}, std {std}" + (
            f", trained at {self.trained_size}" if self.trained_size else ""
        )
