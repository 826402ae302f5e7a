"""The plain gradient."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch.nn import Parameter

from gsam.optim.estimator import GradFn, Step, StepStats


@dataclass
class VanillaEstimator:
    """One pass; what every other method is compared with. DDP's own overlapped reduction averages the ranks."""

    name: str = "vanilla"
    passes: ClassVar[int] = 1
    batches_per_step: ClassVar[int] = 1
    local: ClassVar[bool] = False
    scale_free: ClassVar[bool] = True

    def __call__(self, params: Sequence[Parameter], grad_fn: GradFn, step: Step) -> StepStats:
        return StepStats(loss=grad_fn())

    def problems(self) -> Iterator[str]:
        yield from ()
