"""What counts as right: labels and competing logits of one set, over the pictures of one pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from .metrics import Counter, Metrics, Outcomes, judge


@dataclass
class Scoring:
    """labels: int64 (N, L) over the pictures of the source; right is a prediction among a row's labels, which are filled up
    with -1; a row of -1 is not scored. columns: int64 (C,), the logits that compete, with every label among them; None: all.
    """

    labels: Tensor
    columns: Tensor | None = None


@dataclass
class Scored:
    """metrics: over all ranks. predictions: a row per scored picture by increasing index, with the names and meanings of
    gsam.report.predictions."""

    metrics: Metrics
    predictions: dict[str, np.ndarray]


class Tally:
    """The outcomes of one Scoring on one rank. They stay on the device until `result`: no batch waits for a copy."""

    def __init__(self, scoring: Scoring, device: torch.device) -> None:
        self._labels = scoring.labels
        self._columns = None if scoring.columns is None else scoring.columns.to(device)
        self._indices: list[Tensor] = []
        self._outcomes: list[Outcomes] = []

    def add(self, logits: Tensor, indices: Tensor) -> None:
        """Logits (B, K) of the pictures `indices` of the source, int64 (B,) on the CPU."""
        labels = self._labels[indices]
        scored = (labels >= 0).any(1).nonzero()[:, 0]
        if len(scored) < len(indices):
            logits, labels, indices = logits[scored.to(logits.device)], labels[scored], indices[scored]
        self._indices.append(indices)
        self._outcomes.append(judge(logits, labels.to(logits.device), self._columns))

    def result(self) -> Scored:
        """Every rank must call. Metrics are summed over the pictures by index: they do not depend on the number of ranks.

        Raises ValueError if no picture was scored or one was counted twice.
        """
        mine = (torch.cat(self._indices), *map(torch.cat, zip(*self._outcomes, strict=True))) if self._indices else ()
        ranks = [arrays for arrays in _of_ranks(tuple(column.cpu().numpy() for column in mine)) if arrays]
        if not sum(len(indices) for indices, *_ in ranks):
            raise ValueError("none of the pictures is scored: none has a label of the set; raise its limit")
        indices, *outcomes = (torch.from_numpy(np.concatenate(parts)) for parts in zip(*ranks, strict=True))
        order = indices.argsort()
        indices, outcomes = indices[order], Outcomes(*(column[order] for column in outcomes))
        if (indices[1:] == indices[:-1]).any():
            raise ValueError("the loader gave a picture twice: over all ranks each must come once, with no padding")
        counter = Counter()
        counter.add(outcomes)
        labels = self._labels[indices]
        single = (labels >= 0).sum(1) == 1
        columns = {
            "index": indices,
            "label": torch.where(single, labels.amax(1), -1),
            "correct": outcomes.correct,
            "top5": outcomes.top5,
            "nll": outcomes.nll,
        }
        return Scored(counter.result(over_ranks=False), {name: column.numpy() for name, column in columns.items()})


def _of_ranks(mine: tuple[np.ndarray, ...]) -> list[tuple[np.ndarray, ...]]:
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    found: list = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found
