"""FFCV 1.0.2, made safe to live with: import and construction leave torch's threads alone, kernels are compiled once
per machine, and an epoch cannot hang, leak its thread or lose an error. Nothing of FFCV is patched; this module alone
knows its internals.
"""

from __future__ import annotations

import faulthandler
import hashlib
import os
import queue
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module, metadata
from importlib.util import find_spec

import torch

VERSION = "1.0.2"
FIRST_BATCH_S = 300.0  # numba compiles in it, and a cold disk is read
NEXT_BATCH_S = 900.0


def kernels() -> types.ModuleType:
    """gsam.data.ffcv_kernels, imported such that numba caches its machine code on disk. Raises ValueError for another
    FFCV than 1.0.2.
    """
    require_version()
    if "gsam.data.ffcv_kernels" in sys.modules:
        return sys.modules["gsam.data.ffcv_kernels"]
    with torch_threads_kept():  # importing ffcv sets them to 1
        import numba

        if numba.config.THREADING_LAYER == "default":
            # numba's own work queue aborts the process as soon as two loaders run, such as evaluation inside an epoch.
            numba.config.THREADING_LAYER = "threadsafe"
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = cache_dir()  # read when a kernel is defined
        try:
            return import_module("gsam.data.ffcv_kernels")
        finally:
            numba.config.CACHE_DIR = before


def require_version() -> None:
    """Raises ValueError for another FFCV than 1.0.2."""
    installed = metadata.version("ffcv")
    if installed != VERSION:
        raise ValueError(
            f"ffcv {installed} is installed, this code is written for {VERSION}; "
            "run scripts/setup.sh, or set data.backend=folder"
        )


def cache_dir() -> str:
    """Folder of the compiled kernels: $NUMBA_CACHE_DIR, else $XDG_CACHE_HOME/gsam/numba, else ~/.cache/gsam/numba.

    Below it one folder per source text: numba looks at the changes of one file, but the kernels include functions of
    others. Safe for several processes: numba writes a file aside and renames it; its key holds the processor's
    features.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    base = os.environ.get("NUMBA_CACHE_DIR") or os.path.join(base, "gsam", "numba")
    text = hashlib.sha256()
    for name in ("keyed", "bilinear", "ffcv_kernels"):
        with open(find_spec(f"gsam.data.{name}").origin, "rb") as file:
            text.update(file.read())
    for name in ("ffcv", "numba", "numpy"):
        text.update(metadata.version(name).encode())
    return os.path.join(base, text.hexdigest()[:16])


def cacheable() -> bool:
    """Whether the cache folder can be written; a read-only home costs compilation in every process, nothing else."""
    try:
        os.makedirs(cache_dir(), exist_ok=True)
    except OSError:
        return False
    return os.access(cache_dir(), os.W_OK)


@contextmanager
def torch_threads_kept() -> Iterator[None]:
    """FFCV sets torch's number of threads at import and at every construction; this puts it back."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def precompiled() -> Iterator[None]:
    """While a loader is built, FFCV takes the decoder as it is: ours is compiled already, with caching and without
    fastmath.
    """
    from ffcv.pipeline.compiler import Compiler

    before = Compiler.is_enabled
    Compiler.set_enabled(False)
    try:
        with torch_threads_kept():
            yield
    finally:
        Compiler.set_enabled(before)


def make_epoch_class() -> type:
    """The epoch iterator as a subclass of FFCV's; made in a function because importing ffcv takes seconds."""
    import numba
    from ffcv.loader.epoch_iterator import EpochIterator

    class Epoch(EpochIterator):
        """One pass over `order`. Yields (slot's images as a numpy array); always `close` it."""

        def __init__(self, loader, order, fill, inspect) -> None:
            """`fill(buffers)` runs before the first batch, `inspect(buffers of the batch, indices)` after each one
            and may raise.
            """
            self.fill, self.inspect = fill, inspect
            self.error: BaseException | None = None
            self.held = None  # slot that the consumer is using
            self.released: list = []
            self.on_cuda = torch.cuda.is_available()
            super().__init__(loader, order)  # allocates, then calls start()

        def start(self) -> None:
            self.node = next(iter(self.loader.graph.root_nodes)).id
            self.slots = self.loader.batches_ahead + 2
            self.released = [torch.cuda.Event() if self.on_cuda else None for _ in range(self.slots)]
            self.buffers = self.memory_allocations["operation"][self.node]
            self.fill(self.buffers)
            super().start()

        def run(self) -> None:
            # FFCV's own loop loses exceptions, sets torch's threads, and can block for ever when it is closed.
            message = None
            try:
                numba.set_num_threads(min(self.loader.num_workers, numba.config.NUMBA_NUM_THREADS))
                for number, indices in enumerate(self.iter_ixes):
                    slot = number % self.slots
                    if self.on_cuda and number >= self.slots:
                        self.released[slot].synchronize()  # copies of this slot to the device have ended
                    (images,) = self.run_pipeline(number, indices, slot, None)
                    self.inspect(tuple(buffer[slot] for buffer in self.buffers), indices)
                    if not self._put((slot, images)):
                        return
            except BaseException as error:
                self.error = error
            self._put(message)

        def _put(self, message) -> bool:
            while not self.terminate_event.is_set():
                with suppress(queue.Full):
                    self.output_queue.put(message, timeout=0.2)
                    return True
            return False

        def __next__(self):
            patience = FIRST_BATCH_S if self.held is None else NEXT_BATCH_S
            if self.on_cuda and self.held is not None:
                self.released[self.held].record()
            try:
                message = self.output_queue.get(timeout=patience)
            except queue.Empty:
                faulthandler.dump_traceback(all_threads=True)
                raise RuntimeError(
                    f"FFCV gave no batch of {self.loader.fname} within {patience:.0f} s; "
                    "the stacks of all threads are on stderr. A stalled disk or a hung compilation: try data.workers=1, or data.backend=folder"
                ) from None
            if message is None:
                if self.error is not None:
                    raise RuntimeError(f"reading {self.loader.fname} failed: {self.error}") from self.error
                raise StopIteration
            self.held, images = message
            return images

        def close(self) -> None:
            self.terminate_event.set()
            if not self.closed and self.is_alive():
                self.join()  # it looks at terminate_event at least after every batch
            if not self.closed:
                self.closed = True
                self.memory_context.__exit__(None, None, None)

    return Epoch
