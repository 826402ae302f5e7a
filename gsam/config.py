"""The whole configuration: composed YAML in, plain dataclasses out, every problem in one message.

Hydra composes YAML without knowing the schema; a typo inside a file would silently leave a default in place. `load` walks the
composed configuration against the dataclasses that the components own. Imported by entry points only.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gsam import data as gsam_data
from gsam import models
from gsam.cli import CONFIGS
from gsam.data import AugmentConfig, DataConfig
from gsam.eval import EvalSet
from gsam.fill import ConfigError, advice, fill
from gsam.identity import deciding
from gsam.launch.settings import SlurmConfig
from gsam.models import ModelConfig
from gsam.optim import BASES, ESTIMATORS, ScheduleConfig, VanillaEstimator
from gsam.runtime import Precision
from gsam.train.settings import AnalysisConfig, Duration, EmaConfig, RunConfig, TrainConfig, WandbConfig

WEIGHTS_MISSING = "weights: missing; give weights=<run folder | file in its checkpoints/ | weights file | timm:name>"
CHECKED = ("optimizer", "base", "train", "ema", "analysis", "run")  # sections with `problems`
# Sections whose dataclass their `name` chooses.
TABLES = {"optimizer": ESTIMATORS, "base": BASES, "launcher": {"slurm": SlurmConfig}}


@dataclass
class Config:
    """What train.py runs. `optimizer`, `base` and `launcher` are the dataclasses that their `name` chooses."""

    optimizer: Any = field(default_factory=VanillaEstimator)
    base: Any = field(default_factory=BASES["sgd"])
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)
    run: RunConfig = field(default_factory=RunConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    launcher: Any = None
    paths: dict[str, Any] = field(default_factory=dict)


class Which(Enum):
    auto = "auto"  # the average where the checkpoint has one, else the weights themselves
    raw = "raw"
    ema = "ema"


@dataclass
class WeightsConfig:
    """Which weights evaluate.py and analyze.py load."""

    weights: str | None = None
    """a run folder or a file in its checkpoints/ (either may end in @raw or @ema), a weights file, or timm:<name>"""
    network: str | None = None
    """of a weights file: a name of timm or of configs/model; null where weights say it (`model` is a group of train.py)"""
    checkpoint: str = "last.pt"
    """file in a run folder's checkpoints/: last.pt, best.pt, step_N.pt"""
    which: Which = Which.auto
    """auto | raw | ema"""
    out: str | None = None
    """folder for the results; None = the run folder, or one below runs/"""


@dataclass
class EvalConfig(WeightsConfig):
    """What evaluate.py runs."""

    batch_size: int = 250
    """images per rank and batch"""
    workers: int | None = None
    precision: Precision = Precision.fp32
    compile: bool | None = None
    """torch.compile the model, once for all sets; None: on CUDA only"""
    flip_tta: bool = False
    """mean of the logits of a picture and of its mirror image; its rows say so"""
    force: bool = False
    """evaluate again what results.jsonl already holds"""
    strict: bool = False
    """a set whose root is not there is an error instead of a "not run" row"""
    evalsets: dict[str, EvalSet] = field(default_factory=dict)
    paths: dict[str, Any] = field(default_factory=dict)


def load(cfg: DictConfig, world: int = 1) -> Config:
    """Composed configuration -> Config for `world` ranks or its launcher's. Raises ConfigError with every problem found;
    touches no device and no file but those that data.check looks for."""
    problems: list[str] = []
    config = fill(cfg, Config, problems, tables=TABLES)
    problems += unknown_paths(config.paths)
    if not problems:
        problems += _problems(config, world)
    if problems:
        raise ConfigError(problems)
    return config


def load_evaluation(cfg: DictConfig) -> EvalConfig:
    """Composed configuration -> EvalConfig; raises ConfigError with every problem found."""
    problems: list[str] = []
    config = fill(cfg, EvalConfig, problems, skip=("evalsets",))
    sets = cfg.get("evalsets") or {}
    chosen = [name for name in sets if is_chosen("evalset", name, sets[name], {"root"})]
    listed = f"not among evalset=[{','.join(chosen)}]; choose it too or leave the key out"
    problems += [f"evalsets.{name}: {listed}" for name in sets if name not in chosen]
    for name in chosen:
        config.evalsets[name] = fill(sets[name], EvalSet, problems, at=f"evalsets.{name}.")
    problems += unknown_paths(config.paths)
    problems += loading_problems(config.batch_size, config.workers)
    if config.weights is None:
        problems.append(WEIGHTS_MISSING)
    if not sets:
        problems.append("evalset: missing; give evalset=<name> or evalset=[a,b], the files of configs/evalset/")
    if problems:
        raise ConfigError(problems)
    return config


def read_saved(path: Path) -> Config:
    """The configuration a run folder was trained with. Raises ConfigError when this version does not know it any more."""
    return read_composed(OmegaConf.load(path), f"{path}: ")


def read_composed(cfg: DictConfig, origin: str = "") -> Config:
    """A configuration without the checks of what can be run here. Raises ConfigError for unknown keys and wrong types."""
    problems: list[str] = []
    config = fill(cfg, Config, problems, tables=TABLES)
    if problems:
        raise ConfigError([origin + p for p in problems])
    return config


