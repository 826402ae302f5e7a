"""The command that runs one training on what is at hand: this process alone, the GPUs of this host, a Slurm job's nodes."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

THIS_NODE = "--this-node"  # gsam.launch.nodes
ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "train.py"


def training_command(overrides: Sequence[str], gpus: int) -> list[str]:
    """train.py with these overrides, `gpus` processes per host (0 and 1: one). It exits with train.py's codes; SIGTERM, SIGINT
    and SIGUSR1 let it save and leave."""
    return command([str(TRAIN), *overrides], gpus)


def command(words: Sequence[str], processes: int) -> list[str]:
    """A script and its arguments, with `processes` ranks on each host of this Slurm job, or on this host."""
    if int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) > 1:
        return [sys.executable, "-m", "gsam.launch.nodes", str(max(1, processes)), *words]
    if processes <= 1:
        return [sys.executable, *words]
    in_job = "SLURM_JOB_ID" in os.environ
    launch = ["-m", "gsam.launch.nodes", THIS_NODE] if in_job else [str(ROOT / "scripts" / "launch.py")]
    return [sys.executable, *launch, "--standalone", f"--nproc-per-node={processes}", *words]
