"""Lemma 3.1 on minima of a real network: of two minima the one with the lower perturbed loss f_p need not be the flatter one.

Many minima of one loss, reached from different first weights; for each pair, who has the lower f_p, the lower h, and the
lower sigma_max.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from gsam.analysis.theory import network
from gsam.analysis.theory.function import random_direction, sigma_max, worst_gap
from gsam.analysis.theory.record import record


@dataclass
class Settings(network.Network):
    minima: int = 8
    """first weights, from `seed` on"""
    rho: float = 0.1
    """radius of f_p and h"""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.minima < 2 or not 0 < self.rho < math.inf:
            yield f"minima={self.minima}, rho={self.rho}: at least two minima, and a positive radius"


def run(settings: Settings, task: Any) -> list[dict]:
    """One row: see `measure`."""
    return record("lemma_3_1", settings, task, measure)


def measure(settings: Settings) -> dict[str, Any]:
    """Each minimum's f, fp, gap, sigma_max in `minima`; of all pairs those in which the lower f_p (`against_fp`) or the lower h
    (`against_gap`) belongs to the sharper minimum."""
    minima = []
    for seed in range(settings.seed, settings.seed + settings.minima):
        f = network.objective(replace(settings, seed=seed))
        w = network.converge(f)
        loss, gap = f.loss(w), worst_gap(f, w, settings.rho, random_direction(w))
        minima.append({"seed": seed, "f": loss, "fp": loss + gap, "gap": gap, "sigma_max": sigma_max(f.hessian(w))})

    def against(key: str) -> int:
        return sum((a[key] - b[key]) * (a["sigma_max"] - b["sigma_max"]) < 0 for a, b in combinations(minima, 2))

    pairs = len(minima) * (len(minima) - 1) // 2
    return {"rho": settings.rho, "minima": minima, "pairs": pairs, "against_fp": against("fp"), "against_gap": against("gap"),
            "parameters": len(w)}  # fmt: skip
