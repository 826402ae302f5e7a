"""A network's mean loss over fixed pictures as a function of one flat weight vector: value, gradient, Hessian times vector."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from gsam.eval.runner import eval_mode
from gsam.losses import Loss
from gsam.optim.batchnorm import second_pass

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Every call gives the same micro-batches: normalised images (B, 3, H, W) and labels (B,), on the model's device."""


KEEP_BYTES = 1 << 31
UNKNOWN = float("inf")


class BatchNorm(Enum):
    """eval: normalise with the running statistics · batch: with those of each micro-batch, as in training."""

    eval = "eval"
    batch = "batch"


class Graph(NamedTuple):
    """The gradient of one micro-batch, differentiable; size: bytes that it keeps alive, UNKNOWN where not measured."""

    leaves: list[Tensor]
    first: Sequence[Tensor]
    size: float

    def times(self, directions: list[Tensor], *, again: bool) -> Sequence[Tensor]:
        """Its Hessian times a vector in parts. again: it will be asked once more."""
        used = [(g, d) for g, d in zip(self.first, directions, strict=True) if g.requires_grad]
        if not used:  # f is linear in w
            return [torch.zeros_like(w) for w in self.leaves]
        gradients, chosen = zip(*used, strict=True)
        return torch.autograd.grad(gradients, self.leaves, chosen, retain_graph=again, materialize_grads=True)


class Objective:
    """f(w) = mean over the pictures of the training loss, without weight decay, dropout and augmentation.

    model: on its device, in the precision to compute in (float32 or float64); neither its weights nor its buffers are
    changed. Vectors are flat, (P,), in the order of `named_parameters()` over those that require a gradient; `weights`
    is the model's own. With BatchNorm.batch the micro-batches are part of f. Attention takes torch's plain ("math")
    kernel: the fused ones have no second derivative. TF32 is off. keep_bytes: see `hvp`.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, batches: Batches, batchnorm: BatchNorm = BatchNorm.eval,
        keep_bytes: int = KEEP_BYTES,
    ):  # fmt: skip
        self.model, self.batches, self.batchnorm, self._loss = model, batches, batchnorm, loss
        self.keep_bytes = keep_bytes
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.names, self.shapes = list(self._named), [p.shape for p in self._named.values()]
        self.refresh()

    def refresh(self) -> None:
        """Take over the model's weights of now, e.g. after a step of training."""
        self.weights = _flat(p.detach() for p in self._named.values())
        self.release()

    def release(self) -> None:
        """Free the gradient's graphs that `hvp` keeps."""
        self._kept: list[Graph] = []
        self._room = self.keep_bytes

    def parts(self, vector: Tensor) -> list[Tensor]:
        """The vector (P,) as one view per parameter tensor."""
        pieces = vector.split([shape.numel() for shape in self.shapes])
        return [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    @torch.no_grad()
    def loss(self, weights: Tensor | None = None) -> float:
        """f(w) in nats, by default at the model's own weights."""
        mean, parts = _Mean(), self.parts(self._at(weights))
        with self._ready():
            for x, y in self.batches():
                mean.add(self._value(parts, x, y), len(y))
        return mean.result().item()

    def gradient(self, weights: Tensor | None = None) -> tuple[float, Tensor]:
        """(f(w), its gradient (P,))."""
        value, gradient, leaves = _Mean(), _Mean(), self._leaves(weights)
        with self._ready():
            for x, y in self.batches():
                f = self._value(leaves, x, y)
                value.add(f.detach(), len(y))
                gradient.add(_flat(torch.autograd.grad(f, leaves, materialize_grads=True)), len(y))
        return value.result().item(), gradient.result()

    def hvp(self, vector: Tensor, weights: Tensor | None = None) -> Tensor:
        """The Hessian of f at w times the vector, (P,): the gradient of <gradient, vector> (Pearlmutter 1994).

        At the model's own weights the graphs of the gradients of the first micro-batches stay, as many as fit into
        `keep_bytes`, so that the next product needs a third less.
        """
        product, directions, own = _Mean(), self.parts(vector), weights is None
        with self._ready():
            for i, (x, y) in enumerate(self.batches()):
                if own and i < len(self._kept):
                    graph, keep = self._kept[i], True
                else:
                    graph = self._graph(x, y, weights, measured=own and self._room > 0)
                    keep = own and graph.size <= self._room
                    if own:
                        self._room = self._room - graph.size if keep else 0
                    self._kept += [graph] * keep
                product.add(_flat(graph.times(directions, again=keep)), len(y))
        return product.result()

    def _graph(self, x: Tensor, y: Tensor, weights: Tensor | None, *, measured: bool) -> Graph:
        leaves, sizes = self._leaves(weights), {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor) if measured else nullcontext()
        with hooks:
            f = self._value(leaves, x, y)
            first = torch.autograd.grad(f, leaves, create_graph=True, materialize_grads=True)
        return Graph(leaves, first, sum(sizes.values()) if measured else UNKNOWN)

    def _at(self, weights: Tensor | None) -> Tensor:
        return self.weights if weights is None else weights.detach()

    def _leaves(self, weights: Tensor | None) -> list[Tensor]:
        return [part.clone().requires_grad_() for part in self.parts(self._at(weights))]

    def _value(self, parts: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(self.model, dict(zip(self.names, parts, strict=True)), (x.to(self.weights.dtype),))
        return self._loss(logits, y)

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """The model as f is defined; afterwards as it was."""
        modules = list(self.model.modules())
        norms = [m for m in modules if isinstance(m, _BatchNorm)] if self.batchnorm is BatchNorm.batch else []
        # Recomputing in the backward pass would find the model's own weights instead of w.
        checkpointed = [m for m in modules if getattr(m, "grad_checkpointing", False) is True]
        exact = nullcontext()
        if self.weights.is_cuda:
            exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with eval_mode(self.model), sdpa_kernel(SDPBackend.MATH), exact:
            for module in norms:
                module.training = True
            for module in checkpointed:
                module.grad_checkpointing = False
            try:
                with second_pass(self.model):  # batch statistics do not enter the running ones
                    yield
            finally:
                for module in norms:
                    module.training = False
                for module in checkpointed:
                    module.grad_checkpointing = True


class _Mean:
    """Of tensors over micro-batches, weighted with their pictures; numbers in double precision."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def add(self, value: Tensor, count: int) -> None:
        self.count += count
        value = value.double() if value.ndim == 0 else value
        if self.total is None:
            self.total = value * count
        else:
            self.total.add_(value, alpha=count)

    def result(self) -> Tensor:
        assert self.total is not None, "no pictures"
        return self.total / self.count


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])
