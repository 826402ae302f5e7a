"""Write a data set into .beton files: whole or not at all, each with a manifest (gsam.data.manifest)."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from importlib import metadata
from pathlib import Path

from gsam.data import SOURCES, SPLITS, class_names, open_source
from gsam.data.beton import BetonFile
from gsam.data.checks import cores
from gsam.data.encoding import LISTED, Report, encoded
from gsam.data.manifest import FORMAT_VERSION, beton_path, label_hash, manifest_path, pictures_hash, read_manifest
from gsam.data.sources import Source
from gsam.data.stored import Preset
from gsam.files import write_atomic

PRESETS = {
    "500_jpeg90": Preset(
        "jpg", 500, 90, "longer side at most 500 px, JPEG quality 90; most of ImageNet keeps its size"
    ),
    "val": Preset("jpg", 1000, 95, "for evaluation: longer side at most 1000 px, JPEG quality 95"),
    "256_jpeg90": Preset("jpg", 256, 90, "longer side at most 256 px, JPEG quality 90; not the paper's pixels"),
    "256_raw": Preset("raw", 256, 100, "longer side at most 256 px, decoded; fastest; not the paper's pixels"),
    "raw": Preset("raw", None, 100, "full size, decoded; for small pictures"),
}


def default_preset(name: str, split: str) -> str:
    """Key of PRESETS for a split of a data set (key of SOURCES), when none is named."""
    preset = SOURCES[name].preset
    return "val" if split == "val" and PRESETS[preset].write_mode == "jpg" else preset


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

    `name` is a key of SOURCES, `root` its folder, `preset` a key of PRESETS (None: `default_preset`). A file that is
    there but was made from something else is only replaced with `overwrite`. Raises ValueError for bad arguments,
    missing data, unreadable pictures (all listed) or another writer at work, RuntimeError if a worker process died or
    the disk is full. What was complete then stays in <split>.beton.tmp, and the next call continues behind it.
    """
    if name not in SOURCES:
        raise ValueError(f"source {name} is unknown; choose one of {', '.join(SOURCES)}")
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset {preset} is unknown; choose one of {', '.join(PRESETS)}")
    workers = cores() if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers={workers} must be at least 1")
    written = []
    if not os.path.isdir(out):  # a mistyped root makes no folders
        for split in splits:
            class_names(name, root, split)
    with only_writer(out):
        for split in splits:
            chosen = preset or default_preset(name, split)
            if not overwrite and _present(name, out, split, chosen, partial(open_source, name, root, split)):
                continue
            source = open_source(name, root, split)
            _write_split(source, name, split, out, chosen, workers, report or (lambda *_: None))
            written.append(split)
    return written


def write_source(source: Source, name: str, split: str, out: str, preset: str, workers: int, report: Report) -> bool:
    """`write_dataset` for one split whose pictures are given; False if it is there already."""
    with only_writer(out):
        if _present(name, out, split, preset, lambda: source):
            return False
        _write_split(source, name, split, out, preset, workers, report)
    return True


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


class Busy(ValueError):
    """Another process writes there."""


@contextmanager
def only_writer(out: str) -> Iterator[None]:
    """Makes the folder and keeps others from writing there. Raises Busy if one does, ValueError if it cannot be made."""
    try:
        os.makedirs(out, exist_ok=True)
        lock = open(os.path.join(out, ".write.lock"), "w")  # noqa: SIM115
    except OSError as error:
        raise ValueError(f"{out} cannot be written ({error}); choose another folder (--out, data.ffcv_root)") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Busy(f"another process is writing into {out}; wait for it or choose another folder") from None
        yield


