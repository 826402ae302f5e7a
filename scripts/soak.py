"""Train for hours with checkpoints, evaluations and random kills, and see that memory and open files do not grow.

    python scripts/soak.py                     # 2 hours of a small training; runs/soak/soak.png and soak.json
    python scripts/soak.py --hours 8 experiment=… data=…

One train.py after the other in the same run folder: each lives for a random time, then gets SIGKILL or SIGTERM (it must leave
with exit code 75), and the same command continues. Resident memory and open file handles of the training process are read
from /proc. The plateau of a life begins --settle seconds after its first evaluation. A straight line is fitted to
all plateaus together (one slope, each life its own level); exit code 1 if what it grows by over all the plateaus' time is
beyond the tolerance, or if metrics.jsonl ends up with a gap or a row twice.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from resume_check import ROOT, command, leave_on_sigterm, running, steps_done

sys.path.insert(0, str(ROOT))
SMALL = [
    "experiment=quickstart", "optimizer=gsam", "optimizer.group_size=20", "ema.decay=0.99", "data.limit_train=2000",
    "data.limit_eval=500", "train.batch_size=40", "train.log_every=50st", "train.save_every=50st", "train.eval_every=250st",
    "train.keep_every=2000st",
]  # fmt: skip
ENDLESS = ["train.epochs=100000000st", "schedule.warmup_steps=100"]
START_S = 900  # a start that takes longer hangs, also on a busy machine
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20
REQUEUE = 75


def reading(pid: int) -> dict[str, float]:
    """Of the process now."""
    proc = Path("/proc") / str(pid)
    resident = int((proc / "statm").read_text().split()[1]) * PAGE_MB
    return {"memory_mb": round(resident, 2), "handles": len(list((proc / "fd").iterdir()))}


def evaluations(folder: Path) -> int:
    """Rows of evaluations so far."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b'{"kind": "eval"') if path.exists() else 0


def live(
    words: list[str], folder: Path, log: Path, life: int, seconds: float, every: float, began: float
) -> dict[str, Any]:
    """Start, watch for `seconds` after the first evaluation, then end it. Returns the samples and how it ended."""
    before, samples = evaluations(folder), []
    first, started = None, time.monotonic()
    with running(words, log) as process:
        while first is None or time.monotonic() - first < seconds:
            if process.poll() is not None:
                raise SystemExit(f"error: the training ended by itself with exit code {process.returncode}, see {log}")
            if first is None and evaluations(folder) > before:
                first = time.monotonic()
            if first is None and time.monotonic() - started > START_S:
                raise SystemExit(f"error: no evaluation for {START_S} s after a start, see {log}")
            age = None if first is None else time.monotonic() - first
            samples.append({"life": life, "time": time.monotonic() - began, "age": age, **reading(process.pid)})
            time.sleep(every)
        how = random.choice([signal.SIGKILL, signal.SIGTERM])
        if how is signal.SIGTERM:
            process.send_signal(how)
            if process.wait(START_S) != REQUEUE:
                raise SystemExit(f"error: SIGTERM gave exit code {process.returncode}, not {REQUEUE}, see {log}")
    return {
        "samples": samples,
        "end": {"time": time.monotonic() - began, "signal": how.name, "step": steps_done(folder)},
    }


def growth(samples: list[dict[str, Any]], key: str, settle: float) -> tuple[float, float]:
    """(slope per second, seconds of plateau) by least squares: one slope for all lives, a level for each. Raises ValueError
    where no life has a plateau."""
    above = below = seconds = 0.0
    for life in {s["life"] for s in samples}:
        plateau = [s for s in samples if s["life"] == life and s["age"] is not None and s["age"] >= settle]
        if len(plateau) < 3:
            continue
        times, values = [s["time"] for s in plateau], [s[key] for s in plateau]
        middle, level = sum(times) / len(times), sum(values) / len(values)
        above += sum((t - middle) * (v - level) for t, v in zip(times, values, strict=True))
        below += sum((t - middle) ** 2 for t in times)
        seconds += times[-1] - times[0]
    if not below:
        raise ValueError(
            f"no life has a plateau: choose more --hours, fewer --kills or a shorter --settle than {settle} s"
        )
    return above / below, seconds


