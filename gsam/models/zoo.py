"""Networks that timm lacks, registered with timm on import, so that any code that takes a timm name takes these too."""

from typing import Any

import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.mlp_mixer import MlpMixer
from torch import Tensor, nn

__all__ = ["SmallConvNet", "mixer_s8_224", "small_convnet"]

default_cfgs = generate_default_cfgs(
    {
        "mixer_s8_224.untrained": {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "fixed_input_size": True,
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "stem.proj",
            "classifier": "head",
        },
        "small_convnet.untrained": {
            "num_classes": 10,
            "input_size": (3, 28, 28),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "features.0.conv",
            "classifier": "head",
        },
    }
)


class ConvNorm(nn.Module):
    """Convolution without bias, BatchNorm, ReLU: (B, Cin, H, W) -> (B, Cout, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, in_chans: int, out_chans: int, kernel: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(in_chans, out_chans, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_chans)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class SmallConvNet(nn.Module):
    """Four convolutions with BatchNorm, global average pooling, one linear layer: 281,258 parameters at 3 -> 10.

    For images of 28 to 32 pixels on a CPU: the first two layers bring 28 pixels down to 7, so that a forward pass takes
    5.5 M multiply-adds. Forward: images (B, in_chans, H, W) -> logits (B, num_classes).
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0):
        super().__init__()
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = 160
        self.features = nn.Sequential(
            ConvNorm(in_chans, 32, kernel=5, stride=2),
            nn.MaxPool2d(2),
            ConvNorm(32, 64, kernel=3, stride=1),
            ConvNorm(64, 128, kernel=3, stride=2),
            ConvNorm(128, 160, kernel=3, stride=1),
        )
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """The last linear layer (timm's protocol)."""
        return self.head

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> feature maps (B, 160, H / 8, W / 8)."""
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature maps (B, 160, h, w) -> logits (B, num_classes), or the pooled features (B, 160)."""
        x = self.head_drop(x.mean((2, 3)))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


@register_model
def small_convnet(pretrained: bool = False, **kwargs: Any) -> SmallConvNet:
    """The quickstart's network; there are no pretrained weights."""
    return build_model_with_cfg(SmallConvNet, "small_convnet", pretrained, **kwargs)


@register_model
def mixer_s8_224(pretrained: bool = False, **kwargs: Any) -> MlpMixer:
    """Mixer-S/8 of Tolstikhin et al. 2021, Table 1 (20,646,504 parameters); there are no pretrained weights."""
    size = {"patch_size": 8, "num_blocks": 8, "embed_dim": 512}
    return build_model_with_cfg(MlpMixer, "mixer_s8_224", pretrained, **{**size, **kwargs})
