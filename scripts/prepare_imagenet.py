#!/usr/bin/env python
"""Unpack ImageNet-1k's official archives into train/<WordNet id>/ and val/<WordNet id>/, and check that all of it is there.
The 50,000 pictures of a val/ without class folders are moved into them.

Run again after a kill it continues; what is there already is only checked. It downloads nothing.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gsam.data import SPLITS  # noqa: E402
from gsam.data.unpack import check, unpack  # noqa: E402
from gsam.data.write import only_writer  # noqa: E402
from gsam.train.progress import Progress  # noqa: E402

NEEDED = """archives, from https://image-net.org (needs an account; the link was not checked here):
  ILSVRC2012_img_train.tar       138 GB, 1,281,167 pictures
  ILSVRC2012_img_val.tar         6.3 GB, 50,000 pictures
  ILSVRC2012_devkit_t12.tar.gz   the labels of val; also to move a flat val/ into class folders

Unpacking is for training with data.backend=folder. For .beton files it is not needed:
  python scripts/write_ffcv.py imagenet --root <folder of the archives> --out <folder>

examples:
  python scripts/prepare_imagenet.py --from ~/Downloads --to /data/imagenet
  python scripts/prepare_imagenet.py --check --to /data/imagenet     # folders, archives or parquet files: is it all there?
"""


class Shown:
    """A progress line per split."""

    def __init__(self) -> None:
        self.progress: Progress | None = None

    def __call__(self, split: str, done: int, total: int) -> None:
        if self.progress is None or self.progress.label != f"{split} (pictures)":
            self.close()
            self.progress = Progress(f"{split} (pictures)", total)
        self.progress.update(done, "")

    def close(self) -> None:
        if self.progress is not None:
            self.progress.close()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=NEEDED, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--from", dest="archives", type=Path, help="folder of the archives (default: --to)")
    parser.add_argument("--to", type=Path, default=Path(os.environ.get("GSAM_DATA", "data")) / "imagenet",
                        help="folder for train/ and val/ (default: GSAM_DATA/imagenet, else data/imagenet)")  # fmt: skip
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS), help="which (default: both)")
    parser.add_argument("--check", action="store_true", help="unpack nothing, only check --to")
    parser.add_argument("--partial", action="store_true", help="accept archives with another number of pictures")
    args = parser.parse_args(arguments)
    shown, problems = Shown(), []
    try:
        for split in args.splits:
            if not args.check:
                with only_writer(str(args.to)):
                    unpack(args.archives or args.to, split, args.to, partial=args.partial, report=shown)
            found = check(args.to, split)
            problems += found
            shown.close()
            print("\n".join(found) or f"{split}: complete in {args.to}")
    except (ValueError, OSError) as error:
        shown.close()
        print(f"prepare_imagenet: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        shown.close()
        print("prepare_imagenet: interrupted; the same command continues", file=sys.stderr)
        return 130
    return 1 if problems and (args.check or not args.partial) else 0


if __name__ == "__main__":
    sys.exit(main())
