"""A command that is asked to leave when this process is."""

import signal
import subprocess
from collections.abc import Collection, Sequence
from types import FrameType

from gsam.cli import REQUEUE


def run(command: Sequence[str], signals: Collection[int]) -> tuple[int, set[int]]:
    """(exit code as a shell has it, which of the signals came). Each reaches the command as SIGUSR1: to srun SIGTERM means to
    kill at once, and the time limit's SIGUSR2 means nothing to a training."""
    child, seen = subprocess.Popen(command), set()

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
