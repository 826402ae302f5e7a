"""Every recipe of Table 1 composed, loaded and stepped twice on small pictures; every full-size network run once."""

import pytest
import torch

from gsam.config import load
from gsam.models import build_model
from gsam.recipes import compose, names
from gsam.runtime import Runtime
from gsam.train.trainer import Trainer

pytestmark = pytest.mark.slow

# Two blocks instead of 8 or 12, and pictures of at least four patches: the recipe is tested here, the network below.
PIXELS = {"s8": 32, "s16": 32, "b16": 32, "s32": 64, "b32": 64}


def smaller(name: str) -> list[str]:
    family, size = name.split("_")[:2]
    if family.startswith("resnet"):
        return ["augment.size=32", "augment.eval_resize=32"]
    depth = "depth" if family == "vit" else "num_blocks"
    pixels = PIXELS[size]
    return [f"augment.size={pixels}", f"augment.eval_resize={pixels}", f"++model.kwargs.{depth}=2"]


@pytest.mark.parametrize("name", names())
def test_two_steps_of_every_recipe(name, fashion_root, tmp_path):
    overrides = [
        *(f"experiment=table1/{name}", f"run.experiment=table1/{name}", f"run.root={tmp_path}"),
        *("data=fashion_mnist", "data.backend=folder", f"paths.fashion_mnist={fashion_root}", "data.workers=0"),
        *("data.limit_train=16", "data.limit_eval=8", "train.batch_size=8", "train.precision=fp32"),
        *smaller(name),
        *([] if name.endswith("vanilla") else ["optimizer.group_size=4"]),
    ]
    with Runtime.start() as runtime:
        trainer = Trainer(load(compose(overrides), world=1), runtime)
        before = [p.detach().clone() for p in trainer.params]
        for images, labels in trainer.train_loader.epoch(0):
            trainer.train_step(images, labels)
    assert trainer.step == 2
    row = trainer.meter.means()
    assert all(torch.isfinite(torch.tensor(v)) for k, v in row.items() if k != "cos"), row
    moved = [not torch.equal(p, old) for p, old in zip(trainer.params, before, strict=True)]
    assert any(moved), "the second step has a positive learning rate"
    if not name.startswith("resnet"):  # zero classifier kernel, bias -10, ten classes: 9 log(1+e^-10) + log(1+e^10)
        assert row["loss"] == pytest.approx(10.0, abs=0.1)
    assert ("gap" in row) == (not name.endswith("vanilla"))


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
