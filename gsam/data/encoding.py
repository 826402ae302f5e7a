"""Pictures of a source into their stored form, by several processes, in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

from gsam.data.sources import Source
from gsam.data.stored import Preset, Stored, store

CHUNK = 32  # pictures a worker takes at a time
LISTED = 20  # bad pictures named in a message; all are counted

Report = Callable[[str, int, int, float], None]
"""report(what, done, total, seconds so far)"""

_source: Source  # of a worker process
_preset: Preset


def encoded(source: Source, preset: Preset, first: int, workers: int) -> Iterator[Stored | str]:
    """The stored pictures of `source` from number `first` on; for a bad one a sentence that says why.

    Raises RuntimeError if a process died. Close the generator to end the processes.
    """
    starts = iter(range(first, len(source), CHUNK))
    # fork: a spawned worker would import torch again and be sent the source, seconds each.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _start, (source, preset, os.getpid()))
    waiting = deque()
    try:
        with warnings.catch_warnings():
            # Python >= 3.12 warns of forks beside threads; the child uses none of the parent's.
            warnings.simplefilter("ignore", DeprecationWarning)
            for start in islice(starts, 2 * workers):
                waiting.append(pool.submit(_chunk, start))
        while waiting:
            done = waiting.popleft().result()
            if (start := next(starts, None)) is not None:
                waiting.append(pool.submit(_chunk, start))
            yield from done
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a writing process died: it was killed from outside, or memory ran out (then use fewer --workers)"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _chunk(start: int) -> list[Stored | str]:
    found = []
    for index in range(start, min(start + CHUNK, len(_source))):
        try:
            found.append(store(_source[index][0], _preset))
        except Exception as error:  # every bad picture is to be listed
            found.append(str(error))
    return found


def _start(source: Source, preset: Preset, parent: int) -> None:
    global _source, _preset
    _source, _preset = source, preset
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    threading.Thread(target=exit_without, args=(parent,), daemon=True).start()


def exit_without(parent: int) -> None:
    """A worker whose parent was killed would wait for ever for its next chunk."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
