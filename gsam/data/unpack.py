"""ImageNet's archives into class folders, and whether a root holds all of ImageNet."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gsam.data import SPLITS
from gsam.data.ilsvrc import ARCHIVES, COUNTS, DEVKIT, VAL_NAME, Archive, val_wnids
from gsam.data.sources import imagenet, layout

VAL_PER_CLASS = 50

Report = Callable[[str, int, int], None]
"""report(split, pictures done, pictures)"""


def unpack(archives: Path, split: str, to: Path, *, partial: bool, report: Report) -> bool:
    """<to>/<split>/<WordNet id>/<picture> from the archives in `archives`; False if the folder is there already, where
    validation pictures that lie side by side are moved into their classes (`sort_val`).

    The folder gets its name when it is whole, before it is <to>/.<split>.unpacking: a picture that is there in full size
    is kept, so that a run after a kill continues. partial: accept another number of pictures than the official one.
    Raises ValueError for a missing, incomplete or damaged archive and for too small a disk.
    """
    if (to / split).exists():
        if split == "val":
            sort_val(to / split, archives / DEVKIT, report)
        return False
    if not (archives / ARCHIVES[split]).is_file():
        raise ValueError(f"{archives / ARCHIVES[split]} is missing; download it from image-net.org (needs an account)")
    source = Archive(str(archives), split)
    if len(source) != COUNTS[split] and not partial:
        raise ValueError(
            f"{source.path} has {len(source):,} pictures, the official one {COUNTS[split]:,}: an incomplete or another "
            "archive; download it again, or add --partial"
        )
    folder = to / f".{split}.unpacking"
    folder.mkdir(parents=True, exist_ok=True)
    there = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    needed, free = int(source.sizes.sum()) - there, shutil.disk_usage(to).free
    if needed > free:
        raise ValueError(f"{to} has {free / 1e9:.1f} GB free, {split} needs {needed / 1e9:.1f} GB; choose another --to")
    for wnid in source.classes:
        (folder / wnid).mkdir(exist_ok=True)
    for index in range(len(source)):
        target = folder / source.classes[source.labels[index]] / source.names[index].decode()
        if not (target.exists() and target.stat().st_size == source.sizes[index]):
            target.write_bytes(source.content(index))
        report(split, index + 1, len(source))
    os.sync()  # a final name means that all of it is on the disk
    folder.rename(to / split)
    return True


def sort_val(folder: Path, devkit: Path, report: Report) -> int:
    """Move the pictures ILSVRC2012_val_*.JPEG that lie in `folder` itself into folders of their classes: how many.

    One rename per picture, so that a run after a kill continues. Raises ValueError for a picture without a label, and for
    a devkit that is missing or not the official one.
    """
    numbers = {file.name: int(match[1]) for file in folder.iterdir() if (match := VAL_NAME.fullmatch(file.name))}
    if not numbers:
        return 0
    wnids = val_wnids(devkit)
    for name, number in numbers.items():
        if not 1 <= number <= len(wnids):
            raise ValueError(f"{folder / name}: {devkit} has labels for pictures 1 to {len(wnids)}; remove it")
    for wnid in set(wnids):
        (folder / wnid).mkdir(exist_ok=True)
    for done, (name, number) in enumerate(sorted(numbers.items()), start=1):
        (folder / name).rename(folder / wnids[number - 1] / name)
        report("val", done, len(numbers))
    return len(numbers)


def check(root: Path, split: str) -> list[str]:
    """What a split in `root`, in any layout, lacks of ImageNet-1k; nothing if it is whole. Counts, decodes no picture."""
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is not one of {', '.join(SPLITS)}")
    try:
        source = imagenet(str(root), split)
    except ValueError as error:
        return [str(error)]
    problems, where = [], f"{split} in {root} ({layout(str(root), split)})"
    if len(source) != COUNTS[split]:
        problems.append(f"{where} has {len(source):,} pictures, ImageNet-1k has {COUNTS[split]:,}")
    each = np.bincount(source.labels, minlength=len(source.classes))
    if split == "val" and (each != VAL_PER_CLASS).any():
        worst = int(np.argmax(np.abs(each - VAL_PER_CLASS)))
        problems.append(
            f"{where}: {(each != VAL_PER_CLASS).sum()} classes do not have {VAL_PER_CLASS} pictures, "
            f"{source.classes[worst]} has {each[worst]}"
        )
    return problems
