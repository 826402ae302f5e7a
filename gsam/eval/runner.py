"""The evaluation loop: every example once over all ranks, exact counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from gsam.runtime import Normalize

from .metrics import Counter, Metrics


class Batches(Protocol):
    """What `evaluate` needs of a loader (gsam.data's Loader has it): batches of (uint8 (B, 3, H, W), int64 (B,))."""

    def epoch(self, epoch: int = 0, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]: ...


def evaluate(
    model: nn.Module,
    loader: Batches,
    *,
    device: torch.device | str,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    mean: Sequence[float],
    std: Sequence[float],
    channels_last: bool = False,
) -> Metrics:
    """Count the model's errors on one pass over `loader`, added up over all ranks.

    model: images float32 (B, 3, H, W) -> logits (B, K), already on `device`; it runs in eval mode, and afterwards every
    module is back in the mode it was in. autocast: called once per batch, returns the context of the forward pass.
    mean, std: three numbers each on the 0..1 scale; the uint8 images become (x / 255 - mean) / std in float32 on
    `device`. Ranks may hold different numbers of batches. The result is the same on every rank.
    Raises ValueError if no example was seen. For a model trained with the sigmoid loss see `Counter` on NLL and ECE.
    """
    device = torch.device(device)
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module  # its forward may communicate, which hangs where ranks hold unequal numbers of batches
    normalize = Normalize(mean, std, device, channels_last)
    counter = Counter(device)
    with eval_mode(model), torch.inference_mode():
        for images, labels in loader.epoch():
            images, labels = normalize(images), labels.to(device)
            with autocast():
                logits = model(images)
            counter.update(logits, labels)
    return counter.result()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode; afterwards each in the mode it had, so that a frozen layer stays frozen."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
