"""Curvature and sharpness of a network while it trains: rank 0 measures, within a budget of seconds, and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gsam.config import Config
from gsam.data import DataConfig
from gsam.optim.estimator import Perturbing
from gsam.optim.perturb import Form, Perturb
from gsam.runtime import Runtime

if TYPE_CHECKING:
    from gsam.train.stepper import Stepper

SEED = 0  # of the pictures and of the power iteration's start
ITERATIONS, TOLERANCE = 100, 1e-3
LOOSE = 0.1  # relative residual above which a vector is no eigenvector yet
LARGEST = 125  # pictures per micro-batch

Row = dict[str, Any]


class OutOfTime(Exception):
    """The budget of this measurement is used up, or the run is asked to leave."""


class Measuring:
    """Does nothing where `analysis.every` is null, and on ranks other than 0, which wait at their next collective."""

    def __init__(self, config: Config, data: DataConfig, runtime: Runtime, stepper: Stepper):
        """Raises ValueError, on every rank, if the training set has fewer than `analysis.n` pictures."""
        self.config, self.stepper = config, stepper
        self.objective = None
        if config.analysis.every is not None:
            runtime.on_main(lambda: self._open(data))

    def __call__(
        self, step: int, epoch: float, write: Callable[[Row], None], note: Callable[[str], None],
        asked: Callable[[], int] = int,
    ) -> None:  # fmt: skip
        """Measure at the weights after `step`: a row for the surrogate gap at the radius of that step, for methods that have
        one, and a row for sigma_max. What the time does not suffice for is left out, and said. asked: not 0 as soon as this
        process got a signal: a scheduler waits seconds only, and the checkpoint comes after this."""
        if self.objective is None:
            return
        self.asked = asked
        self.deadline = time.monotonic() + self.config.analysis.seconds
        devices = [self.objective.weights.device] if self.objective.weights.is_cuda else []
        where = {
            "kind": "analysis",
            "step": step,
            "epoch": epoch,
            "weights": "raw",
            "batchnorm": "eval",
            "precision": "fp32",
        }
        where |= {"set": self.pictures.set, "n": self.pictures.n, "subset": self.pictures.subset}
        with torch.random.fork_rng(devices):
            self.objective.refresh()
            for job, names in ((self._sharpness, "the surrogate gap and sigma_max"), (self._hessian, "sigma_max")):
                began = time.monotonic()
                try:
                    row = job(step)
                except OutOfTime as error:
                    late = (
                        str(error) or f"analysis.seconds={self.config.analysis.seconds:g} did not suffice for {names}"
                    )
                    note(f"step {step}: " + (f"asked to leave before {names}" if asked() else late))
                    return
                except torch.OutOfMemoryError:
                    note(f"step {step}: no memory for {names}; choose a smaller train.batch_size or accumulate")
                    return
                finally:
                    self.objective.release()
                if row:
                    write(where | row | {"wall_s": round(time.monotonic() - began, 3)})
                    note(f"step {step}: {_text(row)}")

    def _open(self, data: DataConfig) -> None:
        from gsam.analysis.objective import Objective
        from gsam.analysis.pictures import of_run

        step = self.stepper
        half = max(1, step.group_size // self.config.train.accumulate // 2)  # the gradient's graph is kept too
        self.pictures = of_run(
            data, self.config.augment, "train", self.config.analysis.n, SEED, batch_size=min(half, LARGEST),
            device=step.runtime.device,
        )  # fmt: skip
        self.objective = Objective(step.model, step.loss, self._batches)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.pictures():
            if time.monotonic() > self.deadline or self.asked():
                raise OutOfTime
            yield batch

    def _sharpness(self, step: int) -> Row | None:
        from gsam.analysis.sharpness import Ball, numbers, surrogate_gap

        method = self.config.optimizer
        rho = self.stepper.schedules.at(step - 1).rho if isinstance(method, Perturbing) else 0.0
        if not rho or (method.perturb is Perturb.asam and method.form is not Form.elementwise):
            return None
        ball = Ball.l2 if method.perturb is Perturb.sam else Ball.elementwise
        how = {"ascent": "one_step", "perturb": ball.name, "m": None}
        found = numbers([surrogate_gap(self.objective, rho, ball=ball)], rho)
        return {"analysis": "sharpness", "settings": {"during": "training", **how}, "rho": rho, **how, **found}

    def _hessian(self, step: int) -> Row:
        """Raises OutOfTime where time or ITERATIONS did not suffice for an eigenvector with a residual below LOOSE."""
        from gsam.analysis.eigen import power_iteration, random_vector

        latest: list[tuple[float, float]] = []

        def keep(vector: Tensor, done: int, value: Tensor, residual: Tensor) -> None:
            latest.append((value.item(), residual.item()))

        start = random_vector(self.objective.weights, SEED)
        try:
            power_iteration(self.objective.hvp, start, tol=TOLERANCE, iterations=ITERATIONS, keep=keep)
        except OutOfTime:
            if not latest:
                raise
        value, residual = latest[-1]
        if not residual <= LOOSE * abs(value):
            raise OutOfTime(f"no sigma_max: the power iteration has not converged after {len(latest)} products")
        settings = {"during": "training", "iterations": ITERATIONS, "tol": TOLERANCE}
        return {"analysis": "hessian", "settings": settings, "sigma_max": value, "hvps": len(latest),
                "sigma_max_residual": residual / abs(value) if value else 0.0}  # fmt: skip


def _text(row: Row) -> str:
    if row["analysis"] == "sharpness":
        return f"surrogate gap {row['gap']:.4g} at rho {row['rho']:.3g}"
    return f"sigma_max {row['sigma_max']:.4g} ({row['hvps']} Hessian-vector products, residual {row['sigma_max_residual']:.1%})"
