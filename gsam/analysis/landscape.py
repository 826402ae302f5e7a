"""The loss on lines and planes through a network's weights: around one checkpoint, or from it to another.

Directions are filter-normalised (Li et al. 2018, section 4): normal random numbers, each filter (row of a weight tensor along
its first dimension) scaled to the norm of the filter it is added to; biases and norm layers stay as they are. So a distance
of 1 moves every filter by its own length, in networks of any scale.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gsam.analysis.objective import Objective
from gsam.analysis.task import require_finite
from gsam.eval.subject import load_subject
from gsam.files import write_atomic
from gsam.models import split_ending
from gsam.report.figures import landscape as figure
from gsam.report.write import png
from gsam.runtime import seed_for

if TYPE_CHECKING:
    from gsam.analysis.rows import Row
    from gsam.analysis.task import Task


@dataclass
class Settings:
    dims: int = 2
    """1: a line (two lines around one checkpoint, one for each direction) | 2: a plane"""
    points: int = 21
    """per axis, odd: the middle is the checkpoint"""
    reach: float = 1.0
    """the axes go from -reach to reach, towards another checkpoint from -reach / 2 to 1 + reach / 2"""
    seed: int = 0
    """of the random directions"""

    def problems(self) -> Iterator[str]:
        if self.dims not in (1, 2):
            yield f"dims={self.dims}: 1 (lines) or 2 (a plane)"
        if self.points < 3 or self.points % 2 == 0:
            yield f"points={self.points}: an odd number of at least 3, so that the checkpoint itself is one of them"
        if not 0 < self.reach < math.inf:
            yield f"reach={self.reach}: must be positive"
        if not 0 <= self.seed < 2**32:
            yield f"seed={self.seed}: must be in [0, 2**32)"


@dataclass
class Between(Settings):
    other: str | None = None
    """the second checkpoint, as weights="""
    dims: int = 1

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.other is None:
            yield "other: missing; give a second run folder or weights file of the same network"


def run(settings: Settings, task: Task) -> list[Row]:
    """One row: axes `x` and `y`, `losses` in nats (lines: one list per direction; plane: rows are y), `directions`. Draws
    landscape_1d.png, or landscape_contour.png and landscape_surface.png, beside it. A broken-off measurement continues."""
    objective = task.objective
    directions = [random_direction(objective, seed_for(settings.seed, i)) for i in range(2)]
    axis = torch.linspace(-settings.reach, settings.reach, settings.points, dtype=torch.float64).tolist()
    about = {"directions": ["random, filter-normalised"] * 2}
    return [_measure("landscape", settings, task, directions, (axis, axis), about)]


def run_between(settings: Between, task: Task) -> list[Row]:
    """As `run`: x goes from the checkpoint (0) to the other one (1); of a plane y is a random filter-normalised direction made
    orthogonal to x. Running statistics of BatchNorm belong to neither network in between: batchnorm=eval keeps the first's.

    Raises ValueError if the two are different networks.
    """
    objective = task.objective
    file, _ = split_ending(settings.other)
    alone = file.is_file() and not (file.parent.parent / "config.yaml").exists()  # else it knows its network
    network = (task.config.network or task.subject.facts["model"]) if alone else None
    other = load_subject(replace(task.config, weights=settings.other, network=network), task.runtime)
    require_finite(other.model, settings.other, "between.other")
    theirs = {name: p.detach() for name, p in other.model.named_parameters() if p.requires_grad}
    if [(name, shape) for name, shape in zip(objective.names, objective.shapes, strict=True)] != [
        (name, p.shape) for name, p in theirs.items()
    ]:
        raise ValueError(
            f"between.other={settings.other} is another network ({other.facts['model']}) than weights= holds"
        )
    end = torch.cat([p.reshape(-1) for p in theirs.values()]).to(objective.weights)
    x = end - objective.weights
    y = random_direction(objective, seed_for(settings.seed, 0))
    if x.norm() == 0:
        raise ValueError(
            f"between.other={settings.other} holds the same weights as weights=: there is no line between them"
        )
    y = y - (y @ x) / (x @ x) * x
    half, n = settings.reach / 2, settings.points
    line = torch.linspace(-half, 1 + half, n, dtype=torch.float64).tolist()
    line = sorted({round(place, 12) for place in line} | {0.0, 1.0})  # both checkpoints, whatever the number of points
    axes = (line, torch.linspace(-settings.reach, settings.reach, n, dtype=torch.float64).tolist())
    distance = x.norm().item()
    about = {"directions": ["to the other checkpoint", "random, filter-normalised, orthogonal"], "distance": distance,
             "other": settings.other}  # fmt: skip
    return [_measure("between", settings, task, [x, y], axes, about, other=_digest(end))]


def random_direction(objective: Objective, seed: int) -> Tensor:
    """A filter-normalised direction, (P,): see the module."""
    generator, parts = torch.Generator().manual_seed(seed), []
    for weights in objective.parts(objective.weights):
        noise = torch.randn(weights.shape, generator=generator).to(weights)
        if weights.dim() < 2:
            parts.append(torch.zeros_like(weights).reshape(-1))
            continue
        rows, noise = weights.reshape(len(weights), -1), noise.reshape(len(weights), -1)
        scale = rows.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True).clamp(min=1e-12)
        parts.append((noise * scale).reshape(-1))
    return torch.cat(parts)


def _digest(weights: Tensor) -> str:
    """8 hex digits of the numbers: what lies under a path may be replaced."""
    return hashlib.sha256(weights.cpu().numpy().tobytes()).hexdigest()[:8]


def _measure(
    name: str, settings: Any, task: Task, directions: list[Tensor], axes: tuple, about: Row, **more: str
) -> Row:
    key = {"dims": settings.dims, "points": settings.points, "reach": settings.reach, "seed": settings.seed, **more}
    row = task.rows.known(name, key)
    if row is None:
        losses = _losses(name, settings, task, key, directions, axes)
        numbers = about | {"x": axes[0], "y": axes[1], "losses": losses}
        row = task.rows.add(name, key, numbers | {"sentence": figure.sentence(name, numbers)})
    for picture, drawn in figure.pictures(row).items():
        write_atomic(task.rows.out / f"{picture}.png", png(drawn))
    return row


def places(name: str, dims: int, axes: tuple[list[float], list[float]]) -> list[list[tuple[float, float]]]:
    """(x, y) of every point, by row of `losses`."""
    if dims == 2:
        return [[(x, y) for x in axes[0]] for y in axes[1]]
    along = [[(x, 0.0) for x in axes[0]]]
    return along if name == "between" else [*along, [(0.0, y) for y in axes[1]]]


def _losses(name: str, settings: Any, task: Task, key: Row, directions: list[Tensor], axes: tuple) -> list[list[float]]:
    objective, lines = task.objective, places(name, settings.dims, axes)
    progress = task.progress(name, sum(map(len, lines)))
    with task.rows.state(name, key) as state:
        found, done = [], 0
        try:
            for i, line in enumerate(lines):
                found.append([])
                for j, (x, y) in enumerate(line):
                    value = state.get(f"{i} {j}")
                    if value is None:
                        value = objective.loss(objective.weights + x * directions[0] + y * directions[1])
                        state[f"{i} {j}"] = value
                    found[-1].append(value)
                    done += 1
                    progress.update(done, f"x {x:.2f}, y {y:.2f}, loss {value:.4g}")
        except BaseException:
            state.flush()
            raise
        finally:
            progress.close()
    return found
