"""Prove exact resume for your own configuration: a run killed again and again ends with the weights of a run left alone.

    python scripts/resume_check.py experiment=quickstart optimizer=gsam train.epochs=60st --kills 10
    python scripts/resume_check.py experiment=… --ranks 2 --kills 5

Both runs are `train.py` with your settings, in <out>/whole and <out>/killed. SIGKILL comes at random moments, every second
time while a checkpoint is being written. At the end every tensor of last.pt (weights, moving average, base optimizer, loss
scale) must be bit-identical, and metrics.jsonl must have the same rows but for times. Choose a short training with frequent
saves.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TIMES = {"wall_s", "images_per_s", "data_wait", "peak_mem_mb", "save_s"}  # what may differ between two equal runs


def command(settings: list[str], folder: Path, ranks: int) -> list[str]:
    start = [sys.executable]
    if ranks > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return [*start, str(ROOT / "train.py"), *settings, f"run.dir={folder}"]


@contextmanager
def running(words: list[str], log: Path) -> Iterator[subprocess.Popen]:
    """The process; nothing of it lives afterwards, however the body ends."""
    env = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    with log.open("ab") as file:
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env=env)
    try:
        yield process
    finally:
        kill_all(process)


def leave_on_sigterm() -> None:
    """As on Ctrl-C: by an exception, so that `running` ends its process."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def steps_done(folder: Path) -> int:
    """Step of the last whole row of metrics.jsonl."""
    try:
        lines = (folder / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
        return json.loads(lines[-1])["step"] if lines else 0
    except (FileNotFoundError, ValueError):
        return 0


def family(pid: int) -> list[int]:
    """The process and its descendants that live, parents first. torchrun gives each rank a session of its own: killing a
    process group would leave them."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # ended meanwhile
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def kill_all(process: subprocess.Popen) -> None:
    """SIGKILL to the whole family, torchrun first (it would start new ranks), and wait for their end."""
    if process.poll() is not None:  # its number may be another's by now
        return
    pids = family(process.pid)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    while any(_lives(pid) for pid in pids):
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill_at(process: subprocess.Popen, folder: Path, step: int, while_saving: bool) -> str | None:
    """SIGKILL to all of the run's processes once it has passed `step`; None if it ended before."""
    while process.poll() is None:
        if steps_done(folder) >= step:
            saving = any((folder / "checkpoints").glob(".*.tmp"))
            if saving or not while_saving:
                kill_all(process)
                return "while a checkpoint was written" if saving else "in training"
        time.sleep(0.001 if while_saving else random.uniform(0.001, 0.2))
    return None


def killed_run(words: list[str], folder: Path, log: Path, total: int, kills: int) -> list[str]:
    """Kill the run `kills` times, then let it finish. Returns where each kill struck."""
    struck: list[str] = []
    for k in range(kills):
        step = max(steps_done(folder), round(total * (k + random.random()) / (kills + 1)))
        with running(words, log) as process:
            where = kill_at(process, folder, step, while_saving=k % 2 == 1)
        if where is None:
            break
        struck.append(where)
        print(f"  kill {len(struck)} of {kills}: after step {steps_done(folder)}, {where}", flush=True)
    return struck


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def differences(whole: Path, killed: Path) -> list[str]:
    """What is not the same in the two folders."""
    from gsam.train.checkpoint import checksum, read

    one, two = (read(folder / "checkpoints" / "last.pt") for folder in (whole, killed))
    found = [f"last.pt: {key}" for key in one if key != "seconds" and checksum(one[key]) != checksum(two[key])]
    a, b = rows(whole), rows(killed)
    if a != b:
        first = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        found.append(f"metrics.jsonl: {len(a)} and {len(b)} rows, first difference in row {first + 1}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", help="of train.py, as on its command line")
    parser.add_argument("--kills", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--ranks", type=int, default=1, help="processes, by torchrun (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/resume_check"), help="default: %(default)s")
    args = parser.parse_args()
    if any(args.out.glob("*")):
        print(f"error: --out={args.out} is not empty: remove it, or choose another folder", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    random.seed(args.seed)
    leave_on_sigterm()
    whole, killed, log = args.out / "whole", args.out / "killed", args.out / "log.txt"
    print(f"the run left alone: {' '.join(args.settings)} (output: {log})", flush=True)
    with running(command(args.settings, whole, args.ranks), log) as process:
        code = process.wait()
    if code:
        print(f"error: it failed; the end of its output:\n{log.read_text()[-2000:]}", file=sys.stderr)
        if not whole.exists():  # a wrong setting: the corrected command may use the folder
            shutil.rmtree(args.out)
        return 2
    words = command(args.settings, killed, args.ranks)
    struck = killed_run(words, killed, log, steps_done(whole), args.kills)
    with running(words, log) as process:
        code = process.wait()
    found = differences(whole, killed) if code == 0 else [f"the last start ended with exit code {code}, see {log}"]
    if len(struck) < args.kills:
        found.append(f"only {len(struck)} of {args.kills} kills struck: train longer, or save more often")
    report(args, struck, found, whole)
    return 1 if found else 0


def report(args: argparse.Namespace, struck: list[str], found: list[str], whole: Path) -> None:
    """Print the certificate and write it to <out>/certificate.json."""
    meta = json.loads((whole / "meta.json").read_text())
    certificate = {
        "passed": not found, "settings": args.settings, "ranks": args.ranks, "kills": struck, "differences": found,
        "steps": steps_done(whole), **{k: meta[k] for k in ("config_hash", "device", "versions", "git_hash")},
    }  # fmt: skip
    (args.out / "certificate.json").write_text(json.dumps(certificate, indent=1) + "\n")
    saving = sum("written" in where for where in struck)
    print(
        f"{len(struck)} kills ({saving} while a checkpoint was written), {certificate['steps']} steps, {args.ranks} rank(s)"
    )
    for line in found:
        print(f"  DIFFERENT: {line}")
    print("NOT the same" if found else "bit-identical: weights, averages, optimizer, loss scale, records")
    print(f"certificate: {args.out / 'certificate.json'}")


if __name__ == "__main__":
    sys.exit(main())
