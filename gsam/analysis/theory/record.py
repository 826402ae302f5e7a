"""What every experiment of the theory does with its measurement: a row, its sentence, its picture."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from gsam.config import as_dict
from gsam.files import write_atomic
from gsam.report.write import png

Row = dict[str, Any]


def record(name: str, settings: Any, task: Any, measure: Callable[[Any], Row], about: Row | None = None) -> list[Row]:
    """The row of an earlier call with these settings, or a new one: `measure(settings)` and the sentence of what was found,
    from gsam/report/figures/<name>.py. Draws <out>/<name>.png, and .gif where the figure moves. about: what else decides it."""
    key = {k: v for k, v in as_dict(settings).items() if k != "root"} | (
        about or {}
    )  # where the data lie decides nothing
    figure = importlib.import_module(f"gsam.report.figures.{name}")
    row = task.rows.known(name, key)
    if row is None:
        numbers = measure(settings)
        row = task.rows.add(name, key, numbers | {"sentence": figure.sentence(numbers)})
    write_atomic(task.rows.out / f"{name}.png", png(figure.draw(row)))
    if hasattr(figure, "animate"):
        write_atomic(task.rows.out / f"{name}.gif", figure.animate(row))
    return [row]