def run_hash(config: Config) -> str:
    """8 hex digits of everything that decides the trained weights: two runs with the same hash are the same run."""
    return hashlib.sha256(json.dumps(deciding(as_dict(config)), sort_keys=True).encode()).hexdigest()[:8]


def run_place(config: Config) -> tuple[str, Path]:
    """(name, folder) of the run: experiment and hash, unless run.dir says where."""
    name, digest = config.run.experiment or "adhoc", run_hash(config)
    return f"{name}/{digest}", Path(config.run.dir) if config.run.dir else Path(config.run.root) / name / digest


def as_dict(config: Any) -> dict[str, Any]:
    """Plain numbers, strings, lists and dicts, for YAML, JSON and checkpoints."""
    if is_dataclass(config):
        return {f.name: as_dict(getattr(config, f.name)) for f in fields(config)}
    if isinstance(config, dict):
        return {k: as_dict(v) for k, v in config.items()}
    if isinstance(config, (list, tuple)):
        return [as_dict(v) for v in config]
    return config.name if isinstance(config, Enum) else config


def loading_problems(batch_size: int, workers: int | None) -> Iterator[str]:
    """Of evaluate.py's and analyze.py's keys."""
    if batch_size < 1:
        yield f"batch_size={batch_size}: must be at least 1"
    if workers is not None and workers < 0:
        yield f"workers={workers}: must be at least 0, or null for this rank's share of the cores"


def unknown_paths(paths: dict[str, Any]) -> list[str]:
    """`paths` is a plain dict; its keys are those of paths/default.yaml."""
    known = [key for key in OmegaConf.load(CONFIGS / "paths" / "default.yaml") if key != "defaults"]
    return [f"paths.{key}: unknown key" + advice(key, known, "paths.") for key in paths if key not in known]


# ---- checks across components ---------------------------------------------------------------------------------------


def _problems(config: Config, world: int) -> Iterator[str]:
    yield from (own := [p for key in CHECKED for p in getattr(config, key).problems()])
    if config.launcher is not None:
        world = config.launcher.world
        yield from config.launcher.problems()
        if config.launcher.workers > 1:
            yield f"launcher.workers={config.launcher.workers}: workers are for scripts/sweep.py; a training is one job"
    try:
        Duration.parse(config.schedule.warmup_steps, "st")
    except ValueError as error:
        yield f"schedule.warmup_steps={config.schedule.warmup_steps}: {error}"
    if config.train.precision is Precision.fp16 and not config.optimizer.scale_free:
        yield f"optimizer={config.optimizer.name} needs true gradient magnitudes, which fp16's loss scaling hides: use bf16"
    if not 0 < config.schedule.power < math.inf:
        yield f"schedule.power={config.schedule.power}: must be positive"
    if not 0 <= config.schedule.lr_min <= config.base.lr:
        yield f"schedule.lr_min={config.schedule.lr_min}: must lie between 0 and base.lr={config.base.lr}"
    if not any("train.batch_size" in p or "train.accumulate" in p or "group_size" in p for p in own):
        yield from batch_problems(config, world)
    yield from models.check(config.model)
    yield from gsam_data.check(config.data, config.augment, config.launcher and config.launcher.cores)


def batch_problems(config: Config, world: int) -> Iterator[str]:
    """Why this batch, these groups and micro-batches cannot be spread over `world` ranks, one sentence each."""
    batch, accumulate = config.train.batch_size, config.train.accumulate
    group = getattr(config.optimizer, "group_size", None)
    unit = world * accumulate
    if batch % unit:
        low = batch - batch % unit
        near = " or ".join(str(n) for n in (low, low + unit) if n)
        yield f"train.batch_size={batch} is not divisible by {world} ranks x train.accumulate={accumulate}; nearest: {near}"
        return
    mixes = f"augment.mixup={config.augment.mixup}, augment.cutmix={config.augment.cutmix}"
    if (group or batch // world) == 1 and (config.augment.mixup or config.augment.cutmix):
        yield f"{mixes}: pictures are mixed within their group, which has 1; choose a larger optimizer.group_size or batch"
    if group and (local := batch // world) % group:
        sizes = [m for m in range(1, local + 1) if local % m == 0]
        near = min(sizes, key=lambda m: abs(m - group))
        yield (
            f"optimizer.group_size={group} does not divide the {local} images of one rank (train.batch_size={batch} on {world} "
            f"ranks); nearest that does: {near}. Use optimizer.scope=global for one perturbation over the whole batch"
        )
    elif group and group % accumulate:
        yield f"optimizer.group_size={group} cannot be split into train.accumulate={accumulate} equal micro-batches"


def is_chosen(group: str, name: str, values: Any, also: Iterable[str] = ()) -> bool:
    """A choice of a group has all keys of its file and `also`; one not chosen has only those of the command line."""
    file = CONFIGS / group / f"{name}.yaml"
    return not isinstance(values, DictConfig) or {*also, *(OmegaConf.load(file) if file.exists() else ())} <= {*values}
