"""Step time on R GPUs as a sum of four terms; docs/scaling.md writes each with its numbers. Seconds, bytes, floats."""

import math
from dataclasses import dataclass
from typing import Any

from gsam.scaling.text import AT_ONCE
from gsam.scaling.traffic import FLOAT, Method, Network, payload_floats, small_floats

GPUS_PER_NODE = 8
# Floats read or written per weight, operation by operation; tests/integration/test_scaling.py counts them in the real code.
ADAMW_FLOATS, SGD_FLOATS = 20, 10  # torch's, not fused; SGD with momentum and decay
NORM_FLOATS = 3  # of the gradient 1, clipping 2
BASE_FLOATS = {"transformer": ADAMW_FLOATS + NORM_FLOATS, "resnet": SGD_FLOATS + NORM_FLOATS}
FLAT_FLOATS = 6  # our flat all-reduce: copy in 2, divide 2, copy out 2
DDP_FLOATS = 4  # DistributedDataParallel's buckets: copy in and divide 2, copy out 2
ADD_FLOATS = 3  # a further micro-batch: its backward adds to the gradient
BANK_FLOATS = 3  # several groups per rank: add a group's gradient to their sum (the first: divide it, 2)
ENTROPY_FLOATS, ENTROPY_ONCE = 24, 10  # each inner step; starting and ending the loop


@dataclass(frozen=True)
class Machine:
    """Bandwidths are of one direction: nvlink of a GPU, network of a node. copies: floats that SAM and GSAM move per weight and
    group, by method name."""

    flops_per_s: dict[str, float]
    memory_bytes_per_s: float
    nvlink_bytes_per_s: float
    network_bytes_per_s: float
    latency_node_s: float
    latency_network_s: float
    bucket_bytes: float
    copies: dict[str, float]
    given: dict[str, float]
    """network -> images per second of a vanilla step of AT_ONCE images on one GPU, from the command line"""

    def bus_bytes_per_s(self, gpus: int) -> float:
        """Of an all-reduce: a ring enters and leaves each node once, over all its ports."""
        return (
            self.nvlink_bytes_per_s if gpus <= GPUS_PER_NODE else min(self.nvlink_bytes_per_s, self.network_bytes_per_s)
        )

    def latency_s(self, gpus: int) -> float:
        return self.latency_node_s if gpus <= GPUS_PER_NODE else self.latency_network_s

    def images_per_s(self, network: Network) -> float:
        """Forward and backward (twice the forward's FLOPs) of one GPU. A given step's base optimizer is taken off: negative
        where it alone would take longer."""
        if network.name in self.given:
            return AT_ONCE / (AT_ONCE / self.given[network.name] - base_s(network, self))
        return self.flops_per_s[kind(network)] / (3 * network.forward_flops)


@dataclass(frozen=True)
class Step:
    """Of one GPU; see `step`."""

    compute_s: float
    memory_s: float
    reduce_s: float
    exposed_s: float
    images: int
    """new images that the loader must give"""

    @property
    def seconds(self) -> float:
        return self.compute_s + self.memory_s + self.exposed_s

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds


def kind(network: Network) -> str:
    return "resnet" if network.name.startswith("resnet") else "transformer"


def step(method: Method, network: Network, machine: Machine, gpus: int, batch: int, at_once: int) -> Step:
    """One step of `batch` images on `gpus` GPUs, `at_once` images at a time: the size of a group (m), and of the micro-batches
    of methods without groups."""
    images = batch // gpus
    pieces = images // at_once
    piece_s = at_once / machine.images_per_s(network)
    compute = method.passes * method.batches * pieces * piece_s
    moved = moved_floats(method, network, machine, gpus, pieces)
    memory = moved * FLOAT * network.parameters / machine.memory_bytes_per_s
    if gpus == 1:
        return Step(compute, memory, 0.0, 0.0, images * method.batches)
    if method.local:
        whole = exposed = reduce_s(payload_floats(method, network, gpus), machine, gpus)
    else:
        one = reduce_s(network.parameters, machine, gpus, buckets(network, machine))
        small = reduce_s(small_floats(method, network, gpus), machine, gpus)
        whole = method.reductions * one + small
        exposed = method.reductions * max(last_bucket_s(network, machine, gpus), one - hidden_s(piece_s)) + small
    return Step(compute, memory, whole, exposed, images * method.batches)


