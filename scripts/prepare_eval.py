#!/usr/bin/env python
"""Unpack an evaluation set from its official archives, check it, and enter it in configs/local/paths.yaml.

Run again after a kill it continues; what is there already is only checked. It downloads nothing.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gsam.eval.prepare import SETS, Prepared, prepare  # noqa: E402
from gsam.eval.roots import LOCAL, data_folder, write_paths  # noqa: E402
from gsam.train.progress import Progress  # noqa: E402

SOURCES = """where the archives are (the links were not checked here):
  v2      imagenetv2-matched-frequency.tar.gz, imagenetv2-threshold0.7.tar.gz, imagenetv2-top-images.tar.gz
          https://huggingface.co/datasets/vaishaal/ImageNetV2
  r       imagenet-r.tar       https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar
  a       imagenet-a.tar       https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar
  sketch  ImageNet-Sketch.zip  https://github.com/HaohanWang/ImageNet-Sketch (Kaggle, Google Drive)
  c       noise.tar, blur.tar, weather.tar, digital.tar; extra.tar for the 4 extra corruptions
          https://zenodo.org/records/2235448
  val     ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz (the labels)
          https://image-net.org (needs an account)

examples:
  python scripts/prepare_eval.py r --from ~/Downloads/imagenet-r.tar --to /data
  python scripts/prepare_eval.py c --from /archives/imagenet-c --to /data        # a folder that holds the five archives
"""


class Shown:
    """A progress line per archive, in megabytes of the archive."""

    def __init__(self) -> None:
        self.progress: Progress | None = None

    def __call__(self, archive: str, done: int, total: int, pictures: int) -> None:
        if self.progress is None or self.progress.label != f"{archive} (MB)":
            self.close()
            self.progress = Progress(f"{archive} (MB)", -(-total // 10**6))
        self.progress.update(-(-done // 10**6), f"{pictures:,} pictures")

    def close(self) -> None:
        if self.progress is not None:
            self.progress.close()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=SOURCES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", choices=list(SETS), help="the set; val: ImageNet's validation pictures")
    parser.add_argument(
        "--from", dest="given", nargs="+", type=Path, required=True, help="its archives, or folders that hold them"
    )
    parser.add_argument("--to", type=Path, help="folder for the set's official folder (default: GSAM_DATA, else data/)")
    parser.add_argument("--partial", action="store_true", help="accept another number of pictures than the whole set's")
    parser.add_argument(
        "--local", type=Path, default=LOCAL, help="file that remembers the place (default: %(default)s)"
    )
    args = parser.parse_args()
    shown = Shown()
    try:
        ready = prepare(args.set, args.given, args.to or data_folder(args.local), partial=args.partial, report=shown)
        write_paths(args.local, {one.target.key: one.root for one in ready})
    except (ValueError, RuntimeError, OSError) as error:
        shown.close()
        print(f"prepare_eval: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        shown.close()
        print("prepare_eval: interrupted; the same command continues", file=sys.stderr)
        return 130
    shown.close()
    for one in ready:
        tell(one, args.local)
    return 0


def tell(ready: Prepared, local: Path) -> None:
    key, place = ready.target.key, "" if local == LOCAL else f" paths.{ready.target.key}={ready.root}"
    print(
        f"{key}: {ready.pictures:,} pictures in {ready.root}{'' if ready.whole else ' (PARTIAL)'}; written to {local}"
    )
    if ready.missing:
        print(f"  not there yet: {', '.join(ready.missing)} (in {', '.join(ready.archives_of_missing())})")
    print(f"  check:    python -m gsam.eval.doctor {ready.root}\n  evaluate: {ready.command()}{place}")


if __name__ == "__main__":
    sys.exit(main())
