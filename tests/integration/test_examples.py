"""Every script in examples/ runs as its first line says, and learns."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NEEDS = {"pytorch_lightning": "lightning", "hf_accelerate": "accelerate", "timm_ddp": "timm"}
ACCELERATE = ["-m", "accelerate.commands.launch"]  # what `accelerate launch` runs; one process on a CPU
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def output(*command: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    run = subprocess.run([sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("name", "launcher"), [
    ("plain_torch", []), ("pytorch_lightning", []), ("hf_accelerate", ACCELERATE),
    ("hf_accelerate", TORCHRUN),  # two processes: there the prepared net is a DDP
], ids=["plain_torch", "pytorch_lightning", "hf_accelerate", "hf_accelerate-2"])  # fmt: skip
def test_it_learns(name, launcher, fashion_root):
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed (the extra `dev` has it)")
    text = output(*launcher, f"examples/{name}.py", str(fashion_root), "150")
    assert float(re.search(r"top-1 (\S+)", text)[1]) > 0.75


@pytest.mark.slow
def test_two_processes_learn_and_agree(fashion_root):
    text = output(*TORCHRUN, "examples/timm_ddp.py", str(fashion_root), "40")
    first, second = re.findall(r"loss ([\d.]+), sum of weights and statistics (-?[\d.]+)", text)
    assert first == second and float(first[0]) < 1.5


def test_the_plain_loop_needs_torch_only():
    source = (ROOT / "examples" / "plain_torch.py").read_text()
    third = set(re.findall(r"^(?:import|from) (\w+)", source, re.M)) - set(sys.stdlib_module_names)
    assert third == {"torch", "gsam"} and "from gsam import GSAM\n" in source


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_are_short_and_name_their_command(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 50 and f"examples/{path.name}" in lines[0]
    assert len([line for line in lines if line.strip()]) <= 40
