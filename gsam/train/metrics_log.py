"""metrics.jsonl is the truth; wandb gets a copy when it can."""

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsam.files import write_atomic
from gsam.train.progress import say
from gsam.train.settings import WandbConfig
from gsam.train.wandb_copy import WandbCopy


class MetricsLog:
    """Appends rows; does nothing where `active` is False (ranks > 0). Rows that the disk refuses are kept in memory and
    written with a later one."""

    def __init__(self, folder: Path, wandb: WandbConfig, config: dict[str, Any], name: str, active: bool):
        self.path, self.active = folder / "metrics.jsonl", active
        self.copy = WandbCopy(folder, wandb, config, name) if active else None
        self.unwritten: list[str] = []

    def truncate(self, step: int) -> None:
        """Drop rows after `step`: the run continues from a checkpoint of that step and will write them again. Call it once,
        before the first `write`."""
        if not self.active:
            return
        before = self.path.read_text() if self.path.exists() else ""
        kept = [line for line in before.splitlines() if _step(line) <= step]
        text = "".join(line + "\n" for line in kept)
        if text != before:
            write_atomic(self.path, text)
        for line in kept:
            self.copy.log(json.loads(line))

    def write(self, row: dict[str, Any]) -> None:
        """One row with `kind` and `step`; None values are left out, numbers that are not finite become null."""
        if not self.active:
            return
        row = {k: _finite(v) for k, v in row.items() if v is not None}
        self.unwritten.append(json.dumps(row) + "\n")
        self._append()
        self.copy.log(row)

    def _append(self) -> None:
        """Everything unwritten, or nothing."""
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with open(self.path, "a") as f:
                f.writelines(self.unwritten)
        except OSError as error:
            if self.path.exists():
                os.truncate(self.path, size)
            if len(self.unwritten) == 1:  # said once, until there is room again
                say(f"warning: {self.path} cannot be written ({error}); its rows wait in memory. Is the disk full?")
        else:
            self.unwritten = []

    def flush(self) -> None:
        """Try again to write what the disk refused."""
        if self.unwritten:
            self._append()

    def sync(self) -> None:
        """Rows must survive a kill or power cut where the checkpoint of their step does: call it before that is written. Raises
        OSError while rows wait for room."""
        if self.unwritten:
            raise OSError(f"{len(self.unwritten)} rows of {self.path.name} wait for room")
        if self.path.exists():
            with open(self.path) as f:
                os.fsync(f.fileno())

    def close(self) -> None:
        self.flush()
        if self.unwritten:
            say(f"warning: {self.path} lacks its last {len(self.unwritten)} rows: the disk did not take them")
        if self.copy is not None:
            self.copy.close()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _step(line: str) -> float:
    """Step of a row; a line cut off by a crash counts as after every step."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return math.inf


class Meter:
    """Means over a logging interval, summed on the device: nothing waits for the GPU until `means`."""

    def __init__(self):
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, values: dict[str, Tensor | None]) -> None:
        self.count += bool(values)  # none: the step was skipped
        for key, value in values.items():
            if value is not None:
                value = value.detach().double() if value.device.type != "mps" else value.detach()
                self.sums[key] = value if key not in self.sums else self.sums[key] + value

    def means(self) -> dict[str, float]:
        return {key: (total / self.count).item() for key, total in self.sums.items()}

    def reset(self) -> None:
        self.sums, self.count = {}, 0

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums, "count": self.count}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        self.sums, self.count = {key: value.to(device) for key, value in state["sums"].items()}, state["count"]
