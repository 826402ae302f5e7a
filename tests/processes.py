"""train.py in processes of its own, for tests that kill and signal it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from scripts.resume_check import family, kill_all, steps_done

ROOT = Path(__file__).parents[1]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone")
PATIENCE_S = 120  # a start takes seconds, on a busy machine many


@contextmanager
def training(
    settings: list[str], log: Path, *, world: int = 1, launcher: tuple[str, ...] = (), prefix: tuple[str, ...] = ()
):
    """The started process; what is left of it ends with the block. prefix: words before the interpreter."""
    launch = [*TORCHRUN, f"--nproc-per-node={world}", *launcher] if world > 1 else []
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*prefix, sys.executable, *launch, "train.py", *settings], cwd=ROOT, stdout=out, stderr=out,
            env={**os.environ, "PYTHONUNBUFFERED": "1"}, start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            kill_all(process)


def finish(settings: list[str], log: Path, **options) -> int:
    """Exit code of a run left alone."""
    with training(settings, log, **options) as process:
        return process.wait(PATIENCE_S)


def until(happened: Callable[[], object], process: subprocess.Popen, log: Path) -> None:
    """Wait for it while the process lives."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.005)


def until_step(folder: Path, step: int, process: subprocess.Popen, log: Path) -> None:
    until(lambda: steps_done(folder) >= step, process, log)


def ranks(process: subprocess.Popen) -> dict[int, int]:
    """Process id by rank, of torchrun's processes."""
    found = {}
    for pid in family(process.pid):
        try:
            words = (Path("/proc") / str(pid) / "environ").read_bytes().split(b"\0")
        except OSError:  # ended meanwhile
            continue
        env = dict(word.decode().partition("=")[::2] for word in words if word)
        if "RANK" in env:
            found.setdefault(int(env["RANK"]), pid)  # parents first: a rank before its loader workers
    return found


def last_line(log: Path) -> str:
    return log.read_text().strip().splitlines()[-1]


def certificate(folder: Path) -> dict:
    return json.loads((folder / "certificate.json").read_text())
