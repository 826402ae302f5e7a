#!/usr/bin/env python
"""Write a data set into FFCV's .beton files, one per split, each with a manifest. Run again, it skips what is there."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gsam.data import SOURCES, SPLITS, write  # noqa: E402


def main() -> int:
    presets = "; ".join(
        f"{name}: {how.write_mode}{f' quality {how.jpeg_quality}' if how.write_mode == 'jpg' else ''}, "
        f"{f'longer side at most {how.max_resolution} px' if how.max_resolution else 'full size'}"
        for name, how in write.PRESETS.items()
    )
    defaults = ", ".join(f"{info.preset} for {name}" for name, info in SOURCES.items())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("source", choices=list(SOURCES), help="the data set")
    parser.add_argument(
        "--root", default="", help="folder with train/<class>/ and val/<class>/, or with Fashion-MNIST's .gz files"
    )
    parser.add_argument("--out", default=None, help="folder for the .beton files (default: <root>/ffcv)")
    parser.add_argument(
        "--preset",
        choices=list(write.PRESETS),
        default=None,
        help=f"how pictures are stored. {presets}. None: {defaults}",
    )
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="which splits")
    parser.add_argument("--workers", type=int, default=None, help="processes; None: one per core")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    args = parser.parse_args()
    out = args.out or str(Path(args.root) / "ffcv")
    try:
        written = write.write_dataset(
            args.source, args.root, out, preset=args.preset, splits=args.splits,
            workers=args.workers, overwrite=args.overwrite, report=write.terminal_report(),
        )  # fmt: skip
    except (ValueError, RuntimeError) as error:
        print(f"write_ffcv: {error}", file=sys.stderr)
        return 1
    for split in args.splits:
        print(f"{out}/{split}.beton: {'written' if split in written else 'already there'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
