"""The passes over memory that a sharpness-aware step adds to its two gradients: norm, perturb, dot products, combine.

All functions take equally long lists of tensors and treat each list as ONE vector. Each is one pass of large tensor
operations without temporaries; where two operations share their operands they run tensor by tensor, so that the second
finds them in the cache. Measured by scripts/bench/optimizer.py.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

PIECE = 2**20  # elements that BLAS adds up at once
EPS = 1e-12  # added to the norm of the ascent gradient, as in the official code


def no_sparse(where: str) -> str:
    """What to say about sparse gradients."""
    return (
        f"sparse gradients are not supported {where} (sam and weighted take them in one process on a CPU): "
        "set sparse=False in the embedding"
    )


def refuse_sparse(tensors: Sequence[Tensor], where: str) -> None:
    """Raises ValueError where torch would fail inside, with words about something else."""
    if any(t.is_sparse for t in tensors):
        raise ValueError(no_sparse(where))


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """L2 norm of the whole list, shape ()."""
    if tensors[0].device.type == "cpu":  # torch's own norm adds up in one float32: 3e-3 off at 38 M elements
        return dot(tensors, tensors).sqrt()
    widest = max(tensors, key=Tensor.element_size)
    dtype = widest.dtype if widest.element_size() > 4 else torch.float32  # fp16 overflows at 65504
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors), 2, dtype)))


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner product of two lists, shape ()."""
    return torch.stack([_inner(*_lines(x, y)) for x, y in zip(a, b, strict=True)]).sum()


def dots(a: Sequence[Tensor], b: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(<a, b>, <b, b>), each shape ()."""
    lines = [_lines(x, y) for x, y in zip(a, b, strict=True)]
    inner, square = zip(*[(_inner(x, y, blas), _inner(y, y, blas)) for x, y, blas in lines], strict=True)
    return torch.stack(inner).sum(), torch.stack(square).sum()


def _lines(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Both in memory order as vectors, where they are dense with equal strides, and whether BLAS may take them.

    It may not take views that do not start at a multiple of 64 bytes, such as those into DDP's buckets: on a CPU it would add
    in another order and less exactly. Half precision would overflow.
    """
    if x.element_size() < 4:
        x, y = x.float(), y.float()
    if x.stride() != y.stride() or not _dense(x):
        return x, y, False
    return _line(x), _line(y), x.device.type != "cpu" or not (x.data_ptr() | y.data_ptr()) % 64


def _inner(x: Tensor, y: Tensor, blas: bool) -> Tensor:
    """BLAS adds up in the tensors' own precision, so on a CPU large ones go through it in pieces."""
    if not blas:
        return (x * y).sum()
    if x.numel() <= PIECE or x.device.type != "cpu":
        return torch.dot(x, y)
    return torch.stack([torch.dot(a, b) for a, b in zip(x.split(PIECE), y.split(PIECE), strict=True)]).sum()


def _dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))


def _line(x: Tensor) -> Tensor:
    return x.view(-1) if x.is_contiguous() else x.permute(0, 2, 3, 1).view(-1)


class Room:
    """A set of tensors kept from step to step: allocating hundreds of megabytes anew costs more than filling them."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []

    def __reduce__(self) -> tuple:
        return Room, ()  # copies and pickles start empty: the contents mean nothing

    def like(self, params: Sequence[Tensor]) -> list[Tensor]:
        """Tensors with the parameters' shapes, strides, dtypes and devices, contents undefined."""
        kept = self.tensors
        if len(kept) != len(params) or not all(map(_same_kind, kept, params)):
            self.tensors = [torch.empty_like(p) for p in params]
        return self.tensors


def _same_kind(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype and a.device == b.device


@contextmanager
def perturbed(params: Sequence[Tensor], direction: Sequence[Tensor], scale: Tensor, room: Room) -> Iterator[None]:
    """Inside: params + scale * direction. Outside: the parameters bit for bit as before, also when the body raises.

    The parameters are pointed at other memory and back: nothing is saved and nothing copied back, three memory accesses
    per weight instead of seven. (Subtracting the perturbation again would drift by a rounding error per step.)
    """
    if scale.device.type != "cpu":
        refuse_sparse(direction, "on a GPU")
    weights = [p.detach() for p in params]
    moved = [m.detach() for m in room.like(weights)]
    scale = scale.item() if scale.device.type == "cpu" else scale  # on a GPU .item() would wait for it
    for w, d, m in zip(weights, direction, moved, strict=True):
        if isinstance(scale, float):
            torch.add(w, d, alpha=scale, out=m)
        else:
            torch.addcmul(w, d, scale, out=m)
    del direction, d  # ASAM's is used here only: one copy of the weights less while the body runs
    try:
        for p, m in zip(params, moved, strict=True):
            p.data = m
        yield
    finally:
        for p, w in zip(params, weights, strict=True):
            p.data = w


def ascend(used: Sequence[Tensor], other: Sequence[Tensor], alpha: float) -> tuple[Tensor, Tensor]:
    """used <- used - alpha * (other - c * used) with c = <other, used> / <used, used>, in place; `other` is overwritten by the
    bracket, the part of `other` orthogonal to `used`. Returns (<other, used>, <used, used>).

    c = 0 where used = 0. For used == other the bracket is exactly 0 in every element, whatever alpha is: this is what makes a
    step at rho = 0 equal to the vanilla step bit for bit.
    """
    inner, square = dots(other, used)
    c = torch.where(square == 0, torch.zeros_like(inner), inner / square)
    for u, o in zip(used, other, strict=True):
        o.addcmul_(u, c.to(u.dtype), value=-1)
        u.add_(o, alpha=-alpha)
    return inner, square
