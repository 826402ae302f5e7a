"""analysis.jsonl: one row per measurement, appended; what stands there is not measured again."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from gsam.files import replacing
from gsam.report.load import analysis_key, read_analyses

Row = dict[str, Any]
SAVE_EVERY_S = 30.0


@dataclass
class Rows:
    """out: folder of analysis.jsonl. same: what all rows of this call say of the weights and pictures. force: measure again.

    settings of a row: everything that decides its numbers and is not in `same`.
    """

    out: Path
    same: Row
    force: bool = False
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._known = {} if self.force else {analysis_key(row): row for row in read_analyses(self.out)}

    def known(self, analysis: str, settings: Row) -> Row | None:
        """The row of an earlier call, if there is one."""
        return self._known.get(analysis_key(self._question(analysis, settings)))

    def add(self, analysis: str, settings: Row, numbers: Row) -> Row:
        """Append a row; its wall_s is the time since the last one."""
        now = time.monotonic()
        row = self._question(analysis, settings) | {key: _plain(value) for key, value in numbers.items()}
        row |= {"wall_s": round(now - self.began, 3), "time": datetime.now(timezone.utc).isoformat(timespec="seconds")}
        self.began = now
        append(self.out / "analysis.jsonl", row)
        self._known[analysis_key(row)] = row
        return row

    @contextmanager
    def state(self, analysis: str, settings: Row) -> Iterator[State]:
        """What a measurement has so far; the file goes when the block ends without an error."""
        digest = hashlib.sha256(repr(analysis_key(self._question(analysis, settings))).encode()).hexdigest()[:16]
        state = State(self.out / "analysis" / f"{analysis}-{digest}.pt")
        if self.force:
            state.clear()
        yield state
        state.clear()

    def _question(self, analysis: str, settings: Row) -> Row:
        return {"kind": "analysis", "analysis": analysis, **self.same, "settings": settings}


class State:
    """A dict of tensors and plain data in a file: `state["x"] = value` writes it now and then, `flush` at once."""

    def __init__(self, path: Path):
        self.path, self.written = path, time.monotonic()
        self.values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True) if path.exists() else {}

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def __setitem__(self, key: str, value: Any) -> None:
        self.values[key] = value
        if time.monotonic() - self.written > SAVE_EVERY_S:
            self.flush()

    def flush(self) -> None:
        with replacing(self.path) as file:
            torch.save(self.values, file)
        self.written = time.monotonic()

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
        self.values = {}
        if self.path.parent.is_dir() and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()


def append(path: Path, row: Row) -> None:
    """A line of JSON; one that a crash has cut off before it is closed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
    with open(path, "a") as file:
        file.write("\n" * bool(torn) + json.dumps(row) + "\n")


def _plain(value: Any) -> Any:
    """Numbers that are not finite become null, tensors and arrays lists."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
