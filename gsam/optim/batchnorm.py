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
    """Running statistics of one step: every group starts from the step's own, the new ones are the mean over groups and ranks.

    Without this a rank with several groups would update them once per group, and ranks would drift apart (DDP broadcasts
    no buffers when all passes run in `no_sync`).
    """

    def __init__(self, model: nn.Module):
        self.layers = [m for m in tracking(model) if m.training]
        self.buffers: list[Tensor] = [b for m in self.layers for b in (m.running_mean, m.running_var)]
        self.counts: list[Tensor] = [m.num_batches_tracked for m in self.layers if m.num_batches_tracked is not None]
        self.start: list[Tensor] = []
        self.start_counts: list[Tensor] = []
        self.sums: list[Tensor] = []

    def begin(self) -> None:
        self.start = [b.clone() for b in self.buffers]
        self.start_counts = [c.clone() for c in self.counts]
        self.sums = []

    def next_group(self) -> None:
        """Before every group but the first: bank this group's statistics, go back to the step's start."""
        self._bank()
        if self.buffers:
            torch._foreach_copy_(self.buffers, self.start)
        if self.counts:
            torch._foreach_copy_(self.counts, self.start_counts)

    def end(self, groups: int) -> None:
        """After the last group: the mean over this rank's groups stands in the model."""
        if groups > 1 and self.buffers:
            self._bank()
            torch._foreach_copy_(self.buffers, torch._foreach_div(self.sums, groups))

    def _bank(self) -> None:
        if not self.sums:
            self.sums = [b.clone() for b in self.buffers]
        else:
            torch._foreach_add_(self.sums, self.buffers)
