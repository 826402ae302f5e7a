"""What a checkpoint may be continued under, and what is checked on the way."""

from pathlib import Path
from typing import Any

import torch

from gsam.config import Config, run_hash
from gsam.runtime import Runtime, SharedError
from gsam.train.stepper import effective_m


def facts(config: Config, runtime: Runtime) -> dict[str, Any]:
    """Stored with every checkpoint. With another configuration or m it is another run; with another of the rest not bit for
    bit the same. mixed: the pictures among which mixup and cutmix find their pairs, None without either."""
    mixes = config.augment.mixup > 0 or config.augment.cutmix > 0
    group = getattr(config.optimizer, "group_size", None) or config.train.batch_size // runtime.world
    return {
        "config_hash": run_hash(config), "m": effective_m(config, runtime.world), "world": runtime.world,
        "mixed": group if mixes else None,
        "torch": str(torch.__version__), "device": runtime.device.type,
    }  # fmt: skip


def compare(path: Path, stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Notes on what has changed since the checkpoint at `path` was written. Raises SharedError where it cannot continue."""
    if stored["config_hash"] != now["config_hash"]:
        raise SharedError(
            f"{path} is of another run (configuration {stored['config_hash']}, this one is {now['config_hash']}): give "
            f"run.dir=<another folder>, or leave it out; model.init={path} starts a new run from its weights"
        )
    if stored["m"] != now["m"]:
        raise SharedError(
            f"{path} was trained with m={stored['m']} images per perturbation on {stored['world']} rank(s), this command gives "
            f"m={now['m']} on {now['world']}: use {stored['world']} rank(s). Runs that may change their number of ranks need "
            "optimizer.group_size from the first step on"
        )
    names = {"world": "number of ranks", "torch": "torch", "device": "device"}
    was, mixed = stored["mixed"], now["mixed"]
    notes = [
        f"note: mixup or cutmix pairs other pictures from here on: within groups of {mixed}, before of {was}, since the number "
        f"of ranks was {stored['world']}; use {stored['world']} rank(s) for the same pairs"
    ] * (was != mixed)
    return notes + [
        f"note: {name} was {stored[key]} when the checkpoint was written, is {now[key]}: equal to rounding, not bit for bit"
        for key, name in names.items()
        if stored[key] != now[key]
    ]


def refuse_drift(runtime: Runtime, state: dict[str, torch.Tensor], step: int) -> None:
    """Collective. Raises SharedError when the ranks' weights or buffers differ in any bit, naming the first that does: one
    pass over the tensors and one small all-reduce."""
    if runtime.world == 1:
        return
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = torch.stack([t.detach().view(kinds[t.element_size()]).sum(dtype=torch.int64) for t in state.values()])
    high, low = sums.clone(), sums
    torch.distributed.all_reduce(high, torch.distributed.ReduceOp.MAX)
    torch.distributed.all_reduce(low, torch.distributed.ReduceOp.MIN)
    differing = (high != low).nonzero().flatten().tolist()
    if differing:
        raise SharedError(
            f"step {step}: the ranks have drifted apart, first in {list(state)[differing[0]]}; the checkpoints are from "
            "before. A device that computes wrongly, or a change to the weights on some ranks only?"
        )
