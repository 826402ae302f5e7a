"""A sweep as it is asked for: its file in configs/sweep/, the command line's `sweep.*`, and what it adds for every training."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gsam.cli import CONFIGS
from gsam.fill import ConfigError, advice, fill

FOLDER = CONFIGS / "sweep"
# What one sweep cannot hold fixed for all its trainings, and what to give instead.
TAKEN = {
    "train.seed": "sweep.seeds=[0,1,2]", "run.dir": "run.root=<folder>", "run.experiment": "experiment=<name>",
}  # fmt: skip
OF_FILES = {
    "experiments": "experiment=<name>,<name>", "overrides": "the setting itself, such as train.epochs=2",
    "space": "the axis itself, such as optimizer.rho=0.1,0.2",
}  # fmt: skip


class Sampler(Enum):
    grid = "grid"
    random = "random"
    tpe = "tpe"


class Pruner(Enum):
    none = "none"
    median = "median"
    halving = "halving"


class Metric(Enum):
    """Columns of the evaluation rows in metrics.jsonl."""

    top1 = "top1"
    top5 = "top5"
    nll = "nll"
    ece = "ece"

    @property
    def higher_is_better(self) -> bool:
        return self in (Metric.top1, Metric.top5)


@dataclass
class SweepConfig:
    experiments: list[str] = field(default_factory=list)
    """files of configs/experiment; on the command line: experiment=a,b"""
    overrides: list[str] = field(default_factory=list)
    """of train.py, for every training; those of the command line win"""
    space: dict[str, Any] = field(default_factory=dict)
    """key of train.py -> values, in Hydra's words: 0.1,0.2 | range(1,5) | interval(0.1,1) | tag(log, interval(1e-3,1)). An
    experiment's own hydra.sweeper.params are in the space as well, unless it is named here"""
    sampler: Sampler = Sampler.grid
    """grid (every combination of values) | random | tpe (Optuna's default)"""
    trials: int | None = None
    """of random and tpe; of them more can be asked for later"""
    seeds: list[int] = field(default_factory=lambda: [0])
    """train.seed; a trial is one training per seed, its value their mean"""
    metric: Metric = Metric.top1
    """of the last evaluation during training: top1 | top5 (highest wins), nll | ece (lowest wins)"""
    pruner: Pruner = Pruner.none
    """none | median | halving: Optuna's, asked after each evaluation from a quarter of a trial's on"""
    name: str | None = None
    """of the study and of its folder below <run.root>/sweeps/; None: that of the file, with experiment= also theirs"""
    storage: str | None = None
    """database URL; None: Optuna's journal in the folder"""
    jobs: int = 1
    """trials at a time in this process"""
    gpus: int | None = None
    """per trial; None: those visible, dealt out evenly"""
    grace_s: float = 120.0
    """a trial whose worker has given no sign of life for so long counts as lost and is started again"""

    def problems(self) -> Iterator[str]:
        if not self.experiments:
            yield "sweep.experiments: none; give experiment=<name>"
        for key in ("trials", "jobs", "gpus"):
            if (value := getattr(self, key)) is not None and value < 1:
                yield f"sweep.{key}={value}: must be at least 1"
        if self.sampler is not Sampler.grid and self.trials is None:
            yield f"sweep.sampler={self.sampler.name} never ends of itself; give sweep.trials=<number>"
        if self.sampler is Sampler.grid and self.trials is not None:
            yield f"sweep.trials={self.trials}: a grid has as many trials as points; leave it out"
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            yield f"sweep.seeds={self.seeds}: at least one, each once"
        if not self.grace_s > 0:
            yield f"sweep.grace_s={self.grace_s}: must be positive"
        if self.name is not None and (not self.name or "/" in self.name or self.name.startswith(".")):
            yield f"sweep.name={self.name}: the name of a folder"


def available() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(words: Sequence[str]) -> tuple[SweepConfig, list[str]]:
    """(the sweep, the overrides for every training) of a command line such as ["sweep=fig4", "sweep.jobs=2", "train.epochs=2"].

    Raises ConfigError with every problem of the sweep's own keys.
    """
    given = dict(map(split, words))  # the last of two words for one key counts
    name = given.pop("sweep", None)
    if name not in available():
        raise ConfigError([f"sweep={name}: unknown" + advice(str(name), available(), "sweep=", "choose")])
    document = OmegaConf.load(FOLDER / f"{name}.yaml")
    assert isinstance(document, DictConfig)
    problems: list[str] = []
    if "experiment" in given:  # of its own: another sweep than the file's
        document.experiments = sorted(set(given.pop("experiment").split(",")))
        name = "_".join([name, *(each.replace("/", "_") for each in document.experiments)])
    own = {key: given.pop(key) for key in list(given) if key.startswith("sweep.")}
    of_files = {key: way for key in own if (way := OF_FILES.get(key.split(".")[1]))}
    problems += [f"{key}: of a file in configs/sweep; on the command line give {way}" for key, way in of_files.items()]
    put(document, {key: text for key, text in own.items() if key not in of_files}, "sweep.")
    config: SweepConfig = fill(document, SweepConfig, problems, at="sweep.")
    problems += config.problems()
    problems += [f"{key}: each training has its own; give {way}" for key, way in TAKEN.items() if key in given]
    problems += [
        f"{key}: of train.py's own command line; leave it out" for key in given if key.startswith(("hydra.", "hydra/"))
    ]
    if problems:
        raise ConfigError(problems)
    config.name = config.name or name
    return config, [f"{key}={value}" for key, value in (dict(map(split, config.overrides)) | given).items()]


def put(document: DictConfig, given: Mapping[str, str], prefix: str) -> None:
    """Values of the command line into a file's. given: key with the prefix -> YAML. Raises ConfigError."""
    for key, text in given.items():
        try:
            OmegaConf.update(document, key.removeprefix(prefix), yaml.safe_load(text), force_add=True)
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise ConfigError([f"{key}={text}: no YAML value: {problem}"]) from error


def split(word: str) -> tuple[str, str]:
    """Key and value of an override. Raises ConfigError."""
    key, equals, value = word.partition("=")
    if not equals or not key or key.startswith(("~", "-")):
        raise ConfigError([f"{word}: not an override; write key=value"])
    return key.lstrip("+"), value
