"""A Slurm cluster of two nodes on this machine: munged, slurmctld and two slurmd on the loopback interface, in a folder of
their own. `cluster(folder)` starts it and ends it, whatever happens in between."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from gsam.launch.process import environment
from scripts.resume_check import family

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
NODES = ("n1", "n2")
PATIENCE_S = 240  # a training takes seconds, on a busy machine minutes
CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits for cred_expire + 1 s; 5 is the least.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
MailProg=/bin/true
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
MpiDefault=none
# No control groups and no accounting: a container has neither.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
PropagateResourceLimits=NONE
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=2,sched_min_interval=0
ReturnToService=2
JobRequeue=0
KillWait=20
SlurmdTimeout=10
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=DEFAULT CPUs=4 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]}
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Unavailable(Exception):
    """Why there can be no Slurm here."""


def install() -> None:
    """Slurm's daemons and commands from Debian or Ubuntu. Raises Unavailable with the reason."""
    if os.getuid() != 0:
        raise Unavailable("Slurm's daemons need root")
    if all(shutil.which(name) for name in ("slurmctld", "slurmd", "sbatch", "munged")):
        return
    if shutil.which("apt-get") is None:
        raise Unavailable(f"no apt-get to install {' '.join(PACKAGES)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    words = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
    if _quiet(words, env) and (_quiet(["apt-get", "update"], env) or _quiet(words, env)):
        raise Unavailable(f"apt-get could not install {' '.join(PACKAGES)}")


def _quiet(words: list[str], env: dict[str, str]) -> int:
    try:
        return subprocess.run(words, env=env, capture_output=True, timeout=120).returncode
    except subprocess.TimeoutExpired:
        return 1


class Cluster:
    """Slurm's commands on it, as methods, and the environment for other commands."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PYTHONUNBUFFERED": "1"}

    def __call__(self, *words: str) -> str:
        """Output of a command such as `sinfo -h`. Raises AssertionError when it fails."""
        run = subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, f"{' '.join(words)}: {run.stdout}{run.stderr}{self.logs()}"
        return run.stdout

    def job(self, number: str) -> dict[str, str]:
        """What `scontrol show job` says of a job or array task: JobState, Restarts, ExitCode, Reason …"""
        text = self("scontrol", "show", "job", "-o", number)
        return dict(word.partition("=")[::2] for word in text.split() if "=" in word)

    def wait(self, number: str, states: set[str], seconds: float = PATIENCE_S) -> dict[str, str]:
        """Until the job is in one of the states."""
        until(lambda: self.job(number)["JobState"] in states, lambda: f"{self.job(number)}\n{self.logs()}", seconds)
        return self.job(number)

    def start_node(self, name: str) -> None:
        self("slurmd", "-N", name)

    def kill_node(self, name: str) -> None:
        """As if its power went: slurmd, and all that it started, by SIGKILL."""
        daemon = int((self.folder / f"slurmd.{name}.pid").read_text())
        steps = [family(pid) for pid in processes("slurmstepd: [")]
        here = [pids for pids in steps if any(self._runs_on(name, pid) for pid in pids)]
        for pid in [daemon, *(pid for pids in here for pid in pids)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _runs_on(self, name: str, pid: int) -> bool:
        env = environment(pid)
        return (env.get("SLURM_CONF"), env.get("SLURMD_NODENAME")) == (self.env["SLURM_CONF"], name)

    def logs(self) -> str:
        files = sorted(self.folder.glob("*.log"))
        return "".join(f"--- {file.name}\n{file.read_text(errors='replace')[-1500:]}\n" for file in files)


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Raises Unavailable where Slurm cannot be installed."""
    install()
    with ExitStack() as stack, ExitStack() as ports:
        sockets = [ports.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        numbers = [each.getsockname()[1] for each in sockets]
        (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, ports=numbers))
        ports.close()
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")  # as good as any
        slurm = Cluster(folder)
        (folder / "state").mkdir()
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log"}
        files["seed-file"] = "munge.seed"
        own = [f"--{option}={folder / name}" for option, name in files.items()]
        stack.callback(_kill_daemons, folder)
        slurm("munged", "--force", *own)  # although nobody else can reach the socket in a private folder
        slurm("slurmctld", "-c")
        for name in NODES:
            slurm.start_node(name)
        until(lambda: slurm("sinfo", "-h", "-o", "%D %T").split() == ["2", "idle"], slurm.logs)
        stack.callback(_end_jobs, slurm)
        yield slurm


def _end_jobs(slurm: Cluster) -> None:
    with suppress(AssertionError, subprocess.TimeoutExpired):
        slurm("scancel", "--user", getpass.getuser())
        slurm("scancel", "--user", getpass.getuser(), "--signal=KILL", "--full")
        deadline = time.monotonic() + 10
        while slurm("squeue", "-h") and time.monotonic() < deadline:
            time.sleep(0.1)
        slurm("scontrol", "shutdown")


def _kill_daemons(folder: Path) -> None:
    """By the numbers in their own files, never by name; slurmctld and slurmd have a moment to end by themselves."""
    deadline = time.monotonic() + 5
    while list(folder.glob("slurm*.pid")) and time.monotonic() < deadline:
        time.sleep(0.1)
    for file in [*folder.glob("slurm*.pid"), *folder.glob("munged.pid")]:
        with suppress(ProcessLookupError, ValueError, FileNotFoundError):
            os.kill(int(file.read_text()), signal.SIGKILL)


def until(happened: Callable[[], object], text: Callable[[], str], seconds: float = PATIENCE_S) -> None:
    """Wait for it; else fail with the text."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, text()
        time.sleep(0.05)


def processes(beginning: str = "") -> list[int]:
    """Process ids by the beginning of the command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if file.read_bytes().decode(errors="replace").startswith(beginning):
                found.append(int(file.parent.name))
    return found
