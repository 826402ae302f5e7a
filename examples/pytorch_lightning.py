"""GSAM in Lightning, with manual optimization:  python examples/pytorch_lightning.py <folder with Fashion-MNIST's .gz files>"""

import sys

import lightning
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gsam import GSAM
from gsam.data import open_source

folder, steps = sys.argv[1], int((sys.argv[2:] or [600])[0])


class Classifier(lightning.LightningModule):
    automatic_optimization = False  # Lightning's own loop calls backward once per step

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))

    def configure_optimizers(self):
        base = torch.optim.AdamW(self.parameters(), lr=3e-3)
        opt = GSAM(base, rho_max=0.1, rho_min=0.02, alpha=0.3, lr_max=3e-3, model=self.net)
        return [opt], [torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)]

    def training_step(self, batch, index):
        self.optimizers().step(lambda: self.closure(*batch))
        self.lr_schedulers().step()

    def closure(self, images, labels):
        loss = F.cross_entropy(self.net(images), labels)
        self.manual_backward(loss)
        return loss


sources = [open_source("fashion_mnist", folder, split) for split in ("train", "val")]
train, val = ((torch.tensor(s.grey) / 255, torch.tensor(s.labels)) for s in sources)
lightning.seed_everything(0)
model, quiet = Classifier(), {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
trainer = lightning.Trainer(max_steps=steps, devices=1, **quiet)
trainer.fit(model, DataLoader(TensorDataset(*train), batch_size=100, shuffle=True))
print(f"top-1 {(model.cpu().eval().net(val[0]).argmax(1) == val[1]).float().mean():.4f}")
