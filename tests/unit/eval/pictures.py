"""Real and synthetic pictures for the evaluation's tests."""

from pathlib import Path

import numpy as np
import pytest

from gsam.data import open_source
from gsam.data.fashion_mnist import DEBIAN

fashion_mnist = pytest.mark.skipif(not Path(DEBIAN).is_dir(), reason=f"Fashion-MNIST is not in {DEBIAN}")


def clothes():
    return open_source("fashion_mnist", DEBIAN, "val")


def gradient(size: int) -> np.ndarray:
    """uint8 (size, size, 3): red grows to the right, green downwards, blue along the diagonal, with a bright square."""
    rows, columns = np.mgrid[:size, :size]
    image = np.stack([columns, rows, (rows + columns) // 2], axis=-1) * 255 // (size - 1)
    image[size // 4 : size // 2, size // 4 : size // 2] = (250, 240, 20)
    return image.astype(np.uint8)


def mad(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference in grey levels."""
    return float(np.abs(a.astype(int) - b.astype(int)).mean())
