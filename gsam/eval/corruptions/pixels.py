"""What all corruptions share: the step to uint8, and functions of grey levels by table."""

from __future__ import annotations

import numpy as np


def keep_freed_memory() -> None:
    """Make this process keep freed arrays instead of giving each back to the system and faulting its pages in again, which
    takes a fifth of the time of these small pictures.

    glibc raises its thresholds (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of mallopt(3)) to what it last saw freed; the array is
    never touched, so it costs nothing. Elsewhere without effect.
    """
    np.empty(2**24, np.uint8)


def to_uint8(y: np.ndarray) -> np.ndarray:
    """Clip to 0..1, times 255, cut (not rounded) to uint8; overwrites `y`. An array that is uint8 already is returned."""
    if y.dtype == np.uint8:
        return y
    np.clip(y, 0.0, 1.0, out=y)
    y *= 255.0
    return y.astype(np.uint8)


def byte_pairs(table: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """table[first, second]; table (256, 256), first and second uint8 of shapes that broadcast."""
    at = np.multiply(first, 256, dtype=np.intp) + second
    return table.reshape(-1).take(at)
