"""A tiny real task: a two-layer net with BatchNorm and dropout on 64 seeded points."""

import torch
from torch import nn


def tiny_net(dtype=torch.float32, norm=True, dropout=0.2):
    torch.manual_seed(0)
    layers = [
        nn.Linear(8, 16),
        nn.BatchNorm1d(16) if norm else nn.Identity(),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(16, 5),
    ]
    return nn.Sequential(*layers).to(dtype)


def tiny_data(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 8, generator=generator, dtype=dtype)
    return x, torch.randint(0, 5, (64,), generator=generator)
