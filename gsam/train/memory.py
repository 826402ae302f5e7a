"""When the GPU's memory does not hold a step: which train.accumulate would."""

import gc
from collections.abc import Sequence

import torch

from gsam.train.stepper import Batch, Stepper


def explained(stepper: Stepper, batches: Sequence[Batch], error: torch.OutOfMemoryError) -> ValueError:
    """The message for a step that ran out of memory, with the smallest train.accumulate whose micro-batches fit: tried here,
    with one forward and backward each."""
    size, now = stepper.group_size, stepper.config.train.accumulate
    first = str(error).splitlines()[0]
    for count in range(now + 1, size + 1):
        if size % count == 0 and _fits(stepper, batches[0], size // count):
            return ValueError(
                f"out of memory with train.accumulate={now}, micro-batches of {size // now} images ({first}); "
                f"train.accumulate={count} fits: {size // count} images. The same update to rounding, except "
                "BatchNorm's; it is a new run, in a folder of its own"
            )
    return ValueError(
        f"out of memory with train.accumulate={now} ({first}), and one image at a time does not fit either: use a smaller "
        "model or augment.size, or model.grad_checkpointing=true"
    )


def _fits(stepper: Stepper, batch: Batch, images: int) -> bool:
    gc.collect()
    if stepper.runtime.device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        x, y = stepper.normalize(batch[0][:images]), batch[1][:images].to(stepper.runtime.device)
        with stepper.runtime.autocast(stepper.config.train.precision):
            loss = stepper.loss(stepper.model(x), y)
        loss.backward()
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        stepper.base.zero_grad(set_to_none=True)
