"""analysis=theory: every experiment of the theory with its default settings, and docs/theory.md from their rows."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gsam.analysis.rows import Rows
from gsam.files import write_atomic
from gsam.report.theory_page import EXPERIMENTS, page


@dataclass
class Settings:
    docs: str | None = None
    """the page to write, e.g. docs/theory.md"""

    def problems(self) -> Iterator[str]:
        if self.docs is not None and not self.docs.endswith(".md"):
            yield f"docs={self.docs}: must end with .md"


def run(settings: Settings, task: Any) -> list[dict]:
    """The row of each experiment, in <out>/<name>/ or runs/theory/<name>/, and the page."""
    rows, above = {}, task.rows.out if task.config.out else task.rows.out.parent
    for name in EXPERIMENTS:
        module = importlib.import_module(f"gsam.analysis.theory.{name}")
        chosen = module.Settings()
        if hasattr(chosen, "root"):
            chosen = replace(chosen, root=str(task.config.paths.get("fashion_mnist", chosen.root)))
        own = replace(task, rows=Rows(above / name, task.rows.same, task.rows.force))
        rows[name] = module.run(chosen, own)[0]
    if settings.docs is not None:
        path = Path(settings.docs)
        for name in EXPERIMENTS:
            for picture in (above / name).glob(f"{name}.*"):
                (folder := path.parent / "img" / path.stem).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(picture, folder / picture.name)
        write_atomic(path, page(rows, f"img/{path.stem}"))
    return list(rows.values())
