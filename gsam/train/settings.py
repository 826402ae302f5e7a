"""The trainer's own settings: `train.*`, `ema.*`, `analysis.*`, `run.*`, `wandb.*`."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from gsam.losses import LossKind
from gsam.runtime import Precision


class Duration(NamedTuple):
    amount: float
    unit: str  # "ep" epochs | "st" optimizer steps

    @classmethod
    def parse(cls, text: str, default_unit: str) -> "Duration":
        """`300ep`, `1000st`, or a plain number in `default_unit`. Raises ValueError for anything else."""
        text = str(text).strip()
        unit = text[-2:] if text[-2:] in ("ep", "st") else default_unit
        try:
            amount = float(text.removesuffix(unit))
        except ValueError:
            raise ValueError("write a duration as 300ep (epochs) or 1000st (optimizer steps)") from None
        if not 0 <= amount < float("inf") or (unit == "st" and amount != int(amount)):
            raise ValueError("a duration is a number of epochs ≥ 0 or a whole number of steps ≥ 0")
        return cls(amount, unit)

    def steps(self, num_examples: int, batch_size: int) -> int:
        """Optimizer steps, rounded: round(n * epochs / batch), as big_vision counts."""
        return int(self.amount) if self.unit == "st" else round(num_examples * self.amount / batch_size)


class NonFinite(Enum):
    stop = "stop"
    skip = "skip"


@dataclass
class TrainConfig:
    epochs: str = "90"
    """length of training and of its schedules: 90 or 90ep (epochs), 1000st (steps); round(n * epochs / batch_size) steps"""
    max_steps: int | None = None
    """stop after this many steps, with the schedules of the whole training; a later run without it continues"""
    batch_size: int = 4096
    """images per step over all ranks"""
    precision: Precision = Precision.bf16
    """fp32 | bf16 | fp16 (with loss scaling)"""
    non_finite: NonFinite = NonFinite.stop
    """a step whose gradient is not finite moves nothing; then stop the run, or skip the step. fp16's overflows are always
    skipped. 40 such steps in a row stop any run"""
    clip_norm: float | None = None
    """largest L2 norm of the final, averaged gradient; None = no clipping"""
    accumulate: int = 1
    """micro-batches that each group of a rank is split into, to save memory"""
    compile: bool = False
    """torch.compile the model"""
    channels_last: bool = False
    """memory format NHWC for weights and images"""
    seed: int = 0
    """of initial weights, data order, augmentation and dropout"""
    loss: LossKind = LossKind.softmax
    """softmax | sigmoid (sum over classes)"""
    label_smoothing: float = 0.0
    eval_every: str = "1ep"
    """between evaluations on the validation set; also at the end"""
    save_every: str = "1ep"
    """between writes of checkpoints/last.pt; also at the end"""
    keep_last: int = 2
    """how many of the newest checkpoints there are: last.pt, last-1.pt, …; a damaged one is passed over for the one before"""
    keep_every: str | None = None
    """between checkpoints that stay, checkpoints/step_N.pt; None = none of them"""
    log_every: str = "50st"
    """between rows of metrics.jsonl, averages over the interval"""
    profile_steps: int = 0
    """record a torch profiler trace of this many steps (after 5 others) into the run folder, then stop"""

    def problems(self) -> Iterator[str]:
        units = {"epochs": "ep", "eval_every": "ep", "save_every": "ep", "keep_every": "ep", "log_every": "st"}
        for key, unit in units.items():
            text = getattr(self, key)
            try:
                duration = Duration.parse(text, unit) if text is not None else None
            except ValueError as error:
                yield f"train.{key}={text}: {error}"
                continue
            if duration is not None and duration.amount == 0 and key != "epochs":
                yield f"train.{key}={text}: must be longer than 0"
        for key in ("batch_size", "accumulate", "keep_last"):
            if getattr(self, key) < 1:
                yield f"train.{key}={getattr(self, key)}: must be at least 1"
        if self.max_steps is not None and self.max_steps < 1:
            yield f"train.max_steps={self.max_steps}: must be at least 1, or null"
        if self.profile_steps < 0:
            yield f"train.profile_steps={self.profile_steps}: must be at least 1, or 0 for no profile"
        if self.clip_norm is not None and not self.clip_norm > 0:
            yield f"train.clip_norm={self.clip_norm}: must be positive, or null for no clipping"
        if not 0 <= self.seed < 2**32:
            yield f"train.seed={self.seed}: must be in [0, 2**32)"
        limit = 0.5 if self.loss is LossKind.sigmoid else 1.0
        if not 0 <= self.label_smoothing < limit:
            yield f"train.label_smoothing={self.label_smoothing}: must be in [0, {limit}) with train.loss={self.loss.name}"


@dataclass
class EmaConfig:
    decay: float = 0.0
    """of the exponential moving average of the weights (timm's ModelEmaV3), evaluated instead of the weights; 0 = none"""

    def problems(self) -> Iterator[str]:
        if not 0 <= self.decay < 1:
            yield f"ema.decay={self.decay}: must be in [0, 1); 0 turns the average off"


@dataclass
class RunConfig:
    dir: str | None = None
    """folder of this run; None = <root>/<experiment>/<hash of the configuration>, so that the same command continues"""
    root: str = "runs"
    experiment: str | None = None
    """name of the experiment; filled in by experiment=…"""

    def problems(self) -> Iterator[str]:
        name = Path(self.experiment or "")
        if name.is_absolute() or ".." in name.parts:
            yield f"run.experiment={self.experiment}: a name below run.root={self.root}; run.dir takes any folder"


@dataclass
class AnalysisConfig:
    """Curvature and sharpness while it trains (gsam.analysis.during). Decides nothing about the trained weights."""

    every: str | None = None
    """between measurements, e.g. 10ep; also at the end; None = none"""
    seconds: float = 60.0
    """budget of each: the power iteration stops there, with what it has"""
    n: int = 1000
    """training pictures, chosen by hash"""

    def problems(self) -> Iterator[str]:
        try:
            if self.every is not None and Duration.parse(self.every, "ep").amount == 0:
                yield f"analysis.every={self.every}: must be longer than 0, or null for no measurements"
        except ValueError as error:
            yield f"analysis.every={self.every}: {error}"
        if not 0 < self.seconds <= 900:
            yield f"analysis.seconds={self.seconds}: must lie in (0, 900]; other ranks wait meanwhile, for 30 minutes at most"
        if self.n < 1:
            yield f"analysis.n={self.n}: must be at least 1"


class WandbMode(Enum):
    disabled = "disabled"
    offline = "offline"
    online = "online"


@dataclass
class WandbConfig:
    mode: WandbMode = WandbMode.disabled
    project: str = "gsam"
