"""ImageNet-1k's official archives as downloaded, read without unpacking: ILSVRC2012_img_train.tar (a tar of 1000 tars),
ILSVRC2012_img_val.tar and, for its labels, ILSVRC2012_devkit_t12.tar.gz.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile

import numpy as np

from gsam.data.sources import imagenet_synsets, read_rgb
from gsam.files import replacing

ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
COUNTS = {"train": 1_281_167, "val": 50_000}
TRAIN_NAME = re.compile(r"(n\d{8})_\d+\.JPEG")
VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")


class Archive:
    """A split; see gsam.data.sources.Source. The order is that of the unpacked class folders.

    The first opening reads every header of the archive, and leaves <archive>.index.npz beside it where it can.
    """

    in_memory = False

    def __init__(self, root: str, split: str) -> None:
        self.path, self.classes = os.path.join(root, ARCHIVES[split]), tuple(imagenet_synsets())
        names, offsets, sizes = _index(self.path, split)
        if len(names) == 0:
            raise ValueError(f"{self.path} holds no picture; is it the right archive?")
        label_of = {wnid: label for label, wnid in enumerate(self.classes)}
        if split == "train":
            labels = np.array([label_of.get(name[:9].decode(), -1) for name in names])
        else:
            labels = _val_labels(os.path.join(root, DEVKIT), names, label_of)
        missing = sorted(set(range(1000)) - set(labels.tolist()))
        if missing or labels.min() < 0:
            raise ValueError(
                f"{self.path} has no picture of {len(missing)} of ImageNet's 1000 classes"
                f"{f' ({self.classes[missing[0]]}, ...)' if missing else ', or one of another class'}: an incomplete or "
                "another archive; download it again"
            )
        order = np.lexsort((names, labels))
        self.names, self.labels = names[order], labels[order]
        self._offsets, self.sizes = offsets[order], sizes[order]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return read_rgb(io.BytesIO(self.content(index)), self.describe(index)), int(self.labels[index])

    def content(self, index: int) -> bytes:
        """The picture's file."""
        with open(self.path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), int(self.sizes[index]), int(self._offsets[index]))

    def describe(self, index: int) -> str:
        return f"{self.path}:{self.classes[self.labels[index]]}/{self.names[index].decode()}"


def val_wnids(devkit: Path) -> list[str]:
    """The WordNet id of each validation picture by file number, from the devkit, whose MD5 torchvision checks first.

    Raises ValueError if it is not there or not the official one.
    """
    from torchvision.datasets.imagenet import load_meta_file, parse_devkit_archive

    if not devkit.is_file():
        raise ValueError(
            f"{devkit} is missing: it has the labels of the validation pictures; download it from image-net.org"
        )
    with tempfile.TemporaryDirectory() as folder:  # the parser leaves a file beside the archive
        (Path(folder) / devkit.name).symlink_to(devkit.resolve())
        try:
            parse_devkit_archive(folder, devkit.name)
        except RuntimeError as error:
            raise ValueError(f"{devkit} is not the official {DEVKIT} (MD5 differs); download it again") from error
        return load_meta_file(folder)[1]


def _val_labels(devkit: str, names: np.ndarray, label_of: dict[str, int]) -> np.ndarray:
    wnids = val_wnids(Path(devkit))
    numbers = np.array([int(VAL_NAME.fullmatch(name.decode())[1]) for name in names])
    if numbers.min() < 1 or numbers.max() > len(wnids):
        raise ValueError(f"{devkit} has labels for pictures 1 to {len(wnids)}, the archive has others")
    return np.array([label_of[wnid] for wnid in wnids])[numbers - 1]


def _index(path: str, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(names, offsets in the archive, sizes in bytes) of all pictures, from the file beside the archive if it is of it."""
    state, beside = os.stat(path), f"{path}.index.npz"
    stamp = np.array([state.st_size, state.st_mtime_ns])
    with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile), open(beside, "rb") as file:
        known = np.load(file)  # allow_pickle is off
        if np.array_equal(known["stamp"], stamp):
            return known["names"], known["offsets"], known["sizes"]
    try:
        with open(path, "rb") as raw:
            found = list(_train_pictures(raw) if split == "train" else _pictures(raw, 0, state.st_size, VAL_NAME))
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}: {error}): an incomplete or damaged download, or another "
            "archive; download it again"
        ) from error
    names, offsets, sizes = (np.array(column) for column in zip(*found, strict=True)) if found else [np.empty(0)] * 3
    with suppress(OSError), replacing(Path(beside)) as file:
        np.savez(file, stamp=stamp, names=names, offsets=offsets, sizes=sizes)
    return names, offsets, sizes


def _train_pictures(raw: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    for name, start, size in _members(raw, 0, os.fstat(raw.fileno()).st_size):
        if not re.fullmatch(r"n\d{8}\.tar", name):
            raise tarfile.ReadError(f"{name} is not <WordNet id>.tar")
        for picture in _pictures(raw, start, start + size, TRAIN_NAME):
            if picture[0][:9] != name[:9].encode():
                raise tarfile.ReadError(f"{picture[0].decode()} lies in {name}")
            yield picture


def _pictures(raw: BinaryIO, start: int, end: int, pattern: re.Pattern) -> Iterator[tuple[bytes, int, int]]:
    for name, offset, size in _members(raw, start, end):
        if not pattern.fullmatch(name):
            raise tarfile.ReadError(f"{name} is not named {pattern.pattern}")
        yield name.encode(), offset, size


def _members(raw: BinaryIO, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """(file name, offset, size) of the regular files of the uncompressed tar at `start` of a file, which ends at `end`."""
    raw.seek(start)
    tar = tarfile.TarFile(fileobj=raw)
    while (member := tar.next()) is not None:
        tar.members = []  # it keeps every header, a gigabyte for a million pictures
        if member.isreg():
            if member.offset_data + member.size > end:
                raise tarfile.ReadError(f"{member.name} goes beyond the end")
            yield os.path.basename(member.name), member.offset_data, member.size
    raw.seek(tar.offset)
    if raw.read(tarfile.BLOCKSIZE).strip(b"\0"):  # the library takes a bad header for the end
        raise tarfile.ReadError("bad header")
