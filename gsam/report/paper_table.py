"""The lines of a table or figure of the catalogue: the paper's numbers, ours, how far apart they may be, and the cost."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from gsam.catalogue import Entry, paper

from .matching import Point, Setting
from .scores import Mean, mean

# Pictures that a complete result has. Of ReaL's 50,000 the 46,837 with a label are scored.
COMPLETE = {
    "imagenet": 50_000,
    "imagenet_real": 46_837,
    "imagenet_v2": 10_000,
    "imagenet_r": 30_000,
    "imagenet_c": 50_000,
}


@dataclass
class Cell:
    """One set of one line. paper: per cent, None where it prints none or the runs are not comparable · ours: None: not run ·
    partial: fewer pictures than the set has, so not set against the paper."""

    evalset: str
    paper: float | None
    ours: Mean | None
    partial: bool = False
    difference: float | None = None
    """ours - paper, points"""
    tolerance: float | None = None
    """points"""
    noisy: bool = False
    """our seeds differ too much for a verdict"""

    @property
    def verdict(self) -> str:
        """ "within", "above" or "below" of what may be expected, "too noisy"; "" where nothing is compared."""
        if self.difference is None:
            return ""
        if self.noisy:
            return "too noisy"
        return "within" if abs(self.difference) <= self.tolerance else ("above" if self.difference > 0 else "below")


@dataclass
class Cost:
    """Means per run: what was trained and what it took. grad_evals: pictures through forward and backward."""

    epochs: str
    grad_evals: float | None
    hours: float | None


@dataclass
class Line:
    """One row as printed: its label, the point that stands for it (of a grid the best), and how many were tried."""

    label: str
    panel: str | None
    point: Point
    tried: int
    grid: int
    cells: dict[str, Cell] = field(default_factory=dict)

    @property
    def cost(self) -> Cost | None:
        return cost(self.point)

    @property
    def name(self) -> str:
        """As printed: "augmentation · light · SAM", "min(f_p + λh) (best of 6)"."""
        chosen = f" (best of {self.tried})" if self.tried > 1 else ""
        return f"{self.panel} · {self.label}{chosen}" if self.panel else f"{self.label}{chosen}"


def table(entry: Entry, setting: Setting, weights: str = "raw", checkpoint: str = "last.pt") -> list[Line]:
    """The entry's lines in its order, with the results of one setting; the paper's numbers only beside the experiments' own.

    Columns are the entry's; of runs that depart every set that any of them has, since they may have other data.
    """
    published = paper(entry.name) if not setting.departs else {}
    columns = sets_of(setting, weights, checkpoint) if setting.departs else _columns(entry)
    lines = []
    for label, panel, points in _groups(setting):
        first = next(iter(columns.values()), None)
        best = any(point.row.best for point in points)
        ran = [point for point in points if point.runs]
        if not best and any(point.row.holdout for point in points):  # chosen beforehand, on held-out pictures
            points = ran or points[:1]
        for shown in [points] if best else [[point] for point in points]:
            point = _best(shown, first, weights, checkpoint) if best else shown[0]
            chosen = best or point.row.holdout is not None
            name = label if chosen and not point.runs else point.label
            line = Line(name, panel, point, sum(bool(each.runs) for each in shown), len(shown))
            for heading, evalset in columns.items():
                line.cells[heading] = _cell(entry, published, heading, evalset, point, weights, checkpoint)
            lines.append(line)
    return lines


def _columns(entry: Entry) -> dict[str, str]:
    """Heading -> name in `scores`: that of corruptions which nobody has published says that they were made here."""
    from .card import label

    return {
        heading: label(name, "generated") if name.startswith("fashion_mnist_c") else name
        for heading, name in entry.columns.items()
    }


def sets_of(setting: Setting, weights: str = "raw", checkpoint: str = "last.pt") -> dict[str, str]:
    """Heading -> set of everything that the runs were evaluated on, in the order in which it is met."""
    from .card import label
    from .scores import scores

    found = [name for point in setting.ran for run in point.runs for name in scores(run, weights, checkpoint)]
    several = set(found) > {"val"}
    return {label(name): name for name in dict.fromkeys(found) if name != "val" or not several}


def cost(point: Point) -> Cost | None:
    """Of a point's runs; None without one."""
    if not point.runs:
        return None
    last = [run.train[-1] for run in point.runs if run.train]
    evals = [row["grad_evals"] for row in last if row.get("grad_evals") is not None]
    seconds = [row["wall_s"] for row in last if row.get("wall_s") is not None]
    epochs = ", ".join(sorted({str(run.setting("train.epochs")) for run in point.runs}))
    hours = statistics.fmean(seconds) / 3600 if seconds else None
    return Cost(epochs, statistics.fmean(evals) if evals else None, hours)


def equal_cost(lines: dict[str, Line]) -> list[tuple[float, list[str]]]:
    """(gradient evaluations, names) of the lines that cost the same to within 1 %, cheapest first."""
    groups: list[tuple[float, list[str]]] = []
    for name, line in lines.items():
        spent = line.cost and line.cost.grad_evals
        if spent:
            near = next((names for other, names in groups if abs(other - spent) <= 0.01 * spent), None)
            if near is None:
                groups.append((spent, [name]))
            else:
                near.append(name)
    return sorted(groups, key=lambda group: group[0])


def _groups(setting: Setting) -> list[tuple[str, str | None, list[Point]]]:
    """(label, panel, points) of rows that belong together, in the order of the catalogue."""
    found: dict[tuple, list[Point]] = {}
    for point in setting.points:
        found.setdefault((point.row.label, point.row.panel), []).append(point)
    return [(label, panel, points) for (label, panel), points in found.items()]


def _best(points: list[Point], evalset: str | None, weights: str, checkpoint: str) -> Point:
    """The point with the highest top-1 on this set; without any result the first that ran, else the first."""
    scored = [(mean(point.runs, evalset, weights, checkpoint), point) for point in points] if evalset else []
    scored = [(found.top1, point) for found, point in scored if found is not None]
    if scored:
        return max(scored, key=lambda pair: pair[0])[1]
    return next((point for point in points if point.runs), points[0])


def _cell(
    entry: Entry, published: dict, heading: str, evalset: str, point: Point, weights: str, checkpoint: str
) -> Cell:
    ours = mean(point.runs, evalset, weights, checkpoint)
    theirs = None
    if point.row.paper is not None and heading in published.get("columns", ()):
        theirs = published["rows"][point.row.paper][published["columns"].index(heading)]
    cell = Cell(evalset, theirs, ours)
    if ours is not None:
        cell.partial = ours.n < COMPLETE.get(evalset, 0) or any(_limited(run, evalset) for run in point.runs)
        if theirs is not None and not cell.partial:
            cell.difference = 100 * ours.top1 - theirs
            model = str(point.runs[0].setting("model.name", ""))
            cell.tolerance, cell.noisy = 100 * ours.tolerance(model), ours.noisy(model)
    return cell


def _limited(run, evalset: str) -> bool:
    """Of the training's own evaluation: only a part of the set."""
    return evalset == "val" and run.setting("data.limit_eval") is not None
