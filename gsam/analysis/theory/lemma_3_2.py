"""Lemma 3.2: h = f(w + rho g / |g|) - f(w) is not negative for small rho, at any w; for large rho it can be.

To first order h = rho |g|. Looked at on a small network, before, during and after its training, and on the surface of
Figure 3, which has a ridge.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from gsam.analysis.theory import fig3, network
from gsam.analysis.theory.function import Function, one_step_gap
from gsam.analysis.theory.record import record


@dataclass
class Settings(network.Network):
    starts: int = 5
    """first weights, from `seed` on"""
    iterations: list[int] = field(default_factory=lambda: [0, 3, 10, 30, 100])
    """of L-BFGS, after which the network is looked at"""
    points: int = 100
    """random points of the surface"""
    rhos: list[float] = field(
        default_factory=lambda: [1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0, 2.0, 4.0, 10.0]
    )
    """radii"""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.starts < 1 or self.points < 1 or not self.iterations or min(self.iterations) < 0:
            yield f"starts={self.starts}, points={self.points}, iterations={self.iterations}: at least one of each"
        if not self.rhos or not all(0 < rho < math.inf for rho in self.rhos):
            yield f"rhos={self.rhos}: positive radii"


def run(settings: Settings, task: Any) -> list[dict]:
    """One row: see `measure`."""
    return record("lemma_3_2", settings, task, measure)


def measure(settings: Settings) -> dict[str, Any]:
    """For `network` and `surface`, per radius: `negative` (points with h < 0) and low, median, high of h / (rho |g|)."""
    found = {}
    for name, points in (("network", _of_network(settings)), ("surface", _of_surface(settings))):
        rows = []
        for rho in sorted(settings.rhos):
            gaps = torch.tensor([one_step_gap(f, w, rho)[0] for f, w, _ in points], dtype=torch.float64)
            ratio = gaps / (rho * torch.tensor([norm for *_, norm in points], dtype=torch.float64))
            low, median, high = ratio.quantile(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)).tolist()
            rows.append({"rho": rho, "negative": int((gaps < 0).sum()), "low": low, "median": median, "high": high})
        found[name] = {"points": len(points), "rows": rows}
    return found


def _of_network(settings: Settings) -> list[tuple[Function, torch.Tensor, float]]:
    points = []
    for seed in range(settings.seed, settings.seed + settings.starts):
        f = network.objective(replace(settings, seed=seed))
        points += [(f, w, f.gradient(w)[1].norm().item()) for w in network.iterates(f, settings.iterations)]
    return points


def _of_surface(settings: Settings) -> list[tuple[Function, torch.Tensor, float]]:
    generator = torch.Generator().manual_seed(settings.seed)
    low, high = torch.tensor([0.0, -1.2]).double(), torch.tensor([7.0, 1.2]).double()
    uniform = torch.rand(settings.points, 2, generator=generator, dtype=torch.float64)
    points = [(Function(fig3.surface, w), w) for w in low + (high - low) * uniform]
    return [(f, w, f.gradient()[1].norm().item()) for f, w in points]
