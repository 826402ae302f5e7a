"""Write a data set into .beton files: whole or not at all, each with a manifest (gsam.data.manifest)."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib import metadata

from gsam.data import SOURCES, SPLITS, open_source
from gsam.data.beton import Report, write_beton
from gsam.data.checks import cores
from gsam.data.manifest import FORMAT_VERSION, beton_path, label_hash, manifest_path, read_manifest
from gsam.data.sources import Source


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
    with only_writer(out):
        for split in splits:
            if not overwrite and _present(name, out, split, preset):
                continue
            source = open_source(name, root, split)
            _write_split(source, name, split, out, preset, workers, report or (lambda *_: None))
            written.append(split)
    return written


def write_source(source: Source, name: str, split: str, out: str, preset: str, workers: int, report: Report) -> bool:
    """`write_dataset` for one split whose pictures are given; False if it is there already."""
    with only_writer(out):
        if _present(name, out, split, preset):
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


@contextmanager
def only_writer(out: str) -> Iterator[None]:
    """Makes the folder and keeps others from writing there. Raises ValueError if one does, or it cannot be made."""
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
    way_out = "use --overwrite, or another --out"
    try:
        manifest = read_manifest(out, split)
    except ValueError as error:
        raise ValueError(f"{path} exists, but {error}; {way_out}") from None
    wanted = {"source": name, "preset": preset, "split": split, "size_bytes": os.path.getsize(path)}
    for key, value in wanted.items():
        if manifest.get(key) != value:
            raise ValueError(f"{path} exists with {key}={manifest.get(key)} instead of {value}; {way_out}")
    return True


def _write_split(source: Source, name: str, split: str, out: str, preset: str, workers: int, report: Report) -> None:
    path, description = beton_path(out, split), manifest_path(out, split)
    try:
        encoding = asdict(PRESETS[preset])
        write_beton(source, path + ".tmp", encoding, workers, f"{split}, pictures", report)
        content = {
            "format_version": FORMAT_VERSION,
            "source": name,
            "split": split,
            "n": len(source),
            "num_classes": len(source.classes),
            "classes": list(source.classes),
            "preset": preset,
            **encoding,
            "size_bytes": os.path.getsize(path + ".tmp"),
            "sha256": _sha256(path + ".tmp", f"{split}, checksum, MiB", report),
            "labels_sha256": label_hash(source.labels),
            "ffcv": metadata.version("ffcv"),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        with open(description + ".tmp", "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
        # In this order a crash leaves a manifest without a file, which counts as nothing; never a file with the wrong
        # one.
        with suppress(FileNotFoundError):
            os.remove(path)
        _publish(description)
        _publish(path)
    finally:
        for unfinished in (path + ".tmp", description + ".tmp"):
            with suppress(FileNotFoundError):
                os.remove(unfinished)


def _publish(path: str) -> None:
    with open(path + ".tmp", "rb") as file:
        os.fsync(file.fileno())
    os.replace(path + ".tmp", path)


def _sha256(path: str, what: str, report: Report) -> str:
    digest, done, total, start = hashlib.sha256(), 0, os.path.getsize(path), time.monotonic()
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
            done += len(block)
            report(what, done >> 20, total >> 20, time.monotonic() - start)
    return digest.hexdigest()
