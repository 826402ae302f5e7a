"""What f is, and that measuring it changes nothing of the network."""

import pytest
import torch

from gsam.analysis.eigen import random_vector
from gsam.analysis.objective import BatchNorm, Objective
from gsam.losses import LossKind, build_loss
from gsam.models import ModelConfig, build_model
from tests.unit.analysis.nets import CLASSES, attention, case, convnet, pictures


def test_the_network_is_as_it_was(fashion_root):
    one = case("convnet", fashion_root, BatchNorm.batch)
    model = one.objective.model.train()
    model[1].eval()  # frozen by its user
    before, modes = {k: v.clone() for k, v in model.state_dict().items()}, [m.training for m in model.modules()]
    drawn = torch.get_rng_state()
    one.objective.hvp(torch.ones_like(one.objective.weights))
    one.objective.gradient(one.objective.weights + 1)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes and model[1].track_running_stats
    assert all(p.grad is None for p in model.parameters()) and torch.equal(torch.get_rng_state(), drawn)


def test_products_do_not_depend_on_what_is_kept(fashion_root):
    """All graphs, the first one alone, none; after new weights none of the old ones."""
    one = case("convnet", fashion_root)
    f, vector = one.objective, torch.ones_like(one.objective.weights)
    first = f.hvp(vector)
    assert len(f._kept) == 3
    size = f._kept[0].size
    few = Objective(f.model, f._loss, f.batches, keep_bytes=int(1.5 * size))
    none = Objective(f.model, f._loss, f.batches, keep_bytes=0)
    for other in (f, few, few, none):
        other.hvp(vector, f.weights + 1)
        assert torch.equal(other.hvp(vector), first)
    assert len(few._kept) == 1 and not none._kept
    moved = f.hvp(vector, f.weights * 1.1)
    with torch.no_grad():
        for p in f.model.parameters():
            p.mul_(1.1)
    f.refresh()
    assert torch.allclose(f.hvp(vector), moved, rtol=1e-12) and not torch.allclose(moved, first, rtol=1e-3)


def test_batch_statistics_are_those_of_training(fashion_root):
    x, y = pictures(fashion_root, 20, 14)
    model, loss = convnet(), build_loss(LossKind.softmax, 0.1, CLASSES)
    wanted = loss(model.train()(x), y).item()
    found = {mode: Objective(model, loss, lambda: [(x, y)], mode).loss() for mode in BatchNorm}
    assert found[BatchNorm.batch] == pytest.approx(wanted, rel=1e-12)
    assert found[BatchNorm.eval] == pytest.approx(loss(model.eval()(x), y).item(), rel=1e-12)
    assert abs(found[BatchNorm.eval] - wanted) > 1e-3


def test_sigmoid_loss_in_double_precision(fashion_root):
    """Float32 inside the loss would limit every curvature to seven digits."""
    x, y = pictures(fashion_root, 20, 8)
    loss = build_loss(LossKind.sigmoid, 1e-4, CLASSES)
    f = Objective(attention(), loss, lambda: [(x, y)])
    assert loss(f.model(x), y).dtype is torch.float64
    vector = torch.ones_like(f.weights)
    _, ahead = f.gradient(f.weights + 1e-6 * vector)
    _, back = f.gradient(f.weights - 1e-6 * vector)
    assert torch.allclose((ahead - back) / 2e-6, f.hvp(vector), rtol=1e-5, atol=1e-6)


def test_gradient_checkpointing_and_frozen_layers(fashion_root):
    x, y = pictures(fashion_root, 10, 8)
    loss = build_loss(LossKind.softmax, 0.0, CLASSES)
    plain, stored = attention(), attention()
    stored.set_grad_checkpointing()
    for model in (plain, stored):
        model.patch_embed.requires_grad_(False)
    f, g = (Objective(model, loss, lambda: [(x, y)]) for model in (plain, stored))
    assert "patch_embed.proj.weight" not in f.names and "head.weight" in f.names
    moved = f.weights + 0.1  # not the model's own: what is recomputed must see these
    assert torch.equal(f.hvp(moved, moved), g.hvp(moved, moved)) and stored.grad_checkpointing


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_small_patch32_224", "mixer_s32_224", "resnet50"])
def test_the_networks_of_the_paper(name, fashion_root):
    """At their real size, in single precision: <u, H v> = <v, H u>, of a matrix that is not zero."""
    x, y = pictures(fashion_root, 2, 224)
    model = build_model(ModelConfig(name=name), num_classes=CLASSES, image_size=224, seed=0)
    f = Objective(model, build_loss(LossKind.softmax, 0.0, CLASSES), lambda: [(x, y)])
    u, v = f.gradient()[1], random_vector(f.weights, 0)
    left, right = (u.double() @ f.hvp(v).double()).item(), (v.double() @ f.hvp(u).double()).item()
    assert left == pytest.approx(right, rel=1e-2) and f.hvp(u).norm() > 1e-3 * u.norm()
