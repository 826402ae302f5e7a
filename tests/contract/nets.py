"""`contract_net`, a tiny network registered with timm: convolutions on 8 x 8 images in the kinds that training steps meet."""

import timm
import torch
from timm.layers import DropPath
from timm.models import register_model
from torch import nn

NETS = ("plain", "bn", "dropout", "drop_path", "frozen", "unused")


class ContractNet(nn.Module):
    """kind: plain (no norm, nothing random) · bn · dropout · drop_path (with BatchNorm) · frozen (first layer, BatchNorm) ·
    unused (one layer never used, another in some forward passes only, as layer dropping does: its gradient is None)."""

    def __init__(self, num_classes: int, in_chans: int, kind: str, drop_path_rate: float = 0.0):
        super().__init__()
        norm = nn.BatchNorm2d if kind in ("bn", "drop_path", "frozen") else nn.Identity
        self.kind, self.num_classes = kind, num_classes
        self.stem = nn.Sequential(nn.Conv2d(in_chans, 6, 3, 2, 1), norm(6), nn.GELU())
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, 1, 1), norm(6), nn.GELU())
        self.drop_path = DropPath(drop_path_rate)
        self.dropout = nn.Dropout(0.3 if kind == "dropout" else 0.0)
        self.head = nn.Linear(6, num_classes)
        if kind == "frozen":
            self.stem[0].requires_grad_(False)
        self.plan: list[bool] = []  # of `unused`: whether the next forward passes use the second layer; then by chance
        if kind == "unused":
            self.never, self.sometimes = nn.Linear(3, 3), nn.Conv2d(6, 6, 1)

    def forward(self, x):
        x = self.stem(x)
        if self.kind == "unused" and (self.plan.pop(0) if self.plan else torch.rand(()) < 0.5):
            x = x + self.sometimes(x)
        x = x + self.drop_path(self.block(x))
        return self.head(self.dropout(x.mean((2, 3))))


if not timm.is_model("contract_net"):

    @register_model
    def contract_net(pretrained=False, num_classes=5, in_chans=3, kind="plain", drop_path_rate=0.0, **_):
        return ContractNet(num_classes, in_chans, kind, drop_path_rate)