def _present(name: str, out: str, split: str, preset: str, source: Callable[[], Source]) -> bool:
    """Whether the split is there, made from this source with this preset. Raises ValueError if it is something else. Where the
    pictures are gone, their archive deleted, the file is taken for theirs."""
    path = beton_path(out, split)
    if not os.path.exists(path):
        return False
    way_out = "use --overwrite, or another --out"
    try:
        manifest = read_manifest(out, split)
    except ValueError as error:
        raise ValueError(f"{path} exists, but {error}; {way_out}") from None
    wanted = {"source": name, "preset": preset, "split": split, "size_bytes": os.path.getsize(path)}
    for key, value in wanted.items():
        if manifest.get(key) != value:
            raise ValueError(f"{path} exists with {key}={manifest.get(key)} instead of {value}; {way_out}")
    try:
        pictures = source()
    except ValueError:
        return True
    if manifest.get("pictures_sha256") != pictures_hash(pictures):
        raise ValueError(
            f"{path} exists, made of other pictures: {manifest['n']:,}, here are {len(pictures):,}, or their names, labels "
            f"or order differ; {way_out}"
        )
    return True


def _write_split(source: Source, name: str, split: str, out: str, preset: str, workers: int, report: Report) -> None:
    path, how = beton_path(out, split), PRESETS[preset]
    encoding = {"write_mode": how.write_mode, "max_resolution": how.max_resolution, "jpeg_quality": how.jpeg_quality}
    facts = {
        "format_version": FORMAT_VERSION,
        "source": name,
        "split": split,
        "n": len(source),
        "num_classes": len(source.classes),
        "classes": list(source.classes),
        "preset": preset,
        **encoding,
        "restart": how.write_mode == "jpg",
        "labels_sha256": label_hash(source.labels),
        "pictures_sha256": pictures_hash(source),
        "ffcv": metadata.version("ffcv"),
    }
    try:
        with BetonFile(path + ".tmp", len(source), facts) as file:
            first, seconds = file.done, _fill(file, source, how, workers, split, report)
            file.finish()
        size = os.path.getsize(path + ".tmp")
        content = {
            **facts,
            "size_bytes": size,
            "sha256": sha256(path + ".tmp", f"{split}, checksum, MiB", report),
            "mb_per_1000": round(size / len(source) / 1000, 3),
            # of the pictures written by the last call, if earlier ones were broken off
            "seconds_per_1000": round(1000 * seconds / (len(source) - first), 3) if first < len(source) else None,
            "workers": workers,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
    except OSError as error:
        raise RuntimeError(f"{path}.tmp cannot be written ({error}); make room, the same command continues") from error
    # In this order a crash leaves a manifest without a file, which counts as nothing; never a file with the wrong one.
    with suppress(FileNotFoundError):
        os.remove(path)
    write_atomic(Path(manifest_path(out, split)), json.dumps(content, indent=1))
    os.replace(path + ".tmp", path)
    file.forget()


def _fill(file: BetonFile, source: Source, how: Preset, workers: int, split: str, report: Report) -> float:
    """Add all pictures that the file lacks; seconds it took. Raises ValueError listing the bad ones, all read first."""
    first, start, bad = file.done, time.monotonic(), []
    what = f"{split}, pictures" if first == 0 else f"{split}, pictures after the {first:,} that are there"
    with closing(encoded(source, how, first, workers)) as pictures:
        for index, stored in enumerate(pictures, first):
            if isinstance(stored, str):
                bad.append(f"\n  {source.describe(index)}: {stored}")
            elif not bad:
                file.add(stored, int(source.labels[index]))
            report(what, index + 1 - first, len(source) - first, time.monotonic() - start)
    if bad:
        more = f"\n  and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
        raise ValueError(
            f"{len(bad)} of {len(source)} pictures cannot be stored; replace or remove them:"
            f"{''.join(bad[:LISTED])}{more}"
        )
    return time.monotonic() - start


def sha256(path: str, what: str, report: Report) -> str:
    """Of a file, hexadecimal; `report` is told MiB."""
    digest, done, total, start = hashlib.sha256(), 0, os.path.getsize(path), time.monotonic()
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
            done += len(block)
            report(what, done >> 20, total >> 20, time.monotonic() - start)
    return digest.hexdigest()
