"""RandAugment and colour jitter with draws from (seed, epoch, index of the picture)."""

import random

import numpy as np
import torch
from torch import Tensor

from gsam.augment.operations import OFFICIAL, Draw, jitter
from gsam.data.keyed import JITTER_STREAM, RANDAUGMENT_STREAM, below, between, words

NAMES = tuple(OFFICIAL)


def drawn(seed: int, keys: Tensor, layer: int, height: int, width: int) -> tuple[np.ndarray, ...]:
    """Of one layer, int64 (B,) each: operation (position in NAMES), sign, row and column of cutout. keys: int64 (B, 2), epoch
    and index of each picture."""
    epoch, index = keys.numpy().T
    which, sign, row, column = words(seed, epoch, index, layer, RANDAUGMENT_STREAM)
    return below(which, len(NAMES)), 1 - 2 * below(sign, 2), below(row, height), below(column, width)


def official(images: Tensor, keys: Tensor, seed: int, layers: int, magnitude: int) -> Tensor:
    """Each picture through `layers` operations, drawn uniformly with replacement. uint8 (B, 3, H, W) in and out.

    A layer sorts the pictures by operation, so that each operation is one call. The sorting is known on the host: nothing waits
    for the device.
    """
    for layer in range(layers):
        which, *rest = drawn(seed, keys, layer, *images.shape[2:])
        order = np.argsort(which, kind="stable")
        packed = np.stack([order, np.argsort(order), *(values[order] for values in rest)])
        order, back, sign, row, column = torch.from_numpy(packed).to(images.device, non_blocking=True)
        counts = np.bincount(which, minlength=len(NAMES)).tolist()
        parts = zip(NAMES, *(t.split(counts) for t in (images[order], sign.float(), row, column)), strict=True)
        done = [OFFICIAL[name](x, magnitude / 10, Draw(*draw)) for name, x, *draw in parts if len(x)]
        images = torch.cat(done)[back]
    return images


def timms(images: Tensor, keys: Tensor, seed: int, layers: int, magnitude: int) -> Tensor:
    """timm's rand_augment_transform, one picture after the other in this process. uint8 (B, 3, H, W) on the CPU in and out.

    It draws from the generators of Python and numpy, which are seeded for each picture and put back.
    """
    from PIL import Image
    from timm.data.auto_augment import rand_augment_transform

    # mmax: timm would take any magnitude above 10 as 10.
    transform = rand_augment_transform(f"rand-m{magnitude}-n{layers}-mmax20", {"img_mean": (128, 128, 128)})
    epoch, index = keys.numpy().T
    seeds = words(seed, epoch, index, 0, RANDAUGMENT_STREAM)[0].tolist()
    states, result = (random.getstate(), np.random.get_state()), []
    try:
        for image, start in zip(images, seeds, strict=True):
            random.seed(start)
            np.random.seed(start)
            result.append(np.array(transform(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()))))
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    return torch.from_numpy(np.stack(result)).permute(0, 3, 1, 2)


def color_jitter(images: Tensor, keys: Tensor, seed: int, strength: float) -> Tensor:
    """Brightness, contrast and saturation of each picture by factors uniform on 1 - strength to 1 + strength."""
    epoch, index = keys.numpy().T
    drawn = np.stack(words(seed, epoch, index, 0, JITTER_STREAM)[:3], axis=1)
    factors = torch.from_numpy(between(drawn, 1 - strength, 1 + strength).astype(np.float32))
    return jitter(images, factors.to(images.device, non_blocking=True))
