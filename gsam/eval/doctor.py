"""`python -m gsam.eval.doctor <folder>`: is this evaluation set the published one, and does a known model score on it as
published? Exit 0: nothing wrong, 1: something is, 2: the question cannot be answered."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from gsam.config import EvalConfig
from gsam.runtime import Runtime
from gsam.train.progress import Progress

from . import evalsets, published
from .inspection import Finding, inspect, present, recognise
from .prepare import SETS, Target, stated
from .runner import score
from .subject import Subject, load_subject

KNOWN = {name: target for group in SETS.values() for target in group for name in target.evalsets}
MILDEST = ("brightness", 1)  # of ImageNet-C, what any model can do


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)

    def findings() -> Iterator[Finding]:
        target, root = (KNOWN[args.set], args.root) if args.set else recognise(args.root)
        print(f"{root}: {target.key}, the layout of {target.folder}", flush=True)
        yield from _findings(target, root, args)

    return conclude(findings)


def conclude(findings: Callable[[], Iterable[Finding]]) -> int:
    """Show what was found, or why nothing could be; the exit code: 0 nothing wrong, 1 something, 2 not looked at."""
    try:
        found = list(findings())
    except (ValueError, RuntimeError, OSError) as error:
        print(f"doctor: {error}", file=sys.stderr)
        return 2
    show(found)
    wrong = sum(finding.ok is False for finding in found)
    print(f"{wrong} wrong" if wrong else "nothing wrong", flush=True)
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gsam.eval.doctor", description=__doc__)
    parser.add_argument("root", type=Path, help="folder of one set in its official layout")
    parser.add_argument("--set", choices=sorted(KNOWN), help="which set it is (default: found out)")
    parser.add_argument("--all", action="store_true", help="decode every picture, not a sample")
    parser.add_argument(
        "--weights", help="score this model: as weights= of evaluate.py, for example timm:resnet50.tv_in1k"
    )
    parser.add_argument("--network", help="of a weights file: as network= of evaluate.py")
    parser.add_argument("--published", type=Path, help="one of timm's results/*.csv, to compare the accuracy with")
    parser.add_argument("--limit", type=int, help="score this many pictures only")
    parser.add_argument("--batch-size", type=int, default=250, help="pictures per forward pass (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="processes that decode (default: one per core)")
    return parser


def _findings(target: Target, root: Path, args: argparse.Namespace) -> Iterator[Finding]:
    if args.published and not args.weights:
        raise ValueError("--published compares a model's accuracy: give its --weights too")
    with Runtime.start() as runtime:
        subject = known = None
        if args.weights:  # first: a mistake there must not come after an hour of decoding
            subject = load_subject(EvalConfig(weights=args.weights, network=args.network), runtime)
            if subject.num_classes != 1000:
                raise ValueError(
                    f"--weights {args.weights}: {subject.num_classes} classes; the set needs a model of ImageNet's 1000"
                )
            if args.published:
                known = published.read(args.published, subject.facts["model"], subject.preprocess.size)
                if known.evalset not in target.evalsets:
                    raise ValueError(
                        f"{args.published} is about {known.evalset}; here are {', '.join(target.evalsets)}"
                    )
        seen = []
        for finding in inspect(target, root, every=args.all, report=progress("decode")):
            seen.append(finding)
            yield finding
        if any(finding.what == "layout" and not finding.ok for finding in seen):
            yield Finding("other checks", None, "not run: the layout is wrong")
        elif subject is None:
            yield Finding("accuracy", None, "not run: no --weights given")
        else:
            try:
                yield from _scored(target, root, subject, known, args, runtime)
            except (ValueError, RuntimeError) as error:  # an unreadable picture must not hide the findings above
                yield Finding("accuracy", False, str(error))


def _scored(
    target: Target,
    root: Path,
    subject: Subject,
    known: published.Published | None,
    args: argparse.Namespace,
    runtime: Runtime,
) -> Iterator[Finding]:
    """One pass over the pictures for all sets of the target; of ImageNet-C one folder."""
    sets = {name: replace(stated(name, root), limit=args.limit) for name in target.evalsets}
    corruption, severity, where = None, None, ""
    if target.key == "imagenet_c":
        there = evalsets.rows(present(target, root))
        corruption, severity = MILDEST if MILDEST in there else there[0]
        sets, where = {target.key: sets[target.key]}, f" {corruption}/{severity}"
    first = sets[target.evalsets[0]]
    source = evalsets.open_pictures(first, corruption, severity)
    scorings = {}
    for name, evalset in sets.items():
        try:
            scorings[name] = evalsets.scoring(evalset, source)
        except ValueError:  # the labels of ReaL: named by the finding on them
            yield Finding(name, None, "not run: the labels are wrong")
    loader = evalsets.build(
        first, subject.preprocess, corruption, severity, batch_size=args.batch_size, workers=args.workers, source=source
    )
    count, moved = len(loader.indices), progress("score")
    scored = score(
        subject.model, loader, scorings, device=runtime.device, mean=subject.preprocess.mean, std=subject.preprocess.std,
        channels_last=subject.channels_last, on_batch=lambda done: moved(done, count),
    )  # fmt: skip
    for name, result in scored.items():
        yield published.accuracy(name + where, sets[name], result.metrics, subject.num_classes)
    if first.layout == "index" and (finding := published.text_order(scored[target.evalsets[0]].predictions)):
        yield finding
    if known is not None and known.evalset in scored:
        yield published.compare(scored[known.evalset].metrics, known, subject.preprocess.size)


def progress(label: str) -> Callable[[int, int], None]:
    """report(done, total) as a bar, or a line now and then."""
    shown: list[Progress] = []

    def report(done: int, total: int) -> None:
        if not shown:
            shown.append(Progress(label, total))
        shown[0].update(done)
        if done == total:
            shown[0].close()

    return report


def show(findings: list[Finding]) -> None:
    """A table on stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_lines=False)
    for name in ("check", "", "found", "way out"):
        table.add_column(name, no_wrap=name == "check", overflow="fold")
    for finding in findings:
        mark, style = {True: ("ok", "green"), False: ("WRONG", "bold red"), None: ("note", "yellow")}[finding.ok]
        table.add_row(finding.what, Text(mark, style), Text(finding.text), Text(finding.way_out))
    terminal = Console()
    Console(width=max(terminal.width, 120)).print(table)


if __name__ == "__main__":
    sys.exit(main())
