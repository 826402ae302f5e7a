"""Making an ImageNet-C of any image set: what is wanted, what is there already, and the record of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gsam.data.encoding import Report
from gsam.data.write import only_writer, write_source
from gsam.files import write_atomic

from .copies import Copies, Pair, Settings, write_folders
from .corruptions import CORRUPTIONS, PRESETS, SEVERITIES, SMALLEST, frost_origin, unknown_corruption
from .evalsets import GENERATED

FORMATS = ("folders", "ffcv")


def make(settings: Settings, out: str, corruptions: Sequence[str], severities: Sequence[int], workers: int,
         report: Report) -> dict[str, Any]:  # fmt: skip
    """Make all copies that `out` does not hold yet; returns the content of <out>/generated.json.

    Folders: <out>/<corruption>/<severity>/<class>/<picture>, JPEG of quality 85, or PNG with the constants of 32 pixels.
    FFCV: <out>/<corruption>/<severity>/<split>.beton with the decoded pixels of those files. Raises ValueError for wrong
    settings, another set in `out` and pictures that cannot be read (all listed; the others are made), RuntimeError if a
    process died or the disk is full; the same call then continues.
    """
    _check(settings, corruptions, severities, workers)
    copies = Copies(settings)
    pairs = [(corruption, severity) for corruption in corruptions for severity in severities]
    with only_writer(out):
        record = _record(copies, Path(out))
        write_atomic(Path(out) / GENERATED, json.dumps(record, indent=1) + "\n")
        if settings.format == "ffcv":
            _write_betons(copies, out, pairs, workers, report)
        else:
            write_folders(copies, out, pairs, workers, report)
            os.sync()  # single files are not, see _replace
        record["copies"] |= {f"{corruption}/{severity}": len(copies.indices) for corruption, severity in pairs}
        write_atomic(Path(out) / GENERATED, json.dumps(record, indent=1) + "\n")
    return record


def _check(settings: Settings, corruptions: Sequence[str], severities: Sequence[int], workers: int) -> None:
    for name in corruptions:
        if problem := unknown_corruption(name):
            raise ValueError(problem)
    for key, values, known in (("corruptions", corruptions, CORRUPTIONS), ("severities", severities, SEVERITIES)):
        if not values or not set(values) <= set(known) or len(set(values)) < len(values):
            raise ValueError(
                f"{key}={list(values)}: name each of {', '.join(map(str, known))} at most once, and at least one"
            )
    for key, value, least in (
        ("workers", workers, 1),
        ("seed", settings.seed, 0),
        ("canvas", settings.canvas, SMALLEST),
    ):
        if value is not None and value < least:
            raise ValueError(f"{key}={value} must be at least {least}")
    if settings.preset not in (None, *PRESETS):
        raise ValueError(f"preset={settings.preset} is not one of {', '.join(map(str, PRESETS))}")
    if settings.format not in FORMATS:
        raise ValueError(f"format={settings.format} is not one of {', '.join(FORMATS)}")


def _record(copies: Copies, out: Path) -> dict[str, Any]:
    """The content of generated.json before this call: new, or that of the calls before, if they had the same settings."""
    made_with = _made_with(copies)
    path = out / GENERATED
    if not path.exists():
        others = sorted(entry.name for entry in out.iterdir() if not entry.name.startswith("."))
        if others:
            raise ValueError(
                f"{out} holds {others[0]} and no {GENERATED}: not a set made here; give an empty folder as --out"
            )
        return {"origin": "generated", **made_with, "copies": {}}
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read ({error}); put it back, or make the set anew in another folder"
        ) from error
    changed = [f"{k} was {record.get(k)!r}, is now {v!r}" for k, v in made_with.items() if record.get(k) != v]
    if changed:
        raise ValueError(
            f"{out} was made otherwise: {'; '.join(changed)}. Copies of two kinds must not share a folder: repeat the "
            "old settings, or choose another --out"
        )
    return record


def _made_with(copies: Copies) -> dict[str, Any]:
    import cv2
    import PIL
    import scipy

    settings = {k: v for k, v in asdict(copies.settings).items() if k not in ("root", "preset", "frost_textures")}
    paths = [copies.path(int(i)) for i in copies.indices]
    if len(set(paths)) < len(paths):
        twice = next(path for path, count in Counter(paths).items() if count > 1)
        raise ValueError(f"two pictures would both become {twice}, endings included; rename one")
    names = hashlib.sha256(os.fsencode("\n".join(paths))).hexdigest()[:8]
    per_picture = None if copies.settings.canvas else "of the first picture; others have their own"
    versions = {m.__name__: m.__version__ for m in (np, scipy, cv2, PIL)}
    return settings | {
        "pictures": len(copies.indices), "names": names, "classes": len(copies.source.classes), "preset": copies.preset,
        "length_factor": copies.length_factor, "length_factor_note": per_picture,
        "frost": f"frost ({frost_origin(copies.settings.frost_textures)})",
        "file": "png" if copies.preset == 32 else "jpeg, quality 85, optimized, 4:2:0", "versions": versions,
    }  # fmt: skip


def _write_betons(copies: Copies, out: str, pairs: list[Pair], workers: int, report: Report) -> None:
    for pair in pairs:

        def named(what: str, *numbers: float, pair: Pair = pair) -> None:
            report(f"{pair[0]} {pair[1]}, {what}", *numbers)

        folder = os.path.join(out, pair[0], str(pair[1]))
        write_source(copies.of(pair), copies.settings.source, copies.settings.split, folder, "raw", workers, named)
