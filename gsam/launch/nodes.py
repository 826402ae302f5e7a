"""All nodes of a Slurm job: `srun` starts one supervised torchrun on each.

python -m gsam.launch.nodes 8 train.py experiment=…      within the job: 8 processes per node
"""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence

from gsam.cli import SIGNALS
from gsam.launch.allocation import THIS_NODE
from gsam.launch.child import run as run_child
from gsam.launch.supervise import run as supervised

ANSWER_S = 60  # for a node to start a task


def run(processes: int, words: Sequence[str]) -> int:
    """The exit code: the highest of any node."""
    nodes = os.environ["SLURM_JOB_NUM_NODES"]
    first = _output("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()[0]
    with socket.create_server(("", 0)) as free:  # the batch script, and so this process, runs on the first node
        port = free.getsockname()[1]
    srun = [
        *_on_each(nodes),
        "--cpu-bind=none",  # else Slurm may bind a node's only task, and all its ranks, to one core
        "--kill-on-bad-exit=0", "--wait=60",  # the nodes leave together; one whose peers failed has a minute to notice
    ]  # fmt: skip
    if cores := os.environ.get("SLURM_CPUS_PER_TASK"):  # since Slurm 22.05 a step does not inherit it
        srun.append(f"--cpus-per-task={cores}")
    # A rendezvous of its own for each start: agents of one before may still be there.
    torchrun = [
        f"--nnodes={nodes}", f"--nproc-per-node={processes}", "--rdzv-backend=c10d",
        f"--rdzv-id={os.environ['SLURM_JOB_ID']}-{secrets.token_hex(4)}", f"--rdzv-endpoint={_address(first)}:{port}",
    ]  # fmt: skip
    return run_child([*srun, sys.executable, "-m", "gsam.launch.nodes", THIS_NODE, *torchrun, *words], SIGNALS)[0]


def run_here(torchrun: Sequence[str]) -> int:
    """This node's part: a task of srun, or all there is in a job of one node."""
    # Slurm's SIGTERM and srun's SIGUSR1 reach every process of a node. torchrun, which inherits this, would kill its ranks 30 s
    # after the one, however long the cluster's grace time is, and die of the other.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    os.environ["PET_SIGNALS_TO_HANDLE"] = "SIGINT,SIGHUP"  # torchrun's option --signals-to-handle, where it has that
    return supervised(torchrun)


def silent() -> bool:
    """Whether a node of this job, of several, starts nothing, for whatever reason: known at once."""
    nodes = os.environ["SLURM_JOB_NUM_NODES"]
    try:
        return (
            nodes != "1"
            and subprocess.run([*_on_each(nodes), "--overlap", "/bin/true"], timeout=ANSWER_S).returncode != 0
        )
    except subprocess.TimeoutExpired:
        return True


def down() -> bool:
    """Whether Slurm says of a node of this job that it is down, or (*) does not respond: known after a while."""
    ask = ["sinfo", "--noheader", "--Node", f"--nodes={os.environ['SLURM_JOB_NODELIST']}", "--format=%T"]
    states = subprocess.run(ask, stdout=subprocess.PIPE, text=True).stdout.split()
    return any(state.endswith("*") or state.startswith("down") for state in states)


def _on_each(nodes: str) -> list[str]:
    """One task per node, with the environment of this process whatever the cluster's or the job's --export is."""
    return ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--mpi=none", "--export=ALL"]


def _address(node: str) -> str:
    """Where Slurm itself finds the node."""
    found = re.search(r"\bNodeAddr=(\S+)", _output("scontrol", "show", "node", node))
    return found[1] if found else node


def _output(*words: str) -> str:
    return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(run_here(sys.argv[2:]) if sys.argv[1] == THIS_NODE else run(int(sys.argv[1]), sys.argv[2:]))
