"""Which pictures a rank sees, in which order: pure functions shared by both backends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gsam.data import DataConfig, Order, subset
from gsam.data.order import drawn

HOLDOUT_SEED = 1  # of the permutations whose first entries holdout takes


@dataclass
class Plan:
    """The batches of one rank; `indices` (int64) are the pictures of the split in use."""

    indices: np.ndarray
    batch_size: int
    rank: int
    world: int
    seed: int
    train: bool
    kind: Order = Order.random

    def __len__(self) -> int:
        """Batches per epoch of this rank."""
        if self.train:
            return len(self.indices) // (self.batch_size * self.world)
        return -(-len(self.indices[self.rank :: self.world]) // self.batch_size)

    def drawn(self, epoch: int) -> np.ndarray:
        """Picture indices of a training epoch over all ranks, int64."""
        return self.indices[drawn(self.kind, self.seed, epoch, len(self.indices))]

    def order(self, epoch: int, skip: int = 0) -> np.ndarray:
        """Picture indices of this rank in the order of its batches, int64, without the first `skip` batches."""
        if self.train:
            drawn = self.drawn(epoch)
            blocks = drawn[: len(self) * self.batch_size * self.world].reshape(len(self), self.world, self.batch_size)
            mine = blocks[:, self.rank].reshape(-1)
        else:
            mine = self.indices[self.rank :: self.world]
        return mine[skip * self.batch_size :]

    def batches(self, epoch: int, skip: int = 0) -> Iterator[np.ndarray]:
        """The same in pieces of a batch."""
        order = self.order(epoch, skip)
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]


def held_out(labels: np.ndarray, fraction: float) -> np.ndarray:
    """Which pictures of the training split `fraction` holds out: bool, of the shape of `labels` (int64 (N,)).

    Drawn class by class (the last 1 % of a folder would be one class), the same for every seed and backend; of a
    larger fraction those of a smaller one are part. Raises ValueError if a class would have nothing left to train on.
    """
    held = np.zeros(len(labels), bool)
    if fraction == 0:
        return held
    by_class = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[by_class], prepend=-1))
    for members in np.split(by_class, starts[1:]):
        label, count = int(labels[members[0]]), max(1, round(fraction * len(members)))
        if count >= len(members):
            raise ValueError(
                f"data.holdout={fraction} leaves no picture of class {label} to train on, it has {len(members)}; "
                "choose a smaller fraction, or 0"
            )
        held[members[np.random.default_rng([HOLDOUT_SEED, label]).permutation(len(members))[:count]]] = True
    return held


def make_plan(
    data: DataConfig,
    labels: np.ndarray,
    split: str,
    *,
    batch_size: int,
    rank: int,
    world: int,
    seed: int,
    train: bool,
    indices: np.ndarray | None = None,
) -> Plan:
    """The plan of `split`, where `labels` are those of the stored split (gsam.data.stored_split), int64 (N,).

    indices: see gsam.data.build_loader.

    Raises ValueError if a limit is larger, a class is all held out, or a global batch does not fill.
    """
    if indices is not None:
        return Plan(indices, batch_size, rank, world, seed, train)
    held = held_out(labels, data.holdout)
    part = np.flatnonzero(held if data.holdout and split == "val" else ~held)
    n = len(part)
    key = "limit_train" if train else "limit_eval"
    limit = getattr(data, key)
    if limit is not None and limit > n:
        raise ValueError(f"data.{key}={limit} is more than the {n} pictures of the split; use null for all of them")
    plan = Plan(part[subset(n, limit)], batch_size, rank, world, seed, train, data.order)
    if train and len(plan) == 0:
        raise ValueError(
            f"a global batch of {batch_size} x {world} ranks is more than the {len(plan.indices)} training pictures; "
            f"choose a smaller batch or a larger data.limit_train"
        )
    return plan
