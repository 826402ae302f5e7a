"""Every experiment of the paper's tables and figures: its cost, and what of it has been run."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

EPILOG = """\
examples:
  python scripts/catalogue.py                     everything
  python scripts/catalogue.py table1 fig4         two entries
  python scripts/catalogue.py --no-hours          without measuring the networks on this device

run: finished trainings; other: runs of the experiment with other settings, e.g. miniatures.
Costs are those of all trainings of a row, with one seed. Each row is a file of configs/experiment and begins with its
command. All that a row needs in one command:
python scripts/reproduce.py table1/vit_b32_gsam
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("entries", nargs="*", help="of configs/catalogue.yaml, or rows of them (default: all)")
    parser.add_argument("--runs", default=Path("runs"), type=Path, help="folder of the runs (default: %(default)s)")
    parser.add_argument("--no-hours", action="store_true", help="do not measure the networks for the estimate of hours")
    args = parser.parse_args()
    from rich.console import Console

    from gsam.catalogue import entries
    from gsam.reproduce.plan import select
    from gsam.reproduce.show import listing, passed_over, speeds
    from gsam.reproduce.task import Request

    console = Console(highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    try:
        requests = [Request(select(name), root=args.runs) for name in args.entries or entries()]
        with speeds(args.runs, say, not args.no_hours) as known:
            for request in requests:
                console.print(listing(request, known))
            if known is not None:
                say(known.text)
        for line in passed_over(args.runs):
            say(line)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
