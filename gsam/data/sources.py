"""Sources: the pictures of a split by index, as uint8 RGB arrays. The folder backend and the FFCV writer read the
same ones. ImageNet and any other data set may lie in class folders or in Hugging Face's parquet files, ImageNet also in
its official archives.
"""

from __future__ import annotations

import importlib.resources
import os
from itertools import zip_longest
from typing import IO, Protocol

import numpy as np
from PIL import Image

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")
IMAGENET = "ImageNet's 1000 (timm's imagenet_synsets.txt)"


class Source(Protocol):
    """A map-style data set whose order never changes: where it is not that of its files, class by class, names sorted."""

    classes: tuple[str, ...]
    labels: np.ndarray
    """int64 (N,)."""
    in_memory: bool
    """No reading from disk per picture: worker processes would only cost time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """(uint8 (H, W, 3) RGB, label). Raises ValueError naming the picture if it cannot be decoded."""
        ...

    def describe(self, index: int) -> str:
        """The picture's file, for messages."""
        ...


class ImageFolder:
    """<root>/<split>/<class>/<picture>; the label is the position of the class among the sorted folder names.

    labels: folder name -> label, where that is not so; the pictures come in its order.
    """

    in_memory = False

    def __init__(self, root: str, split: str, classes: tuple[str, ...], labels: dict[str, int] | None = None) -> None:
        self.folder = os.path.join(root, split)
        self.classes = classes
        self._folders = tuple(labels or classes)
        names: list[bytes] = []
        counts = []
        for name in self._folders:
            found = _pictures(os.path.join(self.folder, name))
            if not found:
                raise ValueError(
                    f"data.root={root}: {os.path.join(self.folder, name)} holds no picture; "
                    "fill the folder or remove the class"
                )
            names += [os.fsencode(picture) for picture in found]
            counts.append(len(found))
        # One fixed-width array: a million str objects would be copied into every worker, page by page, as they are
        # counted.
        self.names = np.array(names)
        self._folder = np.repeat(np.arange(len(counts)), counts)
        self.labels = np.fromiter(labels.values(), np.int64)[self._folder] if labels else self._folder

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return read_rgb(self.describe(index)), int(self.labels[index])

    def describe(self, index: int) -> str:
        return os.path.join(self.folder, self._folders[self._folder[index]], os.fsdecode(self.names[index]))


def imagefolder(root: str, split: str) -> Source:
    """Any data set in ImageNet's layout or in parquet files. Raises ValueError as `imagefolder_classes`, and for a class
    without pictures.
    """
    classes = imagefolder_classes(root, split)
    if layout(root, split) == "parquet":
        from gsam.data.parquet import Parquet

        return Parquet(root, split, classes)
    return ImageFolder(root, split, classes)


def imagefolder_classes(root: str, split: str) -> tuple[str, ...]:
    """The class folders, sorted, or the names that the parquet files give. Raises ValueError if they are not there or
    train and val have different ones, or the same in another order.
    """
    other = "val" if split == "train" else "train"
    layouts, classes = {layout(root, split), layout(root, other)}, _names(root, split)
    if layout(root, other) != "parquet" and not os.path.isdir(os.path.join(root, other)):
        return tuple(classes)
    theirs = _names(root, other)
    if "parquet" not in layouts:
        same_classes(
            f"data.root={root}", os.path.join(root, split), classes, theirs, f"those of {os.path.join(root, other)}"
        )
    for label, (mine, its) in enumerate(zip_longest(classes, theirs)):
        if mine != its:
            raise ValueError(
                f"data.root={root}: label {label} of {split} is class {mine}, of {other} it is {its}: a label must mean the "
                "same in both; use both splits of one data set, or unpack both into class folders"
            )
    return tuple(classes)


def imagenet(root: str, split: str) -> Source:
    """ImageNet-1k. Raises ValueError as `imagenet_classes`, and for a class without pictures."""
    found = layout(root, split)
    if found == "archive":
        from gsam.data.ilsvrc import Archive

        return Archive(root, split)
    if found == "parquet":
        from gsam.data.parquet import imagenet

        return imagenet(root, split)
    return ImageFolder(root, split, imagenet_classes(root, split))


def imagenet_classes(root: str, split: str) -> tuple[str, ...]:
    """The class folders, which must be exactly the 1000 of timm's list: then a label means what it means to any
    ImageNet model. Archives and parquet files are compared with it when they are opened.
    """
    if layout(root, split) != "folders":
        return tuple(imagenet_synsets())
    classes = _class_folders(root, split)
    same_classes(f"data.root={root}", os.path.join(root, split), classes, imagenet_synsets(), IMAGENET)
    return tuple(classes)


def imagenet_synsets() -> list[str]:
    """The 1000 WordNet ids of ImageNet-1k in label order (sorted), from timm."""
    text = importlib.resources.files("timm.data").joinpath("_info/imagenet_synsets.txt").read_text(encoding="utf-8")
    return text.split()


def layout(root: str, split: str) -> str:
    """How the split lies in `root`: folders, archive or parquet; folders where there is nothing."""
    from gsam.data import ilsvrc, parquet

    folder = os.path.join(root, split)
    if not root or os.path.isdir(folder) and not any(name.endswith(".parquet") for name in os.listdir(folder)):
        return "folders"
    if os.path.isfile(os.path.join(root, ilsvrc.ARCHIVES.get(split, ""))):
        return "archive"
    return "parquet" if parquet.files(root, split) else "folders"


def read_rgb(file: str | IO[bytes], name: str | None = None) -> np.ndarray:
    """A picture as uint8 (H, W, 3) RGB, from a file by its path, or opened and with a name for messages.

    Grey, CMYK, palette and alpha pictures are converted. Raises ValueError naming the file.
    """
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, DecompressionBombError, ...
        raise ValueError(
            f"{name or file} cannot be decoded ({type(error).__name__}: {error}); replace or remove the file"
        ) from error


def _names(root: str, split: str) -> list[str]:
    """Of a split's classes by label: of its parquet files or class folders."""
    if layout(root, split) == "parquet":
        from gsam.data.parquet import class_names

        return list(class_names(root, split))
    return _class_folders(root, split)


def _class_folders(root: str, split: str) -> list[str]:
    folder = os.path.join(root, split)
    if not root or not os.path.isdir(folder):
        raise ValueError(
            f"data.root={root}: the folder {folder or split} does not exist; "
            "set data.root to a folder with train/<class>/ and val/<class>/, parquet files or ImageNet's archives"
        )
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise ValueError(f"data.root={root}: {folder} has no class folders; pictures belong into {folder}/<class>/")
    return classes


def same_classes(at: str, folder: str, found: list[str], wanted: list[str], whose: str) -> None:
    """Raises ValueError, which begins with `at`, unless the class folders `found` in `folder` are the `wanted` ones."""
    extra, missing = sorted(set(found) - set(wanted)), sorted(set(wanted) - set(found))
    if extra or missing:
        listed = [
            f"{len(names)} {word} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
            for word, names in (("too many", extra), ("missing", missing))
            if names
        ]
        raise ValueError(
            f"{at}: the class folders of {folder} are not {whose}: {'; '.join(listed)}; "
            "remove or add these folders, labels would be shifted"
        )


def _pictures(folder: str) -> list[str]:
    """File names below `folder`, sorted, relative to it."""
    found = []
    for where, _, files in os.walk(folder):
        inside = os.path.relpath(where, folder)
        found += [
            name if inside == "." else os.path.join(inside, name) for name in files if name.lower().endswith(EXTENSIONS)
        ]
    return sorted(found)
