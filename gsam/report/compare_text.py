"""A comparison of two models for the terminal and as JSON."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table

from .compare import Comparison, Difference

HEAD = (
    "set",
    "n",
    "A %",
    "B %",
    "B - A, points",
    "95 % interval",
    "A only",
    "B only",
    "p",
    "p, Holm",
    "NLL B - A",
    "95 % interval",
)
NOTES = (
    "A only, B only: pictures that one model alone gets right. p: McNemar's exact test; Holm: adjusted for all tests of this "
    "table. Intervals: paired bootstrap over pictures; of a mean, the same pictures are drawn for all its corruptions."
)


def terminal(comparison: Comparison) -> str:
    """Tables of all means and sets, without colours; generated corruptions in one of their own."""
    everything = [*comparison.means, *comparison.sets]
    out = Console(file=io.StringIO(), width=max(shutil.get_terminal_size().columns, 180), color_system=None)
    for generated in (False, True):
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
        for number, name in enumerate(HEAD):
            table.add_column(name, no_wrap=True, justify="right" if number else "left")
        for difference in everything:
            if (difference.origin == "generated") == generated:
                table.add_row(*_line(difference))
        if table.row_count:
            out.print(table)
    heads = [f"{letter}: {name}" for letter, name in zip("AB", comparison.names, strict=True)]
    return "\n".join([*heads, out.file.getvalue().rstrip(), NOTES, *comparison.unpaired, *comparison.notes])


def as_json(comparison: Comparison) -> str:
    """Everything, fractions 0-1, as one line."""
    return json.dumps(asdict(comparison))


def _line(one: Difference) -> list[str]:
    interval = f"{100 * one.low:+.2f} .. {100 * one.high:+.2f}"
    nll = [f"{one.nll:+.4f}", f"{one.nll_low:+.4f} .. {one.nll_high:+.4f}"]
    points = [f"{100 * one.a:.2f}", f"{100 * one.b:.2f}", f"{100 * one.difference:+.2f}", interval]
    if one.p is None:
        return [one.label, f"{one.n:,}", *points, *["-"] * 4, *nll]
    return [one.label, f"{one.n:,}", *points, str(one.only_a), str(one.only_b), _p(one.p), _p(one.p_holm), *nll]


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"
