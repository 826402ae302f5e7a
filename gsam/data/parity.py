"""How far the pixels of fast paths are from Pillow's, and what that does to a model's accuracy. For gsam.data.doctor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.pool import ThreadPool

import numpy as np
import torch
from torch import Tensor

from gsam.data import AugmentConfig, Backend, DataConfig, build_loader, ffcv_root, open_source
from gsam.data import ffcv_guard as guard
from gsam.data.checks import cores
from gsam.data.keyed import eval_geometry
from gsam.data.manifest import beton_path
from gsam.data.opencv import one_threaded
from gsam.data.sources import Source

BATCH = 50

Predict = Callable[[Tensor], Tensor]
"""uint8 (B, 3, S, S) -> classes int64 (B,)"""


@dataclass
class Path:
    """One way to prepare the pictures, against the reference. differences: mean absolute ones in grey levels, one per
    picture; worst: the largest of a pixel; right, same: predictions that are right, that are the reference's.
    """

    name: str
    differences: list[float] = field(default_factory=list)
    worst: int = 0
    right: int = 0
    same: int = 0


def measure(
    data: DataConfig,
    size: int,
    resize: int,
    reference: Callable[[np.ndarray], np.ndarray],
    predict: Predict | None,
    report: Callable[[int, int], None],
) -> tuple[Path, list[Path]]:
    """(the reference, the others) over the evaluation pictures that `data.limit_eval` leaves.

    reference: uint8 (H, W, 3) -> (size, size, 3) with Pillow. The others: this project's FFCV backend on its val.beton;
    OpenCV's INTER_AREA and INTER_LINEAR on the files, with the reference's geometry; the decoder that FFCV users take,
    CenterCropRGBImageDecoder, on the same val.beton. Raises ValueError where one of them cannot be had.
    """
    augment = AugmentConfig(size=size, eval_resize=resize)
    which = {"batch_size": BATCH, "rank": 0, "world": 1, "seed": 0, "train": False}
    loader = build_loader(DataConfig(data.name, Backend.ffcv, data.root, data.ffcv_root, limit_eval=data.limit_eval),
                          augment, "val", **which)  # fmt: skip
    order, source = loader.order(), open_source(data.name, data.root, "val")
    base = Path("Pillow, from the files")
    with ThreadPool(cores()) as pool:
        ways = {
            "data.backend=ffcv": (images.permute(0, 2, 3, 1).numpy() for images, _ in loader.epoch()),
            "OpenCV INTER_AREA": _files(pool, source, order, lambda p: opencv(p, augment, area=True)),
            "OpenCV INTER_LINEAR": _files(pool, source, order, lambda p: opencv(p, augment, area=False)),
            "FFCV's CenterCrop decoder": _bare(beton_path(ffcv_root(data), "val"), order, size, resize),
        }
        others = [Path(name) for name in ways]
        batches = zip(_files(pool, source, order, reference), *ways.values(), strict=True)
        for number, (wanted, *found) in enumerate(batches):
            labels = torch.from_numpy(source.labels[order[number * BATCH :][: len(wanted)]])
            theirs = _add(base, wanted, wanted, labels, predict, None)
            for way, images in zip(others, found, strict=True):
                _add(way, images, wanted, labels, predict, theirs)
            report(len(base.differences), len(order))
    return base, others


def _add(way: Path, images: np.ndarray, wanted: np.ndarray, labels: Tensor, predict: Predict | None,
         theirs: Tensor | None) -> Tensor | None:  # fmt: skip
    apart = np.abs(images.astype(np.int16) - wanted)
    way.differences += apart.mean((1, 2, 3)).tolist()
    way.worst = max(way.worst, int(apart.max()))
    if predict is None:
        return None
    classes = predict(torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)).cpu()
    way.right += int((classes == labels).sum())
    way.same += int((classes == (classes if theirs is None else theirs)).sum())
    return classes


def _files(pool: ThreadPool, source: Source, order: np.ndarray, prepare: Callable) -> Iterator[np.ndarray]:
    for start in range(0, len(order), BATCH):
        indices: Sequence[int] = order[start : start + BATCH].tolist()
        yield np.stack(pool.map(lambda index: prepare(source[index][0]), indices))


def opencv(pixels: np.ndarray, augment: AugmentConfig, area: bool) -> np.ndarray:
    """Resize and centre crop with torchvision's geometry by OpenCV: uint8 (H, W, 3) -> (size, size, 3)."""
    cv2 = one_threaded()
    rows, columns, top, left = eval_geometry(*pixels.shape[:2], augment.eval_resize, augment.size)
    resized = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_AREA if area else cv2.INTER_LINEAR)
    return resized[top : top + augment.size, left : left + augment.size]


def _bare(path: str, order: np.ndarray, size: int, resize: int) -> Iterator[np.ndarray]:
    """FFCV as its documentation uses it for evaluation. Its buffers are reused: copies."""
    with guard.importing():
        from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
        from ffcv.loader import Loader, OrderOption

        pipelines = {
            "image": [CenterCropRGBImageDecoder((size, size), ratio=size / resize)],
            "label": None,
            "checksum": None,
        }
        loader = Loader(path, batch_size=BATCH, num_workers=1, os_cache=True, order=OrderOption.SEQUENTIAL,
                        drop_last=False, indices=order, pipelines=pipelines)  # fmt: skip
        batches = iter(loader)
    try:
        for (images,) in batches:
            yield images.copy()
    finally:
        batches.close()
