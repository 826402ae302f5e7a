"""Networks small enough for a dense Hessian, on real pictures."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from gsam.analysis.objective import BatchNorm, Objective
from gsam.data import open_source
from gsam.losses import LossKind, build_loss
from gsam.models import ModelConfig, build_model

CLASSES = 10


def pictures(root: Path, n: int, side: int) -> tuple[Tensor, Tensor]:
    """The first n pictures of Fashion-MNIST, float64 (n, 3, side, side), and their labels."""
    source = open_source("fashion_mnist", str(root), "train")
    images = torch.stack([torch.from_numpy(source[i][0].copy()) for i in range(n)]).permute(0, 3, 1, 2).double() / 255
    return F.interpolate(images - 0.3, side, mode="area"), torch.tensor([source[i][1] for i in range(n)])


def convnet() -> nn.Module:
    """Convolution, BatchNorm, ReLU, pooling, linear: 562 parameters. Its running statistics have seen nothing."""
    torch.manual_seed(0)
    body = [
        nn.Conv2d(3, 8, 3, stride=3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    ]
    return _off_the_kinks(nn.Sequential(*body, nn.Linear(32, CLASSES)).double())


def _off_the_kinks(model: nn.Module) -> nn.Module:
    """A fresh network gives ReLU exact zeros where a picture is black, and there is no second derivative."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=0.1, generator=generator)
    return model


def attention() -> VisionTransformer:
    """One block of timm's ViT, which calls torch's scaled_dot_product_attention: 1,498 parameters."""
    torch.manual_seed(0)
    size = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2, "mlp_ratio": 2}
    return VisionTransformer(**size, num_classes=CLASSES).double()


def small_convnet() -> nn.Module:
    """The quickstart's network."""
    return _off_the_kinks(
        build_model(ModelConfig(name="small_convnet"), num_classes=CLASSES, image_size=28, seed=0).double()
    )


NETS = {"convnet": (convnet, 14), "attention": (attention, 8), "small_convnet": (small_convnet, 28)}


@dataclass
class Case:
    """An objective over micro-batches of unequal size, and the same function written down again."""

    objective: Objective
    batches: list[tuple[Tensor, Tensor]]

    def value(self, weights: Tensor) -> Tensor:
        model, names = self.objective.model, self.objective.names
        named = dict(zip(names, self.objective.parts(weights), strict=True))
        losses = [F.cross_entropy(functional_call(model, named, (x,)), y, reduction="sum") for x, y in self.batches]
        return sum(losses) / sum(len(y) for _, y in self.batches)

    def dense(self) -> Tensor:
        """The Hessian (P, P) row by row from torch.func, in the mode that the objective is defined in."""
        model = self.objective.model.eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and self.objective.batchnorm is BatchNorm.batch:
                module.train()
                module.track_running_stats = False
        with sdpa_kernel(SDPBackend.MATH):
            found = jacrev(grad(self.value), chunk_size=128)(self.objective.weights)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = True
        model.eval()
        return found


def case(name: str, root: Path, batchnorm: BatchNorm = BatchNorm.eval, n: int = 25) -> Case:
    make, side = NETS[name]
    x, y = pictures(root, n, side)
    batches = list(zip(x.split(10), y.split(10), strict=True))
    loss = build_loss(LossKind.softmax, 0.0, CLASSES)
    return Case(Objective(make(), loss, lambda: batches, batchnorm), batches)
