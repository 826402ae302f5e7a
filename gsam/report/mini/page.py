"""docs/results.md: the claims, every entry of configs/mini.yaml with its picture, and where the numbers come from."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gsam.catalogue import MINI, Entry, entries, expected
from gsam.runs import shared_images

from ..catalogue_report import drawn
from ..entry_page import heading
from ..figures import claims as headline
from ..load import Run
from ..matching import Point, Setting, find_runs, settings
from ..page import Grid, Heading, Page, Picture, Text
from ..paper_table import Line, table
from ..scores import scores
from ..tables import NOT_RUN
from ..write import png
from .claims import RULE, Claim, claims
from .measured import Measured
from .why import told, why

INTRODUCTION = (
    "300 epochs of ImageNet were out of reach, so this is what can be shown on two CPU cores with the project's own "
    "commands: three small networks on 5,000 training pictures of Fashion-MNIST, 40 epochs, every test picture, and 15 "
    "corruptions at severities 1, 3 and 5 of 2,000 of them. All seeds and all settings that ran are below: 8 seeds of the "
    "ViT's rows of Table 1, 5 of the other networks' and of what is set against them, 3 of the grids of Table 2 and Figures "
    "4, 7 and 9, which are many runs. The training pictures are the same 5,000 in all runs of a table: intervals are about "
    "initial weights and order, not about the pictures."
)
COMMANDS = (
    "Made by `python scripts/reproduce.py mini/search`, `python scripts/reproduce.py mini/table1 --seeds 0,1,2,3,4` … and "
    "`python scripts/results.py page`. Every run is a line of a file in [results/](../results). A full-size run is the same "
    "command without `mini/`. "
    "`bash scripts/reproduce_mini.sh` runs a part of it again and compares. ± in the tables and whiskers of the first picture: "
    "95 % intervals; whiskers of the other pictures: standard deviation over seeds."
)


def build(runs_folder: Path) -> Page:
    """The page from run folders; runs that depart from their experiment are in nothing. Raises ValueError if the folder is not
    there."""
    wanted = list(entries(MINI).values())
    found = find_runs(runs_folder, wanted)
    own = {entry.name: settings(entry, _of(entry, found))[0] for entry in wanted}
    runs = list({run.folder: run for each in own.values() for point in each.points for run in point.runs}.values())
    measured = Measured(runs)
    lines = claims(measured)
    page = Page("results", "The paper's claims in miniature")
    page.blocks += [Text([INTRODUCTION]), Text([COMMANDS])]
    page.blocks.append(
        Picture("results.png", png(headline.draw(measured, lines)), "Top-1 and differences of the methods")
    )
    chance = f"Not adjusted for their number: of as many true zeros about {len(lines) / 20:.0f} would be decided by chance."
    page.blocks += [Heading("Claims"), Text([f"{_counts(lines)} {RULE}. {chance}"]), _claims(lines), *why(measured, lines)]
    for entry in sorted(wanted, key=lambda entry: entry.name == f"{MINI}search"):  # the longest table last
        page.blocks += _entry(entry, own[entry.name], table(entry, own[entry.name]))
    page.blocks += _provenance(runs)
    return page


def _of(entry: Entry, runs: Sequence[Run]) -> list[Run]:
    mine = {row.experiment for row in entry.rows}
    return [run for run in runs if run.meta.get("experiment") in mine]


def _counts(lines: Sequence[Claim]) -> str:
    counted = Counter(claim.verdict for claim in lines)
    order = ("supported", "not supported", "undecided", NOT_RUN)
    return f"Of {len(lines)} lines " + ", ".join(f"{counted[name]} {name}" for name in order if counted[name]) + "."


def _claims(lines: Sequence[Claim]) -> Grid:
    rows = [
        [claim.says, claim.where, claim.verdict, claim.number, claim.told, str(len(claim.values))] for claim in lines
    ]
    return Grid(["claim", "paper", "at this size", "number", "mean [95 % interval]", "seeds"], rows, left=4)


def _entry(entry: Entry, setting: Setting, lines: Sequence[Line]) -> list:
    """A section: its picture, what it says, and every row with interval and cost."""
    blocks: list = [Heading(f"{heading(entry)}: {entry.title}")]
    if entry.note:
        blocks.append(Text([entry.note]))
    pictures, sentences = drawn(entry, [(setting, lines)])
    blocks += [Picture(f"results-{entry.name.removeprefix(MINI)}.png", pictures[0].png, entry.title)]
    blocks += [Text([sentence]) for sentence in sentences if sentence]
    names = [name for name in dict.fromkeys(cell.evalset for line in lines for cell in line.cells.values())]
    heads = [head for head in (lines[0].cells if lines else {})]
    rows = []
    best = [line.point.runs for line in lines if line.tried > 1]
    for point in listed(entry, setting.points):
        cells = [told([100 * s[name].top1 for s in map(scores, point.runs) if name in s]) for name in names]
        if any(point.runs is runs for runs in best):
            cells[0] = f"**{cells[0]}**"
        rows.append([point.label, str(len(point.runs)) if point.runs else NOT_RUN, *cells, *_cost(point.runs)])
    return [*blocks, Grid(["row", "seeds", *heads, "gradient evaluations", "seconds"], rows)]


def listed(entry: Entry, points: Sequence[Point]) -> list[Point]:
    """The points as they are listed: one that a series of others takes in (same panel, same label) stands among them with its
    place on their axes, and one that stands in two panels without being of a series in either only once."""
    axes = {(row.panel, row.label): row.over for row in entry.rows if row.over}
    series: dict[tuple, list[Point]] = {}
    shown = set()
    for point in points:
        row, key = point.row, (point.row.panel, point.row.label)
        if not row.over and key in axes:
            own = expected(row.experiment) | dict(row.at)
            at = {name: own[name] for name in axes[key]}
            point = replace(point, row=replace(row, over=axes[key]), at=at)
        elif not row.over and row.experiment in shown:
            continue
        shown.add(row.experiment)
        series.setdefault(key, []).append(point)
    return [point for each in series.values() for point in sorted(each, key=lambda point: [*point.at.values()])]


def _cost(runs: Sequence[Run]) -> list[str]:
    """Gradient evaluations and seconds of training per run."""
    last = [run.train[-1] for run in runs if run.train]
    if not last:
        return ["-", "-"]
    return [f"{statistics.fmean(row[key] for row in last):,.0f}" for key in ("grad_evals", "wall_s")]


def _provenance(runs: Sequence[Run]) -> list:
    """What the runs ran on, and which did not finish."""
    done = [run for run in runs if run.done]
    kinds = Counter(
        (str(run.meta.get("processor")), str(run.meta.get("device")),
         str((run.meta.get("versions") or {}).get("torch")), str(run.meta.get("git_hash"))) for run in done
    )  # fmt: skip
    rows = [[*map(str, kind), str(count)] for kind, count in sorted(kinds.items())]
    hours = sum(run.train[-1].get("wall_s", 0.0) for run in done if run.train) / 3600
    text = (
        f"{len(done)} finished runs, {hours:.1f} hours of training in sum, on machines that others used too: seconds are no "
        "benchmark. Intervals: Student's t over seeds, 95 %; those of claims are of differences between two runs of one seed. "
        f"Pictures that share a perturbation (m): {shared_images(run.meta.get('m') for run in done) or '-'}."
    )
    return [
        Heading("Where the numbers come from"),
        Text([text]),
        Grid(["processor", "device", "torch", "commit", "runs"], rows, left=4),
    ]
