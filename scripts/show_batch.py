"""A contact sheet of what the model really sees: a training batch after everything random, un-normalised, with its classes.

python scripts/show_batch.py experiment=table1/vit_b32_gsam augment=medium [--n 32] [--step 0] [--out batch.png]

Everything without dashes goes to Hydra, as with train.py. The pictures are those of rank 0 in that step. A mixed picture is
labelled with its share of each class. Under torchrun's WORLD_SIZE=n they are those of one of n ranks.
"""

import argparse
import os
import sys
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from gsam import data  # noqa: E402
from gsam.augment import OnDevice  # noqa: E402
from gsam.config import Config, load  # noqa: E402
from gsam.data.order import settle  # noqa: E402
from gsam.recipes import compose  # noqa: E402
from gsam.train.stream import stream  # noqa: E402


def seen(config: Config, step: int, world: int = 1) -> tuple[Tensor, Tensor, str]:
    """Of the first batch of a step on rank 0: images float32 (B, 3, H, W) as the model gets them, labels (B,) or (B, K), and
    how they were mixed."""
    local, device = config.train.batch_size // world, torch.device("cpu")
    loader = data.build_loader(
        config.data, config.augment, "train", batch_size=local, rank=0, world=world, seed=config.train.seed, train=True
    )
    augment = OnDevice(
        config.augment, device, seed=config.train.seed, num_classes=loader.num_classes,
        group_size=getattr(config.optimizer, "group_size", None) or local,
    )  # fmt: skip
    try:
        with closing(stream(loader, step, config.optimizer.batches_per_step, augment.needs_keys)) as steps:
            images, labels = augment(*next(steps)[0], step=step)
    finally:
        loader.close()
    mix = augment.drawn(step, 0, *images.shape[2:]) if augment.mixes else None
    kind = "" if mix is None else f", {'cutmix' if mix.box else 'mixup'}, share {mix.share:.3f}"
    return images, labels, f"step {step}{kind}"


def class_names(config: data.DataConfig) -> list[str]:
    """Names in label order, from the .beton file's manifest where that is read."""
    if config.backend is data.Backend.folder:
        return list(data.class_names(config.name, config.root, "train"))
    from gsam.data.manifest import read_manifest

    return read_manifest(data.ffcv_root(config), "train")["classes"]


def names_of(label: Tensor, classes: list[str]) -> str:
    """One class, or the shares of a mixed picture, largest first."""
    if label.ndim == 0:
        return classes[int(label)]
    shares, which = label.topk(min(2, len(classes)))
    parts = [(s, k) for s, k in zip(shares.tolist(), which.tolist(), strict=True) if s > 0]
    return "\n".join(f"{s:.3f} {classes[k]}" if len(parts) > 1 else classes[k] for s, k in parts)


def draw(images: Tensor, labels: Tensor, title: str, config: Config, classes: list[str], out: Path) -> None:
    """The sheet as PNG, eight pictures in a row."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (config.augment.mean, config.augment.std))
    pixels = (images * std + mean).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    columns = min(8, len(images))
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.5 * columns, 1.85 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture, label in zip(axes.flat, pixels, labels, strict=False):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(names_of(label, classes), fontsize=6)
    figure.suptitle(title, fontsize=8)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", help="of train.py, as on its command line")
    parser.add_argument("--n", type=int, default=32, help="pictures (default: %(default)s)")
    parser.add_argument("--step", type=int, default=0, help="of training (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("batch.png"), help="default: %(default)s")
    args = parser.parse_intermixed_args()
    try:
        if args.n < 1 or args.step < 0:
            raise ValueError(f"--n={args.n} --step={args.step}: at least 1 picture, and a step from 0 on")
        world = int(os.environ.get("WORLD_SIZE", "1"))
        config = load(compose([*args.settings, "run.experiment=show_batch"]), world)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        data.prepare(config.data)
        config.data, why = settle(config.data, None)  # as a new run does
        print(why)
        images, labels, title = seen(config, args.step, world)
        draw(images[: args.n], labels[: args.n], title, config, class_names(config.data), args.out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {min(args.n, len(images))} of the {len(images)} pictures of {title}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
