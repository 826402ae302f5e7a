"""Eigenvalues and trace of a symmetric matrix that is known by its products with vectors."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gsam.optim.ops import dot
from gsam.runtime import seed_for

Product = Callable[[Tensor], Tensor]
"""vector (P,) -> matrix times vector (P,)"""
PIECE = 1 << 20  # elements that are added up in the vectors' own precision


class Eigen(NamedTuple):
    """values: eigenvalues, float64 (k,) · residuals: ||A v - value v|| (k,), each bounds the distance to an eigenvalue of A ·
    vectors: (k, P)"""

    values: Tensor
    residuals: Tensor
    vectors: Tensor


def random_vector(like: Tensor, *key: int, signs: bool = False) -> Tensor:
    """Standard normal numbers (or +1 and -1), of the shape, precision and device of `like`; the same for the same key on any
    device. The process's random numbers are not touched."""
    generator = torch.Generator().manual_seed(seed_for(*key))
    if signs:
        drawn = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8).mul_(2).sub_(1)
    else:
        drawn = torch.randn(like.shape, generator=generator)
    return drawn.to(like)


def power_iteration(
    product: Product, vector: Tensor, *, tol: float, iterations: int, done: int = 0,
    keep: Callable[[Tensor, int, Tensor, Tensor], None] = lambda *what: None,
) -> Eigen:  # fmt: skip
    """The eigenvalue of largest magnitude, with its sign (k = 1), from a start (P,) that is not zero.

    Stops when the residual is at most tol * |value|, or after `iterations` products, `done` of them before `vector`. keep:
    called after each product with the next vector, how many are done, value and residual.
    """
    vector = vector / _norm(vector)
    for step in range(done, iterations):
        image = product(vector)
        value, size = dot([vector], [image]).double(), _norm(image)
        residual = _norm(image - value.to(image.dtype) * vector).double()
        ended = bool(residual <= tol * value.abs())
        vector = vector if ended or step == iterations - 1 else image / size
        keep(vector, step + 1, value, residual)
        if ended:
            break
    return Eigen(value[None], residual[None], vector[None])


class Krylov(NamedTuple):
    """Where Lanczos stands after a restart: orthonormal basis (j + 1, P), Ritz values (j,) of its first j, products so far."""

    basis: Tensor
    values: Tensor
    done: int


def lanczos(
    product: Product, start: Tensor | Krylov, k: int, *, tol: float, iterations: int,
    keep: Callable[[Krylov], None] = lambda krylov: None,
) -> Eigen:  # fmt: skip
    """The k largest eigenvalues (algebraic), largest first, by thick-restart Lanczos (Wu and Simon 2000) with full
    orthogonalisation; eigenvalues that coincide are found once.

    Stops when every residual is at most tol * |largest value|, or after `iterations` products. Memory: 2 k + 11 vectors.
    start: a vector (P,) that is not zero, or what an earlier call gave to `keep`, which is called after each restart.
    """
    if not isinstance(start, Krylov):
        start = Krylov((start / _norm(start))[None], torch.zeros(0, dtype=torch.float64), 0)
    size = start.basis.shape[1]
    most = min(2 * k + 10, size)
    basis = start.basis.new_zeros(most + 1, size)
    done = start.done
    basis[: len(start.basis)] = start.basis
    small, first = _restarted(start.values, most), len(start.values)
    while True:
        for j in range(first, most):
            image = product(basis[j])
            done += 1
            scale = _norm(image)
            for _ in range(2):  # once leaves a rounding error that grows from step to step
                parts = _project(basis[: j + 1], image)
                small[: j + 1, j] += parts
                image = image - parts.to(image) @ basis[: j + 1]
            small[j, :j] = small[:j, j]
            rest = _norm(image).double().item()
            invariant = rest <= 1e3 * torch.finfo(image.dtype).eps * scale.item()
            if not invariant:
                basis[j + 1] = image / rest
            if invariant or done >= iterations:
                break
        values, vectors = torch.linalg.eigh(small[: j + 1, : j + 1])
        values, vectors = values.flip(0), vectors.flip(1)
        residuals = (0.0 if invariant else rest) * vectors[j].abs()
        count = min(k, j + 1)
        if invariant or done >= iterations or (residuals[:count] <= tol * values[0].abs()).all():
            return Eigen(values[:count], residuals[:count], vectors[:, :count].T.to(basis) @ basis[: j + 1])
        first = min(count + (most - count) // 3, most - 1)
        last = basis[most].clone()
        basis[:first] = vectors[:, :first].T.to(basis) @ basis[:most]
        basis[first] = last
        small = _restarted(values[:first], most)
        keep(Krylov(basis[: first + 1].clone(), values[:first].clone(), done))


def _restarted(values: Tensor, most: int) -> Tensor:
    """The projected matrix (most, most), float64, which knows the Ritz values and gets its columns one by one."""
    small = torch.zeros(most, most, dtype=torch.float64)
    small[range(len(values)), range(len(values))] = values.double()
    return small


def hutchinson(product: Product, probe: Tensor) -> float:
    """<z, A z> for a vector of random signs: its mean over probes is the trace (Hutchinson 1990)."""
    return dot([probe], [product(probe)]).item()


def _project(basis: Tensor, vector: Tensor) -> Tensor:
    """<basis[i], vector>, float64 (j,) on the CPU; long vectors in pieces, as one float32 sum would be inexact."""
    pieces = zip(basis.split(PIECE, 1), vector.split(PIECE), strict=True)
    return torch.stack([(b @ v).double() for b, v in pieces]).sum(0).cpu()


def _norm(vector: Tensor) -> Tensor:
    return dot([vector], [vector]).sqrt()
