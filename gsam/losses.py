"""Training losses: softmax and sigmoid cross-entropy, both as one number per image, averaged over the batch."""

from collections.abc import Callable
from enum import Enum
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


class LossKind(Enum):
    """softmax: one distribution over the classes · sigmoid: one binary decision per class, summed over the classes."""

    softmax = "softmax"
    sigmoid = "sigmoid"


def build_loss(kind: LossKind, label_smoothing: float, num_classes: int) -> Loss:
    """A function (logits (N, K) of any float dtype, labels) -> mean loss in nats, shape (), computed in float32, for float64
    logits in float64.

    labels: (N,) int64 classes, or (N, K) probabilities (mixup). label_smoothing s in [0, 1), below 0.5 for sigmoid:
    softmax mixes the target with the uniform distribution, on = 1 - s + s/K, off = s/K (torch.nn.CrossEntropyLoss);
    sigmoid uses on = 1 - s, off = s, as big_vision's one-hot targets of ViT training (there s = 1e-4 at most; its
    sigmoid_xent, like this one, sums over classes: torch's default mean would make gradients K times smaller, and
    clipping at norm 1 would never act). Raises ValueError for s outside its range.
    """
    limit = 0.5 if kind is LossKind.sigmoid else 1.0
    if not 0 <= label_smoothing < limit:
        raise ValueError(f"loss.label_smoothing={label_smoothing} is not in [0, {limit}) for the {kind.value} loss")
    function = sigmoid_loss if kind is LossKind.sigmoid else softmax_loss
    return partial(function, label_smoothing=label_smoothing, num_classes=num_classes)


def softmax_loss(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, num_classes: int) -> Tensor:
    """Softmax cross-entropy, mean over the batch; see build_loss for shapes."""
    _check_classes(logits, num_classes)
    logits = _wide(logits)
    targets = labels.to(logits.dtype) if labels.ndim == 2 else labels
    return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)


def sigmoid_loss(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, num_classes: int) -> Tensor:
    """Binary cross-entropy summed over classes, mean over the batch; see build_loss for shapes."""
    _check_classes(logits, num_classes)
    targets = labels if labels.ndim == 2 else F.one_hot(labels, num_classes)
    logits = _wide(logits)
    targets = targets.to(logits.dtype) * (1 - 2 * label_smoothing) + label_smoothing
    # Two log-sigmoids, as big_vision: binary_cross_entropy_with_logits subtracts numbers near |logit| and so is 0.8 %
    # off for the 999 negative classes at the initial bias of -10.
    losses = targets * F.logsigmoid(logits) + (1 - targets) * F.logsigmoid(-logits)
    return -losses.sum(-1).mean()


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _check_classes(logits: Tensor, num_classes: int) -> None:
    if logits.shape[-1] != num_classes:
        raise ValueError(f"the model gives {logits.shape[-1]} logits per image, the data has {num_classes} classes")
