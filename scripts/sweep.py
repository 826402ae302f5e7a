"""Train over a space of settings: grids of the paper, random and guided searches; by any number of processes and machines."""

import argparse
import signal
import sys
import textwrap
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

EPILOG = """\
examples:
  python scripts/sweep.py sweep=fig4 --dry-run                        the points, the folder, the cost
  python scripts/sweep.py sweep=fig7_rho sweep.seeds=[0,1,2]          the paper's grid, three seeds
  python scripts/sweep.py sweep=fig4 sweep.jobs=4                     four trials at a time on this machine's GPUs
  python scripts/sweep.py sweep=fig4 launcher=slurm launcher.workers=8     an array of eight workers (docs/machines.md)
  python scripts/sweep.py sweep=rho experiment=quickstart optimizer=sam optimizer.rho=0.02,0.05,0.1
  python scripts/sweep.py sweep=rho_alpha_search sweep.trials=50      Optuna's TPE with pruning

sweep=<name> is a file of configs/sweep/: {names}.
sweep.* are its keys. A key with several values (0.1,0.2  range(1,5)  interval(0.1,1)  tag(log, interval(1e-3,1))) is an axis.
All others are train.py's, for every training. Trials are compared on the set that the trainings evaluate on; data.holdout=0.02
takes a part of the training pictures for that.

The same command continues, wherever it was ended, in as many terminals and on as many machines as you like. When all is done it
prints the results. Everything is in <run.root>/sweeps/<name>/: results.csv, results.jsonl, sweep.png, logs/, journal.log.
Exit code 0: nothing is left to do; in a Slurm job other workers may still be at it, then the last line says so. 1: some trial
failed, the rest was done; or the journal was damaged meanwhile. 2: wrong input. 75: left before the end; run it again.
"""


def arguments() -> argparse.Namespace:
    files = sorted(path.stem for path in (Path(__file__).resolve().parents[1] / "configs" / "sweep").glob("*.yaml"))
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EPILOG.format(names=textwrap.fill(", ".join(files), 86).replace("\n", "\n" + 42 * " ")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words", nargs="+", metavar="key=value", help="sweep=<name>, sweep.*, launcher.*, settings of train.py"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the points and their cost, run nothing")
    parser.add_argument("--retry-failed", action="store_true", help="start the trials that failed again first")
    return parser.parse_intermixed_args()


def main() -> int:
    args = arguments()
    from rich.console import Console

    from gsam.cli import REQUEUE
    from gsam.sweep import run
    from gsam.sweep.storage import DamagedJournal

    console = Console(highlight=False)
    say = partial(console.print, markup=False, soft_wrap=True)
    try:
        sweep = run.prepare(args.words)
        if (
            args.dry_run
        ):  # before the checks: also the cost of what cannot run here, for want of the pictures, can be asked for
            run.preview(sweep, console.print)
        sweep.plan.check(sweep.world)
        if args.dry_run:
            return 0
        if sweep.launcher is not None:
            run.submit(sweep, say, args.retry_failed)
            return 0
        ledger = run.join(sweep, say, args.retry_failed)
    except (ValueError, DamagedJournal) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        left, failed = run.work(ledger, sweep.shares, say, console.print)
    except DamagedJournal as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if left:
        print("left before the end; what was done is saved, the same command continues", file=sys.stderr)
        return REQUEUE
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback
    from gsam.cli import leave_when_asked

    leave_when_asked()
    sys.exit(main())
