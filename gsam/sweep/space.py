"""The space of a sweep: for each experiment the keys that vary, written as Hydra's -m has them."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from optuna.trial import Trial

from gsam.cli import CONFIGS

EXPERIMENT = "experiment"  # the axis that there is with several of them
Scalar = None | bool | int | float | str


@dataclass(frozen=True)
class Choices:
    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Interval:
    """Real numbers, or with `whole` integers, from low to high, both included; log: uniform in the logarithm."""

    low: float
    high: float
    log: bool
    whole: bool


Axis = Choices | Interval
Axes = Mapping[str, Axis]


@dataclass(frozen=True)
class Point:
    """One configuration: the settings of a trial."""

    experiment: str
    values: Mapping[str, Scalar]

    @property
    def settings(self) -> list[str]:
        """Overrides of train.py, beside the experiment."""
        return [f"{key}={json.dumps(value) if _quoted(value) else _text(value)}" for key, value in self.values.items()]

    @property
    def text(self) -> str:
        return " ".join([self.experiment, *self.settings])


def parse(key: str, text: str) -> Axis | None:
    """The axis that `text` describes; None for a single value. Raises ValueError for what Hydra cannot read."""
    try:
        found: Override = OverridesParser.create().parse_override(f"{key}={text}")
    except HydraException as error:
        raise ValueError(f"{key}={text}: {str(error).splitlines()[0]}") from error
    if not found.is_sweep_override():
        return None
    value = found.value()
    if isinstance(value, Glob):
        raise ValueError(f"{key}={text}: a sweep has no glob; name the values, with commas between")
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        assert low is not None and high is not None
        whole, log = isinstance(low, int) and isinstance(high, int), "log" in value.tags
        if not low < high or (log and low <= 0):
            raise ValueError(f"{key}={text}: the ends must rise{', from above 0' if log else ''}")
        return Interval(low, high, log, whole)
    values = [each.text if isinstance(each, QuotedString) else each for each in found.sweep_iterator()]
    if any(isinstance(each, (list, dict)) for each in values):
        raise ValueError(f"{key}={text}: the values of an axis are numbers or words, no lists")
    values = [float(f"{each:.12g}") if isinstance(each, float) else each for each in values]  # of range(0.1,0.4,0.1)
    for truth in {each for each in values if isinstance(each, bool)}:
        if any(each == truth and not isinstance(each, bool) for each in values):
            raise ValueError(f"{key}={text}: {_text(truth)} and {int(truth)} are the same to a study; leave one out")
    return Choices(tuple(dict.fromkeys(values)))


@cache
def axes_of(experiment: str) -> dict[str, Axis]:
    """hydra.sweeper.params of an experiment. Raises ValueError if Hydra refuses the experiment."""
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = hydra.compose("train", [f"experiment={experiment}"], return_hydra_config=True)
    except HydraException as error:
        raise ValueError(f"experiment={experiment}: {error}") from error
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    found = {str(key).lstrip("+"): parse(str(key).lstrip("+"), str(text)) for key, text in params.items()}
    return {key: axis for key, axis in found.items() if axis is not None}


def grid(space: Mapping[str, Axes]) -> list[Point]:
    """Every combination, an experiment after the other. Raises ValueError for an interval."""
    points = []
    for experiment, axes in space.items():
        for key, axis in axes.items():
            if isinstance(axis, Interval):
                raise ValueError(f"{key}: an interval has no grid; give values, or sweep.sampler=random or tpe")
        values = [axis.values for axis in axes.values() if isinstance(axis, Choices)]
        points += [Point(experiment, dict(zip(axes, each, strict=True))) for each in itertools.product(*values)]
    return points


def corners(space: Mapping[str, Axes]) -> list[Point]:
    """Points that have every value of each axis, of an interval its ends: those that a sampler's points are checked by."""
    points = []
    for experiment, axes in space.items():
        values = [list(_ends(axis)) for axis in axes.values()]
        for number in range(max(map(len, values), default=1)):
            points.append(
                Point(experiment, {key: own[min(number, len(own) - 1)] for key, own in zip(axes, values, strict=True)})
            )
    return points


def params(point: Point, space: Mapping[str, Axes]) -> dict[str, Scalar]:
    """The point in the study's words."""
    own = {name(space, point.experiment, key): value for key, value in point.values.items()}
    return ({EXPERIMENT: point.experiment} if len(space) > 1 else {}) | own


def point_of(given: Mapping[str, Any], space: Mapping[str, Axes]) -> Point | None:
    """The point of a trial's parameters; None where they are not complete."""
    experiment = given.get(EXPERIMENT) if len(space) > 1 else next(iter(space))
    keys = space.get(experiment, {}) if experiment is not None else {}
    names = {key: name(space, experiment, key) for key in keys}
    if experiment is None or not all(each in given for each in names.values()):
        return None
    return Point(experiment, {key: _readable(keys[key], given[each]) for key, each in names.items()})


def suggest(trial: Trial, space: Mapping[str, Axes]) -> Point:
    """A point from the study's sampler, or that which the trial was queued with."""
    experiment = trial.suggest_categorical(EXPERIMENT, list(space)) if len(space) > 1 else next(iter(space))
    values: dict[str, Scalar] = {}
    for key, axis in space[experiment].items():
        own = name(space, experiment, key)
        if isinstance(axis, Choices):
            values[key] = trial.suggest_categorical(own, axis.values)
        elif axis.whole:
            values[key] = trial.suggest_int(own, int(axis.low), int(axis.high), log=axis.log)
        else:
            values[key] = _readable(axis, trial.suggest_float(own, axis.low, axis.high, log=axis.log))
    return Point(experiment, values)


def name(space: Mapping[str, Axes], experiment: str, key: str) -> str:
    """The study's parameter: a parameter has one range, so experiments that differ in it have one each."""
    same = len({axes[key] for axes in space.values() if key in axes}) == 1
    return key if same else f"{experiment}:{key}"


def _readable(axis: Axis, value: Any) -> Scalar:
    """Four digits of a number between two ends: the difference is nothing to a training, and people read these."""
    if isinstance(axis, Choices) or axis.whole:
        return value
    return min(max(float(f"{value:.4g}"), axis.low), axis.high)


def _ends(axis: Axis) -> Iterator[Scalar]:
    return iter(axis.values if isinstance(axis, Choices) else (axis.low, axis.high))


def _quoted(value: Scalar) -> bool:
    return isinstance(value, str) and not value.replace("_", "").replace("/", "").replace(".", "").isalnum()


def _text(value: Scalar) -> str:
    return (
        {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
    )


def described(space: Mapping[str, Axes]) -> dict[str, Any]:
    """For the study's record."""
    return {e: {key: _words(axis) for key, axis in axes.items()} for e, axes in space.items()}


def _words(axis: Axis) -> Sequence[Scalar] | str:
    if isinstance(axis, Choices):
        return list(axis.values)
    return f"{'whole ' * axis.whole}{axis.low} to {axis.high}{', log' * axis.log}"
