"""Bytes that gloo ranks really send: `python -m tests.wire <world> <labels…>` in a network namespace of its own prints, as
JSON, the bytes per step of all ranks together, by method."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from gsam.models import ModelConfig
from gsam.optim import ESTIMATORS, Scope
from gsam.runtime import Precision, Runtime
from gsam.scaling.traffic import METHODS, Method, Network
from gsam.train.stepper import Stepper
from tests.contract.matrix import Case, batches, stepper
from tests.ranks import run_ranks

IMAGES, M, STEPS = 64, 8, 5
# Those of the page, and the others that it speaks of.
MORE = (Method("ASAM", "asam", local=True, passes=2), Method("weighted SAM", "weighted", local=True, passes=2))
METHOD = {method.label: method for method in (*METHODS, *MORE)}


def made(label: str, net: str = "bn", accumulate: int = 1) -> Stepper:
    """A rank's Stepper for a method of the page; with two ranks each has several groups."""
    method, rank, world = METHOD[label], dist.get_rank(), dist.get_world_size()
    config = stepper(Case(method.name, Precision.fp32, 1, 1, 1, "bn")).config
    config.train.batch_size, config.train.accumulate = IMAGES, accumulate
    config.model = ModelConfig(net) if net == "small_convnet" else ModelConfig("contract_net", kwargs={"kind": net})
    settings = {"rho": 0.1, "group_size": M} if method.local else {}
    if "global" in label:
        settings = {"rho": 0.1, "scope": Scope["global"]}
    if method.name == "entropy_sgd":
        settings = {"iterations": method.batches}
    config.optimizer = ESTIMATORS[method.name](**settings)
    return Stepper(config, Runtime(torch.device("cpu"), rank, world, rank), num_classes=5, num_examples=256)


def counted(made: Stepper) -> Network:
    floats = sum(b.numel() for b in made.batch_stats.buffers)
    return Network("net", sum(p.numel() for p in made.params), len(made.params), floats, 0)


def sent(rank: int, labels: list[str]) -> dict[str, float]:
    found = {}
    for label in labels:
        ours = made(label, "small_convnet")
        for _ in range(2):  # DDP sends more in its first steps
            ours.train_step(batches(ours))
        before = _loopback()
        for _ in range(STEPS):
            ours.train_step(batches(ours))
        found[label] = (_loopback() - before) / STEPS
    return found


def _loopback() -> int:
    """Bytes on this namespace's loopback device so far, once all ranks have come here; headers included."""
    dist.barrier()
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    dist.barrier()
    return int(line.split()[9])


if __name__ == "__main__":
    results = run_ranks(int(sys.argv[1]), sent, sys.argv[2:])
    print(json.dumps(results[0]))
