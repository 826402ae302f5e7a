"""Linux's processes: ending with the parent, adopting orphans, who is whose child. Without effect on other systems."""

import ctypes
import os
import signal
import sys
from pathlib import Path

PROC = Path("/proc")
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
ORPHANED = 128 + signal.SIGTERM  # exit code of a process whose parent had ended before it could ask to end with it


def end_with(parent: int, number: int = signal.SIGTERM) -> None:
    """This process gets the signal, SIGTERM, as soon as `parent`, the process id of its parent, has ended, however that ended.

    As `preexec_fn` of a child it leaves no gap. To the kernel the parent is the thread that started this process.
    """
    signal.signal(number, signal.SIG_DFL)  # it may have been ignored, and that is inherited
    _prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it ended before
        leave_orphaned()


def leave_orphaned() -> None:
    os.write(2, f"process {os.getpid()} ends: what started it has ended\n".encode())
    os._exit(ORPHANED)


def adopt_orphans() -> None:
    """What the descendants of this process leave behind becomes its child, not init's."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def children(pid: int) -> list[int]:
    """Process ids, zombies included; empty for a process that has ended."""
    found: list[int] = []
    for path in PROC.glob(f"{pid}/task/*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:  # the thread has ended
            pass
    return found


def environment(pid: int) -> dict[str, str]:
    """What the process was started with; empty for one that has ended, zombies included."""
    try:
        words = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    return dict(os.fsdecode(word).partition("=")[::2] for word in words if word)


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for this signal."""
    return bool(int(_status(pid).get("SigCgt", "0"), 16) >> (number - 1) & 1)


def ancestors() -> list[int]:
    """Process ids of this process's parent, its parent, and so on."""
    line = [os.getppid()]
    while above := int(_status(line[-1]).get("PPid", "0")):
        line.append(above)
    return line


def _status(pid: int) -> dict[str, str]:
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
