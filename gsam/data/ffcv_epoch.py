"""One epoch through FFCV that cannot hang, leak its thread or lose an error; and the decoder. Import:
ffcv_guard.load.
"""

from __future__ import annotations

import faulthandler
import queue
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numba
import numpy as np
import torch
from ffcv.loader import Loader, OrderOption
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.pipeline_spec import PipelineSpec

from gsam.data import ffcv_guard as guard
from gsam.data import ffcv_kernels as kernels

FIRST_BATCH_S = 300.0  # numba compiles in it, and a cold disk is read
NEXT_BATCH_S = 900.0
HUNG_CLOSE_S = 5.0  # a thread that gave no batch in time is waited for this long, then left behind
IMAGES, PARAMETERS, EXPECTED, STATUS = range(4)  # buffers of the decoder


class Decoder(Operation):
    """Hands FFCV a kernel of ffcv_kernels and asks for its buffers."""

    def __init__(self, kernel: Callable, size: int) -> None:
        super().__init__()
        self.kernel, self.size = kernel, size

    def declare_state_and_memory(self, previous_state: Any) -> tuple[Any, tuple[AllocationQuery, ...]]:
        shape = (self.size, self.size, 3)
        buffers = ((shape, "u1"), ((kernels.NUM_PARAMETERS,), "f8"), ((1,), "i8"), ((1,), "u1"))
        state = replace(previous_state, jit_mode=True, shape=shape, dtype=np.dtype("u1"))
        return state, tuple(AllocationQuery(size, np.dtype(kind)) for size, kind in buffers)

    def generate_code(self) -> Callable:
        return self.kernel


def open_loader(path: str, *, train: bool, size: int, batch_size: int, workers: int) -> Loader:
    """FFCV's loader over the pictures of a .beton file. Raises ValueError if FFCV cannot read it."""
    workers = min(workers, numba.config.NUMBA_NUM_THREADS)
    kernel = getattr(kernels, f"{'train' if train else 'eval'}_{'parallel' if workers > 1 else 'serial'}")
    with guard.precompiled():
        try:
            return Loader(
                path,
                batch_size=batch_size,
                num_workers=workers,
                os_cache=True,
                order=OrderOption.SEQUENTIAL,  # unused: each Epoch is given its order
                drop_last=False,
                pipelines={
                    "image": PipelineSpec("image", decoder=Decoder(kernel, size)),
                    "label": None,
                    "checksum": None,
                },
            )
        except (AssertionError, ValueError, IndexError, OSError) as error:
            raise ValueError(
                f"{path} is not a readable .beton file ({type(error).__name__}: {error}); write or copy it again"
            ) from error


class Epoch(EpochIterator):
    """Batches of `order` (sample numbers, uint64) in FFCV's ring of buffers: (uint8 (B, size, size, 3), status uint8 (B,)
    with kernels.GOOD for every picture that may be used).

    `values` (NUM_PARAMETERS,) go to the kernel. Always `close` it. FFCV's own loop loses exceptions, sets torch's
    threads and can block for ever when it is closed, so the loop is ours.
    """

    def __init__(self, loader: Loader, order: np.ndarray, values: np.ndarray) -> None:
        self.values = values
        self.error: BaseException | None = None
        self.hung = False
        self.held: int | None = None  # slot that the consumer is using
        self.device = torch.cuda.current_device() if torch.cuda.is_available() else None
        with guard.torch_threads_kept():
            super().__init__(loader, order)  # allocates, then calls start()

    def start(self) -> None:
        decoder = next(iter(self.loader.graph.root_nodes))
        self.buffers = self.memory_allocations["operation"][decoder.id]
        self.checksums = guard.stored(self.loader.reader, "checksum")
        self.buffers[PARAMETERS][:] = self.values  # the epoch's own: iterators of other epochs have other buffers
        self.slots = len(self.buffers[IMAGES])
        self.released = [torch.cuda.Event() for _ in range(self.slots)] if self.device is not None else None
        super().start()

    def run(self) -> None:
        try:
            if self.device is not None:
                torch.cuda.set_device(self.device)  # else the thread would open a context on GPU 0 in every rank
            numba.set_num_threads(self.loader.num_workers)
            for number, indices in enumerate(self.iter_ixes):
                slot = number % self.slots
                if self.released and number >= self.slots:
                    self.released[slot].synchronize()  # copies of this slot to the device have ended
                self.buffers[EXPECTED][slot, : len(indices), 0] = self.checksums[indices]
                (images,) = self.run_pipeline(number, indices, slot, None)
                if not self._put((slot, images)):
                    return
        except BaseException as error:
            self.error = error
        self._put(None)

    def _put(self, message: tuple[int, np.ndarray] | None) -> bool:
        """Queue a message; False if the epoch was closed meanwhile."""
        while not self.terminate_event.is_set():
            with suppress(queue.Full):
                self.output_queue.put(message, timeout=0.2)
                return True
        return False

    def __next__(self) -> tuple[np.ndarray, np.ndarray]:
        if self.released and self.held is not None:
            self.released[self.held].record()
        patience_s = FIRST_BATCH_S if self.held is None else NEXT_BATCH_S
        try:
            message = self.output_queue.get(timeout=patience_s)
        except queue.Empty:
            self.hung = True
            faulthandler.dump_traceback(all_threads=True)
            raise RuntimeError(
                f"FFCV gave no batch of {self.loader.fname} within {patience_s:.0f} s; the stacks of all threads are "
                "on stderr. A stalled disk or a hung compilation: try data.workers=1, or data.backend=folder"
            ) from None
        if message is None:
            if self.error is not None:
                raise RuntimeError(f"reading {self.loader.fname} failed: {self.error}") from self.error
            raise StopIteration
        self.held, images = message
        return images, self.buffers[STATUS][self.held, : len(images), 0]

    def close(self) -> None:
        """End the thread and free the buffers; a hung thread keeps its buffers, in which it may still write."""
        self.terminate_event.set()
        if self.is_alive():
            self.join(HUNG_CLOSE_S if self.hung else None)  # it looks at terminate_event after each batch
        if not self.closed and not self.is_alive():
            self.closed = True
            self.memory_context.__exit__(None, None, None)
