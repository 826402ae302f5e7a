"""A GSAM step against a vanilla step, and a vanilla step against a plain torch loop, all at the same batch.

The trainer's step (gsam.train.stepper: normalisation, autocast, schedules, clipping, base optimizer) on one batch in memory,
in turns with a plain loop over the same model. Ratios are taken within a round, their medians over rounds, with the quartiles
beside them; the last line printed is one JSON object.
"""

import argparse
from statistics import quantiles

import common
import torch

from gsam.config import Config
from gsam.models import ModelConfig, build_model
from gsam.optim import AdamWConfig, GSAMEstimator, VanillaEstimator
from gsam.runtime import Precision, Runtime
from gsam.train.settings import TrainConfig
from gsam.train.stepper import Stepper

CLASSES = 1000


def stepper(args: argparse.Namespace, method) -> Stepper:
    train = TrainConfig(batch_size=args.batch, precision=Precision[args.precision], compile=args.compile, clip_norm=1.0)
    config = Config(
        optimizer=method, base=AdamWConfig(weight_decay=0.3), model=ModelConfig(name=args.model), train=train
    )
    config.augment.size = args.size
    return Stepper(config, Runtime(common.device()), num_classes=CLASSES, num_examples=100 * args.batch)


def plain_loop(args: argparse.Namespace, images, labels):
    """What anybody would write: the same model, normalisation, autocast, clipping, AdamW."""
    device = common.device()
    model = build_model(ModelConfig(name=args.model), num_classes=CLASSES, image_size=args.size, seed=0).to(device)
    forward = torch.compile(model) if args.compile else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.3)
    runtime, precision = Runtime(device), Precision[args.precision]

    def step():
        x = images.to(device).float().div_(255).sub_(0.5).div_(0.5)
        optimizer.zero_grad(set_to_none=True)
        with runtime.autocast(precision):
            loss = torch.nn.functional.cross_entropy(forward(x), labels.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_small_patch32_224", help="timm name (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224, help="pixels (default: %(default)s)")
    parser.add_argument("--precision", choices=[p.name for p in Precision], default="bf16")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="without torch.compile")
    parser.add_argument("--rounds", type=int, default=9)
    common.arguments(parser)
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error(f"--rounds {args.rounds}: at least 2, for the quartiles")

    images = torch.randint(0, 256, (args.batch, 3, args.size, args.size), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (args.batch,))
    vanilla = stepper(args, VanillaEstimator())
    gsam = stepper(args, GSAMEstimator(rho_max=0.6, rho_min=0.1, alpha=0.6))
    jobs = {
        "plain": plain_loop(args, images, labels),
        "vanilla": lambda: vanilla.train_step([(images, labels)]),
        "gsam": lambda: gsam.train_step([(images, labels)]),
    }
    calls = 20 if torch.cuda.is_available() else 1
    times = common.in_turns(jobs, args.rounds, warmup=3, calls=calls)
    ratios = {f"{a}_to_{b}": [x / y for x, y in zip(times[a], times[b], strict=True)]
              for a, b in (("gsam", "vanilla"), ("vanilla", "plain"))}  # fmt: skip
    result = {
        "model": args.model, "batch": args.batch, "precision": args.precision, "compile": args.compile, "rounds": args.rounds,
        **common.medians(ratios), **{f"{name}_quartiles": quantiles(values)[::2] for name, values in ratios.items()},
        **{f"{name}_s": value for name, value in common.medians(times).items()},
    }  # fmt: skip
    common.report("train_step", result, args)


if __name__ == "__main__":
    main()
