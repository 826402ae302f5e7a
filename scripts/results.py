"""The committed results of the miniatures: run folders to results/, results/ to run folders, and docs/results.md from them."""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

ROOT = Path(__file__).resolve().parents[1]
EPILOG = """\
examples:
  python scripts/results.py pack          finished miniatures below runs/ into results/mini/<entry>.jsonl, beside those there
  python scripts/results.py unpack        results/ as run folders below runs/: reproduce.py then trains only what is missing
  python scripts/results.py compare --runs again      runs made again beside their records; exit code 1 if one differs
  python scripts/results.py page          docs/results.md and its pictures, from results/ alone

A line of results/ is a run: meta.json (config hash, git hash, seed, device, versions), config.yaml and the rows of its JSONL
files. No weights: evaluate and analyze before packing, which reproduce.py does.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["pack", "unpack", "compare", "page"])
    parser.add_argument("--runs", default=Path("runs"), type=Path, help="folder of the runs (default: %(default)s)")
    parser.add_argument(
        "--results", default=ROOT / "results", type=Path, help="folder of the records (default: results)"
    )
    parser.add_argument(
        "--out", default=ROOT / "docs" / "results.md", type=Path, help="the page (default: docs/results.md)"
    )
    args = parser.parse_args()
    from gsam.report.mini import records

    try:
        if args.action == "pack":
            for file, runs, new in records.pack(args.runs, args.results):
                print(f"{file}: {runs} runs, {new} of them new or with more rows")
        elif args.action == "unpack":
            print(f"{args.runs}: {records.unpack(args.results, args.runs)} run folders written")
        elif args.action == "compare":
            return compare(records.compare(args.runs, args.results))
        else:
            with tempfile.TemporaryDirectory() as folder:
                records.unpack(args.results, Path(folder))
                for file in records.write_page(Path(folder), args.out):
                    print(f"written: {file}")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def compare(repeats: list) -> int:
    """Print the table; the exit code."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from gsam.report.mini.records import TOLERANCE

    table = Table("run", "seed", "recorded", "again", "difference", "", title="top-1, %", box=box.SIMPLE_HEAD)
    for one in repeats:
        how = "bit for bit" if one.identical else f"other rounding{'' if one.same_processor else ', other processor'}"
        cells = (f"{one.recorded:.2f}", f"{one.again:.2f}", f"{one.again - one.recorded:+.2f}")
        table.add_row(one.experiment, str(one.seed), *cells, how if one.agrees else f"DIFFERS ({how})")
    Console().print(table)
    if any(not one.agrees and abs(one.again - one.recorded) <= TOLERANCE for one in repeats):
        print(
            f"Within {TOLERANCE} points, but a processor of the same name should give the same numbers. Virtual machines give "
            "one name to several kinds: then it is rounding. Else set OMP_NUM_THREADS=1 and compare the versions."
        )
    return 0 if all(one.agrees for one in repeats) else 1


if __name__ == "__main__":
    sys.exit(main())