def records_problem(folder: Path, every: int) -> str | None:
    """Whether metrics.jsonl has each `every` steps one row."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines() if line.endswith("}")]
    steps = [row["step"] for row in rows if row["kind"] == "train"]
    expected = list(range(every, every * len(steps) + 1, every))
    return (
        None if steps == expected else f"metrics.jsonl: rows of steps {steps[:3]} … {steps[-3:]} have a gap or a double"
    )


def plot(result: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, sharex=True, figsize=(9, 5), layout="constrained")
    for axis, (key, label) in zip(
        axes, {"memory_mb": "resident memory, MiB", "handles": "open handles"}.items(), strict=True
    ):
        for life in {s["life"] for s in result["samples"]}:
            mine = [s for s in result["samples"] if s["life"] == life]
            axis.plot([s["time"] / 60 for s in mine], [s[key] for s in mine], color="C0", lw=1)
        for end in result["ends"]:
            axis.axvline(end["time"] / 60, color="C3" if end["signal"] == "SIGKILL" else "C1", lw=0.7)
        axis.set(ylabel=label, ylim=(0, None))
        found = result["growth"][key]
        axis.set_title(f"fit over {found['seconds'] / 60:.1f} min of plateau: {found['growth']:+.2f}, tolerance "
                       f"{found['tolerance']:g}", fontsize=9)  # fmt: skip
    axes[-1].set_xlabel("minutes; vertical: SIGKILL (red), SIGTERM (orange)")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help=f"of train.py; default: {' '.join(SMALL)}")
    parser.add_argument("--hours", type=float, default=2.0, help="default: %(default)s")
    parser.add_argument("--kills", type=int, default=8, help="about how many (default: %(default)s)")
    parser.add_argument(
        "--settle", type=float, default=120.0, help="seconds before a plateau begins (default: %(default)s)"
    )
    parser.add_argument(
        "--tolerance-mb", type=float, default=64.0, help="growth over the plateaus (default: %(default)s)"
    )
    parser.add_argument("--tolerance-handles", type=float, default=2.0, help="likewise (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), help="default: %(default)s")
    args = parser.parse_args()
    if any(args.out.glob("*")):
        print(f"error: --out={args.out} is not empty: remove it, or choose another folder", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    random.seed(args.seed)
    leave_on_sigterm()
    result = soak(args)
    (args.out / "soak.json").write_text(json.dumps(result, indent=1) + "\n")
    plot(result, args.out / "soak.png")
    for key, found in result["growth"].items():
        print(f"{key}: {found['median']:.0f}, grew by {found['growth']:+.2f} over {found['seconds'] / 60:.1f} min of plateau "
              f"(tolerance {found['tolerance']:g})")  # fmt: skip
    for problem in result["problems"]:
        print(f"  PROBLEM: {problem}")
    print(f"{result['steps']} steps, {len(result['ends'])} ends; {args.out / 'soak.png'}, {args.out / 'soak.json'}")
    return 1 if result["problems"] else 0


def soak(args: argparse.Namespace) -> dict[str, Any]:
    folder, log = args.out / "run", args.out / "log.txt"
    words = command([*(args.settings or SMALL), *ENDLESS], folder, ranks=1)
    began, total = time.monotonic(), args.hours * 3600
    samples, ends = [], []
    while (left := total - (time.monotonic() - began)) > 0:
        seconds = min(left, random.uniform(0.5, 1.5) * total / (args.kills + 1))
        found = live(words, folder, log, len(ends), seconds, every=max(0.2, total / 4000), began=began)
        samples += found["samples"]
        ends.append(found["end"])
        print(f"  {ends[-1]['time'] / 60:.1f} min: {ends[-1]['signal']} after step {ends[-1]['step']}", flush=True)
    problem = records_problem(folder, log_every(folder))
    result = {"hours": args.hours, "settings": words[2:], "steps": steps_done(folder), "ends": ends, "growth": {},
              "problems": [problem] if problem else [], "samples": samples}  # fmt: skip
    for key, tolerance in (("memory_mb", args.tolerance_mb), ("handles", args.tolerance_handles)):
        slope, seconds = growth(samples, key, args.settle)
        values = sorted(s[key] for s in samples if s["age"] is not None)
        result["growth"][key] = {"growth": slope * seconds, "per_hour": slope * 3600, "seconds": seconds,
                                 "tolerance": tolerance, "median": values[len(values) // 2]}  # fmt: skip
        if slope * seconds > tolerance:
            result["problems"].append(
                f"{key} grows by {slope * seconds:.2f} over {seconds / 60:.1f} min, tolerance {tolerance:g}"
            )
    return result


def log_every(folder: Path) -> int:
    """Steps between two rows."""
    import yaml

    text = yaml.safe_load((folder / "config.yaml").read_text())["train"]["log_every"]
    return int(str(text).removesuffix("st"))


if __name__ == "__main__":
    sys.exit(main())
