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
    # Of other modules (timm's EvoNorm, spectral_norm) and of InstanceNorm, which asks track_running_stats for nothing.
    frozen = {id(m) for m in layers if not isinstance(m, _InstanceNorm)}
    kept = [
        (m, name, b.clone())
        for m in model.modules()
        if m.training and id(m) not in frozen
        for name, b in m.named_buffers(recurse=False)
    ]
    try:
        for m in layers:
            m.track_running_stats = False
        yield
    finally:
        for m in layers:
            m.track_running_stats = True
        with torch.no_grad():
            for m, name, value in kept:
                m._buffers[name].copy_(value)


class BatchStats:
    """Running statistics of one step: every part of the batch (a group, a micro-batch of it) starts from the step's own,
    the new ones are the mean over parts and ranks.

    Without this a rank with several parts would update them once per part, with a larger effective momentum, and ranks would
    drift apart (DDP broadcasts no buffers when all passes run in `no_sync`).
    """

    def __init__(self, model: nn.Module):
        # By name: timm's EvoNorm, for one, has running statistics and is no torch norm.
        named = [(n, b) for m in model.modules() if m.training for n, b in m.named_buffers(recurse=False)]
        self.buffers: list[Tensor] = [b for n, b in named if n.startswith("running_")]
        self.counts: list[Tensor] = [b for n, b in named if n == "num_batches_tracked"]
        # Copies kept from step to step and written by one operation each: a ResNet-50 has a hundred buffers.
        self.before, self.start = ([b.clone() for b in [*self.buffers, *self.counts]] for _ in range(2))
        self.sums = [torch.empty_like(b) for b in self.buffers]
        self.parts = 0

    def begin(self) -> None:
        """At the start of a step."""
        self._mark()
        _copy(self.before, self.start)

    def undo(self, when: Tensor | None = None) -> None:
        """A step that is skipped leaves no trace: its forward passes may have been infinite. when: only where it is True,
        shape () on the device."""
        now = [*self.buffers, *self.counts]
        if when is None:
            _copy(now, self.before)
        else:
            _copy(now, [torch.where(when, a, b) for a, b in zip(self.before, now, strict=True)])

    def next_part(self) -> None:
        """Before every part but the first: bank the last one's statistics, go back to the step's start."""
        self._bank()
        _copy([*self.buffers, *self.counts], self.start)

    def end(self) -> None:
        """After the last part: the mean over this rank's parts stands in the model."""
        if self.parts and self.buffers:
            self._bank()
            _copy(self.buffers, torch._foreach_div(self.sums, self.parts))
        self._mark()

    def _mark(self) -> None:
        _copy(self.start, [*self.buffers, *self.counts])
        self.parts = 0

    def _bank(self) -> None:
        if not self.parts:
            _copy(self.sums, self.buffers)
        elif self.buffers:
            torch._foreach_add_(self.sums, self.buffers)
        self.parts += 1


def _copy(to: list[Tensor], of: list[Tensor]) -> None:
    for floating in (True, False):  # a list of mixed types would be copied one by one
        pairs = [(a, b) for a, b in zip(to, of, strict=True) if a.is_floating_point() is floating]
        if pairs:
            torch._foreach_copy_([a for a, _ in pairs], [b for _, b in pairs])
