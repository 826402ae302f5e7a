"""Every table and figure of the paper as rows of experiments (configs/catalogue.yaml; in miniature: configs/mini.yaml), and
the paper's numbers (configs/paper.yaml).

Imports neither torch nor, before something has to be composed, hydra: the report reads it too.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from gsam import runs

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
MINI = "mini/"  # before the names of the entries of mini.yaml, and of their experiments
# How a step is computed, not what: runs that differ in nothing else are runs of one recipe.
EXECUTION = (
    *("train.accumulate", "train.compile", "train.channels_last", "model.grad_checkpointing"),
    *("data.backend", "data.order"),
)
IMAGES_AT_A_TIME = 64  # per rank, of methods without groups: BatchNorm and memory then as with the others
WITHOUT_BATCHNORM = ("vit_", "mixer_")

# Sets in the place of ImageNet's for runs on other data; where nothing is said, the validation set stands for ImageNet's.
STAND_INS = {"fashion_mnist": {"imagenet": "fashion_mnist", "imagenet_c": "fashion_mnist_c"}}


@dataclass(frozen=True)
class Row:
    """A row of a table, a bar or a curve of a figure: the runs of one experiment."""

    label: str
    """rows of one label belong together: a curve of several experiments, or (best) a grid of several files"""
    experiment: str
    """file of configs/experiment, e.g. "table1/vit_b32_gsam"; the runs are those whose meta.json names it"""
    over: tuple[str, ...] = ()
    """dotted keys that differ between its runs, beside train.seed: the axes of the file's hydra.sweeper.params"""
    at: Mapping[str, Any] = field(default_factory=dict)
    """the place of the runs on axes that their configuration does not have, e.g. SAM's on optimizer.alpha: 0.0"""
    best: bool = False
    """the row is its best run on the first column, chosen on the reported pictures themselves"""
    panel: str | None = None
    """of a figure with several"""
    weights: str | None = None
    """experiment whose trained weights the runs start from (model.init)"""
    holdout: float | None = None
    """part of the training pictures on which a first set of runs, without these pictures, chooses `over`"""
    paper: str | None = None
    """key of the entry's rows in paper.yaml; None: the paper prints nothing"""

    def grid(self) -> dict[str, list[Any]]:
        """Axis -> values, from the experiment's file."""
        params = _sweep(self.experiment)
        return {key: params[key] for key in self.over}


@dataclass(frozen=True)
class Entry:
    """A table or a figure."""

    name: str
    title: str
    source: str
    note: str = ""
    """what a reader must know before comparing with the paper"""
    columns: Mapping[str, str] = field(default_factory=dict)
    """heading -> set of configs/evalset; "val": the last evaluation of the training itself"""
    settings: Mapping[str, str] = field(default_factory=dict)
    """heading -> dotted key, of a table that is read from the configurations (table4)"""
    analyses: tuple[tuple[str, ...], ...] = ()
    """overrides of scripts/analyze.py, wanted of every run; {dotted.key} stands for the run's value"""
    theory: str | None = None
    """of configs/analysis: needs no run"""
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Job:
    """One training."""

    row: Row
    seed: int
    values: Mapping[str, Any]
    """axis -> value"""
    overrides: tuple[str, ...]
    """of train.py"""


def entries(prefix: str = "") -> dict[str, Entry]:
    """Name -> entry, in the paper's order; with the prefix MINI the miniatures. Raises ValueError for a key that is none, or an
    axis without values."""
    document = yaml.safe_load(_source(prefix).read_text(encoding="utf-8"))
    return {prefix + name: _entry(prefix + name, values) for name, values in document.items()}


def entry(name: str) -> Entry:
    """ "table1", or "mini/table1". Raises ValueError for a name that is none."""
    prefix = MINI if name.startswith(MINI) else ""
    known = entries(prefix)
    if name not in known:
        raise ValueError(f"{name}: not in configs/{_source(prefix).name}; choose one of {', '.join(known)}")
    return known[name]


