"""Real processes for tests: `run_ranks(2, fn, *args)` runs fn(rank, *args) under gloo and returns what each returned."""

import os
import socket
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _enter(rank, world, port, folder, fn, args):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        torch.save(fn(rank, *args), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def run_ranks(world, fn, *args, start="fork"):
    """start="spawn" is slower; compiled modules need it."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_enter, (world, free_port(), folder, fn, args), nprocs=world, start_method=start)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(world)]
