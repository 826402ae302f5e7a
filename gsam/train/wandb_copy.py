"""Weights & Biases in a thread of its own: a slow or unreachable server neither delays nor stops training."""

import queue
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gsam.train.settings import WandbConfig, WandbMode

CONNECT_S = 30  # wandb's own start-up limit when online
CLOSE_S = 20  # how long the end of training waits for the last rows


class WandbCopy:
    """Gets every row of metrics.jsonl from the first, also those from before a restart: the thread starts wandb, falls back to
    offline when the server does not answer, and sends the rows that the run does not have. scripts/wandb_push.py uploads what
    did not arrive."""

    def __init__(self, folder: Path, settings: WandbConfig, config: dict[str, Any], name: str):
        self.rows: queue.SimpleQueue = queue.SimpleQueue()
        self.thread = None
        if settings.mode is not WandbMode.disabled:
            job = (folder, settings, config, name)
            self.thread = threading.Thread(target=self._work, args=job, name="wandb", daemon=True)
            self.thread.start()

    def log(self, row: dict[str, Any]) -> None:
        if self.thread is not None and self.thread.is_alive():
            self.rows.put(row)

    def close(self) -> None:
        if self.thread is not None:
            self.rows.put(None)
            self.thread.join(CLOSE_S)
            if self.thread.is_alive():
                _say("the server did not take the last rows in time; metrics.jsonl has all of them")

    def _work(self, folder: Path, settings: WandbConfig, config: dict[str, Any], name: str) -> None:
        try:
            run = _online_or_offline(folder, settings, config, name)
            copy_rows(run, iter(self.rows.get, None))
            run.finish()
        except Exception as error:  # whatever wandb cannot do, training goes on
            _say(f"off for this run ({type(error).__name__}: {error}); metrics.jsonl has everything")


def copy_rows(run: Any, rows: Iterable[dict[str, Any]]) -> int:
    """Log those of `rows`, all of metrics.jsonl in order, that the run does not have yet: wandb's step is the number of the
    row, so a run that was interrupted, however often, stays one line. Returns how many were logged."""
    first, count = run.step, 0  # 0 unless the run was resumed
    for number, row in enumerate(rows):
        if number >= first:
            run.log(named(row), step=number, commit=True)
            count += 1
    return count


def named(row: dict[str, Any]) -> dict[str, float]:
    """A row's numbers under wandb's names: train/loss, val/top1, val_ema/top1 of the moving average; step as the x axis."""
    prefix = row.get("evalset", row["kind"]) + ("_ema" if row.get("weights") == "ema" else "")
    numbers = {f"{prefix}/{k}": v for k, v in row.items() if isinstance(v, (int, float)) and k != "step"}
    return numbers | {"step": row["step"]}


def start(folder: Path, project: str, config: dict[str, Any], name: str, mode: str) -> Any:
    """A wandb run "online", continued where the server has it, or "offline". Raises what wandb raises."""
    import wandb

    run = wandb.init(
        project=project, name=name, config=config, dir=str(folder), mode=mode, id=name.replace("/", "-"),
        resume="allow" if mode == "online" else None, settings=wandb.Settings(init_timeout=CONNECT_S, console="off"),
    )  # fmt: skip
    run.define_metric("*", step_metric="step")
    return run


def reachable() -> bool:
    """Whether anything listens at the server's address: wandb itself would retry for minutes."""
    import socket
    from urllib.parse import urlsplit

    import wandb

    url = urlsplit(wandb.Settings().base_url)
    try:
        with socket.create_connection((url.hostname, url.port or (443 if url.scheme == "https" else 80)), timeout=5):
            return True
    except OSError:
        return False


def _online_or_offline(folder: Path, settings: WandbConfig, config: dict[str, Any], name: str) -> Any:
    if settings.mode is WandbMode.online:
        if reachable():
            try:
                return start(folder, settings.project, config, name, "online")
            except Exception as error:  # wandb raises its own and network errors alike
                _say(f"{type(error).__name__}: {error}")
        _say(f"the server does not answer; this run is recorded offline (scripts/wandb_push.py {folder} uploads it)")
    return start(folder, settings.project, config, name, "offline")


def _say(text: str) -> None:
    print(f"wandb: {text}", file=sys.stderr)
