"""A page of headings, texts, tables and pictures; as Markdown, as HTML and for the terminal."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text as RichText

from .tables import NOT_RUN

STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.2em; border-top: 1px solid #ccc; padding-top: 1em; }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px; display: block; overflow-x: auto; }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
.text { text-align: left; } th { border-bottom: 2px solid #888; background: white; }
.none { color: #767676; } img { max-width: 100%; } code { background: #f3f3f3; padding: 0 .2em; }
"""


@dataclass
class Text:
    """A paragraph; or, with several lines, a list."""

    lines: Sequence[str]
    bullets: bool = False


@dataclass
class Grid:
    """A table: header and rows of cells; the first `left` columns are text and on the left, numbers on the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


@dataclass
class Picture:
    """name: of the PNG file beside the page · alt: what it shows, for who cannot see it."""

    name: str
    png: bytes
    alt: str


@dataclass
class Heading:
    text: str
    level: int = 3


@dataclass
class Page:
    """name: of the files and of the anchor in the HTML."""

    name: str
    title: str
    blocks: list[Text | Grid | Picture | Heading] = field(default_factory=list)


def markdown(page: Page, header: str = "") -> str:
    """GitHub's Markdown, the pictures as files beside it."""
    parts = [header] * bool(header) + [f"# {page.title}"]
    for block in page.blocks:
        match block:
            case Heading():
                parts.append(f"{'#' * (block.level - 1)} {block.text}")
            case Text():
                parts.append("\n".join(f"- {line}" for line in block.lines) if block.bullets else " ".join(block.lines))
            case Picture():
                parts.append(f"![{block.alt}]({block.name})")
            case Grid():
                rule = ["---" if i < block.left else "---:" for i in range(len(block.head))]
                rows = [[cell.replace("|", "\\|") for cell in row] for row in (block.head, rule, *block.rows)]
                parts.append("\n".join("| " + " | ".join(row) + " |" for row in rows))
    return "\n\n".join(parts) + "\n"


def document(introduction: Page, pages: Sequence[Page]) -> str:
    """All pages in one HTML file, pictures inside it: nothing is loaded from anywhere."""
    title = _inline(introduction.title)
    nav = " · ".join(f'<a href="#{page.name}">{_inline(page.title.partition(":")[0])}</a>' for page in pages)
    body = "".join(f'<section id="{page.name}"><h2>{_inline(page.title)}</h2>{_body(page)}</section>' for page in pages)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body><h1>{title}</h1>{_body(introduction)}"
        f"<nav>{nav}</nav>{body}</body></html>\n"
    )


def show(page: Page, console: Console) -> None:
    """Headings, texts and tables; pictures by name."""
    console.print(page.title, style="bold", markup=False)
    for block in page.blocks:
        match block:
            case Heading():
                console.print(f"\n{block.text}", style="bold", markup=False)
            case Text():
                for line in block.lines if block.bullets else [" ".join(block.lines)]:
                    console.print(f"{'- ' * block.bullets}{line}", markup=False, highlight=False)
            case Grid():
                out = RichTable()
                for number, name in enumerate(block.head):
                    out.add_column(name, justify="left" if number < block.left else "right", overflow="fold")
                for row in block.rows:
                    out.add_row(*(RichText(cell, style="dim" if NOT_RUN in cell else "") for cell in row))
                console.print(out)


def _body(page: Page) -> str:
    parts = []
    for block in page.blocks:
        match block:
            case Heading():
                parts.append(f"<h{block.level}>{_inline(block.text)}</h{block.level}>")
            case Text():
                lines = "".join(f"<li>{_inline(line)}</li>" for line in block.lines)
                parts.append(f"<ul>{lines}</ul>" if block.bullets else f"<p>{_inline(' '.join(block.lines))}</p>")
            case Picture():
                data = base64.b64encode(block.png).decode()
                parts.append(f'<img alt="{html.escape(block.alt)}" src="data:image/png;base64,{data}">')
            case Grid():
                head = _row(block.head, "th", block.left)
                rows = "".join(_row(row, "td", block.left) for row in block.rows)
                parts.append(f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>")
    return "\n".join(parts)


def _row(cells: Sequence[str], tag: str, left: int) -> str:
    kinds = [" ".join(["text"] * (i < left) + ["none"] * (text == NOT_RUN)) for i, text in enumerate(cells)]
    inside = [f'<{tag} class="{kind}">{_inline(text)}</{tag}>' for kind, text in zip(kinds, cells, strict=True)]
    return f"<tr>{''.join(inside)}</tr>"


def _inline(text: str) -> str:
    """Escaped, with `code` marked as such."""
    parts = html.escape(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))
