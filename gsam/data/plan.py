"""Which pictures a rank sees, in which order: pure functions shared by both backends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gsam.data import DataConfig, subset
from gsam.data.keyed import epoch_order


@dataclass
class Plan:
    """The batches of one rank; `indices` (int64, ascending) are the pictures of the split in use."""

    indices: np.ndarray
    batch_size: int
    rank: int
    world: int
    seed: int
    train: bool

    def __len__(self) -> int:
        """Batches per epoch of this rank."""
        if self.train:
            return len(self.indices) // (self.batch_size * self.world)
        return -(-len(self.indices[self.rank :: self.world]) // self.batch_size)

    def order(self, epoch: int, skip: int = 0) -> np.ndarray:
        """Picture indices of this rank in the order of its batches, int64, without the first `skip` batches."""
        if self.train:
            drawn = self.indices[epoch_order(self.seed, epoch, len(self.indices))]
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


def make_plan(data: DataConfig, n: int, *, batch_size: int, rank: int, world: int, seed: int, train: bool) -> Plan:
    """The plan of a split of `n` pictures. Raises ValueError if a limit is larger or a global batch does not fill."""
    key = "limit_train" if train else "limit_eval"
    limit = getattr(data, key)
    if limit is not None and limit > n:
        raise ValueError(f"data.{key}={limit} is more than the {n} pictures of the split; use null for all of them")
    plan = Plan(subset(n, limit), batch_size, rank, world, seed, train)
    if train and len(plan) == 0:
        raise ValueError(
            f"a global batch of {batch_size} x {world} ranks is more than the {len(plan.indices)} training pictures; "
            f"choose a smaller batch or a larger data.limit_train"
        )
    return plan
