"""Counting a network of Table 1: parameters, tensors, statistics, FLOPs. Builds it without memory (meta device)."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from gsam.config import read_composed
from gsam.models import build_model
from gsam.optim import BatchStats
from gsam.recipes import compose, names
from gsam.scaling.traffic import Network

CLASSES, SIZE = 1000, 224


def networks() -> list[str]:
    """The twelve, e.g. "vit_b32"."""
    return sorted({name.rpartition("_")[0] for name in names()})


def count(name: str) -> Network:
    recipe = read_composed(compose([f"experiment=table1/{name}_gsam", "run.experiment=count"]))
    with torch.device("meta"):
        model = build_model(recipe.model, num_classes=CLASSES, image_size=SIZE, seed=0)
        with FlopCounterMode(display=False) as flops:
            model.eval()(torch.empty(1, 3, SIZE, SIZE))
    parameters = list(model.parameters())
    buffers = BatchStats(model.train()).buffers
    return Network(
        name,
        sum(p.numel() for p in parameters),
        len(parameters),
        sum(b.numel() for b in buffers),
        flops.get_total_flops(),
    )
