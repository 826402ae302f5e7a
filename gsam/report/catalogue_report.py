"""Reports of the catalogue on disk: <runs>/report/<name>.md, .csv, .jsonl and .png, and report.html with everything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from gsam.catalogue import MINI, Entry, entries, entry
from gsam.files import write_atomic

from .entry_page import compose, heading, introduction, settings_page, summary
from .load import Run, read_analyses
from .matching import Setting, find_runs, settings
from .page import Grid, Page, Picture, Text, document, markdown
from .paper_table import Line, table
from .render import as_csv
from .tables import NOT_RUN
from .write import HEADER, png

DRAWN = ("fig4", "fig5", "fig6", "fig7", "fig8", "fig9")
THEORY = ("lemma_3_1", "lemma_3_2", "lemma_3_3", "theorem_5_1", "theorem_5_3")
MOST_SETTINGS = 4  # beside the experiments' own and vanilla at equal compute; more would bury them


@dataclass
class EntryReport:
    """What was made of one entry, and the files that hold it."""

    entry: Entry
    page: Page
    records: list[dict]
    files: list[Path]


def is_entry(name: str) -> bool:
    """Whether scripts/report.py means the catalogue by this name and not a folder of runs."""
    return name in (*entries(), *entries(MINI), "all", f"{MINI}all")


def write(name: str, runs_folder: Path | str, *, weights: str = "raw", checkpoint: str = "last.pt") -> EntryReport:
    """One table or figure. Raises ValueError for a name that the catalogue does not have and a folder that is not there."""
    wanted = entry(name)
    return _write(wanted, find_runs(runs_folder, [wanted]), Path(runs_folder), weights, checkpoint)


def write_all(
    runs_folder: Path | str, prefix: str = "", *, weights: str = "raw", checkpoint: str = "last.pt"
) -> tuple[Page, Path]:
    """Every table and figure, and report.html. prefix: "" or MINI. Returns the overview and that file."""
    wanted = list(entries(prefix).values())
    runs = find_runs(runs_folder, wanted)
    reports = [_write(one, runs, Path(runs_folder), weights, checkpoint) for one in wanted]
    overview = Page("report", "Surrogate gap minimization: the paper's tables and figures, measured")
    overview.blocks.append(Text([
        f"From {len(runs)} run folders, {weights} weights of {checkpoint}. The paper: Zhuang et al. 2022, Surrogate Gap",
        "Minimization Improves Sharpness-Aware Training (arXiv 2203.08065). What was not run reads so; runs with other",
        "settings than the experiments are shown apart and never set against the paper.",
    ]))  # fmt: skip
    rows = [summary(report.entry, report.records) for report in reports]
    overview.blocks.append(Grid(["entry", "what", "run", "against the paper"], rows, left=4))
    file = _folder(runs_folder) / f"{prefix.replace('/', '-')}report.html"
    write_atomic(file, document(overview, [*(report.page for report in reports), *_further_theory(Path(runs_folder))]))
    return overview, file


def _write(one: Entry, runs: Sequence[Run], runs_folder: Path, weights: str, checkpoint: str) -> EntryReport:
    mine = {row.experiment for row in one.rows}
    runs = [run for run in runs if run.meta.get("experiment") in mine]
    if one.settings:
        page, records = settings_page(one)
    elif one.theory:
        page = Page(one.name.replace("/", "-"), f"{heading(one)}: {one.title}", introduction(one))
        page, records = _theory(page, one.theory, runs_folder)
    else:
        found, hidden = _shown(settings(one, runs))
        results = [(setting, table(one, setting, weights, checkpoint)) for setting in found]
        page, records = compose(one, runs, results, *drawn(one, results), hidden)
    folder, name = _folder(runs_folder), page.name
    contents = {f"{name}.md": markdown(page, HEADER)}
    if records:
        contents |= {
            f"{name}.jsonl": "".join(json.dumps(record) + "\n" for record in records),
            f"{name}.csv": as_csv(records),
        }
    contents |= {block.name: block.png for block in page.blocks if isinstance(block, Picture)}
    for file, content in contents.items():
        write_atomic(folder / file, content)
    return EntryReport(one, page, records, [folder / file for file in contents])


def _shown(found: Sequence[Setting]) -> tuple[list[Setting], list[Setting]]:
    """(shown, only named): the experiments' own, all that depart in nothing but the epochs, which are vanilla at equal compute,
    and of the others those with most points."""
    own, *others = found
    longer = [setting for setting in others if setting.departs.keys() == {"train.epochs"}]
    others = [setting for setting in others if setting not in longer]
    return [own, *longer, *others[:MOST_SETTINGS]], others[MOST_SETTINGS:]


def _theory(page: Page, analysis: str, runs_folder: Path) -> tuple[Page, list[dict]]:
    """Of what needs no run: the latest row of its analysis, drawn, and what it says."""
    rows = [row for row in read_analyses(runs_folder / "theory" / analysis) if row["analysis"] == analysis]
    if not rows:
        page.blocks.append(Text([f"{NOT_RUN}: `python scripts/analyze.py analysis={analysis}`"]))
        return page, []
    figure = import_module(f"gsam.report.figures.{analysis}")
    page.blocks.append(Picture(f"{page.name}.png", png(figure.draw(rows[-1])), page.title))
    page.blocks.append(Text([f"Found: {figure.sentence(rows[-1])}"]))
    return page, [{key: value for key, value in rows[-1].items() if not isinstance(value, (dict, list))}]


def _further_theory(runs_folder: Path) -> list[Page]:
    """The lemmas and theorems, which are no figures of the paper."""
    pages = [Page(name, name.replace("_", " ", 1).replace("_", ".").capitalize()) for name in THEORY]
    return [_theory(page, page.name, runs_folder)[0] for page in pages]


def drawn(one: Entry, results: Sequence[tuple[Setting, list[Line]]]) -> tuple[list[Picture], list[str]]:
    """A picture and a sentence per setting: the experiments' own, then the others."""
    plain = one.name.rpartition("/")[2]
    figure = import_module(f"gsam.report.figures.{plain if plain in DRAWN else 'rows'}")
    stem = one.name.replace("/", "-")
    pictures = [
        Picture(
            f"{stem}.png" if number == 0 else f"{stem}-{number}.png",
            png(figure.draw(setting, lines)),
            f"{heading(one)}: {one.title}" + (f" [{setting.what()}]" if setting.departs else ""),
        )
        for number, (setting, lines) in enumerate(results)
    ]
    return pictures, [figure.sentence(lines) for _, lines in results]


def _folder(runs_folder: Path | str) -> Path:
    return Path(runs_folder) / "report"
