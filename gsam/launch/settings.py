"""`launcher.*`: what a Slurm job asks for."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# Options of sbatch that belong to a key of their own, or to the way a job is saved and continued.
KEYS = {
    "nodes": "launcher.nodes", "time": "launcher.time", "partition": "launcher.partition", "account": "launcher.account",
    "qos": "launcher.qos", "constraint": "launcher.constraint", "cpus-per-task": "launcher.cpus_per_node",
    "array": "launcher.workers", "signal": "launcher.grace_s",
}  # fmt: skip
OURS = (
    "job-name",
    "output",
    "error",
    "open-mode",
    "requeue",
    "no-requeue",
    "ntasks",
    "ntasks-per-node",
    "ntasks-per-gpu",
    "chdir",
    "export",
    "wait",
    "parsable",
    "test-only",
)
GPUS = {"gres", "gpus", "gpus-per-node", "gpus-per-task"}  # the cluster's own word for them, instead of --gpus-per-node
TIME = re.compile(r"(?=.)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?")
SLURM_TIME = re.compile(r"(?:(\d+)-)?(\d+):(\d\d):\d\d")


@dataclass
class SlurmConfig:
    name: str = "slurm"
    nodes: int = 1
    """hosts of one training"""
    gpus_per_node: int = 8
    """processes per host, each with a GPU; 0 = one process without"""
    cpus_per_node: int | None = None
    """cores per host, for its processes and their data workers together; None = what the cluster gives"""
    time: str = "24h"
    """of one job: 90m, 24h, 2d, 1d12h or 1-12:00:00. A training that needs longer saves, and its job starts again"""
    grace_s: int = 180
    """seconds before the end of `time` at which the training is asked to leave: more than an evaluation, a step and a save"""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: list[str] = field(default_factory=list)
    """lines of shell at the job's start, such as `module load cuda`"""
    extra: dict[str, Any] = field(default_factory=dict)
    """further options of sbatch: {mem: 64G, mail-type: [END, FAIL], exclusive: true}; null and false: not given"""
    workers: int = 1
    """jobs that work on one sweep (scripts/sweep.py), as an array"""

    @property
    def processes(self) -> int:
        """Per host."""
        return max(1, self.gpus_per_node)

    @property
    def world(self) -> int:
        """Ranks of one training."""
        return max(1, self.nodes) * self.processes  # problems() names a number that is wrong

    @property
    def cores(self) -> int:
        """Of a host; as many as none has where it is not known."""
        return self.cpus_per_node or 1024

    @property
    def minutes(self) -> int:
        """`time`. Raises ValueError for a text that is no time."""
        text = str(self.time).strip()
        if match := TIME.fullmatch(text):
            days, hours, minutes = (int(part or 0) for part in match.groups())
        elif match := SLURM_TIME.fullmatch(text):
            days, hours, minutes = (int(part or 0) for part in match.groups())
        else:
            raise ValueError("write 90m, 24h, 2d, 1d12h, or as Slurm does: 1-12:00:00")
        if not (total := (days * 24 + hours) * 60 + minutes):
            raise ValueError("must be at least 1m")
        return total

    def problems(self) -> Iterator[str]:
        for key, least in (("nodes", 1), ("gpus_per_node", 0), ("workers", 1), ("grace_s", 1)):
            if getattr(self, key) < least:
                yield f"launcher.{key}={getattr(self, key)}: must be at least {least}"
        if self.cpus_per_node is not None and self.cpus_per_node < 1:
            yield f"launcher.cpus_per_node={self.cpus_per_node}: must be at least 1, or null for what the cluster gives"
        try:
            if self.grace_s >= self.minutes * 60:
                yield f"launcher.grace_s={self.grace_s}: must be less than launcher.time={self.time}"
        except ValueError as error:
            yield f"launcher.time={self.time}: {error}"
        for key, value in ((_option(key), value) for key, value in self.extra.items()):
            if (
                isinstance(value, dict)
                or isinstance(value, list)
                and any(isinstance(each, (dict, list)) for each in value)
            ):
                yield f"launcher.extra.{key}={value}: give one value, or a list of values"
            if key in KEYS:
                yield f"launcher.extra.{key}: set {KEYS[key]} instead"
            elif key in OURS:
                yield f"launcher.extra.{key}: cannot be set; saving and continuing depend on it"

    @property
    def options(self) -> dict[str, Any]:
        """`extra` as sbatch's options."""
        given = {_option(key): value for key, value in self.extra.items() if value is not None and value is not False}
        return {key: ",".join(map(str, value)) if isinstance(value, list) else value for key, value in given.items()}


def _option(key: str) -> str:
    return str(key).lstrip("-").replace("_", "-")
