"""Initialisation of the official JAX code (big_vision, vision_transformer) for timm's ViT and Mixer."""

import math
from enum import Enum

import torch
from torch import nn

# Standard deviation of a unit normal truncated to [-2, 2]. jax.nn.initializers divides by it so that the samples have
# the requested std; torch's trunc_normal_ does not.
TRUNCATED_STD = 0.87962566103423978


class InitScheme(Enum):
    """How weights are drawn when `model.init` is None: timm's own way, or the way of the official JAX code."""

    timm = "timm"
    big_vision = "big_vision"


def lecun_normal_(weight: torch.Tensor) -> None:
    """In place: truncated normal with std 1 / sqrt(fan in), the kernel default of flax Dense and Conv."""
    std = 1 / math.sqrt(weight[0].numel())
    nn.init.trunc_normal_(weight, std=std / TRUNCATED_STD, a=-2 * std / TRUNCATED_STD, b=2 * std / TRUNCATED_STD)


def init_vit(model: nn.Module) -> None:
    """In place, as big_vision/models/vit.py: for timm's VisionTransformer, classifier apart.

    Xavier-uniform kernels, with q, k and v as separate square matrices: timm fuses them into one (3d, d) matrix, and
    Xavier on that is sqrt(2) too small. MLP biases N(0, 1e-6), patch embedding lecun_normal, learned position
    embedding N(0, 1 / sqrt(width)) as in big_vision (timm: 0.02).
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            for kernel in module.weight.chunk(3) if name.endswith("attn.qkv") else (module.weight,):
                nn.init.xavier_uniform_(kernel)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=1e-6 if ".mlp." in name else 0.0)
        elif isinstance(module, nn.Conv2d):
            lecun_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if model.cls_token is not None:
        nn.init.zeros_(model.cls_token)
    if model.pos_embed is not None:
        nn.init.normal_(model.pos_embed, std=1 / math.sqrt(model.embed_dim))


def init_mixer(model: nn.Module) -> None:
    """In place, as big_vision/models/mlp_mixer.py: lecun_normal kernels, biases 0; classifier apart."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            lecun_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def init_big_vision(model: nn.Module) -> None:
    """In place: the initialisation of the official JAX code, classifier kernel and bias zero.

    Raises ValueError for anything but timm's plain VisionTransformer and MlpMixer: the JAX code has no other.
    """
    from timm.models.mlp_mixer import MlpMixer
    from timm.models.vision_transformer import VisionTransformer

    if type(model) is VisionTransformer and model.reg_token is None and model.attn_pool is None:
        init_vit(model)
    elif type(model) is MlpMixer:
        init_mixer(model)
    else:
        raise ValueError(
            f"model.scheme=big_vision: the official code has no {type(model).__name__} of this form, only plain ViT "
            "(class token or average pooling) and MLP-Mixer; use model.scheme=timm"
        )
    zero_head(model)


def zero_head(model: nn.Module, bias: float = 0.0) -> None:
    """In place: classifier kernel 0 and bias `bias` (Dosovitskiy et al. 2021, appendix B.1.1, for fine-tuning)."""
    head = model.get_classifier()
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, bias)
