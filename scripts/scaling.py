"""docs/scaling.md: bytes over the wire, efficiency, loader and recipe on more GPUs, worked out from stated inputs."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

EPILOG = """\
examples:
  python scripts/scaling.py                                          write docs/scaling.md and its picture
  python scripts/scaling.py --check                                  exit code 1 where the page is not current
  python scripts/scaling.py --images-per-second vit_b32=9000 resnet50=2800 --out mine.md      with your GPU's speeds
  python scripts/scaling.py --set network_bytes_per_s=50e9 gpu_flops_per_s=312e12 --out mine.md
  python scripts/scaling.py --count                                  count the networks again (docs/bench/networks.jsonl)

Images per second are those of a vanilla step of 64 images on one GPU: `scripts/bench/train_step.py --model <timm name>
--batch 64` gives 64 / vanilla_s. Its base optimizer's part is taken off. Inputs and their sources: docs/bench/scaling.yaml.
"""


def pairs(words: list[str], option: str) -> dict[str, float]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        try:
            found[key] = float(value)
        except ValueError:
            equals = ""
        if not equals or not found[key] > 0:
            raise ValueError(f"{option} {word}: give <name>=<positive number>")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images-per-second", nargs="+", default=[], metavar="NET=N", help="measured, of one GPU")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=N", help="other inputs of docs/bench/scaling.yaml")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write there (and FILE.png), not into docs/")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="compare docs/scaling.md, write nothing")
    mode.add_argument("--count", action="store_true", help="count the networks, then write the page")
    args = parser.parse_args()

    from gsam.files import write_atomic
    from gsam.report.write import png
    from gsam.scaling import figure, inputs, page

    try:
        given, changed = pairs(args.images_per_second, "--images-per-second"), pairs(args.set, "--set")
        if (given or changed) and args.out is None:
            raise ValueError("docs/scaling.md has the committed inputs only: give --out FILE.md with your own")
        if args.out is not None and args.out.suffix != ".md":
            raise ValueError(f"--out {args.out}: give a name that ends in .md; the picture gets the same with .png")
        if args.count:
            inputs.write_networks()
        known = inputs.read(given, changed)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    out = args.out or page.PAGE
    picture = page.PICTURE if args.out is None else out.with_suffix(".png")
    text = page.page(known, "img/scaling.png" if args.out is None else picture.name)
    if args.check:
        current = out.is_file() and out.read_text() == text
        print(f"{out}: {'current' if current else 'not current; run python scripts/scaling.py'}")
        return 0 if current else 1
    try:
        write_atomic(out, text)
        write_atomic(picture, png(figure.draw(known)))
    except OSError as error:
        print(f"error: {out}: cannot be written ({error}); give another --out", file=sys.stderr)
        return 2
    print(f"written: {out}, {picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
