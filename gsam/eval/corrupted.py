"""A loader of corrupted copies, computed while it is read: nothing is stored on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gsam.data.sources import Source

from .corruptions import corrupt, preset_for


class CorruptedLoader:
    """Batches of (uint8 (B, 3, S, S), int64 (B,)) of one corruption at one severity; follows gsam.data's Loader.

    source: the clean pictures. transform: corrupted uint8 (H, W, 3) -> uint8 (S, S, 3), the evaluation transform.
    indices: which pictures, in order; None = all. This rank gets indices[rank::world], so every picture is counted
    exactly once over the ranks. canvas: cut this square out of the clean picture first (`central_square`); None =
    corrupt the picture as it is. grey: the pictures are grey ones stored as RGB; average the copy's channels, so that
    it is grey again. preset, save_jpeg85, seed: as for `corrupt`; the random stream of a picture depends on its index
    in the SOURCE, so neither a subset, nor ranks, nor workers change a copy. workers: processes; 0 = this one.

    Its `preset` is the one in use; where pictures differ in size and none is given, that of the first picture.
    Raises ValueError for what `corrupt` refuses in corruption, severity or preset.
    """

    def __init__(
        self,
        source: Source,
        corruption: str,
        severity: int,
        *,
        transform: Callable[[np.ndarray], np.ndarray],
        batch_size: int,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        canvas: int | None = None,
        grey: bool = False,
        preset: int | None = None,
        save_jpeg85: bool | None = None,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
    ) -> None:
        indices = range(len(source)) if indices is None else indices
        self.num_examples = len(indices)
        self.num_classes = len(source.classes)
        self._local = [int(index) for index in indices[rank::world]]
        self._batch_size, self._workers = batch_size, workers
        self.batches_per_epoch = -(-len(self._local) // batch_size)
        options = {"name": corruption, "severity": severity, "seed": seed, "preset": preset, "save_jpeg85": save_jpeg85}
        sample = source[0][0] if canvas is None else np.zeros((canvas, canvas, 3), np.uint8)
        corrupt(sample, index=0, **options)  # a wrong name or number must fail here, not in a worker
        self.preset = preset_for(*sample.shape[:2]) if preset is None else preset
        self._copies = _Copies(source, transform, canvas, grey, options)

    def epoch(self, epoch: int = 0, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches in order, the same in every epoch; `skip` batches are left out without being computed."""
        size = self._batch_size
        batches = [self._local[start : start + size] for start in range(skip * size, len(self._local), size)]
        yield from DataLoader(
            self._copies,
            batch_sampler=batches,
            num_workers=self._workers,
            collate_fn=_stack,
            # Its own generator: DataLoader else draws its seed from torch's global one and shifts the training's.
            generator=torch.Generator(),
        )


class _Copies(Dataset):
    """Map-style dataset of corrupted pictures; a class of its own so that worker processes can be sent it."""

    def __init__(self, source: Source, transform: Callable, canvas: int | None, grey: bool, options: dict) -> None:
        self._source, self._transform, self._canvas = source, transform, canvas
        self._grey, self._options = grey, options

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        image, label = self._source[index]
        if self._canvas is not None:
            image = central_square(image, self._canvas)
        copy = corrupt(image, index=index, **self._options)
        if self._grey:
            copy = np.repeat(np.rint(copy.mean(-1, keepdims=True)).astype(np.uint8), 3, axis=-1)
        return self._transform(copy), label


def _stack(examples: list[tuple[np.ndarray, int]]) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(np.stack([image for image, _ in examples])).permute(0, 3, 1, 2)
    return images, torch.tensor([label for _, label in examples], dtype=torch.int64)


def central_square(image: np.ndarray, size: int) -> np.ndarray:
    """What ImageNet-C corrupts: short side to size * 256 / 224 pixels (Pillow bilinear), then the central square.

    uint8 (H, W, 3) -> uint8 (size, size, 3).
    """
    from torchvision.transforms import functional  # takes a second to import and is needed for ImageNet only

    short = functional.resize(Image.fromarray(image), round(size * 256 / 224))
    return np.asarray(functional.center_crop(short, size))
