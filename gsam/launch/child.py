"""A command that is asked to leave when this process is."""

import signal
import subprocess
from collections.abc import Iterable, Sequence
from types import FrameType


def run(command: Sequence[str], signals: Iterable[int]) -> tuple[int, set[int]]:
    """(exit code as a shell has it, which of the signals came). Each reaches the command as SIGUSR1: to srun SIGTERM means to
    kill at once, and the time limit's SIGUSR2 means nothing to a training."""
    child, seen = subprocess.Popen(command), set()

    def ask(number: int, frame: FrameType | None) -> None:
        seen.add(number)
        child.send_signal(signal.SIGUSR1)

    for number in signals:
        signal.signal(number, ask)
    code = child.wait()
    return code if code >= 0 else 128 - code, seen
