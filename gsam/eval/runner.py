"""The evaluation loop: every example once over all ranks, exact counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from gsam.runtime import Normalize

from .metrics import Counter, Metrics
from .pictures import PictureLoader
from .scoring import Scored, Scoring, Tally


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
    """Count the model's errors on one pass over `loader`, added up over all ranks: what training asks for.

    model: images float32 (B, 3, H, W) -> logits (B, K), already on `device`; it runs in eval mode, and afterwards every
    module is back in the mode it was in. autocast: called once per batch, returns the context of the forward pass.
    mean, std: three numbers each on the 0..1 scale; the uint8 images become (x / 255 - mean) / std in float32 on
    `device`. Ranks may hold different numbers of batches. The result is the same on every rank.
    Raises ValueError if no example was seen. For a model trained with the sigmoid loss see `Counter` on NLL and ECE.
    """
    forward = _Forward(model, torch.device(device), autocast, mean, std, channels_last)
    counter = Counter(forward.device)
    with eval_mode(forward.model), torch.inference_mode():
        for images, labels in loader.epoch():
            counter.update(forward(images), labels.to(forward.device))
    return counter.result()


def score(
    model: nn.Module,
    loader: PictureLoader,
    scorings: dict[str, Scoring],
    *,
    device: torch.device | str,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
    mean: Sequence[float],
    std: Sequence[float],
    channels_last: bool = False,
    flip_tta: bool = False,
    pad_to: int | None = None,
    on_batch: Callable[[int], None] = lambda pictures: None,
) -> dict[str, Scored]:
    """One pass over `loader`, counted by every one of `scorings`; arguments as `evaluate`, and each picture's outcome kept.

    flip_tta: mean of the logits of a picture and of its mirror image. pad_to: fill every batch up to this size before the
    forward pass, so that a compiled model sees one shape; what was added is cut off before anything is counted. on_batch:
    called with the number of this rank's pictures done.
    Raises ValueError if none of the pictures is scored, and for a picture that came twice.
    """
    forward = _Forward(model, torch.device(device), autocast, mean, std, channels_last, flip_tta, pad_to)
    tallies = {name: Tally(scoring, forward.device) for name, scoring in scorings.items()}
    indices, done = torch.from_numpy(loader.indices), 0
    with eval_mode(forward.model), torch.inference_mode():
        for images, labels in loader.epoch():
            logits = forward(images)
            for tally in tallies.values():
                tally.add(logits, indices[done : done + len(labels)])
            done += len(labels)
            on_batch(done)
    return {name: tally.result() for name, tally in tallies.items()}


class _Forward:
    """uint8 images (B, 3, H, W) -> logits (B, K)."""

    def __init__(self, model: nn.Module, device: torch.device, autocast: Callable[[], AbstractContextManager],
                 mean: Sequence[float], std: Sequence[float], channels_last: bool, flip_tta: bool = False,
                 pad_to: int | None = None) -> None:  # fmt: skip
        # DDP's own forward may communicate, which hangs where ranks hold unequal numbers of batches.
        self.model = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        self.device, self.autocast, self.flip_tta, self.pad_to = device, autocast, flip_tta, pad_to
        self.normalize = Normalize(mean, std, device, channels_last)

    def __call__(self, images: Tensor) -> Tensor:
        count = len(images)
        if self.pad_to is not None and count < self.pad_to:
            images = torch.cat([images, images.new_zeros(self.pad_to - count, *images.shape[1:])])
        images = self.normalize(images)
        with self.autocast():
            logits = self.model(images)
            if self.flip_tta:
                logits = (logits.float() + self.model(images.flip(3)).float()) / 2
        return logits[:count]


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
