"""Backend `ffcv`: a .beton file per split, read by FFCV, with crops and flips drawn from (seed, epoch, index).

FFCV contributes the file format, the mapped storage, the JPEG decoder and the ring of buffers; order, boxes,
evaluation geometry and safety are ours (gsam.data.plan, ffcv_kernels, ffcv_epoch, ffcv_guard). The box of a picture
is drawn in the stored picture, which a preset with a maximum resolution has made smaller.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from gsam.data import AugmentConfig, Crop, DataConfig, Order, ffcv_root, stored_split
from gsam.data import ffcv_guard as guard
from gsam.data.checks import workers_of
from gsam.data.manifest import beton_path, label_hash, read_manifest
from gsam.data.order import Readahead
from gsam.data.plan import make_plan
from gsam.data.skip import Skips, stand_ins

PROBLEMS = ("", "cannot be decoded", "is not what was written: its checksum differs")  # by status, see ffcv_kernels


def build(data: DataConfig, augment: AugmentConfig, split: str, **which) -> FFCVLoader:
    """See gsam.data.build_loader."""
    return FFCVLoader(data, augment, split, which)


class FFCVLoader:
    """See gsam.data.Loader. Several epochs, of this and other loaders, may be open at once."""

    def __init__(self, data: DataConfig, augment: AugmentConfig, split: str, which: dict) -> None:
        root, stored = ffcv_root(data), stored_split(data, split)
        path, manifest = beton_path(root, stored), read_manifest(root, stored)
        self._path, self._classes, self._augment, self._ffcv = path, manifest["classes"], augment, guard.load()
        self._skips = Skips(data.on_bad, which["train"])
        self._loader = self._ffcv.open_loader(
            path,
            train=which["train"],
            size=augment.size,
            batch_size=which["batch_size"],
            workers=workers_of(data),
        )
        labels = stored_labels(self._loader.reader, manifest, path)
        self._labels = torch.from_numpy(labels)
        self._plan = make_plan(data, labels, split, **which)
        self.num_examples = len(self._plan.indices)
        self.num_classes = len(self._classes)
        self.batches_per_epoch = len(self._plan)

    def epoch(self, epoch: int = 0, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """See gsam.data.Loader."""
        order = self.order(epoch, skip)
        if len(order) == 0:
            return
        batches = self._ffcv.Epoch(self._loader, order.astype(np.uint64), self._parameters(epoch))
        ahead, place = self._readahead(epoch), skip * self._plan.batch_size
        try:
            start = 0
            for images, status in batches:
                if ahead is not None:
                    ahead.reached((place + start) * self._plan.world)
                indices = order[start : start + len(images)]
                labels = self._labels[torch.from_numpy(indices)]
                start += len(images)
                if status.any():
                    self._replace(images, labels, indices, status)
                yield torch.from_numpy(images).permute(0, 3, 1, 2), labels
        finally:
            batches.close()
            if ahead is not None:
                ahead.close()

    def order(self, epoch: int = 0, skip: int = 0) -> np.ndarray:
        """See gsam.data.Loader."""
        return self._plan.order(epoch, skip)

    @property
    def skipped(self) -> int:
        """See gsam.data.Loader."""
        return self._skips.count

    def close(self) -> None:
        """See gsam.data.Loader: the threads have ended with their epoch."""

    def _replace(self, images: np.ndarray, labels: Tensor, indices: np.ndarray, status: np.ndarray) -> None:
        """Another picture of the batch for each bad one; RuntimeError where that is not allowed."""
        bad = np.flatnonzero(status)
        named = [
            f"{self._path}: sample {index} (class {self._classes[label]}) {PROBLEMS[status[at]]}"
            for at, index, label in zip(bad, indices[bad].tolist(), labels[bad].tolist(), strict=True)
        ]
        if not self._skips.allowed:
            more = f", and {len(bad) - 1} more of its batch" if len(bad) > 1 else ""
            raise RuntimeError(
                f"{named[0]}{more}; the file is damaged: compare its sha256 with the manifest's, then copy or write it "
                "again" + ", or train without such pictures with data.on_bad=skip" * self._plan.train
            )
        for index, problem in zip(indices[bad].tolist(), named, strict=True):
            self._skips.note(index, problem)
        others = stand_ins(status != self._ffcv.kernels.GOOD, named[0])
        images[bad] = images[others]
        labels[bad] = labels[others]

    def _readahead(self, epoch: int) -> Readahead | None:
        if self._plan.kind is not Order.quasi_random or not self._plan.train:
            return None
        table = np.sort(self._loader.reader.alloc_table, order="sample_id")
        return Readahead(self._path, table["ptr"], table["size"], self._plan.drawn(epoch))

    def _parameters(self, epoch: int) -> np.ndarray:
        """What the kernel needs to know, float64 (NUM_PARAMETERS,), where seeds and epochs are exact below 2**53."""
        kernels, plan, augment = self._ffcv.kernels, self._plan, self._augment
        values = np.zeros(kernels.NUM_PARAMETERS)
        if plan.train:
            rule = kernels.RULES.index(augment.crop.value)
            how = kernels.FILTERS[augment.filter.value]
            values[:] = (plan.seed, epoch, rule, *augment.area, *augment.aspect, augment.flip, how)
            if augment.crop is Crop.resmall:
                values[3] = augment.size / augment.eval_resize
        else:
            values[0] = augment.eval_resize
        return values


def stored_labels(reader, manifest: dict, path: str) -> np.ndarray:
    """All labels of the file, int64 (N,). Raises ValueError if they are not those of the manifest."""
    labels = guard.stored(reader, "label")
    complete = len(labels) == len(reader.alloc_table) == manifest["n"]
    if not complete or label_hash(labels) != manifest["labels_sha256"]:
        raise ValueError(
            f"{path} holds other samples than its manifest says; copy both files again, or write them with --overwrite"
        )
    return labels
