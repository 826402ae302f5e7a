"""The page of a table or figure of the catalogue: what the paper has, what ran, how far apart, at which cost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean

from gsam.catalogue import Entry, expected, paper
from gsam.recipes import same

from .cost_page import costs, run_name, same_cost, uncounted
from .figures.fig4 import eigenvalue, estimated, gradient_share, pictures_of
from .load import Run
from .matching import Setting
from .page import Grid, Heading, Page, Picture, Text
from .paper_table import Cell, Line
from .scores import RULE, Mean
from .tables import NOT_RUN

METHOD = (
    "± standard deviation over seeds. A gradient evaluation is one picture through forward and backward: SAM and GSAM need "
    "two per picture. m: pictures that share one perturbation; compare results of one m only. "
    "Time is that of the training alone."
)


def compose(
    entry: Entry,
    runs: Sequence[Run],
    results: Sequence[tuple[Setting, list[Line]]],
    pictures: Sequence[Picture],
    sentences: Sequence[str],
    hidden: Sequence[Setting] = (),
) -> tuple[Page, list[dict]]:
    """The page of an entry with experiments, and its records: one per line and set, for .jsonl and .csv.

    results: the entry's settings with their lines, the experiments' own first · pictures, sentences: what
    its figure shows, one per setting, or none · hidden: settings that are only named.
    """
    page = Page(entry.name.replace("/", "-"), f"{heading(entry)}: {entry.title}")
    page.blocks += introduction(entry)
    for number, (setting, lines) in enumerate(results):
        if setting.departs:
            page.blocks += _departing(setting)
        page.blocks += pictures[number : number + 1]
        page.blocks += [Text([f"Found: {text}"]) for text in sentences[number : number + 1] if text]
        page.blocks += _measured(lines) if setting.departs else _own(entry, lines)
        page.blocks += _analyses(entry, lines)
        page.blocks += costs(lines)
    page.blocks += same_cost(entry, results)
    page.blocks += uncounted(runs, results, hidden)
    page.blocks += [Heading("How to read this"), Text([METHOD, RULE] if entry.columns else [METHOD])]
    records = [record for setting, lines in results for line in lines for record in _records(entry, setting, line)]
    return page, records


def heading(entry: Entry) -> str:
    """ "Table 1", "Figure 4"; "Table 1 (mini)", "Search (mini)" of the miniatures."""
    folder, _, name = entry.name.rpartition("/")
    kind, number = re.fullmatch(r"(table|fig|)(.*)", name).groups()
    plain = f"{'Table' if kind == 'table' else 'Figure'} {number}" if kind else number.capitalize()
    return plain + (f" ({folder})" if folder else "")


def introduction(entry: Entry) -> list[Text]:
    """Source, what a reader must know, what the paper says, and the command."""
    says = paper(entry.name).get("says", ())
    found = [Text([f"After {entry.source}. Command: `python scripts/reproduce.py {entry.name}`"])]
    if entry.note:
        found.append(Text([f"Before comparing: {entry.note}"]))
    if says:
        found += [Text(["The paper says:"]), Text(says, bullets=True)]
    return found


def settings_page(entry: Entry) -> tuple[Page, list[dict]]:
    """Of an entry that is read from the configurations (Table 4): each value, with the paper's where that is another."""
    page = Page(entry.name.replace("/", "-"), f"{heading(entry)}: {entry.title}")
    page.blocks += introduction(entry)
    published = paper(entry.name)
    rows, records = [], []
    for row in entry.rows:
        values, theirs = expected(row.experiment), published["rows"].get(row.paper)
        texts = [row.label]
        for name, key in entry.settings.items():
            ours, other = values.get(key), theirs and theirs[published["columns"].index(name)]
            equal = other is None or same(_plain(ours), other)
            texts.append(_plain(ours) + ("" if equal else f" (paper: {other})"))
            records.append({"entry": entry.name, "label": row.label, "experiment": row.experiment, "setting": key,
                            "ours": ours, "paper": other, "same": equal})  # fmt: skip
        rows.append(texts)
    page.blocks.append(Grid(["model", *entry.settings], rows))
    differing = [record for record in records if not record["same"]]
    page.blocks.append(Text([f"{len(records) - len(differing)} of {len(records)} values are the paper's."]))
    return page, records


def summary(entry: Entry, records: Sequence[dict]) -> list[str]:
    """For the list of everything: name, title, what ran of its rows, how the numbers compare."""
    if entry.settings:
        return [
            heading(entry),
            entry.title,
            "read from the configurations",
            f"{sum(r['same'] for r in records)} of {len(records)} as printed",
        ]
    if entry.theory:
        return [heading(entry), entry.title, "measured" if records else NOT_RUN, "-"]
    own = [record for record in records if record["departs"] is None]
    lines = {(r["label"], r["panel"]): bool(r["runs"]) for r in own}
    compared = [record["verdict"] for record in own if record["verdict"]]
    others = len({r["departs"] for r in records if r["departs"] is not None})
    ran = f"{sum(lines.values())} of {len(lines)} rows" if any(lines.values()) else NOT_RUN
    ran += f"; {others} other setting{'s' * (others > 1)}" if others else ""
    return [
        heading(entry),
        entry.title,
        ran,
        f"{compared.count('within')} of {len(compared)} within tolerance" if compared else "-",
    ]


def _departing(setting: Setting) -> list:
    told = "; ".join(f"`{key}={setting.value(key)}`" for key in sorted(setting.departs))
    return [
        Heading(f"Other settings: {setting.what()}"),
        Text(
            [
                "These runs depart from the experiments, so they are not set against the paper. Rows are named after the",
                f"experiments, also where the model or the data is another. What differs: {told}",
            ]
        ),  # fmt: skip
    ]


