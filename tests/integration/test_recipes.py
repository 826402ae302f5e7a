"""Every recipe of Table 1 composed, loaded and stepped twice on small pictures; every full-size network run once."""

import pytest
import torch

from gsam.config import load
from gsam.data import build_loader
from gsam.models import build_model
from gsam.recipes import compose, names
from gsam.runtime import Runtime
from gsam.train.stepper import Stepper

pytestmark = pytest.mark.slow

# Pictures of at least four patches, ViTs with two blocks instead of 12 (timm's Mixers cannot be shortened).
PIXELS = {"s8": 32, "s16": 32, "b16": 32, "s32": 64, "b32": 64}


def smaller(name: str) -> list[str]:
    family, size = name.split("_")[:2]
    if family.startswith("resnet"):
        return ["augment.size=32", "augment.eval_resize=32"]
    pixels = PIXELS[size]
    depth = ["++model.kwargs.depth=2"] if family == "vit" else []
    return [f"augment.size={pixels}", f"augment.eval_resize={pixels}", *depth]


@pytest.mark.parametrize("name", names())
def test_two_steps_of_every_recipe(name, fashion_root):
    overrides = [
        *(f"experiment=table1/{name}", f"run.experiment=table1/{name}"),
        *("data=fashion_mnist", "data.backend=folder", f"paths.fashion_mnist={fashion_root}", "data.workers=0"),
        *("data.limit_train=16", "data.limit_eval=8", "train.batch_size=8", "train.precision=fp32"),
        *smaller(name),
        *([] if name.endswith("vanilla") else ["optimizer.group_size=4"]),
    ]
    config = load(compose(overrides), world=1)
    loader = build_loader(
        config.data, config.augment, "train", batch_size=8, rank=0, world=1, seed=config.train.seed, train=True
    )
    with Runtime.start() as runtime:
        stepper = Stepper(config, runtime, num_classes=loader.num_classes, num_examples=loader.num_examples)
        before = [p.detach().clone() for p in stepper.params]
        rows = [stepper.train_step([(images, labels)]) for images, labels in loader.epoch(0)]
    assert len(rows) == 2 and stepper.schedules.at(1).lr > 0
    assert any(not torch.equal(p, old) for p, old in zip(stepper.params, before, strict=True))
    row = rows[-1]
    assert all(value.isfinite() for name, value in row.items() if name != "cos" and value is not None), row
    if not name.startswith("resnet"):  # zero classifier kernel, bias -10, ten classes: 9 log(1+e^-10) + log(1+e^10)
        assert row["loss"].item() == pytest.approx(10.0, abs=0.1)
    assert (row["gap"] is not None) == (not name.endswith("vanilla"))


@pytest.mark.parametrize("model", sorted({name.rsplit("_", 1)[0] for name in names()}))
def test_full_size_network_runs_forward(model, fashion_root):
    here = ["run.experiment=test", "data=fashion_mnist", f"paths.fashion_mnist={fashion_root}"]  # no ImageNet needed
    config = load(compose([f"experiment=table1/{model}_gsam", *here]), world=1)
    network = build_model(config.model, num_classes=1000, image_size=224, seed=0)
    with torch.inference_mode():
        logits = network(torch.randn(2, 3, 224, 224))
    assert logits.shape == (2, 1000)
    if not model.startswith("resnet"):
        assert (logits == -10).all()  # zero kernel: the bias alone
