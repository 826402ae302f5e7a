"""The process: its device, its rank, its random numbers, its precision."""

import gc
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous


class SharedError(ValueError):
    """A mistake that every rank knows of: rank 0 alone prints it."""


class Requeue(Exception):
    """The run was asked to leave, by the signal of this name, and has saved: the same command continues. Exit code 75."""

    def __init__(self, text: str, asked: str):
        super().__init__(text)
        self.asked = asked


class Precision(Enum):
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"  # with loss scaling


@dataclass(frozen=True)
class Runtime:
    """rank, world and local_rank come from torchrun's environment; without it this is the only process."""

    device: torch.device
    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @classmethod
    @contextmanager
    def start(cls) -> Iterator["Runtime"]:
        """Choose the device, join the process group when torchrun started this process, leave it at the end."""
        rank, world, local = (int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
        cuda = torch.cuda.is_available()
        if cuda and local >= torch.cuda.device_count():
            raise ValueError(
                f"local rank {local} has no GPU: {torch.cuda.device_count()} visible; start torchrun with "
                f"--nproc-per-node={torch.cuda.device_count()}, or set CUDA_VISIBLE_DEVICES= to train on the CPU"
            )
        device = torch.device("cuda", local) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(device)
        grouped = "MASTER_ADDR" in os.environ and "WORLD_SIZE" in os.environ
        if grouped:
            dist.init_process_group("nccl" if cuda else "gloo", timeout=patience(), **_own_store())
        try:
            yield cls(device, rank, world, local)
        finally:
            if grouped:
                gc.collect()  # a DDP module that outlives its process group now and then aborts the interpreter at exit
                dist.destroy_process_group()

    def autocast(self, precision: Precision) -> AbstractContextManager:
        """A NEW autocast block. One per pass: its cache of cast weights would serve the unperturbed ones to pass 2."""
        if precision is Precision.fp32:
            return nullcontext()
        dtype = torch.bfloat16 if precision is Precision.bf16 else torch.float16
        return torch.autocast(self.device.type, dtype)

    def scaler(self, precision: Precision) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=precision is Precision.fp16)

    def on_main(self, job: Callable[[], Any]) -> Any:
        """Run `job` on rank 0 while the others wait; its result on every rank. A ValueError or OSError of it becomes a
        ValueError on every rank: none is left waiting."""
        result, problem = None, None
        if self.is_main:
            try:
                result = job()
            except (ValueError, OSError) as error:
                problem = str(error)
        result, problem = self.broadcast((result, problem))
        if problem is not None:
            raise SharedError(problem)
        return result

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value (any picklable object) on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def total(self, value: int) -> int:
        """Collective: the sum of `value` over the ranks."""
        if self.world == 1:
            return value
        box = torch.tensor(value, device=self.device)
        dist.all_reduce(box)
        return int(box)

    def peak_memory_mb(self) -> float:
        """Peak memory of this process so far in MiB: allocated on the GPU, or resident on the CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def patience() -> timedelta:
    """How long a rank waits for the others in one collective before it fails. A host whose network or power is gone says
    nothing: this is when it is noticed. Half an hour, since rank 0 may prepare a data set meanwhile, or GSAM_TIMEOUT_S."""
    text = os.environ.get("GSAM_TIMEOUT_S", "1800")
    try:
        return timedelta(milliseconds=max(1, round(1000 * float(text))))
    except (ValueError, OverflowError):
        raise ValueError(f"GSAM_TIMEOUT_S={text} in the environment: must be a number of seconds") from None


def _own_store() -> dict[str, Any]:
    """After torchrun --max-restarts ranks would find the addresses of those that died: torchrun's store stays and torch 2.14
    uses the same keys again. On one node the number of the restart tells them apart. On several the numbers may differ: there
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 is needed, which gsam.launch.supervise sets."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0" or os.environ.get("GROUP_WORLD_SIZE") != "1":
        return {}
    store, rank, world = next(rendezvous("env://"))
    prefix = f"restart {os.environ['TORCHELASTIC_RESTART_COUNT']}"
    return {"store": dist.PrefixStore(prefix, store), "rank": rank, "world_size": world}


def seed_for(*key: int) -> int:
    """A 64-bit seed for torch from a tuple of non-negative integers (splitmix64, chained): near keys give unrelated seeds."""
    state = 0
    for part in key:
        state = (state + part + 0x9E3779B97F4A7C15) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
        state ^= state >> 31
    return state & (2**63 - 1)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device and git commit of this run, for its records."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("torchvision", "timm", "hydra-core", "omegaconf", "numpy", "ffcv", "numba"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} threads"
    return {"versions": versions, "device": name, "processor": processor(), "git_hash": git_hash()}


def processor() -> str:
    """The processor's name: floating-point sums may differ in their last bits between two kinds."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def git_hash() -> str | None:
    """Commit of the checkout, with "+" when tracked files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


class Normalize:
    """uint8 images (B, 3, H, W) on any device -> float32 (x / 255 - mean) / std on `device`. The copy is blocking: FFCV refills
    its buffers as soon as the next batch is asked for."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device, channels_last: bool = False):
        self.device = device
        self.shift = torch.tensor(mean, device=device).mul_(255.0).view(1, -1, 1, 1)
        self.scale = torch.tensor(std, device=device).mul_(255.0).reciprocal_().view(1, -1, 1, 1)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return images.to(self.device).to(torch.float32, memory_format=self.layout).sub_(self.shift).mul_(self.scale)
