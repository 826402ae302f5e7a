"""The proofs that need two processes: gloo on the CPU, NCCL where there are two GPUs."""

import gc
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gsam import optim
from gsam.verify.task import closure, gsam_of, images, need, network, survives


def two_ranks(device: torch.device) -> str:
    """One perturbation per rank with DDP's model, one for all without; an overflow on one rank stops both."""
    cuda = device.type == "cuda" and torch.cuda.device_count() >= 2
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        torch.multiprocessing.spawn(_rank, (port, folder, cuda), nprocs=2)
        one, other = (torch.load(Path(folder) / f"{r}.pt", weights_only=True) for r in range(2))
    for name in ("per rank", "global"):
        need(torch.equal(one[name], other[name]), f"{name}: the ranks have drifted apart")
        deviation = (one[name] - _alone(2 if name == "per rank" else 1)).abs().max().item()
        need(deviation < 1e-10, f"{name}: {deviation:.1e} away from one process")
    need((one["per rank"] - one["global"]).abs().max().item() > 1e-3, "the two perturbations are the same")
    need(one["overflow"] == other["overflow"] == "", f"{one['overflow']} {other['overflow']}")
    return f"per rank = 2 groups, global = 1 group ({'nccl' if cuda else 'gloo'}); overflow on one stops both"


def _alone(groups: int) -> Tensor:
    net, (x, y) = network(torch.device("cpu"), 0.0, norm=False).double(), images(torch.device("cpu"))
    base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)

    def group(x: Tensor, y: Tensor) -> Callable[..., Tensor]:
        return lambda again=False, batch=0: (base.zero_grad(), closure(net, x, y)().detach())[1]

    for t in range(3):
        fns = [group(*part) for part in zip(x.double().chunk(groups), y.chunk(groups), strict=True)]
        optim.estimate(optim.GSAMEstimator(rho=0.3), list(net.parameters()), fns, optim.Step(t, 0.1, 0.3, 0.4))
        base.step()
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def _rank(rank: int, port: int, folder: str, cuda: bool) -> None:
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=2)
    result = _both_scopes_and_overflow(rank, device, [rank] if cuda else None)
    torch.save(result, Path(folder) / f"{rank}.pt")
    gc.collect()  # a DDP that outlives its process group now and then aborts the interpreter at exit
    dist.destroy_process_group()


def _both_scopes_and_overflow(rank: int, device: torch.device, ids: list[int] | None) -> dict[str, Any]:
    result = {}
    for name in ("per rank", "global"):
        net = nn.parallel.DistributedDataParallel(network(device, 0.0, norm=False).double(), ids)
        x, y = (t.chunk(2)[rank] for t in images(device))
        base = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        opt = gsam_of(base, net if name == "per rank" else None)
        for _ in range(3):
            opt.step(closure(net, x.double(), y))
        result[name] = torch.cat([p.detach().flatten() for p in net.parameters()]).cpu()
    problems = []
    for bad_pass in (0, 1):
        net = nn.parallel.DistributedDataParallel(network(device, 0.0), ids)
        held, text = survives(device, bad_pass, float("inf"), net, here=rank == 1)
        problems += [] if held else [f"rank {rank}, {text}"]
    return {**result, "overflow": "; ".join(problems)}
