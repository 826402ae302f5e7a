"""Leaving cleanly: a signal to any rank ends the run after the step in work, on all ranks, with a checkpoint."""

import signal
import threading
import time
from types import FrameType

import torch
import torch.distributed as dist

from gsam.runtime import Runtime, patience

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
AGAIN_S = 5.0  # a scheduler and torchrun each send the same signal to every rank: one wish, not two


class Signals:
    """As a context it takes SIGTERM, SIGINT and SIGUSR1. `asked()` is collective, and so is leaving the context without an
    error. A second signal, AGAIN_S seconds after the first or later, has its usual effect."""

    def __init__(self, runtime: Runtime):
        self.number, self.since, self.work = 0, 0.0, None
        # Ranks hear of a signal at different times. On the CPU, so that nothing waits for the GPU.
        self.group = dist.new_group(backend="gloo", timeout=patience()) if runtime.world > 1 else None
        self.before: dict[int, object] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._take) or signal.SIG_DFL for number in SIGNALS}
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self.group is None:
            for number, handler in self.before.items():
                signal.signal(number, handler)
            return
        # torchrun ends the others with SIGTERM as soon as one rank has left: none leaves before rank 0 has written, and
        # the signals stay taken for the little that is left to do.
        if kind is None:  # after an error others may never answer
            if self.work is not None:
                self.work.wait()
            dist.barrier(self.group)

    def _take(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.number:
            self.number, self.since = number, now
        elif now - self.since >= AGAIN_S:
            signal.signal(number, self.before[number])
            signal.raise_signal(number)

    def asked(self) -> str | None:
        """The signal that some rank got, the same answer on every rank. Each call sends this rank's state, so that a signal
        is acted on one call after it was seen: the ranks need not wait for each other."""
        if self.group is None:
            return signal.Signals(self.number).name if self.number else None
        seen = 0
        if self.work is not None:
            self.work.wait()
            seen = int(self.state)
        self.state = torch.tensor(self.number)
        self.work = dist.all_reduce(self.state, dist.ReduceOp.MAX, self.group, async_op=True)
        return signal.Signals(seen).name if seen else None
