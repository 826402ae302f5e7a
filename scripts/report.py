"""Reports from run folders: a table or figure of the paper beside ours, all of them, or any experiment's runs."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

EPILOG = """\
examples:
  python scripts/report.py table1                                  the paper's Table 1 and ours: runs/report/table1.md, …
  python scripts/report.py fig4 /data/runs                         /data/runs/report/fig4.md, .csv, .jsonl, .png
  python scripts/report.py all                                     every table and figure, and runs/report/report.html
  python scripts/report.py mini/all                                the miniatures of docs/results.md
  python scripts/report.py quickstart                              runs/quickstart/report/
  python scripts/report.py quickstart /data/runs --weights ema     the exponential moving averages' results
  python scripts/report.py quickstart --docs docs/quickstart.md    also that page, with docs/img/quickstart.png

A mean over seeds needs runs that differ in nothing but their seed. What was not run reads "not run".
Needs no GPU; run folders can be copied from elsewhere.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "name", help="table1 … table6, fig1 … fig9, all, these in miniature (mini/table1), or a folder of runs, e.g. quickstart"
    )
    parser.add_argument("runs", nargs="?", default="runs", type=Path, help="runs folder (default: %(default)s)")
    parser.add_argument("--weights", choices=["raw", "ema"], default="raw", help="which weights (default: %(default)s)")
    parser.add_argument("--checkpoint", default="last.pt", help="whose results (default: %(default)s)")
    parser.add_argument("--docs", type=Path, metavar="PAGE.md", help="of a folder: also this page, with img/PAGE.png")
    parser.add_argument("--command", action="append", metavar="TEXT", help="for --docs: what made the runs; repeatable")
    arguments = parser.parse_args()

    from gsam.report.catalogue_report import is_entry

    try:
        if is_entry(arguments.name):
            if arguments.docs or arguments.command:
                raise ValueError(
                    f"--docs and --command are for a folder of runs, not for {arguments.name}; remove them"
                )
            return catalogue(arguments)
        return folder(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def catalogue(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from gsam.report import catalogue_report, page

    options = {"weights": arguments.weights, "checkpoint": arguments.checkpoint}
    console = Console(width=max(Console().width, 130))  # no table is torn apart
    if arguments.name in ("all", "mini/all"):
        overview, file = catalogue_report.write_all(arguments.runs, arguments.name.removesuffix("all"), **options)
        page.show(overview, console)
        console.print(f"written: {file}, and .md, .csv, .jsonl and .png of each beside it", markup=False)
        return 0
    report = catalogue_report.write(arguments.name, arguments.runs, **options)
    page.show(report.page, console)
    console.print(f"written: {', '.join(map(str, report.files))}", markup=False)
    return 0


def folder(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from gsam.report.render import terminal
    from gsam.report.write import make_report, problems, write_docs

    report = make_report(arguments.name, arguments.runs, weights=arguments.weights, checkpoint=arguments.checkpoint)
    console = Console()
    console.print(terminal(report.table, report.experiment))
    for line in problems(report.runs):
        console.print(f"incomplete: {line}", style="yellow", markup=False)
    console.print(f"written: {report.folder}/report.md, report.jsonl, report.csv, curves.png", markup=False)
    if arguments.docs:
        write_docs(report, arguments.docs, arguments.command or [f"python scripts/report.py {arguments.name}"])
        console.print(f"written: {arguments.docs}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
