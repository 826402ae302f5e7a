"""The report of an experiment's runs: a table on the terminal; report.md, report.jsonl, report.csv and curves.png."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

EPILOG = """\
examples:
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
    parser.add_argument("experiment", help="name of the folder below the runs folder, e.g. quickstart")
    parser.add_argument("runs", nargs="?", default="runs", type=Path, help="runs folder (default: %(default)s)")
    parser.add_argument("--weights", choices=["raw", "ema"], default="raw", help="which weights (default: %(default)s)")
    parser.add_argument("--checkpoint", default="last.pt", help="whose results (default: %(default)s)")
    parser.add_argument("--docs", type=Path, metavar="PAGE.md", help="also write this page and img/PAGE.png beside it")
    parser.add_argument("--command", action="append", metavar="TEXT", help="a command that made the runs; repeatable")
    arguments = parser.parse_args()

    from rich.console import Console

    from gsam.report.render import terminal
    from gsam.report.write import make_report, problems, write_docs

    try:
        report = make_report(
            arguments.experiment, arguments.runs, weights=arguments.weights, checkpoint=arguments.checkpoint
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console()
    console.print(terminal(report.table, report.experiment))
    for line in problems(report.runs):
        console.print(f"incomplete: {line}", style="yellow", markup=False)
    console.print(f"written: {report.folder}/report.md, report.jsonl, report.csv, curves.png", markup=False)
    if arguments.docs:
        write_docs(report, arguments.docs, arguments.command or [f"python scripts/report.py {arguments.experiment}"])
        console.print(f"written: {arguments.docs}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
