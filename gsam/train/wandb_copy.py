"""Weights & Biases in a thread of its own: a slow or unreachable server neither delays nor stops training."""

import queue
import sys
import threading
from pathlib import Path
from typing import Any

from gsam.train.settings import WandbConfig, WandbMode

CONNECT_S = 30  # wandb's own start-up limit when online
CLOSE_S = 20  # how long the end of training waits for the last rows


class WandbCopy:
    """Rows go into a queue; the thread starts wandb, falls back to offline when the server does not answer, and writes them.
    Offline runs are uploaded later by `wandb sync <run folder>/wandb/offline-run-*`."""

    def __init__(self, folder: Path, settings: WandbConfig, config: dict[str, Any], name: str):
        self.rows: queue.SimpleQueue = queue.SimpleQueue()
        self.thread = None
        if settings.mode is not WandbMode.disabled:
            job = (folder, settings, config, name)
            self.thread = threading.Thread(target=self._work, args=job, name="wandb", daemon=True)
            self.thread.start()

    def log(self, row: dict[str, Any]) -> None:
        if self.thread is not None:
            self.rows.put(row)

    def close(self) -> None:
        if self.thread is not None:
            self.rows.put(None)
            self.thread.join(CLOSE_S)
            if self.thread.is_alive():
                print(
                    "wandb: the server did not take the last rows in time; metrics.jsonl has all of them",
                    file=sys.stderr,
                )

    def _work(self, folder: Path, settings: WandbConfig, config: dict[str, Any], name: str) -> None:
        try:
            run = _start(folder, settings, config, name)
        except Exception as error:  # whatever wandb cannot do, training goes on
            print(
                f"wandb: off for this run ({type(error).__name__}: {error}); metrics.jsonl has everything",
                file=sys.stderr,
            )
            run = None
        while (row := self.rows.get()) is not None:
            if run is not None:
                prefix = row.get("evalset", row["kind"])
                numbers = {f"{prefix}/{k}": v for k, v in row.items() if isinstance(v, (int, float)) and k != "step"}
                run.log(numbers | {"step": row["step"]})
        if run is not None:
            run.finish()


def _start(folder: Path, settings: WandbConfig, config: dict[str, Any], name: str) -> Any:
    import wandb

    def start(mode: str) -> Any:
        run = wandb.init(
            project=settings.project, name=name, config=config, dir=str(folder), mode=mode, id=name.replace("/", "-"),
            resume="allow" if mode == "online" else None, settings=wandb.Settings(init_timeout=CONNECT_S, console="off"),
        )  # fmt: skip
        run.define_metric("*", step_metric="step")
        return run

    if settings.mode is WandbMode.online:
        if _reachable(wandb):
            try:
                return start("online")
            except Exception as error:  # wandb raises its own and network errors alike
                print(f"wandb: {type(error).__name__}: {error}", file=sys.stderr)
        print(
            "wandb: the server does not answer; this run is recorded offline (wandb sync uploads it)", file=sys.stderr
        )
    return start("offline")


def _reachable(wandb: Any) -> bool:
    """Whether anything listens at the server's address: wandb itself would retry for minutes."""
    import socket
    from urllib.parse import urlsplit

    url = urlsplit(wandb.Settings().base_url)
    try:
        with socket.create_connection((url.hostname, url.port or (443 if url.scheme == "https" else 80)), timeout=5):
            return True
    except OSError:
        return False
