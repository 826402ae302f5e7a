"""Worker processes that fill one .beton file.

FFCV's own writer waits for ever when a worker dies or a picture fails. This one uses its file format and allocator
under a loop that watches the workers, and lists every bad picture instead of stopping at the first.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from gsam.data import ffcv_guard as guard
from gsam.data.sources import Source

CHUNK = 64  # pictures a worker takes at a time
PAGE_BYTES = 1 << 23  # of the file; a stored picture must fit into one
LISTED = 20  # bad pictures named in the message; all are counted

Report = Callable[[str, int, int, float], None]
"""report(what, done, total, seconds so far)"""


def write_beton(source: Source, path: str, encoding: dict[str, Any], workers: int, what: str, report: Report) -> None:
    """Fill `path` with all of `source`, unshuffled; `encoding` are arguments of FFCV's RGBImageField.

    Raises ValueError listing the pictures that cannot be read or stored, RuntimeError if a worker died.
    """
    guard.require_version()
    with guard.torch_threads_kept():
        from ffcv.fields import IntField, RGBImageField
        from ffcv.memory_allocator import MemoryAllocator
        from ffcv.writer import DatasetWriter

    fields = {"image": RGBImageField(**encoding), "label": IntField()}
    writer = DatasetWriter(path, fields, page_size=PAGE_BYTES, num_workers=workers)
    writer.num_samples = len(source)
    writer.prepare()  # file header, and shared memory for the samples' metadata
    try:
        allocator = MemoryAllocator(path, writer.data_region_start, PAGE_BYTES)
        allocations, bad = _run_workers(source, writer, allocator, workers, what, report)
        if bad:
            bad.sort()
            listed = "".join(f"\n  {source.describe(index)}: {why}" for index, why in bad[:LISTED])
            more = f"\n  and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
            raise ValueError(
                f"{len(bad)} of {len(source)} pictures cannot be stored; replace or remove them:{listed}{more}"
            )
        # As tuples: handed arrays of unequal length, FFCV would write an empty table without a word.
        writer.finalize(np.concatenate(allocations).tolist())
    finally:
        writer.metadata_sm.close()
        writer.metadata_sm.unlink()


def _run_workers(
    source: Source, writer: Any, allocator: Any, workers: int, what: str, report: Report
) -> tuple[list[np.ndarray], list[tuple[int, str]]]:
    """Run the worker processes to their end; (allocation tables, bad pictures)."""
    context = multiprocessing.get_context("fork")  # a spawned worker would import torch and ffcv again: seconds
    next_chunk, done = context.Value("q", 0), context.Value("q", 0)
    pipes, processes = {}, []
    allocations, bad, start = [], [], time.monotonic()
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=_worker, args=(source, writer, allocator, next_chunk, done, theirs), daemon=True
            )
            with warnings.catch_warnings():
                # Python >= 3.12 warns of forks beside threads; the child uses none of the parent's.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            theirs.close()
            pipes[ours] = process
            processes.append(process)
        while pipes:
            for pipe in wait(list(pipes), timeout=0.2):
                try:
                    kind, *content = pipe.recv()
                except EOFError:  # the system closes a dead process's end
                    process = pipes[pipe]
                    process.join()
                    raise RuntimeError(
                        f"a writing process died (exit code {process.exitcode}; -9 is typical of too little memory); "
                        "nothing was kept: run again, with fewer --workers if memory was short"
                    ) from None
                if kind == "bad":
                    bad.append(tuple(content))
                else:
                    allocations.append(content[0])
                    pipes.pop(pipe).join()
            # Not .value, which waits for a lock that a killed worker may hold.
            report(what, done.get_obj().value, len(source), time.monotonic() - start)
        return allocations, bad
    finally:
        for process in processes:
            process.kill()  # no effect on those that ended
            process.join()


def _worker(source: Source, writer: Any, allocator: Any, next_chunk: Any, done: Any, pipe: Connection) -> None:
    """Store chunks until none is left; sends ("bad", index, why) for each picture that fails and ("end", allocation
    table).
    """
    from ffcv.writer import handle_sample

    threading.Thread(target=exit_without, args=(os.getppid(),), daemon=True).start()
    table = np.frombuffer(writer.metadata_sm.buf, dtype=writer.metadata_type)
    with allocator:  # writes its last page at the end
        while True:
            with next_chunk.get_lock():
                first = next_chunk.value
                next_chunk.value += CHUNK
            if first >= len(source):
                break
            last = min(first + CHUNK, len(source))
            for index in range(first, last):
                try:
                    sample = source[index]
                    handle_sample(sample, index, table.dtype.names, table, allocator, writer.fields)
                except Exception as error:
                    pipe.send(("bad", index, str(error)))
            with done.get_lock():
                done.value += last - first
    pipe.send(("end", np.array(allocator.allocations, dtype=_allocation_type())))
    del table  # a view of shared memory cannot be closed
    pipe.close()


def exit_without(parent: int) -> None:
    """A worker whose parent was killed would wait for ever, for the parent to read or for another worker's page."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _allocation_type() -> np.dtype:
    from ffcv.types import ALLOC_TABLE_TYPE

    return ALLOC_TABLE_TYPE
