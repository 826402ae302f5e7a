"""Checkpoints: tensors and plain data in one file, written so that a crash at any moment leaves the previous one whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

FORMAT = 1


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into that becomes `path` when the block ends: temporary file, fsync, rename. When it raises, `path` is
    what it was before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """All of `data` at `path`, or what was there before."""
    with replacing(path) as f:
        f.write(data)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically. `state` holds tensors and plain data only: it is read with weights_only=True."""
    path.parent.mkdir(parents=True, exist_ok=True)
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
