"""CIFAR-10, CIFAR-100, Oxford Flowers-102 and Oxford-IIIT Pets, as torchvision lays them out. Nothing is downloaded
unasked.

CIFAR's files are Python pickles. torchvision compares their MD5 with the published ones before it opens one, and that
alone makes it safe: what is unpickled are the authors' bytes, whoever they came from.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from gsam.data.sources import read_rgb

# Flowers: train is the official one of 1,020 pictures, without the official val, as big_vision's transfer has it.
SPLITS = {
    "CIFAR10": {"train": {"train": True}, "val": {"train": False}},
    "CIFAR100": {"train": {"train": True}, "val": {"train": False}},
    "Flowers102": {"train": {"split": "train"}, "val": {"split": "test"}},
    "OxfordIIITPet": {"train": {"split": "trainval"}, "val": {"split": "test"}},
}
"""What our two splits are in torchvision's words; val is always the official test split."""


class Cifar:
    """See gsam.data.sources.Source. Not `in_memory`: enlarging to 224 pixels is work for the workers."""

    in_memory = False

    def __init__(self, dataset: Any, where: str) -> None:
        self.classes, self.where = tuple(dataset.classes), where
        self.pixels, self.labels = np.ascontiguousarray(dataset.data), np.array(dataset.targets, np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.pixels[index], int(self.labels[index])

    def describe(self, index: int) -> str:
        return f"{self.where}[{index}]"


class Files:
    """Flowers and Pets; see gsam.data.sources.Source."""

    in_memory = False

    def __init__(self, classes: list[str], paths: list[Any], labels: list[int]) -> None:
        self.classes, self.labels = tuple(classes), np.array(labels, np.int64)
        self.paths = [str(path) for path in paths]
        self.names = np.array([os.fsencode(os.path.basename(path)) for path in self.paths])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return read_rgb(self.paths[index]), int(self.labels[index])

    def describe(self, index: int) -> str:
        return self.paths[index]


def cifar10(root: str, split: str) -> Cifar:
    return Cifar(_open("CIFAR10", root, split), f"{root}, CIFAR-10 {split}")


def cifar100(root: str, split: str) -> Cifar:
    return Cifar(_open("CIFAR100", root, split), f"{root}, CIFAR-100 {split}")


def flowers102(root: str, split: str) -> Files:
    dataset = _open("Flowers102", root, split)
    return Files(dataset.classes, dataset._image_files, dataset._labels)


def pets(root: str, split: str) -> Files:
    dataset = _open("OxfordIIITPet", root, split)
    return Files(dataset.classes, dataset._images, dataset._labels)


def cifar10_classes(root: str, split: str) -> tuple[str, ...]:
    return tuple(_open("CIFAR10", root, "val").classes)  # of the smaller split: it is read whole


def cifar100_classes(root: str, split: str) -> tuple[str, ...]:
    return tuple(_open("CIFAR100", root, "val").classes)


def flowers102_classes(root: str, split: str) -> tuple[str, ...]:
    return tuple(_open("Flowers102", root, split).classes)


def pets_classes(root: str, split: str) -> tuple[str, ...]:
    return tuple(_open("OxfordIIITPet", root, split).classes)


def _open(name: str, root: str, split: str) -> Any:
    """torchvision's data set. Raises ValueError, with the command that fetches it, if it is not there or damaged."""
    from torchvision import datasets

    try:
        if not root:
            raise RuntimeError("no folder is named")
        return getattr(datasets, name)(root, **SPLITS[name][split])
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"data.root={root}: torchvision's {name} is not there, or a file is not the published one ({error}); fetch it "
            f"with `python -c \"from torchvision.datasets import {name}; {name}('{root or 'FOLDER'}', download=True)\"`"
        ) from error
