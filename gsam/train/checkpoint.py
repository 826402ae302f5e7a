"""Checkpoints: tensors and plain data in one file, written so that a crash at any moment leaves the previous one whole."""

from pathlib import Path
from typing import Any

import torch

from gsam.files import replacing

FORMAT = 1


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically. `state` holds tensors and plain data only: it is read with weights_only=True."""
    with replacing(path) as f:
        torch.save({"format": FORMAT, **state}, f)


def read(path: Path) -> dict[str, Any]:
    """The checkpoint at `path`, on the CPU. Runs no code from the file. Raises ValueError for a file that is damaged or of an
    unknown format."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch reports damaged and foreign files with many exception types
        raise ValueError(
            f"checkpoint {path} cannot be read ({type(error).__name__}: {error}); copy best.pt or a step_N.pt over it, or "
            "delete it to start from scratch"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"checkpoint {path}: format {found}, this version reads format {FORMAT}")
    return state
