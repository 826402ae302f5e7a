"""Compare two models on the same pictures: paired differences, intervals, exact tests. Needs evaluate.py's predictions."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

EPILOG = """\
examples:
  python scripts/compare.py runs/table1/1a2b3c4d runs/table1/5e6f7a8b --png differences.png
  python scripts/compare.py runs/table1/1a2b3c4d@raw runs/table1/1a2b3c4d@ema      the same run's two sets of weights
  python scripts/compare.py runs/eval/resnet50.a1_in1k runs/table1/1a2b3c4d --json > differences.json

The sets that both have are paired picture by picture. Of a folder count the rows of the model and step that was evaluated
last; what else it holds is named and left out. Per set: top-1 of both, their difference with a paired bootstrap
interval, McNemar's exact test, adjusted for their number by Holm's method, and the difference of the NLL.
The exit status is 0 whatever the tests say, 2 when the two cannot be compared.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", help="folder with results.jsonl and predictions/; may end in @raw or @ema")
    parser.add_argument("b", help="the other one; differences are B - A")
    parser.add_argument("--checkpoint", metavar="FILE", help="whose results, where there are several, e.g. best.pt")
    parser.add_argument("--precision", help="likewise, e.g. fp32 (default: that of the last evaluation)")
    parser.add_argument("--resamples", type=int, default=2000, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--png", type=Path, metavar="FILE.png", help="also draw the differences with their intervals")
    args = parser.parse_args()
    if args.resamples < 100 or args.seed < 0:
        parser.error(f"--resamples {args.resamples} --seed {args.seed}: at least 100 resamples and a seed of 0 or more")

    from gsam.files import write_atomic
    from gsam.report.compare import compare
    from gsam.report.compare_text import as_json, terminal
    from gsam.report.figures import differences
    from gsam.report.write import png

    try:
        choice = {"checkpoint": args.checkpoint, "precision": args.precision}
        found = compare(args.a, args.b, **choice, resamples=args.resamples, seed=args.seed)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(as_json(found) if args.json else terminal(found))
    if args.png:
        write_atomic(args.png, png(differences.draw(found)))
        print(f"written: {args.png}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
