"""The matrix of the contract suite, and a real Stepper for each of its cases."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist

import tests.contract.nets  # noqa: F401 registers contract_net
from gsam.config import Config
from gsam.data import AugmentConfig
from gsam.models import ModelConfig
from gsam.optim import ESTIMATORS, Form, Perturb, ScheduleConfig, Scope, VanillaEstimator
from gsam.optim.base import AdamWConfig, SGDConfig
from gsam.optim.estimator import Perturbing
from gsam.optim.gsam import Minimize
from gsam.runtime import Precision, Runtime
from gsam.train.settings import NonFinite, TrainConfig
from gsam.train.stepper import Stepper
from tests.contract.nets import NETS
from tests.contract.pairs import all_pairs

DEVICE = torch.device("cpu")  # tests/gpu changes it
LOCAL_BATCH = 16  # images of one rank
RHO = 0.2
ASAM = {"perturb": Perturb.asam}
# Every method of the table, as it stands, and the settings that change its computation.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in ESTIMATORS} | {
    "asam original": ("asam", {"form": Form.original}),
    "asam big_vision": ("asam", {"form": Form.big_vision}),
    "gsam asam": ("gsam", {**ASAM, "alpha": 0.4}),
    "gsam f": ("gsam", {"minimize": Minimize.f, "alpha": 0.4}),
    "sam global": ("sam", {"scope": Scope["global"]}),
    "gsam global": ("gsam", {"scope": Scope["global"], "alpha": 0.4}),
}
AXES = {
    "method": list(METHODS), "precision": list(Precision), "world": [1, 2], "accumulate": [1, 4], "groups": [1, 4],
    "net": list(NETS),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    method: str
    precision: Precision
    world: int
    accumulate: int
    groups: int  # of each rank
    net: str
    compile: bool = False

    @property
    def id(self) -> str:
        words = [
            self.method,
            self.net,
            self.precision.name,
            f"{self.world}rank",
            f"acc{self.accumulate}",
            f"g{self.groups}",
        ]
        return "-".join(words + ["compiled"] * self.compile).replace(" ", "_")

    @property
    def perturbing(self) -> bool:
        return issubclass(ESTIMATORS[METHODS[self.method][0]], Perturbing)

    @property
    def local(self) -> bool:
        """Each group has a gradient of its own until the end."""
        return self.perturbing and "global" not in self.method


def allowed(row: dict) -> bool:
    case = Case(**row)
    if case.groups > 1 and not case.local:
        return False  # one group by definition
    if case.method == "entropy_sgd" and case.precision is Precision.fp16:
        return False  # refused by the configuration
    # DDP's synchronised backward demands that every parameter takes part.
    return not (case.net == "unused" and case.world > 1 and not case.local)


def cases(full: bool) -> list[Case]:
    """In the normal suite every two values of two axes meet, compiled or not being one of the axes."""
    if not full:
        compiled = all_pairs(AXES, allowed, size=1)  # each value once: few, since the compiler runs for each
        return [Case(**row) for row in all_pairs(AXES, allowed)] + [Case(**row, compile=True) for row in compiled]
    axes = {**AXES, "compile": [False, True]}
    return [Case(**row) for row in _product(axes) if allowed(row)]


def _product(axes: dict) -> list[dict]:
    rows: list[dict] = [{}]
    for key, values in axes.items():
        rows = [{**row, key: value} for row in rows for value in values]
    return rows


@dataclass
class GroupedVanilla(VanillaEstimator):
    """The plain gradient of each group, averaged as every local method's: what rho = 0 must equal bit for bit."""

    group_size: int | None = None
    local: ClassVar[bool] = True


def estimator(case: Case, **changes: Any) -> Any:
    name, settings = METHODS[case.method]
    if case.perturbing:
        settings = {"rho": RHO, **settings}
    if case.local:
        settings = {**settings, "group_size": LOCAL_BATCH // case.groups}
    if name == "entropy_sgd":
        settings = {"iterations": 2, "noise": 0.01}
    return ESTIMATORS[name](**{**settings, **changes})


def grouped_vanilla(case: Case) -> Any:
    return GroupedVanilla(group_size=LOCAL_BATCH // case.groups) if case.local else VanillaEstimator()


def stepper(
    case: Case, method: Any = None, *, alone: bool = False, accumulate: int | None = None, augment: dict | None = None
) -> Stepper:
    """A Stepper for the case in this process. alone: the same global batch and groups in ONE process."""
    world = 1 if alone else case.world
    rank = dist.get_rank() if world > 1 else 0
    # AdamW where a parameter without gradient could decay; its large eps keeps rounding errors small.
    adamw = AdamWConfig(lr=0.02, weight_decay=0.1, eps=1e-3)
    config = Config(
        optimizer=method or estimator(case),
        base=adamw if case.net in ("unused", "frozen") else SGDConfig(lr=0.1, weight_decay=0.01),
        schedule=ScheduleConfig(warmup_steps="2", lr_min=0.001),
        model=ModelConfig(
            name="contract_net", kwargs={"kind": case.net}, drop_path=0.3 if case.net == "drop_path" else 0.0
        ),
        augment=AugmentConfig(size=8, **(augment or {})),
        train=TrainConfig(
            epochs="20st", batch_size=LOCAL_BATCH * case.world, precision=case.precision, compile=case.compile,
            accumulate=accumulate or case.accumulate, clip_norm=1.0, seed=3, non_finite=NonFinite.skip,
        ),
    )  # fmt: skip
    made = Stepper(config, Runtime(DEVICE, rank, world, rank), num_classes=5, num_examples=256)
    if made.scaler.is_enabled():  # from a loss scale that does not overflow, so that the steps move
        made.scaler.load_state_dict({**made.scaler.state_dict(), "scale": 2.0**10})
    return made


def batches(made: Stepper) -> list[tuple[torch.Tensor, ...]]:
    """This rank's blocks of the step's global batches, drawn from the step alone. Classes differ in mean colour."""
    runtime, count, total = made.runtime, made.config.optimizer.batches_per_step, made.config.train.batch_size
    result = []
    for k in range(count):
        generator = torch.Generator().manual_seed(made.step * count + k)
        y = torch.randint(0, 5, (total,), generator=generator)
        noise = torch.randint(0, 80, (total, 3, 8, 8), generator=generator, dtype=torch.uint8)
        x = noise + (40 * y).to(torch.uint8).view(-1, 1, 1, 1)
        keys = torch.stack([torch.full((total,), made.step), torch.arange(total)], dim=1)
        batch = (x, y, keys) if made.augment.needs_keys else (x, y)
        result.append(tuple(t.chunk(runtime.world)[runtime.rank] for t in batch))
    return result


def advance(made: Stepper, steps: int) -> Stepper:
    for _ in range(steps):
        made.train_step(batches(made))
    return made
