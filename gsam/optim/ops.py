"""The four passes over memory that a sharpness-aware step adds to its two gradients: norm, perturb, dot products, combine.

All functions take equally long lists of tensors and treat each list as ONE vector.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

EPS = 1e-12  # added to the norm of the ascent gradient, as in the official code


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """L2 norm of the whole list, shape ()."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner product of two lists, shape ()."""
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


@contextmanager
def perturbed(params: Sequence[Tensor], direction: Sequence[Tensor], scale: Tensor) -> Iterator[None]:
    """Inside: params + scale * direction. Outside: the parameters bit for bit as before, also when the body raises.

    Restored from a copy: subtracting the perturbation again would drift by a rounding error per step.
    """
    saved = [p.detach().clone() for p in params]
    try:
        with torch.no_grad():
            torch._foreach_add_(list(params), torch._foreach_mul(list(direction), scale))
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(list(params), saved)


def remove_component(vector: list[Tensor], along: list[Tensor], inner: Tensor, square: Tensor) -> None:
    """vector <- vector - (inner / square) * along, in place; `inner` = <vector, along>, `square` = <along, along>.

    With square = 0 nothing is removed. For vector == along the result is exactly 0 in every element: this is what makes
    a step at rho = 0 equal to the vanilla step bit for bit.
    """
    ratio = torch.where(square == 0, torch.zeros_like(inner), inner / square)
    torch._foreach_sub_(vector, torch._foreach_mul(along, ratio))
