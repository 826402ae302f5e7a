"""The loader of evaluation: pictures, or corrupted copies of them, prepared for one model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gsam.data.folder import end_workers, open_workers, read
from gsam.data.sources import Source

from .corruptions import corrupt, preset_for
from .corruptions.pixels import keep_freed_memory
from .preprocess import Preprocess

PIECE = 32  # pictures that one worker prepares at a time: the first batch is there soon, and no worker idles at the end


class Prepare(Protocol):
    """From a picture and its index in the source to what the model sees."""

    size: int

    def __call__(self, pixels: np.ndarray, index: int) -> np.ndarray:
        """uint8 (H, W, 3) -> uint8 (size, size, 3)."""
        ...


@dataclass
class Clean:
    """The model's own transform."""

    preprocess: Preprocess

    @property
    def size(self) -> int:
        return self.preprocess.size

    def __call__(self, pixels: np.ndarray, index: int) -> np.ndarray:
        return self.preprocess(pixels)

    resized = None

    def preset(self, sample: np.ndarray) -> None:
        """Only copies have one."""
        return None

    def text(self) -> str:
        """For a row's protocol."""
        return self.preprocess.text()


@dataclass
class Copy:
    """A corrupted copy, made here or read from disk.

    corruption, severity, seed: of `corrupt`; corruption None: the picture is a stored copy. canvas: side of the square
    that is corrupted or stored; None: the whole picture. grey: average the channels of a made copy.

    A square of the model's size, or of the size it was trained at, is left as it is: it has been resized and cropped
    before it was corrupted, and doing either again would blur the corruption. Else the whole square is resized. Without a
    canvas a copy that has not the model's size gets the model's transform.
    """

    preprocess: Preprocess
    canvas: int | None
    corruption: str | None = None
    severity: int = 0
    seed: int = 0
    grey: bool = False

    @property
    def size(self) -> int:
        return self.preprocess.size

    def __call__(self, pixels: np.ndarray, index: int) -> np.ndarray:
        if self.corruption is None:
            pixels = pixels if self.canvas is None else centre(pixels, self.canvas)
        else:
            pixels = pixels if self.canvas is None else central_square(pixels, self.canvas)
            pixels = corrupt(pixels, self.corruption, self.severity, seed=self.seed, index=index)
            if self.grey:
                pixels = np.repeat(np.rint(pixels.mean(-1, keepdims=True)).astype(np.uint8), 3, axis=-1)
        if pixels.shape[:2] == (self.size, self.size):
            return pixels
        return (self.preprocess if self.canvas is None else replace(self.preprocess, resize=self.size))(pixels)

    @property
    def resized(self) -> int | None:
        """Side that every square is resized to after its corruption; None where it keeps its own."""
        return None if self.canvas in (None, self.size) else self.size

    def preset(self, sample: np.ndarray) -> int | None:
        """The published size whose constants a made copy of `sample` has; None for stored ones."""
        if self.corruption is None:
            return None
        return preset_for(*((self.canvas,) * 2 if self.canvas else sample.shape[:2]))

    def text(self) -> str:
        """For a row's protocol: what was done to the copy."""
        if self.canvas is None:
            return f"copies of {self.size} pixels as they are, others: {self.preprocess.text()}"
        done = f"centre {self.canvas} pixels of the copy"
        if self.resized is None:
            smaller = self.size == self.preprocess.trained_size
            return f"{done}, not resized" + f", scored at the model's training size {self.size}" * smaller
        return f"{done}, resized to {self.resized} ({self.preprocess.interpolation})"


class PictureLoader:
    """Batches of (uint8 (B, 3, S, S), int64 (B,)) of one rank; follows gsam.data's Loader.

    source: the pictures. prepare: from a picture and its index to what the model sees; the random stream of a copy
    depends on the index in the SOURCE, so neither a subset, nor ranks, nor workers change a picture. indices: which
    pictures, in order. This rank gets indices[rank::world] (`.indices`, int64): every picture exactly once over the
    ranks, none added to fill a batch. workers: processes, which prepare the next batches meanwhile; 0 = this one.
    """

    def __init__(self, source: Source, prepare: Prepare, *, indices: np.ndarray, batch_size: int, rank: int = 0,
                 world: int = 1, workers: int = 0) -> None:  # fmt: skip
        self.num_examples, self.num_classes = len(indices), len(source.classes)
        self.indices = np.asarray(indices)[rank::world]
        self.batches_per_epoch = -(-len(self.indices) // batch_size)
        self._labels, self._batch_size, self._size = np.asarray(source.labels), batch_size, prepare.size
        self._pieces: list[list[int]] = []
        self._loader = open_workers(_Prepared(source, prepare), self._pieces, torch.from_numpy, workers, pin=False)

    def epoch(self, epoch: int = 0, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches in order, the same in every epoch; `skip` batches are left out without being computed.

        Raises ValueError naming a picture that cannot be decoded, RuntimeError when a worker dies.
        """
        size = self._batch_size
        batches = [self.indices[at : at + size] for at in range(skip * size, len(self.indices), size)]
        self._pieces[:] = [b[at : at + PIECE].tolist() for b in batches for at in range(0, len(b), PIECE)]
        pieces = read(self._loader)
        try:
            for batch in batches:
                images = self._joined(pieces, len(batch))
                yield images.permute(0, 3, 1, 2), torch.from_numpy(self._labels[batch])
        finally:
            pieces.close()
            end_workers(self._loader)

    def _joined(self, pieces: Iterator[Tensor], count: int) -> Tensor:
        images = torch.empty(count, self._size, self._size, 3, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        done = 0
        while done < count:
            piece = next(pieces)
            images[done : done + len(piece)] = piece
            done += len(piece)
        return images


class _Prepared(Dataset):
    """Prepared pictures, a piece at a time; a class of its own so that worker processes can be sent it."""

    def __init__(self, source: Source, prepare: Prepare) -> None:
        self.source, self.prepare = source, prepare

    def __getitems__(self, indices: list[int]) -> np.ndarray:
        keep_freed_memory()
        images = np.empty((len(indices), self.prepare.size, self.prepare.size, 3), np.uint8)
        for image, index in zip(images, indices, strict=True):
            pixels = self.source[index][0]
            try:
                image[:] = self.prepare(pixels, index)
            except ValueError as error:
                raise ValueError(f"{self.source.describe(index)}: {error}") from error
        return images


def central_square(image: np.ndarray, size: int) -> np.ndarray:
    """What ImageNet-C corrupts: short side to size * 256 / 224 pixels (Pillow bilinear), then the central square.

    uint8 (H, W, 3) -> uint8 (size, size, 3).
    """
    return Preprocess(size, round(size * 256 / 224))(image)


def centre(image: np.ndarray, size: int) -> np.ndarray:
    """torchvision's CenterCrop: uint8 (H, W, 3) -> (size, size, 3). Raises ValueError for a smaller picture."""
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise ValueError(
            f"a stored copy of {width} x {height} pixels is smaller than its canvas of {size}; set the evaluation set's "
            "canvas to the side of its pictures, or get the set again"
        )
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[top : top + size, left : left + size]
