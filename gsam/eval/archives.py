"""Pictures out of tar and zip archives: nothing outside the target folder, nothing twice, an interrupted run continues."""

from __future__ import annotations

import fcntl
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from gsam.data.sources import EXTENSIONS

Place = Callable[[PurePosixPath], str | None]
"""A picture's path in the archive -> its path below the target folder, None to leave it out; raises ValueError for what does
not belong there."""
Report = Callable[[int, int, int], None]
"""(bytes of the archive read, bytes of the archive, pictures so far)."""


class Entry(NamedTuple):
    """A picture in an archive."""

    name: str
    size: int
    open: Callable[[], BinaryIO]
    position: int  # bytes of the archive read so far


def pictures(archive: Path) -> Iterator[Entry]:
    """The pictures of a .tar, .tar.gz (or other compression) or .zip, in its order. Other files, links and hidden files are
    left out. Raises ValueError for a path that leads outside, and for an archive that is damaged or none at all."""
    with _reading(archive), open(archive, "rb") as raw:
        for entry in _zip(raw) if zipfile.is_zipfile(raw) else _tar(raw):
            name = PurePosixPath(entry.name).name
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield entry


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """What the libraries raise for a bad archive, as one ValueError."""
    try:
        yield
    except tarfile.FilterError as error:  # is a TarError: must come first
        raise ValueError(f"{archive}: {error}; this is no official archive, nothing of it is used") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's own: full, not readable
        raise ValueError(
            f"{archive} cannot be read ({type(error).__name__}: {error}): an incomplete or damaged download, or no "
            "archive; download it again"
        ) from error


def _tar(raw: BinaryIO) -> Iterator[Entry]:
    raw.seek(0)
    with tarfile.open(fileobj=raw, mode="r:*") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # it keeps every header, a gigabyte for a million pictures
            tarfile.data_filter(member, "unpacked")  # raises for paths and links that lead outside, and for devices
            if member.isreg():
                yield Entry(member.name, member.size, lambda m=member: tar.extractfile(m), raw.tell())
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):  # the library takes a bad header for the end
            raise tarfile.ReadError("bad header")
        while tar.fileobj.read(2**20):  # to the check sum of a compressed file
            pass


def _zip(raw: BinaryIO) -> Iterator[Entry]:
    raw.seek(0)
    read = 0
    with zipfile.ZipFile(raw) as archive:
        for info in archive.infolist():
            path = PurePosixPath(info.filename.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
                raise tarfile.FilterError(f"{info.filename!r} leads outside the folder to unpack into")
            read += info.compress_size
            if not info.is_dir():
                yield Entry(info.filename, info.file_size, lambda i=info: archive.open(i), read)


def unpack(archive: Path, to: Path, place: Place, report: Report) -> None:
    """Write every picture of `archive` to `to`/place(path).

    A picture that is there in full size is kept, so that a run after a kill continues. Raises ValueError as `pictures` and
    `place` do, and for two pictures of the same place.
    """
    total, seen, where = archive.stat().st_size, set(), ""
    for entry in pictures(archive):
        where = place(PurePosixPath(entry.name))
        if where in seen:
            raise ValueError(f"{archive} holds two pictures for {where}; official archives do not, download it again")
        if where is not None:
            seen.add(where)
            _write(entry, to / where, archive)
        report(entry.position, total, len(seen))
    if where == "":
        raise ValueError(f"{archive} holds no picture; is it the right archive?")
    report(total, total, len(seen))


def _write(entry: Entry, target: Path, archive: Path) -> None:
    if target.exists() and target.stat().st_size == entry.size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with _reading(archive), entry.open() as source, open(target, "wb") as file:
        shutil.copyfileobj(source, file)


@contextmanager
def unpacking(archive: Path, to: Path) -> Iterator[Path]:
    """A hidden folder in `to` to unpack `archive` into, the same one when the command is run again.

    A ValueError inside the block removes it (the archive is wrong); anything else leaves it for the next run. Raises
    ValueError if another process is at it or the disk is too small.
    """
    size = archive.stat().st_size
    folder = to / f".{archive.name}.{size}.unpacking"
    if not folder.exists():
        to.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(to).free
        if free < size:  # JPEGs do not get smaller in an archive
            raise ValueError(f"{archive} needs {_gb(size)} in {to}, {_gb(free)} are free; choose another --to")
        folder.mkdir()
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(f"{archive} is being unpacked by another process; wait for it") from error
        yield folder
        shutil.rmtree(folder)
    except ValueError:
        shutil.rmtree(folder)
        raise
    finally:
        os.close(lock)


def move_whole(folder: Path, to: Path) -> None:
    """Rename an unpacked folder to its final name, after all of it is on the disk: a final name means a whole set."""
    os.sync()
    to.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(to)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