def paper(name: str) -> dict[str, Any]:
    """The entry's part of configs/paper.yaml: source, columns, rows (lists in the order of columns), says; {} without one."""
    document = yaml.safe_load((CONFIGS / "paper.yaml").read_text(encoding="utf-8"))
    return document.get(name.removeprefix(MINI), {})


def places(experiment: str) -> list[dict[str, Any]]:
    """Dotted key -> value at every place of an experiment's own grid, in its file's order; [{}] if it has none."""
    grid = _sweep(experiment)
    return [dict(zip(grid, place, strict=True)) for place in itertools.product(*grid.values())]


def jobs(entry: Entry, seeds: Iterable[int] = (0,)) -> list[Job]:
    """The trainings that the entry shows, each once: rows in order, then the grid, then the seeds.

    Of a row with `holdout` one per seed; what `over` has to be comes from the trainings of `choosing`.
    """
    rows = entry.rows if not entry.settings else ()
    found = {job.overrides: job for row in rows for job in _jobs(row, [{}] if row.holdout else places(row.experiment), seeds)}
    return list(found.values())


def choosing(row: Row) -> list[Job]:
    """The trainings without the held-out part, on which they are compared; their run.experiment is `choice`."""
    extra = (f"data.holdout={row.holdout}", f"run.experiment={choice(row.experiment)}")
    return [replace(job, overrides=job.overrides + extra) for job in _jobs(row, places(row.experiment), [0])]


def choice(experiment: str) -> str:
    """Name under which the trainings of `choosing` run."""
    return f"{experiment}/choice"


def matched(entry: Entry, row: Row) -> tuple[str, tuple[str, ...]] | None:
    """(experiment, overrides) of a vanilla row's training at the gradient evaluations of the entry's two-pass methods with the
    same model; None for other methods, and where the row has as many already.

    An experiment of the catalogue that is just that is named instead, so that it is trained once.
    """
    plain = expected(row.experiment)
    if plain["optimizer.name"] != "vanilla" or row.weights:
        return None
    others = [expected(each) for each in dict.fromkeys(each.experiment for each in entry.rows)]
    same = [o for o in others if "optimizer.rho" in o and o["model.name"] == plain["model.name"]]
    lengths = {str(o["train.epochs"]) for o in same if str(o["train.epochs"]).endswith("ep")}
    twice = 2 * max((float(length.removesuffix("ep")) for length in lengths), default=0.0)
    if twice <= float(str(plain["train.epochs"]).removesuffix("ep")):
        return None
    epochs = f"{twice:g}ep"
    known = entries(MINI if entry.name.startswith(MINI) else "")
    trained = [each.experiment for one in known.values() for each in one.rows if not each.weights]
    for other in dict.fromkeys(trained):
        if "vanilla" in other and not differing(plain | {"train.epochs": epochs}, expected(other)):
            return other, ()
    return row.experiment, (f"train.epochs={epochs}",)


def sets(entry: Entry, data: str) -> dict[str, str]:
    """Column -> set of configs/evalset (or "val") that measures runs trained on `data`; a column without one is left out."""
    known = STAND_INS.get(data, {"imagenet": "val"})
    if data == "imagenet" or entry.name.startswith(MINI):
        return dict(entry.columns)
    return {heading: known.get(name, name) for heading, name in entry.columns.items() if name in (*known, "val")}


def _jobs(row: Row, at: Iterable[dict[str, Any]], seeds: Iterable[int]) -> Iterator[Job]:
    for values in at:
        settings = [f"{key}={value}" for key, value in values.items()]
        for seed in seeds:
            yield Job(row, seed, values, (f"experiment={row.experiment}", *settings, f"train.seed={seed}"))


@cache
def _expected(experiment: str) -> dict[str, Any]:
    from gsam.recipes import compose, values

    return values(compose([f"experiment={experiment}"]))


def expected(experiment: str) -> dict[str, Any]:
    """Dotted key -> value of all in the experiment that decides the trained weights. Raises ValueError if Hydra refuses."""
    return dict(_expected(experiment))


