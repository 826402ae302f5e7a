"""GSAM with Hugging Face Accelerate:  accelerate launch examples/hf_accelerate.py <folder with Fashion-MNIST's .gz files>"""

import sys

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gsam import GSAM
from gsam.data import open_source

folder, steps = sys.argv[1], int((sys.argv[2:] or [600])[0])
sources = [open_source("fashion_mnist", folder, split) for split in ("train", "val")]
train, val = ((torch.tensor(s.grey) / 255, torch.tensor(s.labels)) for s in sources)
torch.manual_seed(0)
net = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))

accelerator = Accelerator(mixed_precision="bf16")  # not fp16: Accelerate's scaler takes no closure
net, loader = accelerator.prepare(net, DataLoader(TensorDataset(*train), batch_size=100, shuffle=True))
base = torch.optim.AdamW(net.parameters(), lr=3e-3)
opt = GSAM(base, rho_max=0.1, rho_min=0.02, alpha=0.3, lr_max=3e-3, model=net)  # the prepared net: it may be a DDP
opt = accelerator.prepare(opt)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)  # not prepared: it would step once per process

for (x, y), _ in zip(loader, range(steps), strict=False):

    def closure() -> torch.Tensor:
        loss = F.cross_entropy(net(x), y)
        accelerator.backward(loss)
        return loss

    opt.step(closure)
    scheduler.step()

with torch.no_grad():
    predicted = net.eval()(val[0].to(accelerator.device)).argmax(1).cpu()
accelerator.print(f"top-1 {(predicted == val[1]).float().mean():.4f}")
