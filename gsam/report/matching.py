"""Which runs are those of which row of the catalogue, and which depart from their experiment."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gsam.catalogue import Entry, Row, departures, expected, places
from gsam.identity import deciding
from gsam.recipes import same

from .load import Run, read_run
from .starts import refuted, start, usual

SYMBOLS = {"optimizer.alpha": "α", "optimizer.rho": "ρ", "optimizer.rho_max": "ρ_max", "optimizer.lam": "λ"}
# What says most of how a run departs from its experiment comes first.
FIRST = ("data.name", "model.name", "train.epochs", "train.batch_size", "data.limit_train", "data.holdout")


@dataclass
class Point:
    """One place of a row: its finished runs, one per seed, which differ in nothing else. at: axis -> value, {} of a row
    without axes · repeats: older runs of the same seeds, which are in no number."""

    row: Row
    at: dict[str, Any]
    runs: list[Run] = field(default_factory=list)
    repeats: list[Run] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The row's label with the place on its own axes: "SAM, ρ = 0.1"; of a row that is named as its axis "α = 0.05"."""
        names = [SYMBOLS.get(key, key.rpartition(".")[2]) for key in self.row.over]
        places = [f"{name} = {self.at[key]}" for name, key in zip(names, self.row.over, strict=True)]
        return ", ".join([self.row.label] * (self.row.label not in names) + places)


@dataclass
class Setting:
    """The points of an entry, all of them, with the runs of one setting.

    departs: dotted key -> the runs' values, of what their experiments have otherwise (several where these differ too: 20st and
    40st for 300 and 600 epochs); {} where the runs are the experiments', which alone are compared with the paper.
    """

    points: list[Point]
    departs: dict[str, list[Any]] = field(default_factory=dict)
    members: list[tuple[dict, dict]] = field(default_factory=list)
    """(what the experiment decides, what the run decides) of each run"""
    starts: dict[str, str] = field(default_factory=dict)
    """pretraining experiment -> the weights that the runs of its rows start from"""

    @property
    def ran(self) -> list[Point]:
        return [point for point in self.points if point.runs]

    def what(self, most: int = 4) -> str:
        """What departs, in a line: "data.name=fashion_mnist, train.epochs=20st and 7 more"."""
        keys = sorted(self.departs, key=lambda key: (FIRST.index(key) if key in FIRST else len(FIRST), key))
        told = ", ".join(f"{key}={_short(self.value(key))}" for key in keys[:most])
        return told + (f" and {len(keys) - most} more" if len(keys) > most else "")

    def value(self, key: str) -> str:
        """The runs' values of a key that departs, as text: "20st / 40st"."""
        return " / ".join("null" if value is None else str(value) for value in self.departs[key])


def find_runs(root: Path | str, entries: Iterable[Entry]) -> list[Run]:
    """The runs of these entries' experiments anywhere below `root`, by the experiment that meta.json names; [] if none.

    Raises ValueError if `root` does not exist: a typo must not read as "not run".
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"runs folder {root} does not exist; train first, or give the folder that holds the runs")
    wanted = {row.experiment for entry in entries for row in entry.rows}
    folders = sorted(path.parent for path in root.rglob("meta.json") if (path.parent / "config.yaml").is_file())
    return [read_run(folder) for folder in folders if _experiment(folder) in wanted]


def settings(entry: Entry, runs: Iterable[Run]) -> list[Setting]:
    """The finished runs sorted into settings: first the experiments' own, which may have no run, then the others, those with
    most points first.

    Runs of several rows are of one setting if they agree in all that any of them departs in and their experiments agree in, and
    if those of one pretraining's rows start from the same weights. Runs without a readable configuration are in none.
    """
    found = [Setting(_places(entry))]
    for row, run, told, begin in _departing(entry, runs):
        ours = deciding(run.config)
        if row.weights:  # compared as `begin`: the path is another on every machine
            ours.pop("model.init", None)
        member = expected(row.experiment), ours
        setting = next((each for each in found if _fits(each, member, told, row.weights, begin)), None)
        if setting is None:
            found.append(setting := Setting(_places(entry)))
        setting.members.append(member)
        if row.weights:
            setting.starts[row.weights] = begin
        for key, value in told.items():
            values = setting.departs.setdefault(key, [])
            values += [value] * (not any(same(value, other) for other in values))
        _point(setting, row, run).runs.append(run)
    for point in (point for setting in found for point in setting.points):
        _one_per_seed(point)
    return [found[0], *sorted(found[1:], key=lambda setting: -len(setting.ran))]


def _departing(entry: Entry, runs: Iterable[Run]) -> list[tuple[Row, Run, dict[str, Any], str]]:
    """(row, finished run, what it departs in, name of the weights that it starts from; "" where the row names none)."""
    found = []
    for row, run in ((row, run) for row in entry.rows for run in runs):
        if run.done and run.config and run.meta.get("experiment") == row.experiment:
            told = {key: ours for key, (_, ours) in departures(run.config, row).items()}
            begin = start(run, row)
            if begin and ("model.init" in told or refuted(run, row, begin)):
                told["model.init"] = begin
            found.append((row, run, told, begin))
    own = usual([(row, run, begin) for row, run, told, begin in found if row.weights and not told])
    for row, _, told, begin in found:
        if row.weights and not told and begin != own[row.weights]:
            told["model.init"] = begin
    return found


def _one_per_seed(point: Point) -> None:
    """Keep the newest run of each seed: the same seed again is no further sample."""
    newest: dict[Any, Run] = {}
    for run in sorted(point.runs, key=lambda run: (str(run.meta.get("started")), run.folder)):
        newest[run.setting("train.seed")] = run
    kept = {id(run) for run in newest.values()}
    point.repeats = [run for run in point.runs if id(run) not in kept]
    point.runs = [run for run in point.runs if id(run) in kept]


def _fits(setting: Setting, member: tuple[dict, dict], told: dict[str, Any], weights: str | None, begin: str) -> bool:
    if bool(told) != bool(setting.departs):  # a run of the experiments, and one that departs
        return False
    if weights and setting.starts.get(weights, begin) != begin:
        return False
    theirs, ours = member
    keys = setting.departs.keys() | told.keys()
    for experiment, run in setting.members:
        for key in keys & run.keys() & ours.keys():
            of_one = key in experiment and key in theirs and same(experiment[key], theirs[key])
            if of_one and not same(run[key], ours[key]):
                return False
    return True


def _places(entry: Entry) -> list[Point]:
    return [Point(row, {**row.at, **place}) for row in entry.rows for place in places(row.experiment)]


def _point(setting: Setting, row: Row, run: Run) -> Point:
    at = {**row.at, **{key: run.setting(key) for key in row.over}}
    for point in setting.points:
        if point.row is row and all(same(point.at[key], at[key]) for key in row.over):
            return point
    setting.points.append(Point(row, at))  # off the grid
    return setting.points[-1]


def _experiment(folder: Path) -> str | None:
    try:
        return json.loads((folder / "meta.json").read_text(encoding="utf-8")).get("experiment")
    except (json.JSONDecodeError, AttributeError):
        return None


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
