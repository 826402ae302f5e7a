"""A command that is asked to leave when this process is."""

import os
import signal
import subprocess
from collections.abc import Collection, Sequence
from functools import partial
from types import FrameType

from gsam.cli import REQUEUE
from gsam.launch.process import end_with


def run(command: Sequence[str], signals: Collection[int]) -> tuple[int, set[int]]:
    """(exit code as a shell has it, which of the signals came). Each reaches the command as SIGUSR1: to srun SIGTERM means to
    kill at once, and the time limit's SIGUSR2 means nothing to a training. So it does when this process is killed."""
    child, seen = subprocess.Popen(command, preexec_fn=partial(end_with, os.getpid(), signal.SIGUSR1)), set()

    def ask(number: int, frame: FrameType | None) -> None:
        seen.add(number)
        child.send_signal(signal.SIGUSR1)

    for number in signals:
        signal.signal(number, ask)
    code = child.wait()
    for number in signals:
        signal.signal(number, signal.SIG_DFL)
    if seen and code == -signal.SIGUSR1:  # while Python itself started
        code = REQUEUE
    return code if code >= 0 else 128 - code, seen
