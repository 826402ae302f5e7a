"""Backend `folder`: pictures as they lie on disk, decoded by Pillow in worker processes.

Boxes, flips and order are those of the FFCV backend. Pixels of training crops are not: Pillow's BILINEAR is
antialiased and interpolates when it enlarges, OpenCV's INTER_AREA (FFCV) averages and makes blocks when it enlarges;
and a .beton file may hold smaller, recompressed pictures, in which the same draw gives another box. Evaluation has
torchvision's geometry and filter in both.
"""

from __future__ import annotations

import atexit
import faulthandler
import multiprocessing
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gsam.data import AugmentConfig, Crop, DataConfig, open_source, stored_split
from gsam.data.checks import workers_of
from gsam.data.keyed import eval_geometry, flipped, inception_box, resmall_box, torchvision_box
from gsam.data.plan import Plan, make_plan
from gsam.data.skip import Skips, stand_ins
from gsam.data.sources import Source

WORKERS_TRACEBACK = "\nOriginal Traceback (most recent call last):\n"  # torch.utils.data
CAUSED = "\n\nThe above exception was the direct cause of the following exception:\n\n"  # Python's traceback
PATIENCE_S = 900.0  # a batch that takes longer is a hung disk or worker
DUMP = signal.SIGUSR2  # at which a worker writes its stack
BOXES = {Crop.inception: inception_box, Crop.torchvision: torchvision_box}


def build(data: DataConfig, augment: AugmentConfig, split: str, **which) -> FolderLoader:
    """See gsam.data.build_loader."""
    source = open_source(data.name, data.root, stored_split(data, split))
    plan = make_plan(data, source.labels, split, **which)
    workers = 0 if data.workers is None and source.in_memory else workers_of(data)
    return FolderLoader(source, augment, plan, workers, Skips(data.on_bad, plan.train))


class FolderLoader:
    """See gsam.data.Loader."""

    def __init__(self, source: Source, augment: AugmentConfig, plan: Plan, workers: int, skips: Skips) -> None:
        self.num_examples = len(plan.indices)
        self.num_classes = len(source.classes)
        self.batches_per_epoch = len(plan)
        self._schedule, self._skips = _Schedule(plan), skips
        pictures = _Pictures(source, augment, plan, skips.allowed)
        self._loader = open_workers(pictures, self._schedule, _as_tensors, workers)
        self._running = False

    def epoch(self, epoch: int = 0, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """See gsam.data.Loader. Only one epoch at a time: the worker processes are shared."""
        if self._running:
            raise RuntimeError(
                "this loader is already in an epoch; close its generator first, or build a second loader"
            )
        self._running = True
        self._schedule.start(epoch, skip)
        try:
            with closing(read(self._loader)) as batches:
                for images, labels, problems in batches:
                    for index, problem in problems:
                        self._skips.note(index, problem)
                    yield images, labels
        finally:
            self._running = False

    def order(self, epoch: int = 0, skip: int = 0) -> np.ndarray:
        """See gsam.data.Loader."""
        return self._schedule.plan.order(epoch, skip)

    @property
    def skipped(self) -> int:
        """See gsam.data.Loader."""
        return self._skips.count

    def close(self) -> None:
        """See gsam.data.Loader. Left to the garbage collector, within a cycle of references, the processes' queues would
        be closed before the processes are told to end, and each would be waited for in vain."""
        end_workers(self._loader)


class _Schedule:
    """Batch sampler: lists of (epoch, index). The epoch travels with each index, so that persistent workers need not
    be told.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.epoch, self.skip = plan, 0, 0

    def start(self, epoch: int, skip: int) -> None:
        self.epoch, self.skip = epoch, skip

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.plan.batches(self.epoch, self.skip):
            yield [(self.epoch, int(index)) for index in batch]

    def __len__(self) -> int:
        return max(0, len(self.plan) - self.skip)


class _Pictures(Dataset):
    """Transformed pictures, a batch at a time."""

    def __init__(self, source: Source, augment: AugmentConfig, plan: Plan, skip: bool) -> None:
        self.source, self.augment, self.seed, self.train, self.skip = source, augment, plan.seed, plan.train, skip

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]:
        """(images, labels, (index, problem) of those in whose place another one is)"""
        epoch, indices = keys[0][0], np.array([index for _, index in keys])
        size = self.augment.size
        images = np.empty((len(keys), size, size, 3), np.uint8)
        mirrored = flipped(self.seed, epoch, indices, self.augment.flip) if self.train else np.zeros(len(keys), bool)
        bad, problems = np.zeros(len(keys), bool), []
        for at, (index, mirror) in enumerate(zip(indices.tolist(), mirrored, strict=True)):
            try:
                pixels = self.source[index][0]
            except ValueError as error:
                if not self.skip:
                    raise
                bad[at] = True
                problems.append((index, str(error)))
                continue
            pixels = (
                train_pixels(pixels, self.augment, self.seed, epoch, index)
                if self.train
                else eval_pixels(pixels, self.augment)
            )
            images[at] = pixels[:, ::-1] if mirror else pixels
        labels = self.source.labels[indices]
        if problems:
            others = stand_ins(bad, problems[0][1])
            images[bad], labels[bad] = images[others], labels[others]
        return images, labels, problems


def train_pixels(pixels: np.ndarray, augment: AugmentConfig, seed: int, epoch: int, index: int) -> np.ndarray:
    """The training crop of a picture, not yet flipped: uint8 (H, W, 3) to uint8 (size, size, 3)."""
    height, width = pixels.shape[:2]
    if augment.crop is Crop.none:
        top, left, rows, columns = 0, 0, height, width
    elif augment.crop is Crop.resmall:
        top, left, rows, columns = resmall_box(seed, epoch, index, height, width, augment.size / augment.eval_resize)
    else:
        top, left, rows, columns = BOXES[augment.crop](
            seed, epoch, index, height, width, *augment.area, *augment.aspect
        )
    return _resize(pixels[top : top + rows, left : left + columns], augment.size, augment.size)


def eval_pixels(pixels: np.ndarray, augment: AugmentConfig) -> np.ndarray:
    """torchvision's Resize(eval_resize) and CenterCrop(size): uint8 (H, W, 3) to uint8 (size, size, 3)."""
    rows, columns, top, left = eval_geometry(*pixels.shape[:2], augment.eval_resize, augment.size)
    return _resize(pixels, rows, columns)[top : top + augment.size, left : left + augment.size]


def _resize(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    if pixels.shape[:2] == (rows, columns):
        return pixels
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR))


