"""FFCV 1.0.2 made safe to import and build: torch's threads stay as they are, kernels are compiled once per machine.

Nothing of FFCV is patched. Together with ffcv_epoch (which may import ffcv at its top) this is all that knows FFCV's
internals, hence the exact version.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module, metadata
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import torch

from gsam.data.checks import cores

VERSION = "1.0.2"


def require_version() -> None:
    """Raises ValueError for another FFCV than 1.0.2."""
    installed = metadata.version("ffcv")
    if installed != VERSION:
        raise ValueError(
            f"ffcv {installed} is installed, this code is written for {VERSION}; "
            "run scripts/setup.sh, or set data.backend=folder"
        )


def load() -> ModuleType:
    """The module gsam.data.ffcv_epoch, imported such that numba keeps the kernels' machine code on disk.

    Raises ValueError for another FFCV than 1.0.2.
    """
    with importing():
        import numba

        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = cache_dir()  # read when a kernel is defined
        try:
            return import_module("gsam.data.ffcv_epoch")
        finally:
            numba.config.CACHE_DIR = before


@contextmanager
def importing() -> Iterator[None]:
    """Every import of ffcv happens inside: it sets torch's threads to 1 and starts numba's.

    Raises ValueError for another FFCV than 1.0.2.
    """
    require_version()
    import numba

    if numba.config.THREADING_LAYER == "default":
        # numba's own work queue aborts the process as soon as two loaders run, such as evaluation inside an epoch. On one
        # core its TBB pool hangs when the process exits.
        numba.config.THREADING_LAYER = "omp" if cores() == 1 else "threadsafe"
    with torch_threads_kept():
        yield


def stored(reader: Any, field: str) -> np.ndarray:
    """What an ffcv.reader.Reader has of a field ("image", "label", "checksum"), for all samples (N,)."""
    return np.ascontiguousarray(reader.metadata[f"f{reader.field_names.index(field)}"])


def cache_dir() -> str:
    """Folder of the compiled kernels, below $NUMBA_CACHE_DIR, else $XDG_CACHE_HOME/gsam/numba, else
    ~/.cache/gsam/numba.

    One folder per source text: numba looks for changes of one file, but the kernels include functions of others. Safe
    for several processes: numba writes a file aside and renames it, and its key holds the processor's features.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    base = os.environ.get("NUMBA_CACHE_DIR") or os.path.join(home, "gsam", "numba")
    text = hashlib.sha256()
    for name in ("keyed", "bilinear", "checksum", "jpeg", "ffcv_kernels"):
        with open(find_spec(f"gsam.data.{name}").origin, "rb") as file:
            text.update(file.read())
    for name in ("ffcv", "numba", "numpy"):
        text.update(metadata.version(name).encode())
    return os.path.join(base, text.hexdigest()[:16])


def cacheable() -> bool:
    """Whether the cache folder can be written; else every process compiles for itself."""
    try:
        os.makedirs(cache_dir(), exist_ok=True)
    except OSError:
        return False
    return os.access(cache_dir(), os.W_OK)


@contextmanager
def torch_threads_kept() -> Iterator[None]:
    """FFCV sets torch's number of threads at every construction too; this puts it back."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def precompiled() -> Iterator[None]:
    """While a loader is built, FFCV takes a decoder as it is: ours is compiled already, cached and without fastmath.

    FFCV then also makes numba's one type object for uint8 arrays read-only, which changes its hash: kernels compiled
    before could no longer be found (KeyError) by those compiled afterwards. This makes it writable again.
    """
    from ffcv.pipeline.compiler import Compiler
    from numba import types

    before, shared = Compiler.is_enabled, types.uint8[::1]
    Compiler.set_enabled(False)
    try:
        with torch_threads_kept():
            yield
    finally:
        Compiler.set_enabled(before)
        shared.mutable = True
