"""Image data: configuration, the table of data sets, and loaders that give the same crops on any number of ranks and
workers.

    loader = build_loader(data, augment, "train", batch_size=64, rank=0, world=1, seed=0, train=True)
    for images, labels in loader.epoch(0): ...      # uint8 (B, 3, H, W), int64 (B,)

Two backends draw the same boxes and flips: `ffcv` (one .beton file per split) and `folder` (pictures as they are,
PIL). They are imported when a loader is built, so this module costs nothing and needs neither ffcv nor Pillow.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from torch import Tensor

from gsam.data.augment_config import AugmentConfig
from gsam.data.augment_config import Crop as Crop
from gsam.data.augment_config import Filter as Filter
from gsam.data.augment_config import RandAugment as RandAugment

if TYPE_CHECKING:
    import numpy as np

    from gsam.data.sources import Source

SPLITS = ("train", "val")
LIMIT_SEED = 0  # of the permutation whose first entries limit_train and limit_eval keep


class Backend(Enum):
    """What reads the pictures."""

    ffcv = "ffcv"
    folder = "folder"


class Order(Enum):
    """Order of a training epoch; see gsam.data.order."""

    auto = "auto"
    random = "random"
    quasi_random = "quasi_random"


class OnBad(Enum):
    """What to do about a training picture that cannot be read."""

    stop = "stop"
    skip = "skip"


@dataclass
class DataConfig:
    """Where the pictures are and what reads them."""

    name: str = "imagenet"
    """Key of SOURCES."""
    backend: Backend = Backend.ffcv
    root: str = ""
    """Folder with train/<class>/ and val/<class>/, or with Fashion-MNIST's four .gz files."""
    ffcv_root: str | None = None
    """Folder of train.beton and val.beton; None: <root>/ffcv."""
    workers: int | None = None
    """Threads (ffcv) or processes (folder) per rank; None: this rank's share of the cores."""
    limit_train: int | None = None
    """Number of training pictures, the first of one fixed random order of the split; None: all."""
    limit_eval: int | None = None
    """The same for evaluation."""
    holdout: float = 0.0
    """Fraction of every training class, at least one picture of it, that leaves training and is evaluated instead of
    the validation split: for choosing settings without looking at it. 0: nothing.
    """
    order: Order = Order.auto
    """Of a training epoch. random: a permutation; quasi_random: near it, in blocks that a disk reads well; auto: train.py
    takes random where the file fits into memory. A loader built without it takes random for auto.
    """
    on_bad: OnBad = OnBad.stop
    """A training picture that cannot be read ends the training (stop), or another of its batch takes its place (skip)."""


class SourceInfo(NamedTuple):
    """A line of SOURCES."""

    factory: str  # module:function(root, split) -> gsam.data.sources.Source
    classes: (
        str  # module:function(root, split) -> class names, reading no picture; ValueError if the data are not there
    )
    preset: str  # of gsam.data.write.PRESETS, when none is named
    num_classes: int | None = None  # None: counted on disk
    automatic: bool = False  # small enough for prepare() to write its .beton files


_FOLDERS, _FASHION, _TORCHVISION = "gsam.data.sources:", "gsam.data.fashion_mnist:", "gsam.data.torchvision_sets:"
SOURCES = {
    "imagenet": SourceInfo(_FOLDERS + "imagenet", _FOLDERS + "imagenet_classes", "500_jpeg90", num_classes=1000),
    "imagefolder": SourceInfo(_FOLDERS + "imagefolder", _FOLDERS + "imagefolder_classes", "500_jpeg90"),
    "fashion_mnist": SourceInfo(
        _FASHION + "fashion_mnist", _FASHION + "fashion_mnist_classes", "raw", num_classes=10, automatic=True
    ),
    **{
        name: SourceInfo(_TORCHVISION + name, f"{_TORCHVISION}{name}_classes", preset, num_classes=classes)
        for name, preset, classes in (
            ("cifar10", "raw", 10),
            ("cifar100", "raw", 100),
            ("flowers102", "500_jpeg90", 102),
            ("pets", "500_jpeg90", 37),
        )
    },
}