def _as_tensors(batch: tuple[np.ndarray, np.ndarray, list]) -> tuple[Tensor, Tensor, list]:
    images, labels, problems = batch
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels), problems


def open_workers(
    dataset: Dataset, batch_sampler: Iterable, collate: Callable, workers: int, pin: bool = True
) -> DataLoader:
    """A DataLoader for `read`, whose processes start with the first batch and stay until `end_workers`."""
    loader = DataLoader(
        dataset,
        batch_sampler=batch_sampler,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        timeout=PATIENCE_S if workers else 0,
        pin_memory=pin and torch.cuda.is_available(),
        worker_init_fn=_begin,
        generator=torch.Generator(),  # each epoch draws a seed for its workers; not from the training's numbers
    )
    _open.add(loader)
    return loader


def read(loader: DataLoader) -> Iterator:
    """One epoch of batches. A worker's ValueError comes as if raised here; a dead worker is a RuntimeError that says so,
    one that gives no batch for PATIENCE_S seconds too, after all workers have written their stacks to stderr."""
    try:
        yield from loader
    except ValueError as error:  # from a worker it comes with the worker's traceback as text
        own, _, chained = str(error).partition(WORKERS_TRACEBACK)
        if not chained:
            raise
        # The traceback begins with the causes of the error, each with a traceback of its own: the last one is the error.
        raise ValueError(chained.rpartition(CAUSED)[2].partition("\nValueError: ")[2].strip() or own) from None
    except (RuntimeError, ConnectionError, EOFError) as error:
        if "DataLoader timed out" in str(error):
            raise _hung(loader) from error
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" not in str(error):
            raise
        with _children_may_end():
            end_workers(loader)
        raise RuntimeError(
            f"a data worker process died ({error}); it was killed from outside or ran out of memory: "
            "lower data.workers (evaluate.py: workers), or free memory"
        ) from error


def _hung(loader: DataLoader) -> RuntimeError:
    workers = loader._iterator._workers
    for worker in workers:
        os.kill(worker.pid, DUMP)
    time.sleep(1)  # for their stacks
    with _children_may_end():
        for worker in workers:
            worker.kill()
        end_workers(loader)
    return RuntimeError(
        f"no batch for {loader.timeout:.0f} s: the disk or a data worker process hangs (their stacks are above); is the file "
        "system there? The same command continues"
    )


@contextmanager
def _children_may_end() -> Iterator[None]:
    """Without torch's signal handler, which raises again for each worker that ends, in the middle of anything."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def end_workers(loader: DataLoader) -> None:
    """End the loader's processes; the next epoch starts new ones."""
    iterator, loader._iterator = loader._iterator, None
    if iterator is not None:
        iterator._shutdown_workers()


def _begin(worker: int) -> None:
    # torch's workers ask whether their parent has changed: one that was gone before they began would never have.
    if os.getppid() != multiprocessing.parent_process().pid:
        os._exit(1)
    faulthandler.register(DUMP)
    # A scheduler signals the whole process group; the trainer needs its workers for the steps up to the last
    # checkpoint.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


_open: weakref.WeakSet[DataLoader] = weakref.WeakSet()


@atexit.register  # after multiprocessing's own hook, hence run before it
def _end_workers() -> None:
    # At exit multiprocessing ends its children with SIGTERM, which ours ignore, and waits for them: they must be gone
    # by then.
    for loader in list(_open):
        end_workers(loader)
    for process in multiprocessing.active_children():  # of loaders that the garbage collector took
        if process.daemon:
            process.kill()
