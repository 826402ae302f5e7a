"""What a GSAM step costs beyond its two gradients and its base optimizer, against the memory bandwidth it needs and a peer.

    overhead = GSAM step - 2 x (forward + backward) - base step           every copy and zeroing included
    floor    = 12 N x 4 bytes / the best triad bandwidth measured in the same run (N parameters)

All are measured in turns in one run; the overhead is the median over rounds of each round's own difference. The last line
printed is one JSON object. The peer is pytorch_optimizer (its SAM and GSAM).
"""

import argparse
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median

import common
import torch
import torch.nn.functional as F

from gsam import GSAM, SAM

FLOOR_FLOATS = 12  # norm 1, perturb 4, two dot products 2, combine and restore 5
LR = 1e-4


def setting(name: str, batch: int):
    """Model, a gradient function and a base optimizer, all the same for ours and the peer's."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name).to(common.device())
    size = model.pretrained_cfg.get("input_size", (3, 224, 224))[-1]
    x = torch.randn(batch, 3, size, size, device=common.device())
    y = torch.zeros(batch, dtype=torch.long, device=common.device())

    def closure():
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    return model, closure, torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)


def our_steps(name: str, batch: int):
    model, closure, base = setting(name, batch)
    gsam = GSAM(base, rho_max=0.05, rho_min=0.05, alpha=0.1, lr_max=LR, model=model)
    sam = SAM(base, rho=0.05, model=model)

    def gradient():
        model.zero_grad(set_to_none=True)
        closure()

    return {
        "gradient": gradient,
        "base_step": base.step,
        "gsam": lambda: gsam.step(closure),
        "sam": lambda: sam.step(closure),
    }


def peer_steps(name: str, batch: int):
    import pytorch_optimizer as peer

    model, closure, base = setting(name, batch)
    schedule = torch.optim.lr_scheduler.ConstantLR(base, factor=1.0)
    rho = peer.ProportionScheduler(schedule, max_lr=LR, min_lr=LR, max_value=0.05, min_value=0.05)
    gsam = peer.GSAM(model.parameters(), base, model, rho, alpha=0.1)
    sam = peer.SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=LR, momentum=0.9)

    def gsam_closure():
        model.zero_grad(set_to_none=True)
        with torch.enable_grad():
            return None, closure()

    def sam_closure():
        model.zero_grad(set_to_none=True)
        return closure()

    def sam_step():
        sam_closure()
        sam.step(sam_closure)

    return {"peer_gsam": lambda: gsam.step(gsam_closure), "peer_sam": sam_step}


def overheads(times: dict[str, list[float]], step: str) -> list[float]:
    parts = zip(times[step], times["gradient"], times["base_step"], strict=True)
    return [total - 2 * gradient - base for total, gradient, base in parts]


def memory(name: str, batch: int, kind: str) -> float:
    """Peak memory in MiB of three steps, in a process of its own: the GPU's, else resident."""
    command = [sys.executable, __file__, "--model", name, "--batch", str(batch), "--memory-of", kind]
    # Large tensors in mappings of their own: else the holes in malloc's heap are counted too, 0.2 copies of a ViT-B.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    return float(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()[-1])


def memory_of(name: str, batch: int, kind: str) -> float:
    from gsam.optim import GSAMEstimator, Step, estimate

    model, closure, base = setting(name, batch)

    def grad_fn(*, again: bool = False, batch: int = 0):
        base.zero_grad(set_to_none=True)
        return closure().detach()

    estimator, params = GSAMEstimator(rho=0.05), list(model.parameters())
    for i in range(3):
        if kind == "vanilla":
            grad_fn()
        else:
            estimate(estimator, params, [grad_fn] * int(kind), Step(i, LR, 0.05, 0.1))
        base.step()
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    lines = Path("/proc/self/status").read_text().splitlines()  # ru_maxrss would start from the parent's
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch32_224", help="timm name (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="images per gradient; small, the passes are not the point")
    parser.add_argument("--rounds", type=int, default=9, help="each measures everything once (default: %(default)s)")
    common.arguments(parser)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(memory_of(args.model, args.batch, args.memory_of))
        return

    steps = our_steps(args.model, args.batch) | peer_steps(args.model, args.batch)
    count = sum(p.numel() for p in setting(args.model, args.batch)[0].parameters())
    triad = common.Triad(count, common.device())
    times = common.in_turns(steps | {"triad": triad}, args.rounds)
    bandwidth = triad.bandwidth(min(times["triad"]))
    floor = FLOOR_FLOATS * count * 4 / bandwidth
    extra = {name: median(overheads(times, name)) for name in ("gsam", "sam", "peer_gsam", "peer_sam")}
    peak = {kind: memory(args.model, args.batch, kind) for kind in ("vanilla", "1", "4")}
    copies = {f"copies_{k}_groups": (peak[k] - peak["vanilla"]) * 2**20 / (4 * count) for k in ("1", "4")}
    result = {
        "model": args.model, "parameters": count, "rounds": args.rounds,
        "ratio_to_floor": extra["gsam"] / floor, "ratio_to_peer": extra["gsam"] / extra["peer_gsam"],
        "sam_ratio_to_peer": extra["sam"] / extra["peer_sam"], "floor_to_peer": floor / extra["peer_gsam"],
        "floor_s": floor, "bandwidth_gb_s": bandwidth / 1e9,
        **{f"{name}_overhead_s": value for name, value in extra.items()}, **copies,
        **{f"{name}_s": value for name, value in common.medians(times).items()},
        "pytorch_optimizer": version("pytorch_optimizer"),
    }  # fmt: skip
    common.report("optimizer", result, args)


if __name__ == "__main__":
    main()