class Loader(Protocol):
    """One split for one rank. Iterate through `epoch`."""

    num_examples: int
    """Pictures of the split in use, over all ranks."""
    num_classes: int
    batches_per_epoch: int
    """Of this rank. Training: num_examples // (batch_size * world); evaluation: this rank's pictures / batch_size,
    rounded up.
    """
    skipped: int
    """Bad pictures of this rank in whose place another one was given so far (data.on_bad=skip)."""

    def epoch(self, epoch: int = 0, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (images uint8 (B, 3, H, W), labels int64 (B,)) of one epoch, without the first `skip`, which are
        not even decoded.

        A batch is valid until the next one is asked for (buffers are reused): clone what must live longer, and start
        copies to a device on the stream that is current when the next batch is asked for. Closing the generator ends
        its threads. Raises RuntimeError for a picture that cannot be decoded, a dead worker, or a first batch that
        does not come.
        """
        ...

    def order(self, epoch: int = 0, skip: int = 0) -> np.ndarray:
        """Numbers of the pictures that `epoch` gives, in its order, int64: what everything random about them is drawn
        from.
        """
        ...

    def close(self) -> None:
        """End processes that stay between epochs."""
        ...


def build_loader(
    data: DataConfig,
    augment: AugmentConfig,
    split: str,
    *,
    batch_size: int,
    rank: int,
    world: int,
    seed: int,
    train: bool,
    indices: np.ndarray | None = None,
) -> Loader:
    """The loader of `split` ("train" or "val") for one rank; `batch_size` is per rank.

    train=True: the order of an epoch is a permutation drawn from (seed, epoch), the same on every rank and backend;
    of each global batch this rank takes its contiguous block; an incomplete last batch is dropped; crop and flip are
    drawn from (seed, epoch, index). train=False: pictures rank, rank + world, ... in order, each exactly once over
    the ranks, resized and centre-cropped; no randomness. indices: only these pictures of the stored split (int64, as
    `Loader.order` names them), in this order, for train=False. Raises ValueError when the data are missing or do not
    fit together, naming the key and the way out.
    """
    from gsam.data.keyed import MAX_SEED

    if split not in SPLITS:
        raise ValueError(f"split={split!r} is not one of {', '.join(SPLITS)}")
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed={seed} is outside 0 to {MAX_SEED}; choose a smaller one")
    if batch_size < 1 or not 0 <= rank < world:
        raise ValueError(
            f"batch_size={batch_size}, rank={rank}, world={world}: needs batch_size >= 1 and 0 <= rank < world"
        )
    _raise_first(check(data, augment))
    module = importlib.import_module("gsam.data.ffcv" if data.backend is Backend.ffcv else "gsam.data.folder")
    which = {"batch_size": batch_size, "rank": rank, "world": world, "seed": seed, "train": train, "indices": indices}
    return module.build(data, augment, split, **which)


def num_classes(data: DataConfig) -> int:
    """Number of classes of the data set. Raises ValueError when it must be counted and the data are not there."""
    known = SOURCES[data.name].num_classes
    if known is not None:
        return known
    if data.backend is Backend.ffcv:
        from gsam.data.manifest import read_manifest

        return len(read_manifest(ffcv_root(data), "train")["classes"])
    return len(class_names(data.name, data.root, "train"))


def open_source(name: str, root: str, split: str) -> Source:
    """The pictures of a split as (uint8 (H, W, 3) array, label) by index. Raises ValueError naming what is missing
    and where to get it.
    """
    return _call(name, "factory", root, split)


def class_names(name: str, root: str, split: str) -> tuple[str, ...]:
    """Class names in label order, without listing the pictures. Raises ValueError as `open_source`."""
    return _call(name, "classes", root, split)


def ffcv_root(data: DataConfig) -> str:
    """Folder of the .beton files."""
    return data.ffcv_root or os.path.join(data.root, "ffcv")


def subset(n: int, limit: int | None) -> np.ndarray:
    """Indices in use of a split of `n` pictures, ascending, int64: all, or the first `limit` of one fixed random
    permutation.

    The same for every seed and backend. Raises ValueError if limit > n.
    """
    import numpy as np

    if limit is None:
        return np.arange(n)
    if not 1 <= limit <= n:
        raise ValueError(f"limit={limit} is outside 1 to {n}, the size of the split; use null for all of it")
    return np.sort(np.random.default_rng(LIMIT_SEED).permutation(n)[:limit])


def stored_split(data: DataConfig, split: str) -> str:
    """The split whose pictures are read for `split`: with a held-out part both are in "train"."""
    return "train" if data.holdout else split


def identity(data: DataConfig) -> str | None:
    """16 hex digits of what the training data are (gsam.data.manifest.fingerprint). None where they are not at hand."""
    from gsam.data.manifest import fingerprint

    return fingerprint(data)


def prepare(data: DataConfig) -> list[str]:
    """Write missing .beton files, and those of an older format, of a small data set whose pictures are at hand; returns
    the splits written. Call on one process only.

    Only for SOURCES marked automatic (Fashion-MNIST, seconds); anything else is left to scripts/write_ffcv.py, which
    `check` names. Waits for another run that is doing it: those of a sweep start together.
    """
    from gsam.data.manifest import missing_splits

    if data.backend is not Backend.ffcv or not SOURCES[data.name].automatic:
        return []
    while missing := missing_splits(data):
        from gsam.data.write import Busy, write_dataset

        try:
            write_dataset(data.name, data.root, ffcv_root(data), splits=missing, workers=1, overwrite=True)
            return missing
        except Busy:
            time.sleep(0.5)
    return []


def check(data: DataConfig, augment: AugmentConfig, cores: int | None = None) -> Iterator[str]:
    """Every problem of this configuration, each as key, value, rule and way out. Cheap: reads no picture.

    cores: of the machine that will read the pictures; None: of this process.
    """
    from gsam.data.checks import augment_problems, data_problems

    yield from augment_problems(augment)
    if augment.filter is Filter.linear and data.backend is Backend.folder:
        yield "augment.filter=linear is for data.backend=ffcv: folder resizes with Pillow; set augment.filter=area"
    yield from data_problems(data, cores)


def _call(name: str, what: str, root: str, split: str):
    if name not in SOURCES:
        raise ValueError(f"data.name={name} is unknown; choose one of {', '.join(SOURCES)}")
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is not one of {', '.join(SPLITS)}")
    module, function = getattr(SOURCES[name], what).split(":")
    return getattr(importlib.import_module(module), function)(root, split)


def _raise_first(problems: Iterator[str]) -> None:
    for problem in problems:
        raise ValueError(problem)
