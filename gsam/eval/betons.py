"""Copies that scripts/make_imagenet_c.py wrote with --format ffcv, picture by picture."""

from __future__ import annotations

import numpy as np

from gsam.data import ffcv_guard as guard
from gsam.data.ffcv import stored_labels
from gsam.data.manifest import beton_path, read_manifest

RAW = 1  # FFCV's code for decoded pixels


class BetonCopies:
    """<folder>/<split>.beton of decoded pixels; see gsam.data.sources.Source. Its order and labels are those of the source.

    Read without FFCV's loader: the model's own transform then applies as to any other copy. Raises ValueError for a file
    that is torn or holds something else than its manifest says.
    """

    in_memory, backend = False, "ffcv"

    def __init__(self, folder: str, split: str) -> None:
        manifest = read_manifest(folder, split)
        self.path, self.classes = beton_path(folder, split), tuple(manifest["classes"])
        self.sha256 = manifest["sha256"]
        with guard.importing():
            from ffcv.reader import Reader
        reader = Reader(self.path)
        self.labels = stored_labels(reader, manifest, self.path)
        self._places = np.array(reader.metadata[f"f{reader.field_names.index('image')}"])
        if (self._places["mode"] != RAW).any():
            raise ValueError(f"{self.path} holds compressed pictures; copies are stored decoded, make them again")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        place = self._places[index]
        shape = (int(place["height"]), int(place["width"]), 3)
        pixels = np.fromfile(self.path, np.uint8, shape[0] * shape[1] * 3, offset=int(place["data_ptr"]))
        return pixels.reshape(shape), int(self.labels[index])

    def describe(self, index: int) -> str:
        return f"{self.path}[{index}]"