def departures(config: Mapping[str, Any], row: Row) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (the experiment's value, the run's) where a run's configuration is not one of the row; None: not set.

    train.seed and EXECUTION may differ, `over` within its grid, and model.init among finished runs of the row's `weights`.
    """
    grid = row.grid()
    found = differing(expected(row.experiment), config, {"train.seed", *(["model.init"] if row.weights else [])})
    init = config.get("model", {}).get("init")
    if row.weights and not (init and starts_from(str(init), row.weights)):
        found["model.init"] = (f"weights of {row.weights}", init)
    return {
        key: (grid.get(key, wanted), value)
        for key, (wanted, value) in found.items()
        if not any(_same(value, point) for point in grid.get(key, ()))
    }


def starts_from(init: str, experiment: str) -> bool:
    """Whether model.init is a finished run of the experiment that does not depart from it, or a file named after it. Of a
    folder that is gone its name has to say so: …/<experiment>/<hash>."""
    folder = runs.origin(init)
    if not folder.is_dir():
        return runs.names(folder, experiment)
    found = runs.read(folder)
    if found is None or not (folder / "DONE").exists():
        return False
    meta, config = found
    return meta.get("experiment") == experiment and not departures(config, Row(experiment, experiment))


def differing(
    wanted: Mapping[str, Any], config: Mapping[str, Any], free: Iterable[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (value in `wanted`, by dotted key as of `expected`; value in a run's configuration), but EXECUTION's."""
    from gsam.identity import deciding

    ours = deciding(dict(config))
    keys = sorted(
        (wanted.keys() | ours.keys()) - {*free, *EXECUTION} | ({"train.accumulate"} if _normalises(ours) else set())
    )
    return {
        key: (wanted.get(key), ours.get(key))
        for key in keys
        if key not in wanted or key not in ours or not _same(wanted[key], ours[key])
    }


def _normalises(settings: Mapping[str, Any]) -> bool:
    """Whether train.accumulate is no mere matter of execution: BatchNorm sees a micro-batch at a time, and so the recipe's
    images only in whole groups or, without groups, where 64 are one on some number of ranks, which is no setting."""
    if str(settings.get("model.name")).startswith(WITHOUT_BATCHNORM):
        return False
    pieces, batch = settings.get("train.accumulate", 1), settings.get("train.batch_size", 0)
    return bool(settings.get("optimizer.group_size")) or bool(batch % (IMAGES_AT_A_TIME * pieces))


def _same(a: Any, b: Any) -> bool:
    from gsam.recipes import same

    return same(a, b)


def _source(name: str) -> Path:
    """The file that has the entry of this name."""
    return CONFIGS / ("mini.yaml" if name.startswith(MINI) else "catalogue.yaml")


@cache
def _sweep(experiment: str) -> dict[str, list[Any]]:
    """hydra.sweeper.params of an experiment's own file, with the values as YAML reads them."""
    document = yaml.safe_load((CONFIGS / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8"))
    params = ((document.get("hydra") or {}).get("sweeper") or {}).get("params") or {}
    # "++" as the command line has it (gsam.cli.prepare_argv): there an axis is narrowed, not multiplied by itself.
    return {key.lstrip("+"): [yaml.safe_load(each) for each in str(value).split(",")] for key, value in params.items()}


def _shallow(thing: Any) -> dict[str, Any]:
    return {f.name: getattr(thing, f.name) for f in fields(thing)}


def _entry(name: str, values: dict[str, Any]) -> Entry:
    rows = tuple(_row(name, row) for row in values.pop("rows", ()))
    try:
        return Entry(name, rows=rows, **values | {"analyses": tuple(map(tuple, values.get("analyses", ())))})
    except TypeError as error:
        raise ValueError(f"configs/{_source(name).name}, {name}: {error}") from None


def _row(name: str, values: dict[str, Any]) -> Row:
    try:
        row = Row(**values | {"over": tuple(values.get("over", ()))})
    except TypeError as error:
        raise ValueError(f"configs/{_source(name).name}, {name}: {error}") from None
    swept = set(_sweep(row.experiment))
    if swept != set(row.over):
        raise ValueError(
            f"configs/{_source(name).name}, {name}, {row.experiment}: over={sorted(row.over)}, but hydra.sweeper.params of its "
            f"file has {sorted(swept)}; make them the same"
        )
    return row