def hidden_s(piece_s: float) -> float:
    """What an overlapped all-reduce can hide behind: the backward of the last piece, two thirds of its time."""
    return 2 / 3 * piece_s


def base_s(network: Network, machine: Machine) -> float:
    """The base optimizer's step with the gradient's norm and clipping."""
    return BASE_FLOATS[kind(network)] * FLOAT * network.parameters / machine.memory_bytes_per_s


def buckets(network: Network, machine: Machine) -> int:
    """All-reduces that DistributedDataParallel makes of one gradient."""
    return math.ceil(FLOAT * network.parameters / machine.bucket_bytes)


def last_bucket_s(network: Network, machine: Machine, gpus: int) -> float:
    """The first layers' gradients come last, and their bucket waits for nothing any more."""
    return reduce_s(min(network.parameters, machine.bucket_bytes / FLOAT), machine, gpus)


def moved_floats(method: Method, network: Network, machine: Machine, gpus: int, pieces: int) -> float:
    """Read or written per weight and step beyond the passes."""
    base = BASE_FLOATS[kind(network)]
    if method.local:
        banked = BANK_FLOATS * pieces if pieces > 1 else 0
        return base + machine.copies[method.name] * pieces + banked + (FLAT_FLOATS if gpus > 1 else 0)
    own = machine.copies.get(method.name, 0.0)
    if method.name == "entropy_sgd":
        own = ENTROPY_FLOATS * method.batches + ENTROPY_ONCE
    passes = method.passes * method.batches
    return base + own + ADD_FLOATS * (pieces - 1) * passes + (DDP_FLOATS * passes if gpus > 1 else 0)


def reduce_s(floats: float, machine: Machine, gpus: int, calls: int = 1) -> float:
    """calls * latency + 2 (R - 1) / R * bytes / bandwidth."""
    return calls * machine.latency_s(gpus) + 2 * (gpus - 1) / gpus * FLOAT * floats / machine.bus_bytes_per_s(gpus)


def efficiency(method: Method, network: Network, machine: Machine, gpus: int, batch: int, at_once: int) -> float:
    """t(1) / (R t(R)): the same global batch, hence the same result."""
    alone, many = (step(method, network, machine, n, batch, at_once).seconds for n in (1, gpus))
    return alone / (gpus * many)


def machine_of(inputs: dict[str, Any], optimizer: dict[str, Any], given: dict[str, float], network: str) -> Machine:
    """From docs/bench/scaling.yaml and the measured overhead of SAM and GSAM (a row of results.jsonl). network: "network" or
    "slow_network"."""
    value = {key: float(entry["value"]) for key, entry in inputs.items()}
    copies = 12 * optimizer["ratio_to_floor"]
    return Machine(
        flops_per_s={
            kind: value["gpu_flops_per_s"] * value[f"utilisation_{kind}"] for kind in ("transformer", "resnet")
        },
        memory_bytes_per_s=value["gpu_memory_bytes_per_s"] * value["memory_share"],
        nvlink_bytes_per_s=value["nvlink_bytes_per_s"] * value["link_share"],
        network_bytes_per_s=value[f"{network}_bytes_per_s"] * value["link_share"],
        latency_node_s=value["latency_node_s"],
        latency_network_s=value["latency_network_s"],
        bucket_bytes=value["bucket_bytes"],
        copies={"gsam": copies, "sam": copies * optimizer["sam_overhead_s"] / optimizer["gsam_overhead_s"]},
        given=given,
    )
