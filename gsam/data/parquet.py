"""A Hugging Face data set directory: parquet files with a column of encoded pictures and one of labels."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from gsam.data.sources import imagenet_synsets, read_rgb

SPLIT = re.compile(r"(?:^|/)(train|val|valid|validation)[-_./]")
WNID = re.compile(r"n\d{8}(?=[_./]|$)")


class Parquet:
    """A split; see gsam.data.sources.Source. Its order is that of the files.

    Good for writing .beton files: pictures are decoded from groups of rows, so that one alone costs its whole group.
    """

    in_memory = False

    def __init__(self, root: str, split: str, classes: tuple[str, ...]) -> None:
        pq = _pyarrow(root)
        self.files, self.classes = files(root, split), classes
        image, label = _columns(pq.read_schema(self.files[0]))[:2]
        self._image, self._group, self._loaded = image, None, None
        labels, paths, places = [], [], []
        for number, path in enumerate(self.files):
            content = pq.ParquetFile(path)
            table = content.read(columns=[f"{image}.path", label], use_threads=False)
            labels.append(table.column(label).to_numpy())
            paths += [row["path"] for row in table.column(image).to_pylist()]
            for group in range(content.num_row_groups):
                rows = content.metadata.row_group(group).num_rows
                places.append(np.stack([np.full(rows, number), np.full(rows, group), np.arange(rows)], 1))
        self.labels = np.concatenate(labels).astype(np.int64)
        self.names = np.array([os.fsencode(name or "") for name in paths])
        self._places = np.concatenate(places)
        if len(self.labels) == 0 or self.labels.min() < 0 or self.labels.max() >= len(classes):
            raise ValueError(
                f"data.root={root}: labels of {split} are not 0 to {len(classes) - 1}; is a split unlabelled?"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        import pyarrow.parquet as pq

        file, group, row = self._places[index].tolist()
        if self._group != (file, group):
            table = pq.ParquetFile(self.files[file]).read_row_group(group, columns=[self._image], use_threads=False)
            self._group, self._loaded = (file, group), table.column(self._image)
        content = self._loaded[row].as_py()["bytes"]
        if content is None:
            raise ValueError(
                f"{self.describe(index)} holds a path instead of a picture; download the set with its pictures"
            )
        return read_rgb(io.BytesIO(content), self.describe(index)), int(self.labels[index])

    def describe(self, index: int) -> str:
        file, group, row = self._places[index].tolist()
        return f"{self.files[file]}[group {group}, row {row}] {os.fsdecode(self.names[index])}".rstrip()


def files(root: str, split: str) -> list[str]:
    """The parquet files of a split, in `root` or a folder of it, sorted. Raises ValueError if they lie in several
    folders, as configurations do.
    """
    found = []
    for path in sorted(
        [*Path(root).glob("*.parquet"), *Path(root).glob("*/*.parquet")]
    ):  # no deeper: folders of pictures
        match = SPLIT.search(path.relative_to(root).as_posix())
        if match and match[1][:3] == split[:3]:
            found.append(str(path))
    folders = sorted({os.path.dirname(path) for path in found})
    if len(folders) > 1:
        raise ValueError(f"data.root={root} holds several data sets ({', '.join(folders[:3])}); name the folder of one")
    return found


def class_names(root: str, split: str) -> tuple[str, ...]:
    """Names of the labels, as the files' description has them. Raises ValueError if there is none."""
    return _columns(_pyarrow(root).read_schema(files(root, split)[0]))[2]


def imagenet(root: str, split: str) -> Parquet:
    """ImageNet-1k: labels as timm's synsets. Raises ValueError if a picture's name tells another class."""
    synsets = imagenet_synsets()
    source = Parquet(root, split, tuple(synsets))
    label_of = {wnid: label for label, wnid in enumerate(synsets)}
    for index, name in enumerate(source.names):
        told = WNID.findall(os.fsdecode(name))
        if told and label_of.get(told[-1]) != source.labels[index]:
            raise ValueError(
                f"{source.describe(index)} has label {source.labels[index]}, ImageNet's class {told[-1]} has "
                f"{label_of.get(told[-1])}: the labels are in another order; use another copy of ImageNet"
            )
    return source


def _columns(schema: Any) -> tuple[str, str, tuple[str, ...]]:
    """(column of the pictures, of the labels, class names) by the description that the `datasets` library stores."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        kinds = {kind.get("_type"): name for name, kind in features.items() if isinstance(kind, dict)}
        return kinds["Image"], kinds["ClassLabel"], tuple(features[kinds["ClassLabel"]]["names"])
    except (TypeError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(
            "these parquet files do not describe a column of pictures (Image) and one of labels (ClassLabel), as those "
            f"of Hugging Face's data sets do ({type(error).__name__}: {error}); unpack them into class folders"
        ) from error


def _pyarrow(root: str) -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ValueError(f"data.root={root} holds parquet files, which need pyarrow: pip install pyarrow") from error
    return pq
