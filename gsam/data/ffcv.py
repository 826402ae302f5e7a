"""Backend `ffcv`: a .beton file per split, read by FFCV, with crops and flips drawn from (seed, epoch, index).

FFCV contributes the file format, the mapped storage, the JPEG decoder and the ring of buffers; order, boxes,
evaluation geometry and the pipeline's safety are ours (gsam.data.plan, ffcv_kernels, ffcv_guard). The box of a
picture is drawn in the stored picture, which a preset with a maximum resolution has made smaller.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gsam.data import AugmentConfig, Crop, DataConfig, ffcv_root
from gsam.data import ffcv_guard as guard
from gsam.data.checks import workers_of
from gsam.data.manifest import beton_path, label_hash, read_manifest
from gsam.data.plan import Plan, make_plan


def build(
    data: DataConfig,
    augment: AugmentConfig,
    split: str,
    *,
    batch_size: int,
    rank: int,
    world: int,
    seed: int,
    train: bool,
) -> FFCVLoader:
    """See gsam.data.build_loader."""
    root = ffcv_root(data)
    manifest = read_manifest(root, split)
    plan = make_plan(data, manifest["n"], batch_size=batch_size, rank=rank, world=world, seed=seed, train=train)
    return FFCVLoader(beton_path(root, split), manifest, augment, plan, max(1, workers_of(data)))


class FFCVLoader:
    """See gsam.data.Loader. Several epochs, of this and other loaders, may be open at once."""

    def __init__(self, path: str, manifest: dict, augment: AugmentConfig, plan: Plan, workers: int) -> None:
        self.num_examples = len(plan.indices)
        self.num_classes = len(manifest["classes"])
        self.batches_per_epoch = len(plan)
        self._plan, self._augment, self._path = plan, augment, path
        self._loader = _open_loader(path, plan, augment, workers)
        self._labels = torch.from_numpy(_labels(self._loader.reader, manifest, path))
        self._epoch_class = guard.make_epoch_class()

    def epoch(self, epoch: int = 0, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """See gsam.data.Loader."""
        order = self._plan.order(epoch, skip)
        if len(order) == 0:
            return
        with guard.torch_threads_kept():
            batches = self._epoch_class(self._loader, order.astype(np.uint64), self._filler(epoch), self._inspect)
        try:
            start = 0
            for images in batches:
                labels = self._labels[torch.from_numpy(order[start : start + len(images)])]
                start += len(images)
                yield torch.from_numpy(images).permute(0, 3, 1, 2), labels
        finally:
            batches.close()

    def _filler(self, epoch: int):
        """Writes what the kernels need to know into the epoch's own buffers."""
        values = parameters(self._augment, self._plan, epoch)

        def fill(buffers: tuple[np.ndarray, ...]) -> None:
            buffers[1][:] = values

        return fill

    def _inspect(self, buffers: tuple[np.ndarray, ...], indices: np.ndarray) -> None:
        bad = indices[buffers[2][: len(indices), 0] != 0]
        if len(bad):
            raise RuntimeError(
                f"{len(bad)} picture(s) of a batch cannot be decoded: sample {', '.join(map(str, bad[:5].tolist()))} of "
                f"{self._path}; the file is damaged: compare its sha256 with the manifest's, then copy or write it again"
            )


def parameters(augment: AugmentConfig, plan: Plan, epoch: int) -> np.ndarray:
    """The kernels' parameters, float64 (NUM_PARAMETERS,); seeds and epochs are exact below 2**53."""
    kernels = guard.kernels()
    values = np.zeros(kernels.NUM_PARAMETERS)
    if not plan.train:
        values[0] = augment.eval_resize
        return values
    rule = {Crop.inception: kernels.INCEPTION, Crop.torchvision: kernels.TORCHVISION, Crop.none: kernels.WHOLE}[
        augment.crop
    ]
    values[:] = (plan.seed, epoch, rule, *augment.area, *augment.aspect, augment.flip)
    return values


def _open_loader(path: str, plan: Plan, augment: AugmentConfig, workers: int):
    """FFCV's loader over the file, with our decoder. Raises ValueError if FFCV cannot read the file."""
    kernels = guard.kernels()
    from ffcv.loader import Loader, OrderOption
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.operation import Operation
    from ffcv.pipeline.pipeline_spec import PipelineSpec

    name = f"{'train' if plan.train else 'eval'}_{'parallel' if workers > 1 else 'serial'}"
    kernel = getattr(kernels, name)

    class Decoder(Operation):
        """Hands FFCV the kernel and the buffers it wants: images, parameters, status."""

        def declare_state_and_memory(self, previous_state):
            shape = (augment.size, augment.size, 3)
            state = replace(previous_state, jit_mode=True, shape=shape, dtype=np.dtype("u1"))
            buffers = ((shape, "u1"), ((kernels.NUM_PARAMETERS,), "f8"), ((1,), "u1"))
            return state, tuple(AllocationQuery(size, np.dtype(kind)) for size, kind in buffers)

        def generate_code(self):
            return kernel

    with guard.precompiled():
        try:
            return Loader(
                path,
                batch_size=plan.batch_size,
                num_workers=workers,
                os_cache=True,
                order=OrderOption.SEQUENTIAL,
                drop_last=False,
                pipelines={"image": PipelineSpec("image", decoder=Decoder()), "label": None},
            )
        except (AssertionError, ValueError, IndexError, OSError) as error:
            raise ValueError(
                f"{path} is not a readable .beton file ({type(error).__name__}: {error}); write or copy it again"
            ) from error


def _labels(reader, manifest: dict, path: str) -> np.ndarray:
    """All labels of the file, int64 (N,). Raises ValueError if they are not those of the manifest."""
    labels = np.ascontiguousarray(reader.metadata[f"f{reader.field_names.index('label')}"])
    if not len(labels) == len(reader.alloc_table) == manifest["n"] or label_hash(labels) != manifest["labels_sha256"]:
        raise ValueError(
            f"{path} holds other samples than its manifest says; copy both files again, or write them with --overwrite"
        )
    return labels
