#!/usr/bin/env python
"""Write a data set into FFCV's .beton files, one per split, each with a manifest.

Run again, it skips what is there and continues what was broken off.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gsam.data import SOURCES, SPLITS, manifest, write  # noqa: E402


def epilog() -> str:
    presets = "\n".join(f"  {name:11} {how.meaning}" for name, how in write.PRESETS.items())
    defaults = "\n".join(
        f"  {name:14} {', '.join(f'{split}: {write.default_preset(name, split)}' for split in SPLITS)}"
        for name in SOURCES
    )
    return f"presets (size and time per 1,000 pictures: docs/data.md):\n{presets}\n\nwithout --preset:\n{defaults}\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=epilog(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", choices=list(SOURCES), help="the data set")
    parser.add_argument(
        "--root", default="", help="its folder, as docs/data.md says: folders, archives or parquet files"
    )
    parser.add_argument("--out", default=None, help="folder for the .beton files (default: <root>/ffcv)")
    parser.add_argument("--preset", choices=list(write.PRESETS), help="how pictures are stored, see below")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="which (default: both)")
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one per core)")
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
    except KeyboardInterrupt:
        print("write_ffcv: interrupted; the same command continues", file=sys.stderr)
        return 130
    for split in args.splits:
        print(f"{out}/{split}.beton: {'written' if split in written else 'already there'}; {told(out, split)}")
    return 0


def told(out: str, split: str) -> str:
    """Size and time, as the manifest has them."""
    facts = manifest.read_manifest(out, split)
    seconds = facts["seconds_per_1000"]
    return (
        f"{facts['n']:,} pictures, {facts['size_bytes'] / 1e6:,.1f} MB, per 1,000: {facts['mb_per_1000']:,.1f} MB"
        f"{'' if seconds is None else f' and {seconds:,.1f} s'} ({facts['preset']}, {facts['workers']} workers)"
    )


if __name__ == "__main__":
    sys.exit(main())
