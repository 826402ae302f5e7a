"""Run folders below a folder: which experiment each is of, and how far it got. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsam.runs import json_lines, read


@dataclass(frozen=True)
class Found:
    """A run folder."""

    folder: Path
    experiment: str
    config: dict[str, Any]
    done: bool

    @property
    def step(self) -> int:
        """The last step that was logged; 0 before."""
        rows = _rows(self.folder / "metrics.jsonl")
        return max((row.get("step", 0) for row in rows), default=0)

    def top1(self) -> float:
        """Of the last evaluation during training, of the weights themselves; nan if there is none."""
        rows = [row for row in _rows(self.folder / "metrics.jsonl") if row.get("kind") == "eval"]
        value = next((row.get("top1") for row in reversed(rows) if row.get("weights") == "raw"), None)
        return float("nan") if value is None else float(value)


def scan(root: Path) -> list[Found]:
    """Every run folder below `root`, sorted by path. A folder without readable meta.json and config.yaml is passed over: it has
    not started, or is damaged and cannot be told from others."""
    found = []
    for folder in _folders(root):
        if (files := read(folder)) is not None:
            meta, config = files
            found.append(Found(folder, str(meta.get("experiment")), config, (folder / "DONE").exists()))
    return found


def damaged(root: Path) -> list[Path]:
    """The folders that `scan` passes over although both files are there."""
    return [each for each in _folders(root) if (each / "meta.json").is_file() and read(each) is None]


def _folders(root: Path) -> list[Path]:
    return sorted({path.parent for depth in range(1, 7) for path in root.glob("*/" * depth + "config.yaml")})


def _rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in json_lines(path) if isinstance(row, dict)]
