"""The training's batches, one epoch after the other."""

from collections.abc import Iterator
from contextlib import closing

import torch

from gsam.data import Loader
from gsam.train.stepper import Batch


def stream(loader: Loader, step: int, count: int, keys: bool) -> Iterator[list[Batch]]:
    """The `count` batches of each step from `step` on; copies where they are several, as the loader reuses its buffers.
    keys: each also has (epoch, index) of its pictures, int64 (B, 2), from which their augmentation is drawn."""
    with closing(_batches(loader, step * count, keys)) as batches:
        while True:
            found = [next(batches)]
            while len(found) < count:
                found[-1] = tuple(t.clone() for t in found[-1])
                found.append(next(batches))
            yield found


def _batches(loader: Loader, position: int, keys: bool) -> Iterator[Batch]:
    """Every batch from number `position` of the whole training on."""
    epoch, skip = divmod(position, loader.batches_per_epoch)
    while True:
        yield from _with_keys(loader, epoch, skip) if keys else loader.epoch(epoch, skip)
        epoch, skip = epoch + 1, 0


def _with_keys(loader: Loader, epoch: int, skip: int) -> Iterator[Batch]:
    order, start = torch.from_numpy(loader.order(epoch, skip)), 0
    with closing(loader.epoch(epoch, skip)) as batches:
        for images, labels in batches:
            indices = order[start : start + len(labels)]
            start += len(labels)
            yield images, labels, torch.stack([torch.full_like(indices, epoch), indices], dim=1)
