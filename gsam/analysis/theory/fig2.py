"""Figure 2: the gradients and updates of vanilla, SAM and GSAM in one real training step.

All of them lie in the plane of g and g_p, so the picture is exact: in that plane's axes, along g_p and along g_perp,
g = (|g| cos, |g_perp|), g_p = (|g_p|, 0), grad h = g_p - g, and GSAM's g_p - alpha g_perp.
"""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsam import data
from gsam.analysis.theory.function import orthogonal
from gsam.analysis.theory.record import record
from gsam.cli import CONFIGS
from gsam.config import Config, read_saved
from gsam.data.order import settle
from gsam.runtime import Runtime
from gsam.train import checkpoint
from gsam.train.stepper import Stepper
from gsam.train.stream import stream


@dataclass
class Settings:
    rho: float | None = None
    """radius; null: the run's at that step"""
    alpha: float | None = None
    """ascent coefficient; null: the run's"""
    steps: int = 60
    """of the training that is made where no weights= are given: Fashion-MNIST, a small convolutional network, GSAM"""

    def problems(self) -> Iterator[str]:
        if self.rho is not None and not 0 < self.rho < math.inf:
            yield f"rho={self.rho}: must be positive, or null for the run's"
        if self.alpha is not None and not 0 <= self.alpha < math.inf:
            yield f"alpha={self.alpha}: must be at least 0, or null for the run's"
        if not 1 <= self.steps <= 400:
            yield f"steps={self.steps}: between 1 and 400"


def run(settings: Settings, task: Any) -> list[dict]:
    """One row: see `measure`. weights=: a run's folder; without it a short training is made below `out`."""
    folder = Path(task.config.weights) if task.config.weights else task.rows.out / f"training_{settings.steps}"
    if task.config.weights and not (folder / "config.yaml").exists():
        raise ValueError(
            f"weights={folder}: fig2 needs a run's folder (it has config.yaml), for its data and its optimizer"
        )
    file = folder / "checkpoints" / task.config.checkpoint
    # The row is of these weights: a run that has gone on since has other ones under the same name.
    about = {"run": task.config.weights, "weights_hash": task.config.weights and _digest(file)}

    def measured(settings: Settings) -> dict[str, Any]:
        if not task.config.weights:
            _train(settings, folder)
        return measure(settings, folder, task.config.checkpoint, task.runtime)

    return record("fig2", settings, task, measured, about)


def measure(settings: Settings, folder: Path, name: str, runtime: Runtime) -> dict[str, Any]:
    """Of the step after checkpoint `name` of the run in `folder`, on its first group of pictures: norms, cos, lr, rho, alpha,
    and f, fp, gap before and after each method's update -lr * direction (`before`, `after`; the radius stays)."""
    config, state = read_saved(folder / "config.yaml"), checkpoint.read(folder / "checkpoints" / name)
    point = _Point(config, state, runtime)
    rho = point.values.rho if settings.rho is None else settings.rho
    alpha = getattr(config.optimizer, "alpha", None) if settings.alpha is None else settings.alpha
    if not rho or alpha is None:
        raise ValueError(
            f"{folder}: {config.optimizer.name} has no radius or no alpha here: give fig2.rho=… and fig2.alpha=…"
        )
    loss, gradient = point.gradient(point.start)
    sharp_loss, sharp = point.gradient(point.start + rho * gradient / gradient.norm())
    perp, lr = orthogonal(gradient, sharp), point.values.lr
    after = {}
    for method, direction in (("vanilla", gradient), ("SAM", sharp), ("GSAM", sharp - alpha * perp)):
        moved = point.start - lr * direction
        f, g = point.gradient(moved)
        fp = point.gradient(moved + rho * g / g.norm())[0]
        after[method] = {"f": f, "fp": fp, "gap": fp - f}
    return {
        "at_step": state["step"], "optimizer": config.optimizer.name, "network": config.model.name, "data": config.data.name,
        "m": point.pictures, "parameters": len(gradient), "lr": lr, "rho": rho, "alpha": alpha,
        "grad_norm": gradient.norm().item(), "sharp_norm": sharp.norm().item(), "perp_norm": perp.norm().item(),
        "cos": (gradient @ sharp / (gradient.norm() * sharp.norm())).item(),
        "before": {"f": loss, "fp": sharp_loss, "gap": sharp_loss - loss}, "after": after,
    }  # fmt: skip


def _digest(file: Path) -> str:
    """8 hex digits of a checkpoint's bytes. Raises ValueError if it is not there."""
    if not file.exists():
        raise ValueError(f"{file} does not exist; train first, or choose another checkpoint=")
    return hashlib.sha256(file.read_bytes()).hexdigest()[:8]


class _Point:
    """A run's weights with the loss of its next group of pictures, augmented, as a training step sees them."""

    def __init__(self, config: Config, state: dict[str, Any], runtime: Runtime):
        settings, _ = settle(config.data, None)
        with closing(
            data.build_loader(settings, config.augment, "train", train=True, rank=0, world=1, seed=config.train.seed,
                              batch_size=config.train.batch_size)
        ) as loader:  # fmt: skip
            self.stepper = Stepper(config, runtime, num_classes=loader.num_classes, num_examples=loader.num_examples)
            self.stepper.load_state_dict(state)
            with closing(stream(loader, self.stepper.step, 1, self.stepper.augment.needs_keys)) as batches:
                batch = tuple(t.clone() for t in next(batches)[0])
        self.stepper.model.train()
        self.values = self.stepper.schedules.at(min(self.stepper.step, self.stepper.total_steps - 1))
        x, y = self.stepper.augment(*batch, step=self.stepper.step, part=0)
        self.pictures = self.stepper.group_size
        self.grad_fn = self.stepper.grad_fn(0, [(x[: self.pictures], y[: self.pictures])])
        self.start = torch.cat([p.detach().reshape(-1) for p in self.stepper.params])

    def gradient(self, weights: Tensor) -> tuple[float, Tensor]:
        """Loss and gradient (P,), always with the same random numbers and frozen BatchNorm buffers."""
        with torch.no_grad():
            for p, part in zip(
                self.stepper.params, weights.split([p.numel() for p in self.stepper.params]), strict=True
            ):
                p.copy_(part.view(p.shape))
        loss = self.grad_fn(again=True)
        return loss.item(), torch.cat([p.grad.reshape(-1) for p in self.stepper.params])


def _train(settings: Settings, folder: Path) -> None:
    """In a process of its own, by the command that a user would give: it continues a training that was broken off and leaves
    one that is done as it is. Raises ValueError if it fails; its message is above."""
    overrides = ["optimizer=gsam", "optimizer.rho_max=0.2", "optimizer.rho_min=0.05", "optimizer.alpha=0.4"]
    overrides += [f"train.max_steps={settings.steps}", "data.limit_eval=1000", f"run.dir={folder}"]
    done = subprocess.run([sys.executable, str(CONFIGS.parent / "train.py"), "experiment=quickstart", *overrides])
    if done.returncode:
        raise ValueError(
            f"fig2: the training in {folder} failed (exit code {done.returncode}); or give weights=<run folder>"
        )
    if (step := checkpoint.read(folder / "checkpoints" / "last.pt")["step"]) != settings.steps:
        raise ValueError(
            f"fig2: the training in {folder} is at step {step}, not at fig2.steps={settings.steps}; delete it"
        )
