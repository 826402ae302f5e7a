"""The manifest beside each .beton file: what is in it, so that a wrong, old or torn file is refused before training."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from contextlib import suppress
from typing import Any

import numpy as np

from gsam.data import SOURCES, SPLITS, Backend, DataConfig, ffcv_root, open_source
from gsam.data.sources import Source

FORMAT_VERSION = 2  # 2: with a checksum per picture, JPEGs with restart intervals


def beton_path(root: str, split: str) -> str:
    """<root>/<split>.beton"""
    return os.path.join(root, f"{split}.beton")


def manifest_path(root: str, split: str) -> str:
    """<root>/<split>.json"""
    return os.path.join(root, f"{split}.json")


def label_hash(labels: np.ndarray) -> str:
    """SHA-256 of the labels in order: tells apart two files with the same pictures in another order."""
    return hashlib.sha256(np.ascontiguousarray(labels, dtype="<i8").tobytes()).hexdigest()


def pictures_hash(source: Source) -> str:
    """SHA-256 of what a source holds, wherever it lies: classes, labels and, where the pictures have some, their names."""
    digest = hashlib.sha256("\n".join([*source.classes, str(len(source)), label_hash(source.labels)]).encode())
    if (names := getattr(source, "names", None)) is not None:
        digest.update(b"\n".join(names.tolist()))
    return digest.hexdigest()


def fingerprint(data: DataConfig) -> str | None:
    """16 hex digits of what the training data are: with FFCV the classes and the bytes of train.beton, as its manifest has
    them; else `pictures_hash`. None where the data are not at hand. Reads no picture.
    """
    digest = hashlib.sha256()
    try:
        if data.backend is Backend.ffcv:
            manifest = read_manifest(ffcv_root(data), "train")
            digest.update("\n".join([*manifest["classes"], manifest["sha256"]]).encode())
        else:
            digest.update(pictures_hash(open_source(data.name, data.root, "train")).encode())
    except ValueError:
        return None
    return digest.hexdigest()[:16]


def write_command(data: DataConfig) -> str:
    """The command that writes the files this configuration wants."""
    root = shlex.quote(data.root) if data.root else "FOLDER_OF_THE_PICTURES"
    return f"python scripts/write_ffcv.py {data.name} --root {root} --out {shlex.quote(ffcv_root(data))}"


def read_manifest(root: str, split: str) -> dict[str, Any]:
    """The manifest of a split. Raises ValueError if it is missing or cannot be read."""
    path = manifest_path(root, split)
    try:
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
    except FileNotFoundError:
        raise ValueError(
            f"{path} is missing: {split}.beton was not written to its end, or its manifest was not copied along"
        ) from None
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {manifest.get('format_version')}, this code reads {FORMAT_VERSION} (version 1 "
            "has no checksums)"
        )
    return manifest


def missing_splits(data: DataConfig) -> list[str]:
    """Splits without a .beton file, or with one of an older format."""
    root = ffcv_root(data)
    return [split for split in SPLITS if not os.path.exists(beton_path(root, split)) or _outdated(root, split)]


def _outdated(root: str, split: str) -> bool:
    with suppress(OSError, json.JSONDecodeError), open(manifest_path(root, split), encoding="utf-8") as file:
        return json.load(file).get("format_version", FORMAT_VERSION) < FORMAT_VERSION
    return False


def beton_problem(data: DataConfig, split: str) -> str | None:
    """What is wrong with the .beton of a split, with the way out; None if nothing is. Reads the manifest and the
    file's size only.
    """
    root = ffcv_root(data)
    path = beton_path(root, split)
    way_out = f"write it with `{write_command(data)}"
    if not os.path.exists(path):
        return f"data.ffcv_root={root}: {path} is missing; {way_out}`, or set data.backend=folder"
    try:
        manifest = read_manifest(root, split)
    except ValueError as error:
        return f"data.ffcv_root={root}: {error}; {way_out} --overwrite`"
    expected = {"source": data.name, "split": split, "size_bytes": os.path.getsize(path)}
    known = SOURCES[data.name].num_classes
    if known is not None:
        expected["num_classes"] = known
    for key, value in expected.items():
        if manifest.get(key) != value:
            return (
                f"data.ffcv_root={root}: {path} does not fit: {key} is {value}, its manifest says {manifest.get(key)}; "
                f"point data.ffcv_root at the right folder, or {way_out} --overwrite`"
            )
    return None
