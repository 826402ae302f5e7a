"""Shapes of the perturbation e for a clean gradient g at weights w: SAM's, and ASAM's three published ones."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from enum import Enum

import torch
from torch import Tensor
from torch.nn import Parameter

from gsam.optim import ops


class Perturb(Enum):
    sam = "sam"  # e = rho g / ||g||                                   Foret et al. 2021, Eq. 2
    asam = "asam"  # e scaled with the weights' magnitude, see Form        Kwon et al. 2021


class Form(Enum):
    """ASAM as published in code. Their radii are not comparable; `START` has the value to begin with.

    elementwise: e = rho w^2 g / || |w| g ||, every parameter (davda54/sam, juntang-zhuang/GSAM; T_w = |w| in the paper).
    original: e = rho t^2 g / || t g ||, t = |w| + eta where the parameter's NAME contains "weight", else 1 (SamsungLabs/ASAM).
    big_vision: e = rho |w| g / ||g||, one |w| and the unweighted norm (`adaptive_perturbation` of the official GSAM code).
    """

    elementwise = "elementwise"
    original = "original"
    big_vision = "big_vision"


# rho to start from. elementwise, original: the ASAM author's best on CIFAR-10 (davda54/sam issue 37). big_vision: "can handle
# 10x larger rho" than SAM (its docstring), whose usual value is 0.05.
START = {Form.elementwise: 2.0, Form.original: 0.5, Form.big_vision: 0.5}


def names_with_weight(named: Iterable[tuple[str, Parameter]]) -> set[int]:
    """ids of the parameters that ASAM's original code scales."""
    return {id(p) for name, p in named if "weight" in name}


def at_perturbed(
    params: Sequence[Parameter], clean: list[Tensor], clean_norm: Tensor, rho: float, room: ops.Room, form: Form | None,
    eta: float, scaled: set[int] | None,
) -> AbstractContextManager:  # fmt: skip
    """Context with the weights at w + e. form None is SAM; `scaled`: ids for Form.original; room: see ops.perturbed."""
    if form is None:
        return ops.perturbed(params, clean, rho / (clean_norm + ops.EPS), room)
    ops.refuse_sparse(clean, "by asam")
    # In the room itself, tensor by tensor: lists of |w| and |w| g would be two more copies of the weights.
    direction = [d.detach() for d in room.like([p.detach() for p in params])]
    for p, g, d in zip(params, clean, direction, strict=True):
        torch.mul(_size(p, form, eta, scaled), g, out=d)  # |w| g
    if form is Form.big_vision:
        return ops.perturbed(params, direction, rho / (clean_norm + ops.EPS), room)
    scale = rho / (ops.norm(direction) + ops.EPS)
    for p, d in zip(params, direction, strict=True):
        d.mul_(_size(p, form, eta, scaled))
    return ops.perturbed(params, direction, scale, room)


def _size(p: Parameter, form: Form, eta: float, scaled: set[int] | None) -> Tensor:
    """T_w of one tensor."""
    size = p.detach().abs()
    if form is not Form.original:
        return size
    return size.add_(eta) if id(p) in scaled else size.fill_(1)
