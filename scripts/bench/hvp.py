"""A Hessian-vector product against one gradient, of the same pictures in the same micro-batches (gsam.analysis.objective).

In turns, medians over rounds; the last line printed is one JSON object. `hvp`: as the analyses call it, the gradient's graph
kept from product to product where it fits; `hvp_no_graph`: nothing kept, as at pictures that need more memory.
"""

import argparse
from pathlib import Path

import common
import torch

from gsam.analysis.eigen import random_vector
from gsam.analysis.objective import BatchNorm, Objective
from gsam.data import open_source
from gsam.losses import LossKind, build_loss
from gsam.models import ModelConfig, build_model

CLASSES = 10


def batches(args: argparse.Namespace) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Fashion-MNIST's first training pictures, enlarged to the model's size."""
    source = open_source("fashion_mnist", str(args.root), "train")
    images = torch.stack([torch.from_numpy(source[i][0].copy()) for i in range(args.pictures)]).permute(0, 3, 1, 2)
    images = torch.nn.functional.interpolate(images.float().div(255).sub(0.286).div(0.353), args.size, mode="bilinear")
    labels = torch.tensor([source[i][1] for i in range(args.pictures)])
    pairs = zip(images.split(args.batch), labels.split(args.batch), strict=True)
    return [(x.to(common.device()), y.to(common.device())) for x, y in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small_convnet", help="timm name (default: %(default)s)")
    parser.add_argument("--size", type=int, default=28, help="pixels (default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=250)
    parser.add_argument("--batch", type=int, default=125, help="pictures per micro-batch (default: %(default)s)")
    parser.add_argument("--batchnorm", choices=[mode.name for mode in BatchNorm], default="eval")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--root", type=Path, default=Path("data/fashion_mnist"), help="default: %(default)s")
    common.arguments(parser)
    args = parser.parse_args()

    model = build_model(ModelConfig(name=args.model), num_classes=CLASSES, image_size=args.size, seed=0).to(
        common.device()
    )
    pairs, loss = batches(args), build_loss(LossKind.softmax, 0.0, CLASSES)
    f, bare = (
        Objective(model, loss, lambda: pairs, BatchNorm[args.batchnorm], **kept) for kept in ({}, {"keep_bytes": 0})
    )
    vector = random_vector(f.weights, 0)
    jobs = {"gradient": f.gradient, "hvp": lambda: f.hvp(vector), "hvp_no_graph": lambda: bare.hvp(vector)}
    times = common.medians(common.in_turns(jobs, args.rounds))
    result = {
        "model": args.model, "size": args.size, "pictures": args.pictures, "batch": args.batch, "batchnorm": args.batchnorm,
        "parameters": len(f.weights), "rounds": args.rounds, "hvp_to_gradient": times["hvp"] / times["gradient"],
        "hvp_no_graph_to_gradient": times["hvp_no_graph"] / times["gradient"],
        **{f"{name}_s": value for name, value in times.items()},
    }  # fmt: skip
    common.report("hvp", result, args)


if __name__ == "__main__":
    main()
