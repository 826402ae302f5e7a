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
    _free(stepper)
    try:  # as in a step: whole batches, which stay until its end
        whole = [stepper.augment(*batch, step=stepper.step, part=k) for k, batch in enumerate(batches)]
    except torch.OutOfMemoryError:
        return ValueError(
            f"out of memory while a rank's whole batch of {len(batches[0][0])} images is normalised and augmented ({first}), "
            "which train.accumulate does not split: use more ranks, a smaller train.batch_size or augment.size"
        )
    for count in range(now + 1, size + 1):
        if size % count == 0 and _fits(stepper, whole[0], size // count):
            return ValueError(
                f"out of memory with train.accumulate={now}, micro-batches of {size // now} images ({first}); "
                f"train.accumulate={count} fits: {size // count} images. The same update to rounding, except "
                "BatchNorm's; it is a new run, in a folder of its own"
            )
    return ValueError(
        f"out of memory with train.accumulate={now} ({first}), and one image at a time does not fit either: use a smaller "
        "model or augment.size, or model.grad_checkpointing=true"
    )


def _free(stepper: Stepper) -> None:
    gc.collect()
    if stepper.runtime.device.type == "cuda":
        torch.cuda.empty_cache()


def _fits(stepper: Stepper, batch: Batch, images: int) -> bool:
    _free(stepper)
    try:
        x, y = batch[0][:images], batch[1][:images]
        with stepper.runtime.autocast(stepper.config.train.precision):
            loss = stepper.loss(stepper.model(x), y)
        loss.backward()
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        stepper.base.zero_grad(set_to_none=True)
