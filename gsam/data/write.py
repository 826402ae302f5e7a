"""Write a source into .beton files: unshuffled, whole or not at all, each with a manifest (gsam.data.manifest).

FFCV's own writer waits for ever when a worker dies or a picture fails. This one uses its file format and allocator
under a loop that watches its workers, and lists every bad picture instead of stopping at the first.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from gsam.data import SOURCES, SPLITS, open_source
from gsam.data import ffcv_guard as guard
from gsam.data.checks import cores
from gsam.data.manifest import FORMAT_VERSION, beton_path, label_hash, manifest_path, read_manifest
from gsam.data.sources import Source

CHUNK = 64  # pictures a worker takes at a time
PAGE_BYTES = 1 << 23  # of the file; a stored picture must fit into one
LISTED = 20  # bad pictures named in the message; all are counted

Report = Callable[[str, int, int, float], None]
"""report(what, done, total, seconds so far)"""


@dataclass(frozen=True)
class Preset:
    """How pictures are stored."""

    write_mode: str  # "jpg" or "raw"
    max_resolution: int | None  # longer side in pixels; larger pictures are reduced, None: as they are
    jpeg_quality: int = 90


PRESETS = {
    "500_jpeg90": Preset("jpg", 500),
    "256_jpeg90": Preset("jpg", 256),
    "256_raw": Preset("raw", 256),
    "raw": Preset("raw", None),
}


def write_dataset(
    name: str,
    root: str,
    out: str,
    *,
    preset: str | None = None,
    splits: Sequence[str] = SPLITS,
    workers: int | None = None,
    overwrite: bool = False,
    report: Report | None = None,
) -> list[str]:
    """Write <out>/<split>.beton and <split>.json for each split; returns the splits written, without those already
    there.

    `name` is a key of SOURCES, `root` its folder, `preset` a key of PRESETS (None: the source's own). A file that is
    there but was made from something else is only replaced with `overwrite`. Raises ValueError for bad arguments,
    missing data, unreadable pictures (all listed) or another writer at work, RuntimeError if a worker process died;
    then no new file is left.
    """
    if name not in SOURCES:
        raise ValueError(f"source {name} is unknown; choose one of {', '.join(SOURCES)}")
    preset = preset or SOURCES[name].preset
    if preset not in PRESETS:
        raise ValueError(f"preset {preset} is unknown; choose one of {', '.join(PRESETS)}")
    workers = cores() if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers={workers} must be at least 1")
    written = []
    with _only_writer(out):
        for split in splits:
            if not overwrite and _present(name, out, split, preset):
                continue
            source = open_source(name, root, split)
            _write_split(source, name, split, out, preset, workers, report or (lambda *_: None))
            written.append(split)
    return written


def terminal_report() -> Report:
    """Progress on stderr with the time left: one changing line on a terminal, elsewhere a line every ten seconds."""
    on_terminal, next_s, last = sys.stderr.isatty(), 0.0, ("", 0)

    def report(what: str, done: int, total: int, seconds: float) -> None:
        nonlocal next_s, last
        if not done or (what, done) == last or (done < total and time.monotonic() < next_s):
            return
        next_s, last = time.monotonic() + (0.5 if on_terminal else 10.0), (what, done)
        rate = done / max(seconds, 1e-9)
        left = f"{(total - done) / rate:,.0f} s left"
        line = f"{what}: {done:,}/{total:,} ({100 * done / total:.0f} %), {rate:,.0f}/s, {left}"
        print(
            f"\r\033[K{line}" if on_terminal else line,
            end="" if on_terminal and done < total else "\n",
            file=sys.stderr,
            flush=True,
        )

    return report


@contextmanager
def _only_writer(out: str) -> Iterator[None]:
    try:
        os.makedirs(out, exist_ok=True)
        lock = open(os.path.join(out, ".write.lock"), "w")  # noqa: SIM115
    except OSError as error:
        raise ValueError(f"{out} cannot be written ({error}); choose another folder (--out, data.ffcv_root)") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"another process is writing into {out}; wait for it or choose another folder") from None
        yield


def _present(name: str, out: str, split: str, preset: str) -> bool:
    """Whether the split is there, made from this source with this preset. Raises ValueError if it is something else."""
    path = beton_path(out, split)
    if not os.path.exists(path):
        return False
    try:
        manifest = read_manifest(out, split)
    except ValueError:
        return False  # written by nobody we know or not to the end: a manifest comes last
    wanted = {"source": name, "preset": preset, "split": split, "size_bytes": os.path.getsize(path)}
    for key, value in wanted.items():
        if manifest.get(key) != value:
            raise ValueError(
                f"{path} exists with {key}={manifest.get(key)} instead of {value}; use --overwrite or another --out"
            )
    return True


def _write_split(source: Source, name: str, split: str, out: str, preset: str, workers: int, report: Report) -> None:
    path, how = beton_path(out, split), PRESETS[preset]
    unfinished = path + ".tmp"
    try:
        _write_beton(source, unfinished, how, workers, f"{split}, pictures", report)
        digest = _sha256(unfinished, f"{split} checksum, MiB", report)
        content = {
            "format_version": FORMAT_VERSION,
            "source": name,
            "split": split,
            "n": len(source),
            "num_classes": len(source.classes),
            "classes": list(source.classes),
            "preset": preset,
            **asdict(how),
            "size_bytes": os.path.getsize(unfinished),
            "sha256": digest,
            "labels_sha256": label_hash(source.labels),
            "ffcv": metadata.version("ffcv"),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        # The manifest last, and never beside another file: without one the .beton does not count.
        with suppress(FileNotFoundError):
            os.remove(manifest_path(out, split))
        _publish(unfinished, path)
        with open(manifest_path(out, split) + ".tmp", "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
        _publish(manifest_path(out, split) + ".tmp", manifest_path(out, split))
    finally:
        for rest in (unfinished, manifest_path(out, split) + ".tmp"):
            with suppress(FileNotFoundError):
                os.remove(rest)


def _publish(unfinished: str, path: str) -> None:
    with open(unfinished, "rb") as file:
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def _sha256(path: str, what: str, report: Report) -> str:
    digest, done, total, start = hashlib.sha256(), 0, os.path.getsize(path), time.monotonic()
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
            done += len(block)
            report(what, done >> 20, total >> 20, time.monotonic() - start)
    return digest.hexdigest()


def _write_beton(source: Source, path: str, how: Preset, workers: int, what: str, report: Report) -> None:
    """Fill `path`. Raises ValueError listing unreadable pictures, RuntimeError if a worker died."""
    guard.require_version()
    with guard.torch_threads_kept():
        from ffcv.fields import IntField, RGBImageField
        from ffcv.memory_allocator import MemoryAllocator
        from ffcv.writer import DatasetWriter

    image = RGBImageField(write_mode=how.write_mode, max_resolution=how.max_resolution, jpeg_quality=how.jpeg_quality)
    writer = DatasetWriter(path, {"image": image, "label": IntField()}, page_size=PAGE_BYTES, num_workers=workers)
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
                warnings.simplefilter(
                    "ignore", DeprecationWarning
                )  # Python >= 3.12 warns of forks beside threads; the child uses none
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
            report(what, done.value, len(source), time.monotonic() - start)
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

    parent = os.getppid()
    table = np.frombuffer(writer.metadata_sm.buf, dtype=writer.metadata_type)
    with allocator:  # writes its last page at the end
        while os.getppid() == parent:  # a killed parent must not leave workers behind
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


def _allocation_type() -> np.dtype:
    from ffcv.types import ALLOC_TABLE_TYPE

    return ALLOC_TABLE_TYPE
