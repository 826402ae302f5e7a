"""The folder of one run: who may write it, what it was started with, whether it is finished."""

import fcntl
import json
from datetime import datetime, timezone
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

    def open(self) -> None:
        """Take the folder. Raises ValueError when another process writes it, or it holds a different run."""
        if not self._writer:
            return
        self.refuse_other_run()
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path / ".lock", "w")  # noqa: SIM115 held until close()
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ValueError(
                f"run.dir={self.path} is being written by another process; wait for it, or give run.dir=<another folder>"
            ) from None
        for torn in (self.path / "checkpoints").glob(".*.tmp"):  # of a process that was killed while it saved
            torn.unlink()
        write_atomic(self.path / "config.yaml", yaml.safe_dump(self._config, sort_keys=False).encode())
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        write_atomic(self.path / "meta.json", json.dumps(self._meta | {"started": started}, indent=1).encode())
        certificate = certificate_for(self._meta)
        if certificate is not None:
            write_atomic(self.path / "verify.json", certificate)

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
        except (FileNotFoundError, json.JSONDecodeError):
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
        if None not in data and data[0] != data[1]:
            raise ValueError(
                f"run.dir={self.path} was trained on other data (its classes or labels differ from those of data.root="
                f"{self._config['data']['root']}); give run.dir=<another folder>, or the data it was trained on"
            )
