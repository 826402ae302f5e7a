"""Curvature: the Hessian's dominant eigenvalue (power iteration), largest eigenvalues (Lanczos) and trace (Hutchinson)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING

from torch import Tensor

from gsam.analysis.eigen import Krylov, hutchinson, lanczos, power_iteration, random_vector
from gsam.analysis.objective import Objective

if TYPE_CHECKING:
    from gsam.analysis.rows import Row, State
    from gsam.analysis.task import Task

START, PROBE, KRYLOV = range(3)  # kinds of random vectors


@dataclass
class Settings:
    starts: int = 2
    """random starts of the power iteration; 0: none"""
    top: int = 5
    """largest eigenvalues, by Lanczos; 0: none"""
    probes: int = 20
    """random vectors of the trace; 0: none"""
    iterations: int = 100
    """Hessian-vector products at most, per start and for Lanczos"""
    tol: float = 1e-3
    """residual ||H v - lambda v|| / |lambda| at which both stop (Lanczos: / the largest); bounds the relative error"""
    seed: int = 0
    """of the random vectors"""

    def problems(self) -> Iterator[str]:
        for key in ("starts", "top", "probes"):
            if getattr(self, key) < 0:
                yield f"{key}={getattr(self, key)}: must be at least 0"
        if self.starts == self.top == self.probes == 0:
            yield "starts=0, top=0 and probes=0 leave nothing to measure; choose one of them above 0"
        if self.iterations < 1:
            yield f"iterations={self.iterations}: must be at least 1"
        if not 0 < self.tol < 1:
            yield f"tol={self.tol}: must lie between 0 and 1"
        if not 0 <= self.seed < 2**32:
            yield f"seed={self.seed}: must be in [0, 2**32)"


def run(settings: Settings, task: Task) -> list[Row]:
    """One row, continued where an earlier call was broken off.

    sigma_max: mean over `starts` of the eigenvalue of largest magnitude, with its sign; sigma_max_std over the starts;
    sigma_max_residual: their largest ||H v - lambda v|| / |lambda|. top: the largest eigenvalues (algebraic), largest first;
    residuals: relative to the largest. trace, trace_std over `probes`. hvps: Hessian-vector products.
    """
    key = asdict(settings)
    if row := task.rows.known("hessian", key):
        return [row]
    most = settings.starts * settings.iterations + settings.iterations * bool(settings.top) + settings.probes
    progress = task.progress("hessian", most)
    with task.rows.state("hessian", key) as state:
        measure = _Measure(settings, task.objective, state, progress)
        try:
            numbers = measure.sigma_max() | measure.top() | measure.trace() | {"hvps": state.get("hvps")}
        except BaseException:
            state.flush()
            raise
        finally:
            task.objective.release()
            progress.close()
    return [task.rows.add("hessian", key, numbers)]


class _Measure:
    """Every part looks first for what the state has of it."""

    def __init__(self, settings: Settings, objective: Objective, state: State, progress) -> None:
        self.settings, self.objective, self.state, self.progress = settings, objective, state, progress
        self.label = ""

    def product(self, vector: Tensor) -> Tensor:
        """Hessian times vector. Raises FloatingPointError where it is not finite."""
        image = self.objective.hvp(vector)
        if not image.isfinite().all():
            raise FloatingPointError(
                "a Hessian-vector product is not finite: the loss overflows on these pictures; try precision=float64 or "
                "another n"
            )
        self.state.values["hvps"] = self.state.get("hvps", 0) + 1
        self.progress.update(self.state.get("hvps"), self.label)
        return image

    def sigma_max(self) -> dict:
        found = [self._start(i) for i in range(self.settings.starts)]
        if not found:
            return {}
        values, residuals = zip(*found, strict=True)
        return {"sigma_max": mean(values), "sigma_max_std": _std(values), "sigma_max_residual": max(residuals)}

    def _start(self, i: int) -> tuple[float, float]:
        if done := self.state.get(f"start {i}"):
            return done
        self.label = f"power iteration, start {i + 1} of {self.settings.starts}"
        like = self.objective.weights
        vector, count = self.state.get(f"iterate {i}") or (random_vector(like, self.settings.seed, START, i), 0)

        def keep(vector: Tensor, done: int, value: Tensor, residual: Tensor) -> None:
            self.state[f"iterate {i}"] = (vector, done)

        limits = {"tol": self.settings.tol, "iterations": self.settings.iterations}
        found = power_iteration(self.product, vector.to(like), **limits, done=count, keep=keep)
        value, residual = found.values.item(), found.residuals.item()
        self.state.values.pop(f"iterate {i}", None)
        self.state[f"start {i}"] = (value, residual / abs(value) if value else 0.0)
        return self.state.get(f"start {i}")

    def top(self) -> dict:
        if not self.settings.top:
            return {}
        if "top" not in self.state.values:
            self.label = f"Lanczos, {self.settings.top} largest"
            like = self.objective.weights
            if kept := self.state.get("krylov"):
                start = Krylov(kept[0].to(like), *kept[1:])
            else:
                start = random_vector(like, self.settings.seed, KRYLOV)

            def keep(krylov: Krylov) -> None:
                self.state["krylov"] = tuple(krylov)

            limits = {"tol": self.settings.tol, "iterations": self.settings.iterations}
            found = lanczos(self.product, start, self.settings.top, **limits, keep=keep)
            self.state.values.pop("krylov", None)
            self.state["top"] = (found.values.tolist(), (found.residuals / found.values[0].abs()).tolist())
        values, residuals = self.state.get("top")
        return {"top": values, "residuals": residuals}

    def trace(self) -> dict:
        values = list(self.state.get("trace", []))
        for i in range(len(values), self.settings.probes):
            self.label = f"trace, probe {i + 1} of {self.settings.probes}"
            probe = random_vector(self.objective.weights, self.settings.seed, PROBE, i, signs=True)
            values.append(hutchinson(self.product, probe))
            self.state["trace"] = values
        return {"trace": mean(values), "trace_std": _std(values), "probes": len(values)} if values else {}


def _std(values) -> float | None:
    return stdev(values) if len(values) > 1 else None
