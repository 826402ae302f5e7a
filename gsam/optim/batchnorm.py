"""BatchNorm's running statistics under several passes, groups and ranks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # BatchNorm1-3d, SyncBatchNorm, InstanceNorm, timm's BatchNormAct2d
from torch.nn.modules.instancenorm import _InstanceNorm


def tracking(model: nn.Module) -> list[_NormBase]:
    return [m for m in model.modules() if isinstance(m, _NormBase) and m.track_running_stats]


@contextmanager
def second_pass(model: nn.Module) -> Iterator[None]:
    """The perturbed pass normalises with its own batch as usual but leaves the running statistics alone.

    `momentum = 0`, the usual recipe, would still count `num_batches_tracked`, and disabling twice would lose the value.
    """
    layers = [m for m in tracking(model) if m.training]
    # InstanceNorm updates its statistics whatever track_running_stats says.
    kept = [(b, b.clone()) for m in layers if isinstance(m, _InstanceNorm) for b in m.buffers()]
    try:
        for m in layers:
            m.track_running_stats = False
        yield
    finally:
        for m in layers:
            m.track_running_stats = True
        for buffer, value in kept:
            buffer.copy_(value)


class BatchStats:
    """Running statistics of one step: every part of the batch (a group, a micro-batch of it) starts from the step's own,
    the new ones are the mean over parts and ranks.

    Without this a rank with several parts would update them once per part, with a larger effective momentum, and ranks would
    drift apart (DDP broadcasts no buffers when all passes run in `no_sync`).
    """

    def __init__(self, model: nn.Module):
        self.layers = [m for m in tracking(model) if m.training]
        self.buffers: list[Tensor] = [b for m in self.layers for b in (m.running_mean, m.running_var)]
        self.counts: list[Tensor] = [m.num_batches_tracked for m in self.layers if m.num_batches_tracked is not None]
        self.before: list[Tensor] = []
        self.start: list[Tensor] = []
        self.start_counts: list[Tensor] = []
        self.sums: list[Tensor] = []
        self.parts = 0

    def begin(self) -> None:
        """At the start of a step."""
        self._mark()
        self.before = [*self.start, *self.start_counts]

    def undo(self) -> None:
        """A step that is skipped leaves no trace: its forward passes may have been infinite."""
        for buffer, value in zip([*self.buffers, *self.counts], self.before, strict=True):
            buffer.copy_(value)

    def next_part(self) -> None:
        """Before every part but the first: bank the last one's statistics, go back to the step's start."""
        self._bank()
        if self.buffers:
            torch._foreach_copy_(self.buffers, self.start)
        if self.counts:
            torch._foreach_copy_(self.counts, self.start_counts)

    def end(self) -> None:
        """After the last part: the mean over this rank's parts stands in the model."""
        if self.parts and self.buffers:
            self._bank()
            torch._foreach_copy_(self.buffers, torch._foreach_div(self.sums, self.parts))
        self._mark()

    def _mark(self) -> None:
        self.start = [b.clone() for b in self.buffers]
        self.start_counts = [c.clone() for c in self.counts]
        self.sums, self.parts = [], 0

    def _bank(self) -> None:
        self.parts += 1
        if not self.sums:
            self.sums = [b.clone() for b in self.buffers]
        else:
            torch._foreach_add_(self.sums, self.buffers)
