"""A small real network whose loss has minima that can be reached to rounding: for what the lemmas say of minima."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

from gsam.analysis.theory.function import Function
from gsam.data.fashion_mnist import fashion_mnist

SIDE, CLASSES = 7, 10  # pictures of 28 x 28, averaged over 4 x 4 pixels


@dataclass
class Network:
    """Settings of the network and its pictures."""

    root: str = "data/fashion_mnist"
    """Fashion-MNIST's folder"""
    pictures: int = 500
    """the first n of the training set"""
    hidden: int = 10
    """tanh units"""
    decay: float = 1e-3
    """of the term decay / 2 |w|^2 in f: without it the loss has no minimum, only a limit at infinity"""
    seed: int = 0
    """of the first weights"""

    def problems(self) -> Iterator[str]:
        if not 1 <= self.pictures <= 60_000:
            yield f"pictures={self.pictures}: Fashion-MNIST's training set has 1 to 60,000"
        if self.hidden < 1 or not 0 <= self.decay < math.inf:
            yield f"hidden={self.hidden}, decay={self.decay}: at least 1 unit, and decay is not negative"
        if not 0 <= self.seed < 2**32:
            yield f"seed={self.seed}: must be in [0, 2**32)"


def pictures(settings: Network) -> tuple[Tensor, Tensor]:
    """Inputs (n, 49) float64 in [-0.5, 0.5] and labels (n,). Raises ValueError if Fashion-MNIST is not there."""
    source = fashion_mnist(settings.root, "train")
    grey = torch.from_numpy(source.grey[: settings.pictures].astype(np.float64)) / 255 - 0.5
    return F.avg_pool2d(grey[:, None], 28 // SIDE).flatten(1), torch.from_numpy(source.labels[: settings.pictures])


def start(settings: Network) -> Tensor:
    """First weights (k,): normal with variance 1 / inputs, biases 0."""
    generator = torch.Generator().manual_seed(settings.seed)
    parts = []
    for rows, columns in _shapes(settings):
        weights = torch.randn(rows, columns, generator=generator, dtype=torch.float64) / columns**0.5
        parts += [weights.flatten(), torch.zeros(rows, dtype=torch.float64)]
    return torch.cat(parts)


def loss(settings: Network, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """w (k,) -> mean cross-entropy in nats of a network with one hidden layer, plus decay / 2 |w|^2."""
    shapes = _shapes(settings)
    sizes = [size for rows, columns in shapes for size in (rows * columns, rows)]

    def f(w: Tensor) -> Tensor:
        first, first_bias, second, second_bias = w.split(sizes)
        hidden = torch.tanh(F.linear(x, first.view(shapes[0]), first_bias))
        logits = F.linear(hidden, second.view(shapes[1]), second_bias)
        return F.cross_entropy(logits, y) + settings.decay / 2 * (w @ w)

    return f


def objective(settings: Network) -> Function:
    """f over all pictures, at the first weights."""
    return Function(loss(settings, *pictures(settings)), start(settings))


def iterates(f: Function, at: list[int]) -> list[Tensor]:
    """The weights after these many iterations of L-BFGS from f's own, in order; 0 is the start."""
    points = [f.weights]
    _lbfgs(f, max(at), lambda w: points.append(torch.from_numpy(w.copy())))
    return [points[min(i, len(points) - 1)] for i in at]


def converge(f: Function, newton: int = 30) -> Tensor:
    """A minimum of f from its weights: L-BFGS, then Newton's method with the dense Hessian until rounding ends the progress.

    Raises ValueError where no minimum was found: a gradient that is not tiny, or a direction of negative curvature.
    """
    w = _lbfgs(f, 5000)
    norm = f.gradient(w)[1].norm()
    for _ in range(newton):
        step, singular = torch.linalg.solve_ex(f.hessian(w), f.gradient(w)[1])
        if singular:
            break
        new = w - step
        if not (new_norm := f.gradient(new)[1].norm()) < norm:
            break
        w, norm = new, new_norm
    lowest = torch.linalg.eigvalsh(f.hessian(w))[0].item()
    if norm > 1e-10 or lowest <= 0:
        raise ValueError(
            f"no minimum reached: |gradient| = {norm:.1e}, smallest eigenvalue {lowest:.1e}; choose another seed"
        )
    return w


def _lbfgs(f: Function, iterations: int, callback: Callable[[np.ndarray], None] | None = None) -> Tensor:
    def value(w: np.ndarray) -> tuple[float, np.ndarray]:
        loss, gradient = f.gradient(torch.from_numpy(w))
        return loss, gradient.numpy()

    options = {"maxiter": iterations, "maxfun": 10_000, "gtol": 1e-7, "ftol": 0.0, "maxcor": 30}
    found = minimize(value, f.weights.numpy(), jac=True, method="L-BFGS-B", callback=callback, options=options)
    return torch.from_numpy(found.x)


def _shapes(settings: Network) -> tuple[tuple[int, int], tuple[int, int]]:
    return (settings.hidden, SIDE * SIDE), (CLASSES, settings.hidden)
