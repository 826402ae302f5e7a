"""How the published sets lie on disk, and the labels of their pictures. Folder names decide a label, never their order."""

from __future__ import annotations

import importlib.resources
import json
import os
import re
from functools import cache

import numpy as np

from gsam.data.manifest import beton_path
from gsam.data.sources import IMAGENET, ImageFolder, Source, imagenet_synsets, same_classes

LAYOUTS = ("split", "wnid", "index", "corrupted")
CLASS_LISTS = {"imagenet_r": "ImageNet-R's 200", "imagenet_a": "ImageNet-A's 200"}
VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\b")
LEAST_AGREEMENT = 0.5  # between folders and ReaL's labels; about 0.9 on ImageNet, near 0 after a wrong join


def wnid_folders(root: str, classes: str | None) -> ImageFolder:
    """<root>/<WordNet id>/<picture>, label = place of the id among ImageNet's 1000.

    The folders must be those of all 1000, or of `classes` (a key of CLASS_LISTS). Raises ValueError beginning with
    "root=" if they are not, or if one is empty.
    """
    place = {wnid: label for label, wnid in enumerate(imagenet_synsets())}
    wanted = class_list(classes) if classes else tuple(place)
    _same(root, root, wanted, f"{CLASS_LISTS[classes]} (timm's list)" if classes else IMAGENET)
    return _folder(root, tuple(place), {wnid: place[wnid] for wnid in sorted(wanted)})


def index_folders(root: str) -> ImageFolder:
    """<root>/<0 to 999>/<picture>, ImageNet-V2's layout; the label is the NUMBER, though as text 10 sorts before 2.

    Raises ValueError beginning with "root=".
    """
    _same(root, root, [str(label) for label in range(1000)], "the numbers 0 to 999")
    return _folder(root, tuple(imagenet_synsets()), {str(label): label for label in range(1000)})


def corrupted_folders(root: str, corruption: str, severity: int, split: str, imagenet: bool) -> Source:
    """<root>/<corruption>/<severity>/<class>/<picture>: ImageNet-C's layout; or the same as <split>.beton instead of the
    class folders. imagenet: the classes must be the 1000.

    Raises ValueError beginning with "root=".
    """
    folder = os.path.join(root, corruption, str(severity))
    if os.path.exists(beton_path(folder, split)):
        from .betons import BetonCopies  # needs ffcv

        source = BetonCopies(folder, split)
        if imagenet:
            same_classes(f"root={root}", folder, list(source.classes), imagenet_synsets(), IMAGENET)
        return source
    classes = imagenet_synsets() if imagenet else _subfolders(root, folder)
    _same(root, folder, classes, IMAGENET)
    return _folder(root, tuple(classes), None, os.path.join(corruption, str(severity)))


def missing_copies(root: str, corruptions: list[str], severities: list[int]) -> list[str]:
    """The folders <corruption>/<severity> that are not there."""
    pairs = [f"{corruption}/{severity}" for corruption in corruptions for severity in severities]
    return [pair for pair in pairs if not os.path.isdir(os.path.join(root, pair))]


def class_list(name: str) -> tuple[str, ...]:
    """WordNet ids of a key of CLASS_LISTS, from timm, sorted."""
    return tuple(sorted(_timm_text(f"{name}_synsets.txt").split()))


def class_labels(name: str) -> np.ndarray:
    """Places of a class list among ImageNet's 1000, int64, ascending."""
    place = {wnid: label for label, wnid in enumerate(imagenet_synsets())}
    return np.array(sorted(place[wnid] for wnid in class_list(name)))


def real_labels(source: Source) -> np.ndarray:
    """ImageNet-ReaL's labels of ImageNet's validation pictures, int64 (N, L), filled up with -1; a row of -1 has none.

    Joined by the number in the file name (counted from 1), since the list follows file names and not folders. Raises
    ValueError for names without a number, a number met twice, and folders that contradict the labels.
    Source: Beyer et al. 2020, "Are we done with ImageNet?"; timm's imagenet_real_labels.json, 3,163 of 50,000 empty.
    """
    lists = _real_lists()
    numbers = np.array([_number(source.describe(i), len(lists)) for i in range(len(source))])
    if len(np.unique(numbers)) < len(numbers):
        raise ValueError("labels=real: a file number occurs twice; use ImageNet's validation pictures as published")
    found = lists[numbers - 1]
    labelled = (found >= 0).any(1)
    agreement = (found == source.labels[:, None])[labelled].any(1).mean() if labelled.any() else 1.0
    if agreement < LEAST_AGREEMENT:
        raise ValueError(
            f"labels=real: ReaL's labels name the folder of {agreement:.0%} of the pictures, about 90 % are usual: files were "
            "renumbered or lie in the folders of other classes; unpack ImageNet's validation set again"
        )
    return found


@cache
def _real_lists() -> np.ndarray:
    lists = json.loads(_timm_text("imagenet_real_labels.json"))
    found = np.full((len(lists), max(map(len, lists))), -1)
    for row, labels in zip(found, lists, strict=True):
        row[: len(labels)] = labels
    return found


def _number(path: str, most: int) -> int:
    match = VAL_NAME.match(os.path.basename(path))
    if match is None or not 1 <= int(match[1]) <= most:
        raise ValueError(
            f"labels=real joins by file number, but {path} is not named ILSVRC2012_val_00000001 to _{most:08d}; use the "
            "published names"
        )
    return int(match[1])


def _folder(root: str, classes: tuple[str, ...], labels: dict[str, int] | None, inside: str = "") -> ImageFolder:
    try:
        return ImageFolder(root, inside, classes, labels)
    except ValueError as error:
        raise ValueError(str(error).removeprefix("data.")) from None


def _same(root: str, folder: str, wanted: list[str] | tuple[str, ...], whose: str) -> None:
    found = _subfolders(root, folder)
    try:
        same_classes(f"root={root}", folder, found, list(wanted), whose)
    except ValueError as error:
        raise ValueError(str(error) + _hint(folder, found, wanted)) from None


def _hint(folder: str, found: list[str], wanted: list[str] | tuple[str, ...]) -> str:
    """What the folders are instead, where they look like something known."""
    if len(found) == 1 and set(wanted) <= {entry.name for entry in os.scandir(os.path.join(folder, found[0]))}:
        return f". They are one folder further down: use {os.path.join(folder, found[0])}"
    if set(found) == {str(label) for label in range(1000)}:
        return ". Folders 0 to 999 are ImageNet-V2's: layout=index"
    if set(found) == set(imagenet_synsets()):
        return ". WordNet ids, as in old archives of ImageNet-V2: layout=wnid with classes=null reads them"
    known = [text for name, text in CLASS_LISTS.items() if set(found) == set(class_list(name))]
    return f". They are {known[0]}" if known else ""


def _subfolders(root: str, folder: str) -> list[str]:
    if not root or not os.path.isdir(folder):
        raise ValueError(f"root={root}: the folder {folder} does not exist; set the root to where the set lies")
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _timm_text(name: str) -> str:
    return importlib.resources.files("timm.data").joinpath("_info", name).read_text(encoding="utf-8")
