"""A sweep made whole: its space, the command line and the folder of each training, what would keep one from starting."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gsam.catalogue import choice
from gsam.cli import CONFIGS, forced
from gsam.config import load, read_composed, run_place
from gsam.fill import ConfigError, advice
from gsam.recipes import compose, values
from gsam.sweep.settings import TAKEN, Sampler, SweepConfig
from gsam.sweep.space import Axes, Choices, Point, axes_of, corners, described, grid, parse


class Plan:
    """`space`: experiment -> axes · `overrides`: of every training · `points`: those of a grid, else None · `total`: trials."""

    def __init__(self, config: SweepConfig, words: Sequence[str]):
        """words: key=value, one a key; a key with several values is an axis. Raises ConfigError with every problem."""
        self.config, problems = config, list[str]()
        own: dict[str, Any] = {}
        self.overrides: list[str] = []
        texts = {key: str(text) for key, text in config.space.items()} | dict(w.split("=", 1) for w in words)
        for key, text in texts.items():
            try:
                own[key] = parse(key, text)
            except ValueError as error:
                problems.append(str(error))
        for key, axis in own.items():
            problems += _unknown_choices(key, axis.values if isinstance(axis, Choices) else (texts[key],))
        fixed = [key for key, axis in own.items() if axis is None]
        self.overrides = [f"{key}={texts[key]}" for key in fixed]
        self.space: dict[str, Axes] = {}
        # Sorted: a trial's ordinal means the same point, however the command line is ordered.
        for experiment in sorted(config.experiments):
            try:
                found = {key: axis for key, axis in axes_of(experiment).items() if key not in fixed}
                axes = found | {key: axis for key, axis in own.items() if axis is not None}
                self.space[experiment] = dict(sorted(axes.items()))
            except ValueError as error:
                problems.append(str(error))
        for key in dict.fromkeys(key for axes in self.space.values() for key in axes):
            if key in TAKEN or key.startswith("run."):
                problems.append(f"{key}: no axis; give {TAKEN.get(key, f'{key} one value')}")
        if not problems and not any(self.space.values()):
            problems.append("nothing varies: give a key several values, e.g. optimizer.rho=0.05,0.1")
        if config.sampler is not Sampler.grid and not all(self.space.values()):
            empty = [name for name, axes in self.space.items() if not axes]
            problems.append(
                f"{', '.join(empty)}: nothing varies there, so sweep.sampler={config.sampler.name} has no use for it"
            )
        if problems:
            raise ConfigError(problems)
        try:
            self.points = grid(self.space) if config.sampler is Sampler.grid else None
        except ValueError as error:
            raise ConfigError([str(error)]) from None
        self.total = len(self.points) if self.points is not None else config.trials or 0
        self.root = self._root()
        self.folder = self.root / "sweeps" / str(config.name)

    def _root(self) -> Path:
        """run.root, wherever it comes from. Raises ConfigError."""
        try:
            first = [corners({experiment: axes})[0] for experiment, axes in self.space.items()]
            roots = {str(OmegaConf.select(self.config_of(point, self.config.seeds[0]), "run.root")) for point in first}
        except (ValueError, OmegaConfBaseException) as error:
            raise ConfigError([str(error)]) from error
        if len(roots) > 1:
            raise ConfigError([f"run.root: the experiments have different ones, {', '.join(sorted(roots))}; give one"])
        return Path(roots.pop())

    def training(self, point: Point, seed: int) -> list[str]:
        """Overrides of train.py."""
        words = [f"experiment={point.experiment}", *self.overrides, *point.settings, f"train.seed={seed}"]
        name = self.config_of(point, seed).run.experiment
        return words + ([f"run.experiment={name}"] if name != point.experiment else [])

    def run_folder(self, point: Point, seed: int) -> Path:
        """runs/<experiment>/<hash>, where that training goes."""
        return run_place(read_composed(self.config_of(point, seed)))[1]

    def config_of(self, point: Point, seed: int) -> DictConfig:
        """What train.py composes, a composition for all points that differ in plain keys only."""
        words = dict(word.split("=", 1) for word in point.settings)
        groups = {key: value for key, value in words.items() if (CONFIGS / key).is_dir()}
        base = (f"experiment={point.experiment}", *self.overrides, *(f"{k}={v}" for k, v in groups.items()))
        config = _composed(point.experiment, base).copy()
        for key, value in point.values.items():
            if key not in groups:
                OmegaConf.update(config, key, value, force_add=True)
        OmegaConf.update(config, "train.seed", seed)
        if OmegaConf.select(config, "data.holdout"):  # as reproduce.py calls trainings that choose
            OmegaConf.update(config, "run.experiment", choice(point.experiment))
        return config

    def check(self, gpus: int) -> None:
        """Compose and check every training before the first one starts. Raises ConfigError with every problem."""
        tried = self.points if self.points is not None else corners(self.space)
        found: dict[str, list[Point]] = {}
        for point in tried:
            for problem in self._problems(point, gpus):
                found.setdefault(problem, []).append(point)
        if found:
            raise ConfigError([text + _where(points, tried) for text, points in found.items()])

    def _problems(self, point: Point, gpus: int) -> Iterator[str]:
        try:
            load(self.config_of(point, self.config.seeds[0]), world=gpus)
        except ConfigError as error:
            yield from error.problems
        except ValueError as error:
            yield str(error)

    def definition(self) -> dict[str, Any]:
        """What makes the sweep the sweep it is: the same name with another one would mix two."""
        config = self.config
        fixed = {}
        for experiment, axes in self.space.items():
            point = next(each for each in corners({experiment: axes}))
            swept = {*axes, "train.seed"}
            kept = values(self.config_of(point, config.seeds[0]))
            groups = tuple(f"{key}." for key in axes if (CONFIGS / key).is_dir())
            fixed[experiment] = {k: v for k, v in kept.items() if k not in swept and not k.startswith(groups)}
        asked: dict[str, Any] = {key: getattr(config, key).name for key in ("sampler", "metric", "pruner")}
        asked["seeds"] = config.seeds
        return json.loads(json.dumps({"sweep": asked, "space": described(self.space), "fixed": fixed}, default=str))


def differences(before: Mapping[str, Any], now: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """A line for each entry in which two definitions differ."""
    for key in dict.fromkeys([*before, *now]):
        old, new, name = before.get(key), now.get(key), f"{at} {key}".strip()
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, name)
        elif old != new and not (at == "fixed" and None in (old, new)):  # an experiment less or more: `space` says so
            yield f"{name}: {_short(old)} before, now {_short(new)}"


def _unknown_choices(key: str, values: Sequence[Any]) -> Iterator[str]:
    """Files that a group of configurations does not have."""
    known = sorted(str(path.relative_to(CONFIGS / key).with_suffix("")) for path in (CONFIGS / key).rglob("*.yaml"))
    for value in values if known else ():
        if str(value) not in known:
            yield f"{key}={value}: unknown" + advice(str(value), known, f"{key}=", "choose")


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    return (
        ", ".join(value) if isinstance(value, dict) else yaml.safe_dump(value, default_flow_style=True).split("\n")[0]
    )


def _where(points: Sequence[Point], tried: Sequence[Point]) -> str:
    """At which points, where not at all."""
    if len(points) == len(tried):
        return ""
    return f" (at {points[0].text}{f' and {len(points) - 1} others' if len(points) > 1 else ''})"


@cache
def _composed(experiment: str, words: tuple[str, ...]) -> DictConfig:
    return compose([f"++run.experiment={experiment}", *map(forced, words)])
