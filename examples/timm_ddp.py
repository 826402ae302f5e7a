"""A timm model in processes:  torchrun --nproc-per-node=2 examples/timm_ddp.py <folder with Fashion-MNIST's .gz files>"""

import sys

import timm
import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from gsam import GSAM
from gsam.data import open_source
from gsam.runtime import Runtime


def train(runtime: Runtime, folder: str, steps: int) -> None:
    device, source = runtime.device, open_source("fashion_mnist", folder, "train")
    images, labels = torch.tensor(source.grey).to(device)[:, None] / 255, torch.tensor(source.labels).to(device)
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", in_chans=1, num_classes=10).to(device)
    ddp = DistributedDataParallel(net) if runtime.world > 1 else net
    base = torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    # model=ddp: each process perturbs with its own gradient, as in the paper; without it all share one perturbation.
    opt = GSAM(base, rho_max=0.1, rho_min=0.02, alpha=0.3, lr_max=0.1, model=ddp)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, steps)
    draws = torch.Generator().manual_seed(runtime.rank)
    for _ in range(steps):
        batch = torch.randint(0, len(images), (50,), generator=draws).to(device)

        def closure() -> torch.Tensor:
            loss = F.cross_entropy(ddp(images[batch]), labels[batch])
            loss.backward()
            return loss

        loss = opt.step(closure)  # the mean over processes
        scheduler.step()
    total = sum(t.double().sum() for t in net.state_dict().values())
    print(f"rank {runtime.rank}: loss {loss:.4f}, sum of weights and statistics {total:.9f}")


with Runtime.start() as runtime:  # device and process group from torchrun's environment
    train(runtime, sys.argv[1], int((sys.argv[2:] or [300])[0]))
