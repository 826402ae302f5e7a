"""`python -m gsam.data.doctor check <data set> --root FOLDER`: is every picture there, readable, once, in the right class?
`... parity ...`: how far are FFCV's evaluation pixels from Pillow's, and what does that do to a model's accuracy?
Exit 0: nothing wrong, 1: something is, 2: the question cannot be answered."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gsam.config import EvalConfig
from gsam.data import SOURCES, SPLITS, AugmentConfig, Backend, DataConfig, ffcv_root
from gsam.data.inspection import pictures, stored, twice
from gsam.data.manifest import beton_path
from gsam.data.parity import measure
from gsam.eval.doctor import conclude, progress
from gsam.eval.inspection import Finding
from gsam.eval.preprocess import Preprocess
from gsam.eval.subject import Subject, load_subject
from gsam.runtime import Normalize, Runtime


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    data = DataConfig(args.source, Backend.ffcv, args.root, args.ffcv_root)
    return conclude(lambda: check(data) if args.command == "check" else _parity(data, args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gsam.data.doctor", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    reading = commands.add_parser(
        "check", help="read every picture, as files and in the .beton files, whichever are there"
    )
    parity = commands.add_parser(
        "parity", help="FFCV's evaluation pixels against Pillow's; needs the files and val.beton"
    )
    for command in (reading, parity):
        command.add_argument("source", choices=list(SOURCES), help="the data set")
        command.add_argument("--root", default="", help="folder of the pictures: as data.root of train.py")
        command.add_argument("--ffcv-root", help="folder of the .beton files (default: <root>/ffcv)")
    parity.add_argument("--size", type=int, default=224, help="side of the picture, pixels (default: %(default)s)")
    parity.add_argument("--resize", type=int, default=256, help="shorter side before the crop (default: %(default)s)")
    parity.add_argument("--limit", type=int, help="this many pictures, chosen at random (default: all)")
    parity.add_argument("--weights", help="also score this model, with its own sizes: as weights= of evaluate.py")
    parity.add_argument("--network", help="of a weights file: as network= of evaluate.py")
    return parser


def check(data: DataConfig) -> Iterator[Finding]:
    """Files and .beton files, as far as they are there."""
    there = False
    for kind, look, missing in (("", pictures, _no_files), (".beton", stored, _no_beton)):
        splits = []
        for split in SPLITS:
            if (why := missing(data, split)) is not None:
                yield Finding(split + kind, None, f"not there: {why}")
                continue
            there = True
            try:
                seen, findings = look(data, split, progress(f"read {split}{kind}"))
            except ValueError as error:
                yield Finding(split + kind, False, str(error))
                continue
            splits.append(seen)
            yield from findings
        if len(splits) == len(SPLITS):
            yield twice(splits)._replace(what=f"same picture twice{' in .beton' if kind else ''}")
    if not there:
        raise ValueError(
            f"neither pictures nor .beton files in --root {data.root or '(empty)'}; give --root or --ffcv-root"
        )


def _no_files(data: DataConfig, split: str) -> str | None:
    return None if data.root else "no --root"


def _no_beton(data: DataConfig, split: str) -> str | None:
    path = beton_path(ffcv_root(data), split)
    return None if os.path.exists(path) else f"no file {path}"


def _parity(data: DataConfig, args: argparse.Namespace) -> Iterator[Finding]:
    with Runtime.start() as runtime:
        augment = AugmentConfig(size=args.size, eval_resize=args.resize)
        reference, predict = Preprocess.trained(augment), None
        if args.weights:
            subject = load_subject(EvalConfig(weights=args.weights, network=args.network), runtime)
            reference, predict = subject.preprocess, _predict(subject, runtime)
        if reference.squash or reference.resize < reference.size:
            raise ValueError(f"--weights {args.weights} is evaluated with {reference.text()}, which FFCV cannot do")
        limited = replace(data, limit_eval=args.limit)
        base, others = measure(limited, reference.size, reference.resize, reference, predict, progress("compare"))
    n = len(base.differences)
    yield Finding(
        base.name, None, f"{n:,} pictures, {reference.text()}" + (f"; top-1 {base.right / n:.2%}" * bool(args.weights))
    )
    for way in others:
        mean, most = float(np.mean(way.differences)), max(way.differences)
        text = f"mean absolute difference {mean:.3f} of 255 (worst picture {most:.2f}, worst pixel {way.worst})"
        if args.weights:
            change = 100 * (way.right - base.right) / n
            text += f"; top-1 {way.right / n:.2%} ({change:+.2f} points), {n - way.same:,} predictions differ"
        yield Finding(way.name, None, text)


def _predict(subject: Subject, runtime: Runtime) -> Callable[[Tensor], Tensor]:
    normalize = Normalize(subject.preprocess.mean, subject.preprocess.std, runtime.device, subject.channels_last)

    def predict(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return subject.model(normalize(images)).argmax(1)

    return predict


if __name__ == "__main__":
    sys.exit(main())
