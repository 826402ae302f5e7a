"""Mixup and cutmix: one draw for a whole batch, on all ranks, from (seed, step)."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MIX_STREAM = 4  # keeps these draws apart from the orders of epochs, which are drawn from (seed, epoch)


class Mix(NamedTuple):
    """Every picture keeps `share` of itself and gets the rest from its partner; `box` (top, bottom, left, right): cutmix."""

    share: float
    box: tuple[int, int, int, int] | None = None


def draw(seed: int, step: int, part: int, mixup: float, cutmix: float, height: int, width: int) -> Mix:
    """The mix of one batch; `part`: its number within the step. With both wanted, one of them, equally often.

    mixup: the share is the larger of a and 1 - a, a from Beta(p, p) (big_vision's get_mixup; Zhang et al. 2018).
    cutmix: a box of sqrt(1 - a) of each side around a uniform centre, cut off at the border; the share is what it leaves
    (Yun et al. 2019).
    """
    rng = np.random.default_rng([seed, step, part, MIX_STREAM])
    cut = cutmix > 0 and (mixup == 0 or rng.random() < 0.5)
    a = rng.beta(cutmix, cutmix) if cut else rng.beta(mixup, mixup)
    if not cut:
        return Mix(max(a, 1 - a))
    sides = np.rint(np.sqrt(1 - a) * np.array([height, width])).astype(int)
    start = rng.integers((height, width)) - sides // 2
    (top, left), (bottom, right) = np.maximum(start, 0).tolist(), np.minimum(start + sides, (height, width)).tolist()
    return Mix(1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))


def mixed(images: Tensor, labels: Tensor, mix: Mix, group_size: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Images float32 (B, 3, H, W), which may be changed, and labels int64 (B,) -> mixed images and probabilities (B, K).

    A picture's partner is the one before it in its group of `group_size`, the last one for the first (big_vision rolls within a
    device's batch, which is its perturbation group): so a group is the same on any number of ranks.
    """
    partner = torch.arange(len(images), device=images.device).view(-1, group_size).roll(1, dims=1).flatten()
    if mix.box is None:
        other = images[partner].mul_(1 - mix.share)
        images = images.mul_(mix.share).add_(other)
    else:
        top, bottom, left, right = mix.box
        images[:, :, top:bottom, left:right] = images[:, :, top:bottom, left:right][partner]
    targets = F.one_hot(labels, num_classes).float()
    return images, targets * mix.share + targets[partner] * (1 - mix.share)
