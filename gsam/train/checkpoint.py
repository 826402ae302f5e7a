"""Checkpoints: tensors and plain data in one file, with a checksum, written so that a crash at any moment leaves whole ones.

`last.pt` is the newest, `last-1.pt` the one before it, and so on; `best.pt` and `step_N.pt` stay.
"""

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsam.files import duplicate, replacing

FORMAT = 2
LAST = "last.pt"


class Damaged(ValueError):
    """A checkpoint that is cut off, altered, or no checkpoint."""


def save(path: Path, state: dict[str, Any], before: Callable[[], None] | None = None) -> None:
    """Write a checkpoint atomically. `state` holds tensors and plain data only: it is read with weights_only=True. before:
    see gsam.files.replacing."""
    with replacing(path, before) as f:
        torch.save({"format": FORMAT, "checksum": checksum(state), **state}, f)


def read(path: Path, *, verify: bool = True) -> dict[str, Any]:
    """The checkpoint at `path`, on the CPU. Runs no code from the file. Raises Damaged for a file that is cut off or whose
    contents do not have their checksum (looked at with `verify`), naming the whole ones beside it; ValueError for one of
    another format."""
    try:
        return _read(path, verify)
    except Damaged as error:
        whole = [other.name for other in _candidates(path.parent) if other != path and _is_whole(other)]
        beside = f"whole ones beside it: {', '.join(whole)}" if whole else f"none in {path.parent} is whole"
        raise Damaged(f"{error}; {beside}") from error


def _is_whole(path: Path) -> bool:
    try:
        _read(path, verify=True)
    except (ValueError, OSError):
        return False
    return True


def _read(path: Path, verify: bool) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch reports damaged and foreign files with many exception types
        raise Damaged(f"checkpoint {path} cannot be read ({type(error).__name__}: {_first_line(error)})") from error
    if not isinstance(state, dict) or "format" not in state:
        raise Damaged(f"checkpoint {path} is no checkpoint of train.py")
    found, expected = state.pop("format"), state.pop("checksum", None)
    if found != FORMAT:
        raise ValueError(f"checkpoint {path}: format {found}, this version reads format {FORMAT}")
    if verify and checksum(state) != expected:
        raise Damaged(f"checkpoint {path} is damaged: its contents do not have the checksum they were saved with")
    return state


def newest(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest whole checkpoint to continue from, None where there is no file. Each damaged one before it is named to
    `warn`. Raises ValueError when there are files and none can be used."""
    problems = []
    for path in _candidates(folder):
        try:
            _read(path, verify=True)
        except Damaged as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warn(f"warning: {problem}; continuing from {path.name}")
        return path
    if problems:
        raise ValueError(
            "; ".join(problems) + f". None is left to continue from: delete {folder} to start from scratch"
        )
    return None


def _candidates(folder: Path) -> list[Path]:
    """last.pt, last-1.pt, …, then those that stay, newest step first, best.pt at the end."""
    recent = sorted(folder.glob("last*.pt"), key=lambda p: _number(p.name))
    kept = sorted(folder.glob("step_*.pt"), key=lambda p: -_number(p.name))
    return [*recent, *kept, *folder.glob("best.pt")]


def _number(name: str) -> int:
    found = re.search(r"\d+", name)
    return int(found[0]) if found else 0


def checksum(state: Any) -> str:
    """SHA-256 over every key, tensor (dtype, shape, bytes) and plain value; of the contents, however a file stores them."""
    digest = hashlib.sha256()
    for part in _parts(state, ""):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any, at: str) -> Iterator[bytes | memoryview]:
    if isinstance(value, Tensor):
        yield f"{at} {value.dtype} {tuple(value.shape)}\n".encode()
        yield memoryview(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, dict):
        for key in value:
            yield from _parts(value[key], f"{at}/{key!r}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _parts(item, f"{at}/{index}")
    else:
        yield f"{at} {value!r}\n".encode()


def on_host(value: Any) -> Any:
    """A deep copy with every tensor on the CPU: training may go on while it is written."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: on_host(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(on_host(item) for item in value)
    if type(value) not in (bool, int, float, str, type(None)):
        raise TypeError(f"{value!r} ({type(value).__name__}) is no plain data: a checkpoint with it could not be read")
    return value


class Writer:
    """Writes checkpoints in a thread. The loop waits for the copy to host memory, and for the write before if that is still
    under way. What the disk refuses is a warning: training goes on, older checkpoints stay as they were."""

    def __init__(self, folder: Path, keep: int, warn: Callable[[str], None], first: Callable[[], None] | None = None):
        """keep: how many of last.pt, last-1.pt, … there are. first: called in the thread before each write."""
        self.folder, self.keep, self.warn, self.first = folder, keep, warn, first
        self.thread: threading.Thread | None = None
        self.blocked = 0.0  # seconds, of all calls of `save`
        self.failed = False  # whether the disk refused the newest one

    def save(self, names: Sequence[str], state: dict[str, Any]) -> None:
        """Write `state` under each of the names."""
        began = time.monotonic()
        self.wait()
        self.thread = threading.Thread(target=self._write, args=(list(names), on_host(state)), name="checkpoint")
        self.thread.start()
        self.blocked += time.monotonic() - began

    def wait(self) -> None:
        """Until everything is on disk."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None

    def _write(self, names: list[str], state: dict[str, Any]) -> None:
        first, *others = sorted(names, key=lambda name: name == LAST)
        self.failed = True
        try:
            if self.first is not None:
                self.first()
            save(self.folder / first, state, self._rotate if first == LAST else None)
            for name in others:
                if name == LAST:
                    self._rotate()
                duplicate(self.folder / first, self.folder / name)
            self.failed = False
        except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
            self.warn(
                f"warning: {', '.join(names)} could not be written to {self.folder} ({type(error).__name__}: "
                f"{_first_line(error)}); training goes on, older checkpoints are as they were. Is the disk full?"
            )

    def _rotate(self) -> None:
        """last.pt also becomes last-1.pt, that one last-2.pt, …: each a rename, so that no moment is without last.pt."""
        for index in range(self.keep - 1, 1, -1):
            older = self.folder / f"last-{index - 1}.pt"
            if older.exists():
                os.replace(older, self.folder / f"last-{index}.pt")
        last = self.folder / LAST
        if self.keep > 1 and last.exists():
            duplicate(last, self.folder / "last-1.pt")


def _first_line(error: Exception) -> str:
    """Its first sentence: torch goes on to advise weights_only=False for a file it does not trust."""
    return (str(error).splitlines() or [""])[0].partition(". ")[0]
