"""The pictures that an analysis looks at: a subset of a set chosen by hash, prepared for one model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gsam import data as gsam_data
from gsam.data import AugmentConfig, DataConfig, open_source
from gsam.data.checks import workers_of
from gsam.data.keyed import words
from gsam.eval.pictures import Clean, PictureLoader
from gsam.eval.preprocess import Preprocess
from gsam.runtime import Normalize

SUBSET_STREAM = 5  # of gsam.data.keyed.words; the streams below are augmentation's
IN_MEMORY = 1 << 31  # bytes of prepared pictures that are kept from pass to pass


class _Loader(Protocol):
    def epoch(self, epoch: int = 0, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass
class Pictures:
    """Called, it gives one pass of micro-batches: normalised float32 images (B, 3, S, S), labels (B,), on the device.

    set: "<data set>/<train, val or holdout>" · subset: 16 hex digits of which pictures · n: how many
    """

    set: str
    subset: str
    n: int
    loader: _Loader
    normalize: Normalize
    size: int
    kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __call__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.n * 3 * self.size**2 > IN_MEMORY:
            yield from map(self._ready, self.loader.epoch())
            return
        if not self.kept:
            self.kept = [(images.clone(), labels.clone()) for images, labels in self.loader.epoch()]
        yield from map(self._ready, self.kept)

    def _ready(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images, labels = batch
        return self.normalize(images), labels.to(self.normalize.device)


def of_run(
    data: DataConfig, augment: AugmentConfig, split: str, n: int | None, seed: int, *, batch_size: int,
    device: torch.device,
) -> Pictures:  # fmt: skip
    """Pictures of a run's own data (what `holdout` and `limit_train` leave), through its own backend and evaluation
    transform. n: None takes all. Raises ValueError if the set has fewer."""
    data = replace(data, limit_eval=data.limit_train if split == "train" else data.limit_eval)
    which = {"batch_size": batch_size, "rank": 0, "world": 1, "seed": 0, "train": False}
    whole = gsam_data.build_loader(data, augment, split, **which)
    used = whole.order()
    whole.close()
    part = "holdout" if split == "val" and data.holdout else split
    chosen = choose(used, n, seed, f"the {part} set of {data.name}")
    loader = gsam_data.build_loader(data, augment, split, **which, indices=chosen)
    normalize = Normalize(augment.mean, augment.std, device)
    identity = f"{gsam_data.identity(data)} {gsam_data.stored_split(data, split)}"
    return Pictures(f"{data.name}/{part}", _digest(identity, chosen), len(chosen), loader, normalize, augment.size)


def of_set(
    data: DataConfig, preprocess: Preprocess, split: str, n: int | None, seed: int, *, batch_size: int,
    device: torch.device,
) -> Pictures:  # fmt: skip
    """The same for weights that no run of this project made: pictures as they lie on disk, with the weights' own transform."""
    source = open_source(data.name, data.root, split)
    chosen = choose(np.arange(len(source)), n, seed, f"the {split} set of {data.name}")
    workers = 0 if data.workers is None and source.in_memory else workers_of(data)
    loader = PictureLoader(source, Clean(preprocess), indices=chosen, batch_size=batch_size, workers=workers)
    normalize = Normalize(preprocess.mean, preprocess.std, device)
    identity = f"{gsam_data.identity(replace(data, backend=gsam_data.Backend.folder))} {split}"
    return Pictures(f"{data.name}/{split}", _digest(identity, chosen), len(chosen), loader, normalize, preprocess.size)


def choose(indices: np.ndarray, n: int | None, seed: int, whose: str) -> np.ndarray:
    """The `n` of `indices` (int64) with the smallest hash of (seed, index), in the order of the hash: 1,000 are the first of
    2,000, and neighbours are not of one class. Raises ValueError for an n that is not there."""
    count = len(indices) if n is None else n
    if not 1 <= count <= len(indices):
        raise ValueError(f"n={n}: {whose} has {len(indices):,} pictures; choose 1 to {len(indices)}, or n=null for all")
    high, low, _, _ = words(seed, 0, np.asarray(indices, np.int64), 0, SUBSET_STREAM)
    return indices[np.lexsort((low, high))[:count]]


def _digest(identity: str, chosen: np.ndarray) -> str:
    return hashlib.sha256(identity.encode() + chosen.astype("<i8").tobytes()).hexdigest()[:16]
