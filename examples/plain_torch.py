"""GSAM in a plain loop. Needs torch only:  python examples/plain_torch.py <folder with Fashion-MNIST's four .gz files>"""

import gzip
import sys

import torch
import torch.nn.functional as F
from torch import nn

from gsam import GSAM

folder, steps = sys.argv[1], int((sys.argv[2:] or [600])[0])


def read(name: str, header: int) -> torch.Tensor:
    return torch.frombuffer(bytearray(gzip.open(f"{folder}/{name}-ubyte.gz").read()[header:]), dtype=torch.uint8)


images, labels = read("train-images-idx3", 16).view(-1, 1, 28, 28) / 255, read("train-labels-idx1", 8).long()
torch.manual_seed(0)
block = [nn.Conv2d(1, 16, 5, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU()]
net = nn.Sequential(*block, nn.Flatten(), nn.Dropout(0.2), nn.Linear(800, 10))
base = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.01)
opt = GSAM(base, rho_max=0.1, rho_min=0.02, alpha=0.3, lr_max=3e-3, model=net)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)  # rho follows the learning rate

for _ in range(steps):
    batch = torch.randint(0, len(images), (100,))

    def closure() -> torch.Tensor:  # called once per pass, at the weights and at the perturbed weights
        loss = F.cross_entropy(net(images[batch]), labels[batch])
        loss.backward()
        return loss

    opt.step(closure)
    scheduler.step()

with torch.no_grad():
    correct = net.eval()(read("t10k-images-idx3", 16).view(-1, 1, 28, 28) / 255).argmax(1) == read(
        "t10k-labels-idx1", 8
    )
print(f"top-1 {correct.float().mean():.4f}")
