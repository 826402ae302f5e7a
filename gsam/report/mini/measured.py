"""The miniature runs by experiment and seed: the numbers that claims are about, a value per seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Iterable
from typing import Any

from gsam.recipes import same

from ..figures.fig4 import hessian_row, sharpness_row
from ..load import Run
from ..scores import scores

Values = dict[int, float]
"""seed -> number"""

TEST, CORRUPTED = "val", "fashion_mnist_c15 (C-generated)"


class Measured:
    """Finished runs; `at` chooses among those of a grid, e.g. {"optimizer.alpha": 0.1}."""

    def __init__(self, runs: Iterable[Run]):
        self._runs: dict[str, list[Run]] = {}
        for run in runs:
            if run.done:
                self._runs.setdefault(str(run.meta.get("experiment")), []).append(run)
        self._scores: dict[int, dict[str, float]] = {}

    def runs(self, experiment: str, at: dict[str, Any] | None = None) -> list[Run]:
        found = self._runs.get(experiment, [])
        return [run for run in found if all(same(run.setting(key), value) for key, value in (at or {}).items())]

    def top1(self, experiment: str, at: dict[str, Any] | None = None, evalset: str = TEST) -> Values:
        """Top-1 in %, of the last step."""
        return self._of(experiment, at, lambda run: self._score(run, evalset))

    def corrupted(self, experiment: str, corruptions: Collection[str]) -> Values:
        """Top-1 in %, the mean over these corruptions at all severities."""

        def value(run: Run) -> float | None:
            of = [row["top1"] for row in run.results if row.get("corruption") in corruptions]
            return 100 * statistics.fmean(of) if of else None

        return self._of(experiment, None, value)

    def sigma_max(self, experiment: str, at: dict[str, Any]) -> Values:
        """The Hessian's dominant eigenvalue."""
        return self._of(experiment, at, lambda run: (hessian_row(run) or {}).get("sigma_max"))

    def estimate(self, experiment: str, at: dict[str, Any]) -> Values:
        """2h/ρ² at the run's own ρ."""
        return self._of(experiment, at, lambda run: (sharpness_row(run) or {}).get("sigma_estimate"))

    def logged(
        self, experiment: str, key: str, of: Callable[[list[float]], float], at: dict[str, Any] | None = None
    ) -> Values:
        """A number of the training's log, e.g. "gap", the steps taken together by `of`."""

        def value(run: Run) -> float | None:
            found = [row[key] for row in run.train if row.get(key) is not None]
            return of(found) if found else None

        return self._of(experiment, at, value)

    def _of(self, experiment: str, at: dict[str, Any] | None, value: Callable[[Run], float | None]) -> Values:
        found = {int(run.setting("train.seed")): value(run) for run in self.runs(experiment, at)}
        return {seed: float(v) for seed, v in sorted(found.items()) if v is not None and math.isfinite(v)}

    def _score(self, run: Run, evalset: str) -> float | None:
        if id(run) not in self._scores:
            self._scores[id(run)] = {name: 100 * score.top1 for name, score in scores(run).items()}
        return self._scores[id(run)].get(evalset)
