"""Exact counting of a classifier's errors and of its calibration, over any number of ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ECE_BINS = 15


@dataclass
class Metrics:
    """What one evaluation measured, over all ranks.

    n: images counted · top1, top5: fractions 0-1 (top5 is top-min(5, K) for K classes) ·
    nll: mean negative log likelihood in nats · ece: expected calibration error, fraction 0-1.
    """

    n: int
    top1: float
    top5: float
    nll: float
    ece: float


class Outcomes(NamedTuple):
    """How each picture of a batch came out."""

    correct: Tensor
    """bool (B,)"""
    in_top5: Tensor
    """bool (B,)"""
    nll: Tensor
    """nats, float32 (B,)"""
    confidence: Tensor
    """largest probability, float32 (B,)"""
    top5: Tensor
    """classes by decreasing logit, int64 (B, min(5, C)) for C competing logits"""


def judge(logits: Tensor, labels: Tensor, columns: Tensor | None = None) -> Outcomes:
    """logits: (B, K) floating; labels: int64 (B, L), each row's classes filled up with -1, at least one in [0, K); columns:
    int64 (C,), the logits that compete, all labels among them; None: all K.

    A prediction is correct if it is one of the labels. With several labels NLL is that of the event "one of them", minus
    the logarithm of their summed probability: the usual one for one label, and 0 where all mass lies on the labels. A row
    that holds a NaN is wrong (argmax would otherwise answer class 0, say) and makes NLL and ECE NaN.
    """
    logits = logits.float()
    if columns is not None:
        logits = torch.full_like(logits, -math.inf).index_copy(1, columns, logits[:, columns])
    best = logits.topk(min(5, logits.shape[1] if columns is None else len(columns)), dim=1).indices
    hits = (best[:, :, None] == labels[:, None, :]).any(2) & ~logits.isnan().any(1, keepdim=True)
    log_probs = F.log_softmax(logits, dim=1)
    right = log_probs.gather(1, labels.clamp(min=0)).masked_fill(labels < 0, -math.inf)
    return Outcomes(hits[:, 0], hits.any(1), -right.logsumexp(1), log_probs.amax(1).exp(), best)


class Counter:
    """Sums over the outcomes of one evaluation; `result()` adds up the ranks and divides once.

    Every sum is kept in float64 on `device`, so nothing is copied to the host per batch and counts, which are whole numbers
    below 2**53, stay exact.

    NLL and ECE use the softmax of the logits, whatever loss the model was trained with. For a model trained with the
    sigmoid loss top-1 and top-5 are what they should be (both functions keep the order of the logits), but its NLL and
    ECE describe the softmax reading of its logits.

    ECE: 15 bins of equal width over the largest probability, right-closed; the mean over the images of
    |accuracy - confidence| of their bin. Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        device = torch.device(device)
        if device.type == "mps":  # has no float64
            device = torch.device("cpu")
        self._sums = torch.zeros(4, dtype=torch.float64, device=device)  # n, top-1, top-5, NLL
        self._bins = torch.zeros(3, ECE_BINS, dtype=torch.float64, device=device)  # images, correct, confidence

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count one batch. logits: (B, K) floating; labels: (B,) int64 in [0, K); see `judge` on NaN.

        Raises ValueError if the shapes do not fit together.
        """
        if logits.ndim != 2 or labels.shape != logits.shape[:1]:
            raise ValueError(
                f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not fit: "
                "the model must return (batch, classes) and the loader labels (batch,)"
            )
        self.add(judge(logits, labels[:, None]))

    def add(self, outcomes: Outcomes) -> None:
        """Count these pictures."""
        one = torch.ones_like(outcomes.correct)
        columns = [one, outcomes.correct, outcomes.in_top5, outcomes.nll]
        self._sums += torch.stack([column.double().sum() for column in self._home(columns)])

        bins = (outcomes.confidence.nan_to_num(1.0) * ECE_BINS).ceil().long().clamp(1, ECE_BINS) - 1
        # A product with one-hot rows, not scatter_add: the order of additions is then the same in every run.
        member = F.one_hot(bins, ECE_BINS).to(self._bins)
        columns = [one, outcomes.correct, outcomes.confidence]
        self._bins += torch.stack([column.double() for column in self._home(columns)]) @ member

    def _home(self, tensors: list[Tensor]) -> list[Tensor]:
        return [tensor.to(self._sums.device) for tensor in tensors]

    def result(self, over_ranks: bool = True) -> Metrics:
        """Add up the ranks (if torch.distributed is initialised: every rank must call) and return the Metrics.

        over_ranks False: what this rank has counted. Raises ValueError if no example was seen.
        """
        flat = torch.cat([self._sums, self._bins.flatten()])
        if over_ranks and torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(flat)
        sums, bins = flat[:4].tolist(), flat[4:].view(3, ECE_BINS)
        n = int(sums[0])
        if n == 0:
            raise ValueError("no example was seen: the evaluation loader is empty on every rank; check root and limit")
        ece = float((bins[1] - bins[2]).abs().sum()) / n
        return Metrics(n=n, top1=sums[1] / n, top5=sums[2] / n, nll=sums[3] / n, ece=ece)
