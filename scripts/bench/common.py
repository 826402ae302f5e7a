"""What the benchmarks share: timing in turns, the machine's bandwidth, and facts about where it ran."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # also from a checkout that is not installed


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(job: Callable[[], Any]) -> float:
    """Wall time of one call, the GPU's work included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    job()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def in_turns(jobs: dict[str, Callable[[], Any]], rounds: int, warmup: int = 2, calls: int = 1) -> dict[str, list[float]]:
    """Seconds per call of every job in every round: A B C, A B C, … so that a machine whose speed drifts slows all of them
    alike. calls: per timing; several on a GPU, where one alone hides how far the host runs ahead."""
    for _ in range(warmup):
        for job in jobs.values():
            job()
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            times[name].append(seconds(lambda job=job: [job() for _ in range(calls)]) / calls)
    return times


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {name: median(values) for name, values in times.items()}


class Triad:
    """a = b + s * c over `count` floats: the bandwidth test of STREAM, three memory accesses per element."""

    def __init__(self, count: int, where: torch.device):
        self.b, self.c = torch.rand(count, device=where), torch.rand(count, device=where)
        self.a = torch.empty_like(self.b)

    def __call__(self) -> None:
        torch.add(self.b, self.c, alpha=0.5, out=self.a)

    def bandwidth(self, best_seconds: float) -> float:
        """Bytes per second."""
        return 3 * 4 * self.a.numel() / best_seconds


def facts() -> dict[str, Any]:
    """Where and with what it was measured."""
    from gsam.runtime import environment

    env = environment(device())
    return {"device": env["device"], "machine": env["processor"], "threads": torch.get_num_threads(), **env["versions"],
            "git_hash": env["git_hash"], "time": datetime.now(timezone.utc).isoformat(timespec="seconds")}  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """What every benchmark takes."""
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--record", type=Path, metavar="FILE", help="also append the JSON line to this file")


def report(name: str, result: dict[str, Any], args: argparse.Namespace) -> None:
    """Print the parts, then the JSON line; append it to --record."""
    result = {"benchmark": name, **result, **facts()}
    if not args.json:
        for key, value in result.items():
            print(f"{key:22s} {value:.4g}" if isinstance(value, float) else f"{key:22s} {value}")
    print(json.dumps(result))
    if args.record:
        args.record.parent.mkdir(parents=True, exist_ok=True)
        with open(args.record, "a") as file:
            file.write(json.dumps(result) + "\n")
