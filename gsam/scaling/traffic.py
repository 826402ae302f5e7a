"""What one training step all-reduces. tests/integration/test_scaling.py compares it with what two gloo ranks really send."""

from dataclasses import dataclass

FLOAT = 4  # bytes: gradients of float32 weights, whatever train.precision
NUMBERS = {"vanilla": 1, "entropy_sgd": 1}  # floats of StepStats; the methods with two passes have five
SIGNAL_BYTES = 8  # one int64 per step over gloo: has a rank been asked to leave?


@dataclass(frozen=True)
class Network:
    """Counted by count.py. buffers: floats of BatchNorm's running statistics; forward_flops: of one image, a multiply-add
    counts as two."""

    name: str
    parameters: int
    tensors: int
    buffers: int
    forward_flops: int


@dataclass(frozen=True)
class Method:
    """local: every group has a gradient of its own until the end, so that the ranks are averaged once, after the last pass;
    else DistributedDataParallel averages every pass, overlapped with its backward."""

    label: str
    name: str
    local: bool
    passes: int = 1
    batches: int = 1

    @property
    def reductions(self) -> int:
        """All-reduces of a whole gradient per step."""
        return 1 if self.local else self.passes * self.batches


METHODS = (
    Method("vanilla", "vanilla", local=False),
    Method("SAM, m = 64", "sam", local=True, passes=2),
    Method("GSAM, m = 64", "gsam", local=True, passes=2),
    Method("GSAM, scope=global", "gsam", local=False, passes=2),
    Method("Entropy-SGD, L = 5", "entropy_sgd", local=False, batches=5),
)


def small_floats(method: Method, network: Network, ranks: int) -> int:
    """What goes with the gradients: the step's numbers, which rank is broken, BatchNorm's statistics, and of local methods
    which parameters had a gradient."""
    return NUMBERS.get(method.name, 5) + ranks + network.buffers + (network.tensors if method.local else 0)


def payload_floats(method: Method, network: Network, ranks: int) -> int:
    """Handed to all-reduce per step and rank."""
    return method.reductions * network.parameters + small_floats(method, network, ranks)


def wire_bytes(method: Method, network: Network, ranks: int) -> float:
    """Sent by each GPU per step, and received as much: a ring all-reduce sends 2 (R - 1) / R times its payload."""
    return 2 * (ranks - 1) / ranks * FLOAT * payload_floats(method, network, ranks)