def _own(entry: Entry, lines: Sequence[Line]) -> list:
    """The experiments' own runs: beside the paper, and how far apart."""
    if not entry.columns:
        rows = [[line.name, str(len(line.point.runs)) if line.point.runs else NOT_RUN] for line in lines]
        return [Grid(["row", "runs"], rows)]
    rows = [
        [line.name, *(f"{_number(cell.paper)} → {_ours(cell.ours)}" for cell in line.cells.values())] for line in lines
    ]
    blocks = [Text(["Top-1 in %, the paper's → ours:"]), Grid(["row", *entry.columns], rows + _means(entry, lines))]
    compared = [
        [line.name, name, _number(cell.paper), _ours(cell.ours), str(cell.ours.seeds), f"{cell.difference:+.2f}",
         f"{cell.tolerance:.2f}", cell.verdict]
        for line in lines for name, cell in line.cells.items() if cell.difference is not None
    ]  # fmt: skip
    if compared:
        head = ["row", "set", "paper", "ours", "seeds", "difference", "tolerance", "verdict"]
        blocks += [Heading("Against the paper"), Grid(head, compared)]
    if any(cell.partial for line in lines for cell in line.cells.values()):
        blocks.append(Text(["Some were evaluated on a part of a set and are not compared: evaluate the whole set."]))
    return blocks


def _means(entry: Entry, lines: Sequence[Line]) -> list[list[str]]:
    """Of several rows, where the paper prints them (Table 3: over the four data sets); ours needs all of them."""
    rows, name = [], next(iter(entry.columns))
    for key, value in paper(entry.name).get("means", {}).items():
        ours = [line.cells[name].ours for line in lines if str(line.point.row.paper).startswith(f"{key}_")]
        mean = NOT_RUN if None in ours else f"{100 * fmean(one.top1 for one in ours):.2f}"
        rows.append([f"mean of {len(ours)}: {key}", f"{value:.1f} → {mean}"])
    return rows


def _measured(lines: Sequence[Line]) -> list:
    """Runs of other settings: their numbers on every set that they have."""
    names = list(dict.fromkeys(name for line in lines for name in line.cells))
    rows = [[line.name, *(_ours(line.cells[name].ours) for name in names)] for line in lines if line.point.runs]
    head = [f"{name} ({'/'.join(_counts(lines, name))} pictures)" for name in names]
    return [Text(["Top-1 in %:"]), Grid(["row", *head], rows)] if names else []


def _counts(lines: Sequence[Line], name: str) -> list[str]:
    return sorted({f"{ours.n:,}" for line in lines if (ours := line.cells[name].ours) is not None})


def _analyses(entry: Entry, lines: Sequence[Line]) -> list:
    """What was measured of the curvature (Figure 4)."""
    if not entry.analyses:
        return []
    rows = []
    for line in lines:
        estimate, measured, share = estimated(line.point), eigenvalue(line.point), gradient_share(line.point)
        if estimate.mean is not None or measured.mean is not None:
            numbers = (estimate.mean, share and 100 * share, measured.mean)
            rows.append(
                [
                    line.label,
                    *(NOT_RUN if number is None else f"{number:.3g}" for number in numbers),
                    pictures_of(line.point),
                ]
            )
    head = ["row", "2h/ρ²", "ρ‖g‖ / h, %", "σ_max, power iteration", "pictures"]
    share = "ρ‖g‖ / h: what the gradient alone gives of h; above 100 % the loss curves down along the step."
    return [Heading("Curvature"), Grid(head, rows), Text([share])] if rows else []


def _records(entry: Entry, setting: Setting, line: Line) -> list[dict]:
    spent, point = line.cost, line.point
    shared = {
        "entry": entry.name, "label": line.label, "panel": line.panel, "experiment": point.row.experiment,
        "at": ", ".join(f"{key}={value}" for key, value in point.at.items()) or None,
        "departs": ", ".join(f"{key}={setting.value(key)}" for key in sorted(setting.departs)) or None,
        "grid_points_run": line.tried, "grid_points": line.grid,
        **(asdict(spent) if spent else {"epochs": None, "grad_evals": None, "hours": None}),
        "runs": " ".join(map(run_name, point.runs)) or None,
    }  # fmt: skip
    return [
        {**shared, "column": name, "evalset": cell.evalset, "paper": cell.paper,
         "ours": cell.ours and 100 * cell.ours.top1, "spread": cell.ours and _points(cell.ours.spread),
         "seeds": cell.ours.seeds if cell.ours else 0, "n": cell.ours and cell.ours.n, "partial": cell.partial,
         "difference": cell.difference, "tolerance": cell.tolerance, "verdict": cell.verdict}
        for name, cell in (line.cells or {None: Cell("", None, None)}).items()
    ]  # fmt: skip


def _ours(mean: Mean | None) -> str:
    if mean is None:
        return NOT_RUN
    return f"{100 * mean.top1:.2f}" + (f" ± {100 * mean.spread:.2f} ({mean.seeds})" if mean.spread is not None else "")


def _number(value: float | None, form: str = "{:.1f}") -> str:
    return "-" if value is None else form.format(value)


def _points(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _plain(value) -> str:
    """A setting as the paper prints it: epochs and steps without their unit."""
    text = str(value)
    return text[:-2] if text[-2:] in ("ep", "st") and text[:-2].replace(".", "").isdigit() else text
