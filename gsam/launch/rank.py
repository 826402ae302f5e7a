"""What a rank owes its torchrun: to end with it, and to tell the supervisor how it ended."""

import os
import signal

from gsam.launch.process import ancestors, end_with, leave_orphaned

SUPERVISOR, NOTES = "GSAM_SUPERVISOR", "GSAM_NOTES"  # environment of a supervised torchrun: process id, file


def follow_agent() -> None:
    """A rank that outlives its torchrun would train on unseen: SIGTERM asks it to leave instead. Call it first of all."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    end_with(os.getppid())
    if SUPERVISOR in os.environ and int(os.environ[SUPERVISOR]) not in ancestors()[1:]:
        leave_orphaned()  # torchrun ended while this process started: its supervisor is the parent, or is gone too


def exit_code(code: int, asked: int = 0) -> int:
    """The code to exit with. asked: the signal that ended the work, if one did.

    Under a supervisor, which is told `code` by a note, a rank that leaves for good exits with 0: torchrun would start it again
    (--max-restarts) or report a failure. SIGTERM is torchrun's own word to ranks that it is about to start again.
    """
    if NOTES not in os.environ:
        return code
    try:
        with open(os.environ[NOTES], "a") as notes:
            notes.write(f"{os.getpid()} {code}\n")
    except OSError:  # no room, or a supervisor that has ended
        return code
    return 0 if asked not in (0, signal.SIGTERM) else code
