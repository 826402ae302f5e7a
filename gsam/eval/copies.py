"""The copies of an ImageNet-C made here, as files of an image folder or as a source for FFCV.

A copy depends on its picture, its index in the source, the corruption, the severity and the settings: not on the number of
processes. The same one comes out of `gsam.eval.corruptions.corrupt` while a model is evaluated.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from gsam.data import SPLITS, open_source, subset
from gsam.data.encoding import LISTED, Report, exit_without
from gsam.data.sources import ImageFolder, Source, imagefolder

from .corruptions import JPEG85, corrupt, length_scale, preset_for
from .corruptions.digital import jpeg_bytes, png_bytes
from .corruptions.pixels import keep_freed_memory
from .corruptions.textures import frost_textures
from .pictures import central_square

CHUNK = 64  # copies that a process makes at a time, at least one picture's: about 0.2 s at 224 pixels

Pair = tuple[str, int]  # corruption, severity


@dataclass(frozen=True)
class Settings:
    """What decides the bytes of the copies, besides the pictures."""

    source: str
    """key of gsam.data.SOURCES"""
    root: str
    split: str = "val"
    """train or val; of an imagefolder any folder below root, "." if root itself holds the class folders"""
    seed: int = 0
    limit: int | None = None
    """pictures used, the first of one fixed random order; None: all"""
    canvas: int | None = None
    """side of the central square that is corrupted; None: the picture as it is"""
    preset: int | None = None
    """whose constants; None: by the size of the canvas, or of the first picture"""
    grey: bool = False
    """the pictures are grey ones: average the channels of a copy"""
    frost_textures: str | None = None
    format: str = "folders"


class Copies:
    """The copies of a source's pictures by index in the source; sent to every worker.

    Raises ValueError for a missing source, a wrong limit or folder of textures.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        own_split = settings.source == "imagefolder" and settings.split not in SPLITS
        self.source: Source = (
            imagefolder(settings.root, settings.split)
            if own_split
            else open_source(settings.source, settings.root, settings.split)
        )
        source = self.source
        self.indices = subset(len(source), settings.limit)
        sides = (settings.canvas,) * 2 if settings.canvas else source[int(self.indices[0])][0].shape[:2]
        self.preset = settings.preset or preset_for(*sides)
        self.length_factor = length_scale(*sides, self.preset)
        self.folders = _class_folders(source.classes)
        frost_textures(settings.frost_textures)  # made here once, for the workers to come

    @property
    def options(self) -> dict[str, Any]:
        return {"seed": self.settings.seed, "preset": self.preset, "grey": self.settings.grey,
                "frost_textures": self.settings.frost_textures}  # fmt: skip

    def clean(self, index: int) -> np.ndarray:
        """What is corrupted: uint8 (H, W, 3)."""
        image = self.source[index][0]
        return image if self.settings.canvas is None else central_square(image, self.settings.canvas)

    def file(self, clean: np.ndarray, index: int, pair: Pair) -> bytes:
        """One copy as it is stored."""
        copy = corrupt(clean, *pair, index=index, save_jpeg85=False, **self.options)
        return png_bytes(copy) if self.preset == 32 else jpeg_bytes(copy, **JPEG85)

    def path(self, index: int) -> str:
        """<class>/<name of the original>; of a source without files <class>/<index>."""
        folder = self.folders[self.source.labels[index]]
        named = isinstance(self.source, ImageFolder)
        name = os.fsdecode(self.source.names[index]) if named else f"{index:08d}"
        endings = (".png",) if self.preset == 32 else (".jpg", ".jpeg")
        return os.path.join(folder, name if name.lower().endswith(endings) else name + endings[0])

    def of(self, pair: Pair) -> CopySource:
        """As a source of its own, for FFCV."""
        return CopySource(self, pair)


