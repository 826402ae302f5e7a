"""Learning rate, radius and ascent coefficient of a configuration over training, as a table and a PNG. Reads no data.

python scripts/show_schedule.py experiment=table1/vit_b32_gsam [--examples 1281167] [--rows 20] [--out schedule.png]

Everything without dashes goes to Hydra, as with train.py. --examples: pictures in the training split, by default those
of data.name, or data.limit_train.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from omegaconf import DictConfig, OmegaConf  # noqa: E402

from gsam.config import read_composed  # noqa: E402
from gsam.optim import Schedules  # noqa: E402
from gsam.recipes import TRAINING_PICTURES, compose  # noqa: E402
from gsam.train import stepper  # noqa: E402
from gsam.train.settings import Duration  # noqa: E402


def schedules_of(composed: DictConfig, examples: int | None = None) -> Schedules:
    """The schedules that train.py would use for a composed configuration. Raises ValueError if the number of training
    pictures is not known."""
    examples = examples or composed.data.limit_train or TRAINING_PICTURES.get(composed.data.name)
    if examples is None:
        raise ValueError(f"data.name={composed.data.name}: give the number of training pictures with --examples")
    config = read_composed(OmegaConf.masked_copy(composed, ["optimizer", "base", "schedule", "train"]))
    images = stepper.images_per_step(config)
    total = Duration.parse(config.train.epochs, "ep").steps(examples, images)
    warmup = Duration.parse(config.schedule.warmup_steps, "st").steps(examples, images)
    return stepper.schedules(config, total, warmup)


def rows(schedules: Schedules, count: int) -> list[int]:
    """About `count` step numbers: evenly spread, with the end of warm-up and the last step."""
    last = schedules.total_steps
    return sorted({round(last * i / (count - 1)) for i in range(count)} | {min(schedules.warmup_steps, last)})


def table(schedules: Schedules, count: int) -> str:
    """One line per step: step, share of training, lr, rho, alpha."""
    lines = [f"{'step':>8} {'done':>6} {'lr':>12} {'rho':>10} {'alpha':>8}"]
    for step in rows(schedules, count):
        lr, rho, alpha = schedules.at(step)
        done = step / schedules.total_steps
        lines.append(f"{step:>8} {done:>6.1%} {lr:>12.6g} {rho:>10.5f} {alpha:>8.4g}")
    return "\n".join(lines)


def draw(schedules: Schedules, title: str, out: Path) -> None:
    """Three panels over the steps, written as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = rows(schedules, 1001)
    figure, axes = plt.subplots(3, 1, sharex=True, figsize=(6, 5), layout="constrained")
    for axis, name, values in zip(
        axes, ("lr", "rho", "alpha"), zip(*map(schedules.at, steps), strict=True), strict=True
    ):
        axis.plot(steps, values)
        axis.set_ylabel(name)
    axes[0].set_title(title)
    axes[-1].set_xlabel(f"optimizer step of {schedules.total_steps:,}")
    figure.savefig(out, dpi=120)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", metavar="key=value", help="e.g. experiment=table1/vit_b32_gsam")
    parser.add_argument("--examples", type=int, help="pictures in the training split")
    parser.add_argument("--rows", type=int, default=20, help="about how many lines the table has")
    parser.add_argument("--out", type=Path, default=Path("schedule.png"))
    args = parser.parse_args()
    try:
        schedules = schedules_of(compose(args.overrides), args.examples)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(schedules, args.rows))
    draw(schedules, " ".join(args.overrides), args.out)
    print(f"drawn in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
