"""The order of a training epoch, and which one a machine's memory allows.

random: a permutation of all pictures. quasi_random: pictures in blocks of BLOCK neighbours, the blocks shuffled, then the
pictures shuffled within windows of WINDOW. Both depend on (seed, epoch, number of pictures) only, so ranks, backends and a
file that was written again agree. Neighbours of the split lie together in a .beton (gsam.data.beton), so that a window is
read in pieces of about BLOCK pictures instead of one by one: what counts when the file is larger than the memory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from gsam.data import Backend, DataConfig, Order, ffcv_root
from gsam.data.checks import local_ranks
from gsam.data.keyed import epoch_order
from gsam.data.manifest import beton_path

# Pictures: about 0.8 MB as 500_jpeg90; few enough that a window of ImageNet, sorted by class, has most classes.
BLOCK = 16
WINDOW = 16_384  # pictures
NEAR = 1 << 17  # bytes between two pieces that are still read as one
RANK_BYTES = 1 << 30  # set aside for each rank: resident memory of a training process before its first step
GIB = 1 << 30


def drawn(order: Order, seed: int, epoch: int, n: int) -> np.ndarray:
    """An epoch of `n` pictures: a permutation of range(n), int64 (n,)."""
    if order is not Order.quasi_random:
        return epoch_order(seed, epoch, n)
    rng = np.random.default_rng([seed, epoch])
    blocks = rng.permutation(-(-n // BLOCK))
    pictures = (blocks[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)
    pictures = pictures[pictures < n]
    for start in range(0, n, WINDOW):
        rng.shuffle(pictures[start : start + WINDOW])
    return pictures


def settle(data: DataConfig, kept: str | None) -> tuple[DataConfig, str]:
    """(the settings with auto replaced, one line on why). `kept`: the order with which the run began, None for a new one.

    A run never changes its order, however much memory is free when it continues. The ranks of this host share the page
    cache. Call on one process and tell the others: hosts may differ.
    """
    if kept is not None and data.order is Order.auto:
        return replace(data, order=Order[kept]), f"data.order={kept}, as the run began"
    if data.backend is Backend.folder:
        order = Order.random if data.order is Order.auto else data.order
        return replace(data, order=order), f"data.order={order.name}: picture files are read one by one"
    path, ranks = beton_path(ffcv_root(data), "train"), local_ranks()
    size, free, whose = os.path.getsize(path), *free_memory()
    fits = size + ranks * RANK_BYTES <= free
    order = data.order if data.order is not Order.auto else Order.random if fits else Order.quasi_random
    then = {
        (Order.random, True): "it stays in memory after the first epoch",
        (Order.random, False): "every epoch reads it again picture by picture; quasi_random would read blocks",
        (Order.quasi_random, False): "every epoch reads it again, block by block",
        (Order.quasi_random, True): "it stays in memory after the first epoch, random would do",
    }[order, fits]
    return replace(data, order=order), (
        f"data.order={order.name}: {path} has {size / GIB:.2f} GiB, of {whose} {free / GIB:.1f} GiB are free for it and "
        f"{ranks} rank(s); {then}"
    )


def free_memory() -> tuple[int, str]:
    """(bytes that can still be filled, whose limit that is): of the host, or of this process's memory cgroup if less.

    Cached files count as free: the system drops them when memory is wanted.
    """
    found = [(host_free(Path("/proc/meminfo")), "the host's memory")]
    found += [(free, "the cgroup's memory") for free in cgroup_free(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]
    return min(found)


def host_free(meminfo: Path) -> int:
    """MemAvailable in bytes; where the file is missing (not Linux), all memory."""
    try:
        return next(int(line.split()[1]) << 10 for line in meminfo.read_text().splitlines() if "MemAvailable" in line)
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cgroup_free(membership: Path, mount: Path) -> Iterator[int]:
    """Bytes left under each limit of cgroup version 1 or 2 that holds for this process, from its own group upwards.

    membership: /proc/self/cgroup; mount: /sys/fs/cgroup. In a container the path may be the host's, which is not there:
    then the mount's top is the container's own group.
    """
    lines = membership.read_text().splitlines() if membership.exists() else ()
    for _, controllers, group in (line.split(":", 2) for line in lines):
        if controllers == "":
            top, limit, usage, prefix = mount, "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            top, limit, usage, prefix = mount / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
        else:
            continue
        folder = top / group.lstrip("/")
        for level in (folder, *(parent for parent in folder.parents if parent.is_relative_to(top))):
            try:
                most, used = (level / limit).read_text().strip(), int((level / usage).read_text())
                stat = dict(line.split() for line in (level / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):
                continue
            if most != "max":
                cached = int(stat.get(prefix + "inactive_file", 0)) + int(stat.get(prefix + "active_file", 0))
                yield max(0, int(most) - used + cached)


class Readahead:
    """Asks the system for the pictures of the next window, piece by piece, while the current one is used.

    starts, sizes: of every stored picture in the file, bytes. pictures: the epoch's order over all ranks. Each rank of
    the host asks for its share of the pieces; they are read once, into the cache that all ranks share.
    """

    def __init__(self, path: str, starts: np.ndarray, sizes: np.ndarray, pictures: np.ndarray) -> None:
        self._path, self._starts, self._sizes, self._pictures = path, starts, sizes, pictures
        self._asked, self._threads = -1, []
        self._share = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def reached(self, position: int) -> None:
        """The ranks together are at this place of the order: from here to the end of the next window may be read."""
        window = position // WINDOW
        for number in range(max(self._asked + 1, window), window + 2):
            thread = threading.Thread(target=self._ask, args=(number,), daemon=True)  # the system may make it wait
            thread.start()
            self._threads.append(thread)
            self._asked = number

    def close(self) -> None:
        """Wait for what has been asked for."""
        for thread in self._threads:
            thread.join()

    def pieces(self, number: int) -> np.ndarray:
        """(first byte, length) of the pieces of a window in the order of the file, int64 (P, 2)."""
        pictures = self._pictures[number * WINDOW : (number + 1) * WINDOW]
        by_place = pictures[np.argsort(self._starts[pictures])]
        starts = self._starts[by_place].astype(np.int64)
        ends = starts + self._sizes[by_place].astype(np.int64)
        apart = np.flatnonzero(starts[1:] - ends[:-1] > NEAR) + 1
        if not len(pictures):
            return np.empty((0, 2), np.int64)
        first, last = np.append(0, apart), np.append(apart, len(pictures)) - 1
        return np.stack([starts[first], ends[last] - starts[first]], axis=1)

    def _ask(self, number: int) -> None:
        rank, ranks = self._share
        file = os.open(self._path, os.O_RDONLY)
        try:
            for start, length in self.pieces(number)[rank::ranks].tolist():
                os.posix_fadvise(file, start, length, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(file)
