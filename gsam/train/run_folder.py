"""The folder of one run: who may write it, what it was started with, whether it is finished."""

import fcntl
import json
import os
import socket
from datetime import datetime, timezone
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from gsam.files import write_atomic
from gsam.identity import deciding
from gsam.verify.certificate import certificate_for


class RunFolder:
    """config.yaml, meta.json, metrics.jsonl, results.jsonl, checkpoints/, DONE, and verify.json where `python -m gsam.verify`
    has passed on this machine. Only rank 0 writes."""

    def __init__(self, path: Path, config: dict[str, Any], meta: dict[str, Any], writer: bool):
        self.path, self._config, self._meta, self._writer = path, config, meta, writer
        self._lock = None

    @property
    def finished(self) -> bool:
        return (self.path / "DONE").exists()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def kept(self, key: str) -> Any:
        """What an earlier process of this run wrote into meta.json; None if there was none."""
        try:
            return json.loads((self.path / "meta.json").read_text()).get(key)
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            return None

    def keep(self, key: str, value: Any) -> None:
        """Written by `open`."""
        self._meta[key] = value

    def open(self) -> None:
        """Take the folder. Raises ValueError when another process writes it, or it holds a different run."""
        if not self._writer:
            return
        self.refuse_other_run()
        try:
            self._start()
        except OSError as error:
            raise ValueError(
                f"run.dir={self.path} cannot be written ({error}): make room there, or give "
                "run.dir=<another folder> or run.root=<another>"
            ) from error

    def _start(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        # Of a process that was killed while it wrote. evaluate.py may be writing files of other names.
        own = [
            self.path.glob(f".{name}.*.tmp") for name in ("config.yaml", "meta.json", "metrics.jsonl", "verify.json")
        ]
        for torn in chain(self.checkpoints.glob(".*.tmp"), *own):
            torn.unlink()
        write_atomic(self.path / "config.yaml", yaml.safe_dump(self._config, sort_keys=False).encode())
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        write_atomic(self.path / "meta.json", json.dumps(self._meta | {"started": started}, indent=1).encode())
        certificate = certificate_for(self._meta)
        if certificate is not None:
            write_atomic(self.path / "verify.json", certificate)

    def _take_lock(self) -> None:
        self._lock = open(self.path / ".lock", "a+")  # noqa: SIM115 held until close()
        try:
            # Not flock: loader workers would inherit it and hold it for seconds after their trainer was killed.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            self._lock.seek(0)
            who = self._lock.read() or "another process"
            self._lock.close()
            raise ValueError(
                f"run.dir={self.path} is being written by {who}; wait for it, or give run.dir=<another folder>"
            ) from None
        except OSError:  # a file system without locks
            return
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._lock.flush()

    def finish(self) -> None:
        if self._writer:
            write_atomic(self.path / "DONE", b"")

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def refuse_other_run(self) -> None:
        """A folder given by run.dir may hold a run with other settings: continuing it would mix the two."""
        try:
            before = json.loads((self.path / "meta.json").read_text())
        except (FileNotFoundError, NotADirectoryError):
            if any(self.checkpoints.glob("*.pt")):
                raise ValueError(
                    f"run.dir={self.path} has checkpoints but no meta.json, so nothing tells which run they are of: copy the "
                    "whole folder, or give another run.dir; model.init=<checkpoint> starts a new run from its weights"
                ) from None
            return
        except json.JSONDecodeError:
            return
        if before.get("config_hash") != self._meta["config_hash"]:
            old = yaml.safe_load((self.path / "config.yaml").read_text())
            before_set, now = deciding(old), deciding(self._config)
            differing = sorted(k for k in before_set.keys() | now.keys() if before_set.get(k) != now.get(k))
            raise ValueError(
                f"run.dir={self.path} holds another run (configuration {before.get('config_hash')}, this one is "
                f"{self._meta['config_hash']}); differing: {', '.join(differing)}. Give another run.dir, or leave it out"
            )
        data = before.get("data"), self._meta["data"]
        # Earlier versions wrote eight digits, of less: they tell nothing.
        if None not in data and data[0] != data[1]:
            raise ValueError(
                f"run.dir={self.path} was trained on other data (its classes, labels or pictures, or with data.backend=ffcv "
                f"its train.beton, differ from those of data.root={self._config['data']['root']}, data.ffcv_root="
                f"{self._config['data']['ffcv_root']}); give run.dir=<another folder>, or the data it was trained on"
            )