class CopySource:
    """The decoded copies of one corruption and severity; see gsam.data.sources.Source."""

    in_memory = False

    def __init__(self, copies: Copies, pair: Pair) -> None:
        self.copies, self.pair = copies, pair
        self.classes, self.labels = copies.source.classes, copies.source.labels[copies.indices]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, at: int) -> tuple[np.ndarray, int]:
        index = int(self.copies.indices[at])
        pixels = corrupt(self.copies.clean(index), *self.pair, index=index, **self.copies.options)
        return pixels, int(self.labels[at])

    def describe(self, at: int) -> str:
        return self.copies.source.describe(int(self.copies.indices[at]))


def _class_folders(classes: tuple[str, ...]) -> list[str]:
    """Names whose sorted order is that of the labels: then the copies are an image folder with the same labels."""
    if list(classes) == sorted(classes) and not any("/" in name for name in classes):
        return list(classes)
    digits = len(str(len(classes) - 1))
    return [f"{label:0{digits}d}_{name.replace('/', '_')}" for label, name in enumerate(classes)]


def write_folders(copies: Copies, out: str, pairs: list[Pair], workers: int, report: Report) -> None:
    """Write what is not there below <out>/<corruption>/<severity>/. See gsam.eval.make_c.make for what it raises."""
    bad, done, skipped, spent, before = [], 0, 0, 0.0, time.monotonic()
    with _pool(workers, copies, out, pairs) as pool:
        for made, problem in pool.map(_make_copies, copies.indices.tolist(), chunksize=-(-CHUNK // len(pairs))):
            bad += [problem] if problem else []
            done, now = done + 1, time.monotonic()
            if made:
                spent += now - before
                report("pictures", done - skipped, len(copies.indices) - skipped, spent)
            else:  # was there already, which says nothing of the time left
                skipped += 1
            before = now
    if bad:
        more = f"\n  and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
        listed = "".join(f"\n  {problem}" for problem in bad[:LISTED])
        raise ValueError(
            f"{len(bad)} of {done} pictures cannot be used; replace or remove them, then repeat:{listed}{more}"
        )


@contextmanager
def _pool(workers: int, copies: Copies, out: str, pairs: list[Pair]) -> Iterator[ProcessPoolExecutor]:
    # Forked, so that torch is not imported again and the textures are there.
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (copies, out, pairs, os.getpid()))
    try:
        with warnings.catch_warnings():
            # Python >= 3.12 warns of forks beside threads; the child uses none of the parent's.
            warnings.simplefilter("ignore", DeprecationWarning)
            yield pool
    except BrokenProcessPool:
        raise RuntimeError(
            "a process died (-9 is typical of too little memory); what is made stays: run again to go on, with fewer --workers "
            "if memory was short"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_worker: tuple[Copies, str, list[Pair]]


def _start_worker(copies: Copies, out: str, pairs: list[Pair], parent: int) -> None:
    global _worker
    _worker = copies, out, pairs
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends the work
    threading.Thread(target=exit_without, args=(parent,), daemon=True).start()
    keep_freed_memory()


def _make_copies(index: int) -> tuple[bool, str | None]:
    """All copies of a picture that are not there: (whether there were any, why it cannot be used)."""
    copies, out, pairs = _worker
    name = copies.path(index)
    paths = {pair: os.path.join(out, pair[0], str(pair[1]), name) for pair in pairs}
    missing = {pair: path for pair, path in paths.items() if not _is_whole(path)}
    if not missing:
        return False, None
    try:
        clean = copies.clean(index)
        for pair, path in missing.items():
            _replace(path, copies.file(clean, index, pair))
    except ValueError as error:
        where = copies.source.describe(index)
        return True, str(error) if where in str(error) else f"{where}: {error}"
    return True, None


def _is_whole(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0  # 0: the machine lost power before the content was on disk
    except (FileNotFoundError, NotADirectoryError):
        return False


def _replace(path: str, content: bytes) -> None:
    """The whole file or none, if the process dies. Without fsync, which would take longer than the copies themselves.

    Raises RuntimeError where it cannot be written.
    """
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}.tmp")
    try:
        if not os.path.isdir(folder):
            os.makedirs(folder, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError as error:
        raise RuntimeError(f"{path} cannot be written ({error.strerror}); mend that and run again to go on") from error
