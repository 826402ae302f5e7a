"""A robustness card as Markdown, JSON and for the terminal."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table

from .card import Card, Corrupted, Score, label
from .tables import NOT_RUN

FACTS = (
    "model",
    "optimizer",
    "m",
    "weights",
    "checkpoint",
    "step",
    "config_hash",
    "precision",
    "backend",
    "device",
    "git_hash",
    "versions",
)
HEAD = ("set", "n", "top-1 %", "95 % interval", "top-5 %", "NLL", "ECE %")
NOTES = (
    "Interval: 95 % Wilson; of a mean over corruptions with the number of pictures, which are the same in each. ECE: 15 bins. "
    "mCE: errors relative to AlexNet's, mean over the 15 corruptions, AlexNet = 100 %. Official and generated copies are "
    "different pictures: compare only like with like. m: pictures that shared one perturbation in training."
)


def terminal(card: Card) -> str:
    """Tables of box characters, without colours, as wide as the terminal but at least 130 columns: no label is cut."""
    out = Console(file=io.StringIO(), width=max(shutil.get_terminal_size().columns, 130), color_system=None)
    for title, lines in card.tables():
        out.print(_rich(title, HEAD, map(_line, lines)))
    for group in card.corrupted:
        out.print(_rich(f"{group.label}: top-1 % by severity", *_grid(group)))
    text = [*map(summary, card.corrupted), *(f"{NOT_RUN}: {name}: {why}" for name, why in card.not_run.items())]
    return "\n".join([out.file.getvalue().rstrip(), *text])


def markdown(card: Card, picture: str | None = None) -> str:
    """The card as a page; picture: file name of its PNG beside it."""
    parts = [f"# Robustness card: {card.title}"]
    for number, (title, lines) in enumerate(card.tables()):
        parts += [f"## {title}"] * (number > 0) + [to_markdown(HEAD, [_line(line) for line in lines])]
    parts.append(NOTES)
    if picture:
        parts.append(f"![Top-1 per set; top-1 per corruption and severity]({picture})")
    for group in card.corrupted:
        parts += [f"## {group.label}", to_markdown(*_grid(group)), summary(group)]
    if card.not_run:
        parts.append(
            "## Not run\n\n" + "\n".join(f"- {label(name)} (`{name}`): {why}" for name, why in card.not_run.items())
        )
    protocols = [(score.label, score.protocol) for score in card.sets] + [
        (group.label, next(iter(group.rows.values())).get("protocol")) for group in card.corrupted
    ]
    if any(text for _, text in protocols):
        parts.append("## How it was measured\n\n" + "\n".join(f"- {name}: {text}" for name, text in protocols if text))
    parts.append("\n".join(f"- {key}: {card.subject[key]}" for key in FACTS if card.subject.get(key) is not None))
    return "\n\n".join(parts) + "\n"


def as_json(card: Card) -> str:
    """Everything on the card, fractions 0-1."""
    corrupted = [
        {
            "name": group.name, "label": group.label, "origin": group.origin,
            "mean": group.mean and asdict(group.mean), "mce": group.mce,
            "mean_error": group.mean and 1 - group.mean.top1, "missing": group.missing,
            "errors": {c: group.error(c) for c in group.corruptions},
            "top1": {c: {str(s): group.rows[c, s]["top1"] for s in group.severities if (c, s) in group.rows}
                     for c in group.corruptions},
        }
        for group in card.corrupted
    ]  # fmt: skip
    subject = {key: card.subject.get(key) for key in (*FACTS, "flip_tta", "weights_hash")}
    whole = {"subject": subject, "sets": [asdict(score) for score in card.sets], "corrupted": corrupted}
    return json.dumps({**whole, "not_run": card.not_run}, indent=1) + "\n"


def summary(group: Corrupted) -> str:
    """The group's means in one sentence, or why there are none."""
    if group.mean is None:
        shown = ", ".join(group.missing[:6]) + (", ..." if len(group.missing) > 6 else "")
        return f"{group.label}: incomplete, no mean. Missing {len(group.missing)}: {shown}"
    kinds = f"{len(group.corruptions)} corruptions x {len(group.severities)} severities"
    mce = f", mCE {100 * group.mce:.2f} % (AlexNet = 100 %)" if group.mce is not None else ""
    return f"{group.label}: mean error {100 * (1 - group.mean.top1):.2f} % over {kinds}{mce}"


def percent(value: float | None) -> str:
    """In per cent with two digits."""
    return "-" if value is None else f"{100 * value:.2f}"


def _line(line: tuple[str, Score | str]) -> list[str]:
    name, score = line
    if isinstance(score, str):
        return [name, score, *[""] * (len(HEAD) - 2)]
    interval = f"{percent(score.low)} - {percent(score.high)}"
    return [
        name,
        f"{score.n:,}",
        percent(score.top1),
        interval,
        percent(score.top5),
        f"{score.nll:.3f}",
        percent(score.ece),
    ]


def _grid(group: Corrupted) -> tuple[list[str], list[list[str]]]:
    relative = group.mce is not None
    head = ["corruption", *map(str, group.severities), "mean error %", *["of AlexNet's %"] * relative]
    lines = []
    for corruption in group.corruptions:
        found = [group.rows.get((corruption, severity)) for severity in group.severities]
        cells = [percent(row["top1"]) if row else NOT_RUN for row in found]
        line = [corruption, *cells, percent(group.error(corruption))]
        lines.append([*line, percent(group.relative(corruption))] if relative else line)
    return head, lines


def to_markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A GitHub table with aligned columns, numbers to the right."""
    widths = [max(4, *(len(cells[i]) for cells in [head, *lines])) for i in range(len(head))]
    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    padded = [
        [
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        for cells in [head, rule, *lines]
    ]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in padded)


def _rich(title: str, head: Sequence[str], lines: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for number, name in enumerate(head):
        table.add_column(name, no_wrap=True, justify="right" if number else "left")
    for cells in lines:
        table.add_row(*cells)
    return table
