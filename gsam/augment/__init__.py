"""Everything random that happens to a training batch after the loader, in one place, on the training device:

    uint8 -> RandAugment -> colour jitter (uint8) -> normalise (float32) -> mixup or cutmix

What happens to a picture is drawn from (seed, epoch, index), what happens to a batch from (seed, step): the same on any number
of ranks and after a restart. The stepper calls it once per step and batch, so that both passes see the same images.
"""

import torch
from torch import Tensor

from gsam.augment import randaugment
from gsam.augment.mix import Mix, draw, mixed
from gsam.data import AugmentConfig, RandAugment
from gsam.runtime import Normalize


class OnDevice:
    """A loader's batch -> what the model is trained on. group_size: images that share a perturbation, on this rank."""

    def __init__(self, augment: AugmentConfig, device: torch.device, *, seed: int, num_classes: int, group_size: int,
                 channels_last: bool = False) -> None:  # fmt: skip
        self.augment, self.device, self.seed = augment, device, seed
        self.num_classes, self.group_size = num_classes, group_size
        self.normalize = Normalize(augment.mean, augment.std, device, channels_last)
        self.needs_keys = augment.randaugment is not RandAugment.none or augment.color_jitter > 0
        self.mixes = augment.mixup > 0 or augment.cutmix > 0

    def __call__(
        self, images: Tensor, labels: Tensor, keys: Tensor | None = None, *, step: int, part: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Images uint8 (B, 3, H, W) and labels int64 (B,) -> float32 images, and the same labels or, where pictures are mixed,
        probabilities (B, num_classes).

        keys: int64 (B, 2) on the CPU, epoch and index of each picture; only read where `needs_keys`. part: number of the batch
        within the step.
        """
        if self.needs_keys:
            images = self.distort(images, keys)
        images, labels = self.normalize(images), labels.to(self.device)
        if not self.mixes:
            return images, labels
        drawn = self.drawn(step, part, *images.shape[2:])
        return mixed(images, labels, drawn, self.group_size, self.num_classes)

    def distort(self, images: Tensor, keys: Tensor) -> Tensor:
        """RandAugment and colour jitter: uint8 (B, 3, H, W) in and, on the device, out."""
        augment = self.augment
        if augment.randaugment is RandAugment.timm:
            images = randaugment.timms(images, keys, self.seed, augment.layers, augment.magnitude)
        images = images.to(self.device)
        if augment.randaugment is RandAugment.official:
            images = randaugment.official(images, keys, self.seed, augment.layers, augment.magnitude)
        if augment.color_jitter:
            images = randaugment.color_jitter(images, keys, self.seed, augment.color_jitter)
        return images

    def drawn(self, step: int, part: int, height: int, width: int) -> Mix:
        """How batch `part` of a step is mixed."""
        return draw(self.seed, step, part, self.augment.mixup, self.augment.cutmix, height, width)
