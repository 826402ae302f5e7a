"""Several models' robustness side by side, with effective robustness against baseline models: a table and a picture."""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

EPILOG = """\
examples:
  python scripts/robustness_card.py runs/table1/1a2b3c4d runs/table1/5e6f7a8b runs/eval/resnet50.a1_in1k
  python scripts/robustness_card.py runs/table1/*/ --baseline runs/eval/*/
  python scripts/robustness_card.py runs/table1/1a2b3c4d --baseline results-imagenet.csv results-sketch.csv \\
      --only '^(?!.*(in2[12]k|in12k|clip|jft|ig1b|laion|yfcc|mim|dino)).*in1k'

Effective robustness (Taori et al. 2020) is the accuracy beyond that of baseline models of the same clean accuracy. The
baselines should be ordinary models trained on ImageNet alone; --only picks them by name out of timm's results csv files
(results/ of github.com/huggingface/pytorch-image-models; the file's name says which set it is about).
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", help="folders with results.jsonl; each may end in @raw or @ema")
    parser.add_argument("--checkpoint", metavar="FILE", help="whose results, where there are several, e.g. best.pt")
    parser.add_argument("--precision", help="likewise, e.g. fp32 (default: what most results have)")
    parser.add_argument(
        "--baseline", nargs="+", default=[], metavar="PATH", help="result folders or timm's results csv files"
    )
    parser.add_argument("--only", metavar="REGEX", help="names of the baseline models to use (default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/robustness"), help="written there (default: %(default)s)"
    )
    args = parser.parse_args()

    from gsam.files import write_atomic
    from gsam.report import side_by_side
    from gsam.report.effective import card_of, read_baselines
    from gsam.report.figures import side_by_side as figure
    from gsam.report.write import png

    try:
        named = [(Path(folder).name, card_of(folder, args.checkpoint, args.precision)) for folder in args.folders]
        baselines = read_baselines(args.baseline, args.only)
        if args.baseline and not baselines:
            raise ValueError(f"--only {args.only}: matches no model of {', '.join(args.baseline)}")
    except (ValueError, re.error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    models = side_by_side.side_by_side(named, baselines)
    write_atomic(args.out / "robustness.md", side_by_side.markdown(models, "robustness.png"))
    write_atomic(args.out / "robustness.csv", side_by_side.records(models))
    write_atomic(args.out / "robustness.png", png(figure.draw(models)))
    print("\n\n".join(side_by_side.tables(models)))
    print(f"written: {args.out}/robustness.md, robustness.csv, robustness.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
