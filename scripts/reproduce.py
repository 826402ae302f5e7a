"""Reproduce a table, a figure or one row of it: train what is missing, evaluate, analyse, print the report."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

EPILOG = """\
examples:
  python scripts/reproduce.py table1/vit_b32_gsam --dry-run       what would be done, and what it costs
  python scripts/reproduce.py table1/vit_b32_gsam --seeds 0,1,2   one row, three seeds
  python scripts/reproduce.py fig4                                a whole figure
  python scripts/reproduce.py table5 --matched-compute            vanilla also at the gradient evaluations of SAM and GSAM
  python scripts/reproduce.py table3 --weights /data/pretrained   fine-tunings from /data/pretrained/table1/<experiment>/<hash>
  python scripts/reproduce.py mini/table1/vit_gsam                a small network on Fashion-MNIST: minutes of a CPU
  python scripts/reproduce.py table6 data=fashion_mnist train.epochs=2 …    the same with other settings: a row of its own

One process after another; every one continues where it stopped, so the same command does too, whenever it was ended.
Exit code 0: all is there. 1: something failed, the rest was done. 2: wrong input. 75: asked to leave; run it again.
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "target",
        help="an entry of configs/catalogue.yaml or mini.yaml, or a row of it: table1, table1/vit_b32_gsam, mini/fig4",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings for all trainings")
    parser.add_argument("--seeds", default="0", help="of train.seed, e.g. 0,1,2 (default: %(default)s)")
    parser.add_argument("--matched-compute", action="store_true", help="vanilla also with twice the epochs")
    parser.add_argument("--dry-run", action="store_true", help="show the plan and its cost, run nothing")
    parser.add_argument("--runs", default=Path("runs"), type=Path, help="folder of the runs (default: %(default)s)")
    parser.add_argument(
        "--weights", type=Path, metavar="FOLDER", help="where fine-tunings find their weights (default: --runs)"
    )
    parser.add_argument("--gpus", type=int, help="processes of torchrun (default: all GPUs)")
    parser.add_argument("--no-hours", action="store_true", help="do not measure the networks for the estimate of hours")
    return parser.parse_intermixed_args()


def main() -> int:
    args = arguments()
    from rich.console import Console

    from gsam.cli import REQUEUE
    from gsam.fill import ConfigError
    from gsam.reproduce.check import check
    from gsam.reproduce.execute import Left, measure, report, train
    from gsam.reproduce.plan import plan
    from gsam.reproduce.show import name, plan_table

    console = Console(highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    try:
        request = make_request(args)
        tasks = plan(request)
        problems = check(request, tasks)
        if not problems or args.dry_run:  # the cost of what cannot run here, for want of the pictures, can be asked for
            console.print(plan_table(request, tasks, say, hours=not args.no_hours))
        if problems:
            raise ConfigError(problems)
        if args.dry_run:
            return 0
        train(request, say)
        waiting = [task for task in plan(request) if task.waits]
        failures = [f"failed: {what}" for what in request.failed.values()]
        failures += [f"waits for {task.waits}: {name(task, request)}" for task in waiting]
        failures += measure(request, say)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (Left, KeyboardInterrupt):
        print("asked to leave; what was done is saved, the same command continues", file=sys.stderr)
        return REQUEUE
    if not report(request, say):
        failures.append("the report failed")
    for line in failures:
        say(line)
    return 1 if failures else 0


def make_request(args: argparse.Namespace):  # noqa: ANN201 gsam is imported after the arguments are known to be right
    """What the arguments ask for. Raises ValueError for what is not in the catalogue, and for seeds that are none."""
    import torch

    from gsam.reproduce.plan import select
    from gsam.reproduce.task import Request

    try:
        seeds = tuple(dict.fromkeys(int(seed) for seed in args.seeds.split(",")))
    except ValueError:
        raise ValueError(f"--seeds {args.seeds}: whole numbers with commas between them, e.g. 0,1,2") from None
    gpus = args.gpus if args.gpus is not None else max(1, torch.cuda.device_count())
    if gpus < 1:
        raise ValueError(f"--gpus {gpus}: at least 1 process; leave it out to use all GPUs")
    if args.weights is not None and not args.weights.is_dir():
        raise ValueError(f"--weights {args.weights}: no folder; give one with run folders or weights files")
    return Request(
        select(args.target), seeds, args.matched_compute, tuple(args.overrides), args.runs, args.weights, gpus
    )


if __name__ == "__main__":
    sys.exit(main())
