"""What the runs of a page cost, which of them cost the same, and which are in no number."""

from __future__ import annotations

from collections.abc import Sequence

from gsam.catalogue import Entry
from gsam.runs import shared_images

from .load import Run
from .matching import Setting
from .page import Grid, Heading, Text
from .paper_table import Line, equal_cost


def costs(lines: Sequence[Line]) -> list:
    """A row per line that ran: seeds, m, epochs, gradient evaluations, time, and the run folders."""
    rows = [
        [line.name, str(len(line.point.runs)), shared_images(run.meta.get("m") for run in line.point.runs) or "-", cost.epochs,
         "-" if cost.grad_evals is None else f"{cost.grad_evals / 1e6:,.4g}", _hours(cost.hours),
         " ".join(f"`{run_name(run)}`" for run in line.point.runs)]
        for line in lines if (cost := line.cost)
    ]  # fmt: skip
    head = ["row", "seeds", "m", "epochs", "gradient evaluations, 10⁶", "training time", "runs"]
    return [Heading("Cost"), Grid(head, rows)] if rows else []


def same_cost(entry: Entry, results: Sequence[tuple[Setting, list[Line]]]) -> list:
    """Which lines of the same model vanilla can be compared with at equal compute; nothing of fine-tunings, which all cost the
    same, and where the entry has no vanilla."""
    lines: dict[str, dict[str, Line]] = {}
    for setting, found in results:
        for line in found:
            if line.cost and not line.point.row.weights:
                name = line.name + (f" [{setting.what(2)}]" if setting.departs else "")
                lines.setdefault(str(line.point.runs[0].setting("model.name")), {})[name] = line
    if not lines or not any(_vanilla(row.label) for row in entry.rows):
        return []
    told = [
        f"{model}, {spent / 1e6:,.4g} million gradient evaluations: {'; '.join(names)}"
        for model, of_model in lines.items()
        for spent, names in equal_cost(of_model)
        if 0 < sum(map(_vanilla, names)) < len(names)
    ]
    more = "For vanilla at the gradient evaluations of SAM and GSAM: `python scripts/reproduce.py … --matched-compute`."
    return [Heading("Equal compute"), Text([*told, more], bullets=True)]


def uncounted(runs: Sequence[Run], results: Sequence[tuple[Setting, list[Line]]], hidden: Sequence[Setting]) -> list:
    """Settings beyond those shown, older runs of a seed that ran again, and what is wrong with run folders."""
    blocks = []
    if hidden:
        told = [f"{setting.what()}: {_count(len(setting.ran), 'row')}" for setting in hidden]
        blocks += [
            Heading(f"{_count(len(hidden), 'more setting')} not shown"),
            Text(["To see one, give a folder that holds its runs alone: `python scripts/report.py <name> <folder>`."]),
            Text(told, True),
        ]
    points = [point for setting, _ in results for point in setting.points]
    repeats = [
        f"`{run_name(run)}`: repeat of seed {run.setting('train.seed')}, not counted"
        for point in points
        for run in point.repeats
    ]
    if repeats:
        blocks += [
            Heading("Repeats"),
            Text(["Of runs with the same settings and the same seed the newest is in the numbers."]),
            Text(list(dict.fromkeys(repeats)), True),
        ]
    if broken := [f"`{run_name(run)}`: {problem}" for run in runs for problem in run.problems]:
        blocks += [
            Heading("Incomplete runs"),
            Text(["A run that is not finished, or whose config.yaml cannot be read, is in no number."]),
            Text(broken, True),
        ]
    return blocks


def run_name(run: Run) -> str:
    """ "table1/vit_b32_gsam/0f3a91c2": runs of two experiments can have the same settings, and so the same hash."""
    return f"{run.meta.get('experiment')}/{run.folder.name}"


def _vanilla(label: str) -> bool:
    return "vanilla" in label


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _hours(hours: float | None) -> str:
    if hours is None:
        return "-"
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.0f} s"
