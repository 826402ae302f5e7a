"""What the entry points need before anything heavy is imported: this module imports hydra only."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from types import FrameType

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from gsam.launch.process import end_with
from gsam.launch.rank import exit_code

REQUEUE = 75  # exit code of a run that was asked to leave and has saved (EX_TEMPFAIL: try again)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def prepare_argv() -> None:
    """Turn every plain `key=value` into `++key=value`, so that Hydra accepts it and our own loader judges it.

    Hydra would stop at the first unknown key and advise `+key=value`, with which a typo is then silently ignored. Choices of
    config groups (`optimizer=gsam`), Hydra's own keys, deletions and explicit prefixes stay as they are.
    """
    for arg in sys.argv[1:]:
        if arg.startswith("~") and not arg.startswith(("~hydra.", "~hydra/", "~experiment", "~debug")):
            key = arg[1:].partition("=")[0]
            sys.exit(f"error: {arg}: a setting cannot be deleted, it would silently take another value; give {key}=…")
    sys.argv[1:] = [forced(arg) for arg in sys.argv[1:]]


def leave_when_asked() -> None:
    """Until the training takes the signals itself they end the process at once with the code for requeue: nothing is lost."""
    for number in SIGNALS:
        signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    print(
        f"{signal.Signals(number).name} before the first step; the same command continues", file=sys.stderr, flush=True
    )
    # An exception may be swallowed: by a finalizer, by a library that catches everything.
    os._exit(exit_code(REQUEUE, number))


def share_cores() -> None:
    """Idle OpenMP threads sleep instead of spinning, unless the environment says otherwise: evaluation's data workers want the
    same cores, and waiting for a thread that a worker displaced would burn what the worker needs. Before torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def forced(arg: str) -> str:
    """One argument of `prepare_argv`."""
    key, equals, _ = arg.partition("=")
    plain = equals and not key.startswith(("-", "+", "~", "hydra.", "hydra/")) and "/" not in key and "@" not in key
    if plain and not (CONFIGS / key).is_dir():
        return "++" + arg
    return (
        "++" + arg[1:] if arg.startswith("+") and not arg.startswith("++") and not (CONFIGS / key[1:]).is_dir() else arg
    )


def entry(job: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Under `-m`, run each job in a child process of its own. Print a user's mistake as one message, exit code 2."""

    @wraps(job)
    def run(cfg: DictConfig) -> None:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            return _child(list(HydraConfig.get().overrides.task))
        from gsam.runtime import Requeue

        try:
            job(cfg)
        except Requeue as left:
            if os.environ.get("RANK", "0") == "0":
                print(left, file=sys.stderr)
            sys.exit(exit_code(REQUEUE, signal.Signals[left.asked]))
        except (ValueError, FloatingPointError) as error:
            from gsam.runtime import SharedError

            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            rank = os.environ.get("RANK", "0")
            if rank == "0" or not isinstance(error, (SharedError, FloatingPointError)):
                print(f"error{'' if rank == '0' else f' on rank {rank}'}: {error}", file=sys.stderr)
            sys.exit(exit_code(2))
        exit_code(0)

    return run


def _child(overrides: list[str]) -> None:
    """A fresh process per job: a crash, a process group or CUDA memory of one job must not reach the next."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise SystemExit("error: -m under torchrun would start every job on every rank; start one torchrun per job")
    print(f"--- job: {' '.join(overrides)}", flush=True)
    code = run_child([sys.executable, sys.argv[0], *overrides])
    if code == REQUEUE:
        sys.exit(REQUEUE)  # no further job
    if code:  # raised after all jobs have run
        raise RuntimeError(f"job failed with exit code {code}: {' '.join(overrides)}")


def run_child(command: Sequence[str]) -> int:
    """Exit code of a command that gets our signals passed on, SIGTERM also when this process is killed; REQUEUE after one of
    them, however it ended."""
    child, seen = subprocess.Popen(command, preexec_fn=partial(end_with, os.getpid())), []

    def pass_on(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    code = child.wait()  # subprocess.run would kill it a quarter of a second after Ctrl-C, before it has saved
    for number, handler in before.items():
        signal.signal(number, handler)
    return REQUEUE if seen else code
