"""Files that are whole or not there, whenever the process dies."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path, before: Callable[[], None] | None = None) -> Iterator[BinaryIO]:
    """A file to write into that becomes `path` when the block ends: temporary file, fsync, rename. When it raises, `path` is
    what it was before. Missing folders are made. before: called when the new file is complete, before it becomes `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        if before is not None:
            before()
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def duplicate(source: Path, path: Path) -> None:
    """The same contents at `path`, atomically: a hard link where the file system has them, else a copy."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """The rename itself must survive a power cut too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # file systems that cannot sync a folder
        pass
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes | str) -> None:
    """All of `data` (text as UTF-8) at `path`, or what was there before."""
    with replacing(path) as f:
        f.write(data.encode() if isinstance(data, str) else data)
