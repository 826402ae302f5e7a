"""A Table as Markdown, CSV, JSON records and for the terminal."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

from rich.table import Table as RichTable
from rich.text import Text

from .tables import NOT_RUN, Cell, Row, Table


def percent(cell: Cell | None) -> str:
    """In percent, "85.10 ± 0.70" with the standard deviation over seeds or, of one run, "85.10 (84.39–85.78)"."""
    if cell is None:
        return NOT_RUN
    if cell.spread is None:
        return with_interval(cell.top1, cell.low, cell.high)
    return f"{100 * cell.top1:.2f} ± {100 * cell.spread:.2f}"


def with_interval(top1: float, low: float, high: float) -> str:
    """Fractions as "85.10 (84.39–85.78)" in percent: Wilson's interval is not symmetric, least of all near 0 and 100 %."""
    return f"{100 * top1:.2f} ({100 * low:.2f}–{100 * high:.2f})"


def legend(table: Table) -> str:
    """One sentence on what the numbers are."""
    several = any(cell and cell.seeds > 1 for row in table.rows for cell in row.cells)
    single = any(cell and cell.seeds == 1 for row in table.rows for cell in row.cells)
    spread = " or ".join(
        ["± with the standard deviation over the seeds"] * several
        + ["(low–high) with the 95 % Wilson interval of the one run"] * single
    )
    return (
        f"Top-1 accuracy in %, {table.weights} weights of {table.checkpoint}; {spread}. "
        "A gradient evaluation is one forward and backward pass of one image."
    )


@dataclass
class Line:
    """A printed line; `row` is the table's row it shows, None for a heading of corruptions or a cost."""

    texts: list[str]
    row: Row | None = None


def lines(table: Table) -> tuple[list[str], list[Line]]:
    """The table as text: the header, and the lines, costs last. All have 2 + len(table.columns) texts."""
    models = {column.model for column in table.columns}
    header = [column.label if len(models) == 1 else f"{column.model} {column.label}" for column in table.columns]
    header = ["top-1 (%)" if len(models) > 1 else f"top-1 (%), {next(iter(models))}", "images", *header]
    blank = [""] * (len(table.columns) + 1)
    out, heading = [], None
    for row in table.rows:
        label = row.evalset
        if row.corruption is not None:
            group = f"{row.evalset}, {'severity' if len(row.severities) == 1 else 'mean of severities'} "
            group += ", ".join(map(str, row.severities))
            if group != heading:
                out.append(Line([group, *blank]))
            heading = group
            label = "· mean of corruptions" if row.corruption == "mean" else f"· {row.corruption}"
        images = sorted({cell.n for cell in row.cells if cell})
        out.append(Line([label, "/".join(f"{n:,}" for n in images) or "-", *map(percent, row.cells)], row))
    costs = [column.cost() for column in table.columns]
    out.append(Line(["gradient evaluations, 10⁶", "", *(f"{c[0] / 1e6:.3g}" if c else NOT_RUN for c in costs)]))
    out.append(Line(["training, minutes", "", *(f"{c[1]:.1f}" if c else NOT_RUN for c in costs)]))
    out.append(Line(["seeds", "", *(str(len(column.runs)) if column.runs else NOT_RUN for column in table.columns)]))
    return header, out


def markdown(table: Table) -> str:
    """GitHub table, numbers right-aligned, followed by its legend."""
    head, body = lines(table)
    rule = ["---", *["---:"] * (len(head) - 1)]
    texts = [head, rule, *(line.texts for line in body)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in texts) + f"\n\n{legend(table)}\n"


def terminal(table: Table, title: str) -> RichTable:
    """The table for a rich console; the best mean of a row is bold, a cell that was not run dim."""
    head, body = lines(table)
    out = RichTable(title=title, caption=legend(table), title_justify="left", caption_justify="left")
    for number, name in enumerate(head):
        out.add_column(name, justify="left" if number == 0 else "right")
    for line in body:
        cells = [Text(text, style="dim" if text == NOT_RUN else "") for text in line.texts]
        if line.row is not None:
            best = max((cell.top1 for cell in line.row.cells if cell), default=None)
            for text, cell in zip(cells[2:], line.row.cells, strict=True):
                if cell and cell.top1 == best:
                    text.stylize("bold")
        out.add_row(*cells, end_section=line.row is not None and line.row is table.rows[-1])
    return out


def records(table: Table) -> list[dict]:
    """One flat dict per cell, missing cells included (top1 None): for report.jsonl and report.csv."""
    out = []
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            cost = column.cost()
            out.append(
                {
                    "evalset": row.evalset,
                    "corruption": row.corruption,
                    "severities": " ".join(map(str, row.severities)) or None,
                    "model": column.model,
                    "method": column.method,
                    "column": column.label,
                    "weights": table.weights,
                    "checkpoint": table.checkpoint,
                    "n": cell and cell.n,
                    "seeds": cell.seeds if cell else 0,
                    "top1": cell and cell.top1,
                    "spread": cell and cell.spread,
                    "low": cell and cell.low,
                    "high": cell and cell.high,
                    "nll": cell and cell.nll,
                    "ece": cell and cell.ece,
                    "grad_evals": cost and cost[0],
                    "minutes": cost and cost[1],
                    "runs": " ".join(run.folder.name for run in column.runs) or None,
                }
            )
    return out


def as_csv(rows: list[dict]) -> str:
    """CSV with a header line; None is an empty field."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
