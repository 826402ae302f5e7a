"""The configuration of analyze.py: composed YAML in, dataclasses out, every problem in one message."""

import importlib
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from gsam.analysis import ANALYSES
from gsam.analysis.objective import BatchNorm
from gsam.config import WEIGHTS_MISSING, WeightsConfig, is_chosen, loading_problems, unknown_paths
from gsam.data import SOURCES, SPLITS
from gsam.fill import ConfigError, advice, fill

WIDE = ("fp32", "float64")


@dataclass
class AnalyzeConfig(WeightsConfig):
    """What analyze.py runs. `analyses`: the chosen ones' Settings, by name, in the order of `ANALYSES`."""

    split: str = "train"
    """train | val: of the pictures"""
    n: int | None = 1000
    """pictures, those with the smallest hash of (seed, index); null: all"""
    seed: int = 0
    """of the hash"""
    source: str | None = None
    """data set, a key of gsam.data.SOURCES; null: the one that the run was trained on"""
    root: str | None = None
    """its folder; null: the run's, with source=… that of paths"""
    batch_size: int = 250
    """pictures per micro-batch; with batchnorm=batch it decides the numbers"""
    workers: int | None = None
    batchnorm: BatchNorm = BatchNorm.eval
    """eval (running statistics) | batch (those of each micro-batch)"""
    precision: str = "fp32"
    """fp32 | float64"""
    force: bool = False
    """measure again what analysis.jsonl already holds"""
    paths: dict[str, Any] = field(default_factory=dict)
    analyses: dict[str, Any] = field(default_factory=dict)

    @property
    def needs_weights(self) -> bool:
        return any(ANALYSES[name].needs_weights for name in self.analyses)


def load_analysis(cfg: DictConfig) -> AnalyzeConfig:
    """Composed configuration -> AnalyzeConfig; raises ConfigError with every problem found."""
    problems: list[str] = []
    given = [name for name in ANALYSES if name in cfg]
    plain = OmegaConf.masked_copy(cfg, [key for key in cfg if key not in given])
    plain._set_parent(cfg._get_parent())
    config = fill(plain, AnalyzeConfig, problems, skip=("analyses",))
    chosen = [name for name in given if is_chosen("analysis", name, cfg[name])]
    listed = f"not among analysis=[{','.join(chosen)}]; choose it too or leave the key out"
    problems += [f"{name}: {listed}" for name in given if name not in chosen]
    for name in chosen:
        settings = fill(cfg[name], importlib.import_module(ANALYSES[name].module).Settings, problems, at=f"{name}.")
        problems += [f"{name}.{problem}" for problem in settings.problems()]
        config.analyses[name] = settings
    if not given:
        problems.append(f"analysis: missing; give analysis=<name> or analysis=[a,b] of {', '.join(ANALYSES)}")
    problems += unknown_paths(config.paths)
    problems += _problems(config)
    if problems:
        raise ConfigError(problems)
    return config


def _problems(config: AnalyzeConfig) -> list[str]:
    found = list(loading_problems(config.batch_size, config.workers))
    if config.needs_weights and config.weights is None:
        found.append(WEIGHTS_MISSING)
    if config.n is not None and config.n < 1:
        found.append(f"n={config.n}: must be at least 1, or null for all pictures of the set")
    if config.split not in SPLITS:
        found.append(f"split={config.split}: choose train or val")
    if not 0 <= config.seed < 2**32:
        found.append(f"seed={config.seed}: must be in [0, 2**32)")
    if config.precision not in WIDE:
        found.append(
            f"precision={config.precision}: a Hessian is measured in fp32 or float64 (differences of nearly equal losses and "
            "second derivatives are below the rounding of half precision); choose precision=fp32, whatever the training used"
        )
    if config.source is not None and config.source not in SOURCES:
        found.append(f"source={config.source}: unknown" + advice(config.source, list(SOURCES), "", "choose"))
    if config.root is not None and config.source is None and config.weights is None:
        found.append(f"root={config.root}: of which data set? give source=<name> too")
    return found
