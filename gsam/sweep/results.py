"""What a study has found: a row per configuration, as a table, as CSV and JSONL, and as a picture."""

import csv
import io
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table
from rich.text import Text

from gsam.files import write_atomic
from gsam.report.figures.sweep import draw
from gsam.runs import shared_images
from gsam.sweep.plan import Plan
from gsam.sweep.space import Point, point_of
from gsam.sweep.study import REASON, ended, ordinals

OPEN = "open"
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.RUNNING: "running",
    TrialState.WAITING: OPEN,
}


def rows(plan: Plan, trials: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    """A dict per configuration in the order in which they were made up.

    state: complete | pruned | failed | running | open · value: mean of the metric over seeds; of a pruned one its last
    evaluation; None without one · m: images that share one perturbation, None for vanilla · spread: standard deviation over
    seeds, None with one · attempts: how often it was started.
    """
    known = ordinals(trials)
    count = plan.total if plan.points is not None else min(plan.total, max(known, default=-1) + 1)
    return [_row(plan, ordinal, known.get(ordinal, [])) for ordinal in range(count)]


def _row(plan: Plan, ordinal: int, trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    last = trials[-1] if trials else None
    point = last and point_of(last.params, plan.space)
    if point is None and plan.points is not None:
        point = plan.points[ordinal]
    seeds = {seed: last.user_attrs.get(f"seed {seed}") for seed in plan.config.seeds} if last else {}
    found = {str(seed): each for seed, each in seeds.items() if each is not None}
    values = [each["value"] for each in found.values()]
    state = OPEN if last is None else STATES.get(last.state, "failed" if ended(trials) else OPEN)
    value = last.value if last and state in ("complete", "pruned") else None
    return {
        "sweep": plan.config.name, "trial": ordinal, "experiment": point.experiment if point else None,
        "settings": dict(point.values) if point else {}, "place": _place(plan, point) if point else {}, "state": state,
        "metric": plan.config.metric.name, "set": next((each["set"] for each in found.values()), None),
        "m": next((each.get("m") for each in found.values()), None),
        "value": value if value is not None and math.isfinite(value) else None,
        "spread": statistics.stdev(values) if len(values) > 1 and state == "complete" else None,
        "seeds": {seed: each["value"] for seed, each in found.items()}, "runs": [each["run"] for each in found.values()],
        "attempts": len(trials), "reason": last.user_attrs.get(REASON) if last and state == "failed" else None,
    }  # fmt: skip


def _place(plan: Plan, point: Point) -> dict[str, Any]:
    """The point's settings, and of an experiment that has no axes of its own its place on those of the others."""
    if point.values:
        return dict(point.values)
    config = plan.config_of(point, plan.config.seeds[0])
    keys = dict.fromkeys(key for axes in plan.space.values() for key in axes)
    places = {key: OmegaConf.select(config, key) for key in keys}
    return {key: value for key, value in places.items() if isinstance(value, (int, float, str))}


def best(table: Sequence[Mapping[str, Any]], higher: bool) -> Mapping[str, Any] | None:
    """The complete row with the best value, of equals the first."""
    done = [row for row in table if row["state"] == "complete" and row["value"] is not None]
    return (max if higher else min)(done, key=lambda row: row["value"], default=None)


def write(plan: Plan, table: Sequence[Mapping[str, Any]]) -> None:
    """results.jsonl and results.csv in the sweep's folder; each is whole or that of before."""
    write_atomic(plan.folder / "results.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table))
    keys = list(dict.fromkeys(key for row in table for key in row["settings"]))
    seeds = [str(seed) for seed in plan.config.seeds]
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    names = ["trial", "experiment", *keys, "state", "metric", "set", "m", "value", "spread"]
    names += [*(f"seed {seed}" for seed in seeds), "runs", "reason"]
    out.writerow(names)
    for row in table:
        flat = {
            **row,
            **row["settings"],
            **{f"seed {s}": row["seeds"].get(s) for s in seeds},
            "runs": " ".join(row["runs"]),
        }
        out.writerow([flat.get(name) for name in names])
    write_atomic(plan.folder / "results.csv", text.getvalue())


def picture(plan: Plan, table: Sequence[Mapping[str, Any]], say: Callable[[str], None]) -> None:
    """sweep.png beside them, once there is a value. One that cannot be drawn is a line: no trial depends on it."""
    if not any(row["value"] is not None for row in table):
        return
    file, image = plan.folder / "sweep.png", io.BytesIO()
    try:
        draw(table, plan.config.metric.higher_is_better).savefig(image, format="png", dpi=150)
        write_atomic(file, image.getvalue())
    except Exception as error:
        say(f"{file} could not be drawn: {type(error).__name__}: {error}")


def shown(plan: Plan, table: Sequence[Mapping[str, Any]]) -> Table:
    """For the terminal: the best first, then what has no value."""
    higher = plan.config.metric.higher_is_better
    keys = list(dict.fromkeys(key for row in table for key in row["settings"]))
    shared = shared_images(row["m"] for row in table)
    title = f"{plan.config.name}: {plan.config.metric.name}" + (f", m = {shared}" if shared else "")
    out = Table(title=title, title_justify="left")
    columns = ["trial", *(["experiment"] if len(plan.space) > 1 else []), *keys]
    for name in columns:
        out.add_column(name, justify="left" if name == "experiment" else "right", overflow="fold")
    out.add_column(plan.config.metric.name, justify="right", no_wrap=True)
    out.add_column("state", overflow="fold")
    order = sorted(table, key=lambda row: _rank(row, higher))
    for row in order:
        cells = [str(row["trial"]), *([str(row["experiment"])] if len(plan.space) > 1 else [])]
        cells += [str(row["settings"].get(key, "")) for key in keys]
        state = row["state"] + (f": {row['reason']}" if row["reason"] else "")
        style = "bold" if row is best(table, higher) else "dim" if row["value"] is None else ""
        out.add_row(*map(Text, cells), Text(number(row)), Text(state), style=style)
    return out


def number(row: Mapping[str, Any]) -> str:
    """The value for readers: fractions in per cent, ± standard deviation over seeds."""
    if row["value"] is None:
        return "-"
    scale, unit, digits = (1.0, "", 4) if row["metric"] == "nll" else (100.0, " %", 2)
    spread = f" ± {scale * row['spread']:.{digits}f}" if row["spread"] is not None else ""
    return f"{scale * row['value']:.{digits}f}{spread}{unit}"


def _rank(row: Mapping[str, Any], higher: bool) -> tuple[int, float, int]:
    group = {"complete": 0, "pruned": 1}.get(row["state"], 2) if row["value"] is not None else 3
    return group, (-row["value"] if higher else row["value"]) if row["value"] is not None else 0.0, row["trial"]


def progress(plan: Plan, trials: Sequence[FrozenTrial]) -> str:
    """How far the sweep is now that a trial has ended, the best so far, and when it may be done."""
    table = rows(plan, trials)
    counts = {
        state: sum(row["state"] == state for row in table) for state in ("complete", "pruned", "failed", "running")
    }
    left = plan.total - counts["complete"] - counts["pruned"] - counts["failed"]
    told = [f"{counts['complete'] + counts['pruned']} of {plan.total} done"]
    told += [f"{counts[state]} {state}" for state in ("pruned", "failed", "running") if counts[state]]
    if (first := best(table, plan.config.metric.higher_is_better)) is not None:
        at = " ".join(f"{key}={value}" for key, value in first["settings"].items())
        told.append(
            f"best {number(first)} ({' '.join([*([first['experiment']] if len(plan.space) > 1 else []), at]).strip()})"
        )
    took = [each.duration.total_seconds() for each in trials if each.state is TrialState.COMPLETE and each.duration]
    if left and took:
        seconds = statistics.fmean(took) * left / (counts["running"] + 1)
        told.append(f"about {timedelta(seconds=max(1, round(seconds)))} left")
    return " · ".join(told)
