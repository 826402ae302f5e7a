"""Make an ImageNet-C of any image set: all corruptions of its pictures at all severities, by the published rules.

    python scripts/make_imagenet_c.py imagenet --root /data/imagenet --out /data/imagenet-c-generated
    python scripts/make_imagenet_c.py imagefolder --root /data/flowers --out /data/flowers-c --canvas 224
    python scripts/make_imagenet_c.py fashion_mnist --root data/fashion_mnist --out /data/fashion-c --grey --limit 2000

Reads <root>/<split>/<class>/<picture> (for the source fashion_mnist its four files; --split . if <root> itself holds the class
folders). Writes <out>/<corruption>/<severity>/<class>/<picture> and <out>/generated.json, which makes evaluate.py say
"generated": the published ImageNet-C has other random numbers and other textures of frost.

The same command continues what was stopped. The copies do not depend on --workers. See docs/imagenet_c.md.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from gsam.data import SOURCES
from gsam.data.checks import cores
from gsam.data.write import terminal_report
from gsam.eval.copies import Settings
from gsam.eval.corruptions import BENCHMARK, CORRUPTIONS, EXTRA, PRESETS, SEVERITIES
from gsam.eval.make_c import FORMATS, make

GROUPS = {"benchmark": list(BENCHMARK), "extra": list(EXTRA), "all": list(CORRUPTIONS)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", choices=list(SOURCES), help="what the pictures are; imagefolder: any folder of class folders")
    add("--root", required=True, help="its folder")
    add("--out", required=True, help="folder of the copies; empty, or begun by the same command")
    add("--split", default="val", help="folder below --root (default: val)")
    named = f"benchmark (the 15, default), extra (the 4), all, or names: {', '.join(CORRUPTIONS)}"
    add("--corruptions", nargs="+", default=["benchmark"], metavar="NAME", help=named)
    add("--severities", nargs="+", type=int, default=list(SEVERITIES), metavar="N", help="of 1 to 5 (default: all)")
    add("--workers", type=int, help="processes (default: one per core)")
    stored = (
        "folders (default): files as published. ffcv: one .beton per corruption and severity with the decoded pixels of those "
        "files (224 pixels: 7.5 GB for 50,000 pictures)"
    )
    add("--format", choices=FORMATS, default="folders", help=stored)
    add("--seed", type=int, default=0, help="of the random numbers (default: 0)")
    add("--limit", type=int, help="only so many pictures, the first of one fixed random order")
    square = "corrupt the central square of this side (default: 224 for imagenet, else the whole picture as it is)"
    add("--canvas", type=int, metavar="PIXELS", help=square)
    size = "constants of ImageNet-C (224), Tiny ImageNet-C (64) or CIFAR-C (32, stored as PNG); default: by size"
    add("--preset", type=int, choices=PRESETS, help=size)
    add("--grey", action="store_true", help="the pictures are grey: average the channels of each copy")
    ice = "pictures of ice for frost, the first five by name (default: synthetic ones)"
    add("--frost-textures", metavar="FOLDER", help=ice)
    return parser.parse_args()


def main() -> int:
    args = parse()
    corruptions = [name for given in args.corruptions for name in GROUPS.get(given, [given])]
    settings = Settings(
        source=args.source, root=args.root, split=args.split, seed=args.seed, limit=args.limit, preset=args.preset,
        canvas=224 if args.canvas is None and args.source == "imagenet" else args.canvas,
        grey=args.grey, frost_textures=args.frost_textures, format=args.format,
    )  # fmt: skip
    workers = cores() if args.workers is None else args.workers
    try:
        record = make(settings, args.out, corruptions, args.severities, workers, terminal_report())
    except KeyboardInterrupt:
        print("\nmake_imagenet_c: stopped; the same command continues", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError) as error:
        print(f"make_imagenet_c: {str(error).replace('data.root', '--root')}", file=sys.stderr)
        return 1
    kinds = len(corruptions) * len(args.severities)
    print(
        f"{args.out}: {kinds} copies of each of {record['pictures']:,} pictures, constants of {record['preset']} pixels"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
