"""evaluate.py's work: one model, any number of sets, one row per set and corruption in results.jsonl."""

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gsam.config import Config, ConfigError, EvalConfig, Which, as_dict, read_saved
from gsam.data import AugmentConfig, Backend, DataConfig, num_classes
from gsam.eval import evalsets, evaluate
from gsam.models import build_model, split_ending
from gsam.runtime import Runtime, environment
from gsam.train import checkpoint
from gsam.train.progress import Progress
from gsam.train.stepper import grad_evals

# A row answers a question when all of these agree; `settings` is a hash of the set's own.
KEY = ("evalset", "corruption", "severity", "weights", "checkpoint", "step", "precision", "settings")


@dataclass
class Subject:
    """The model to evaluate: its weights on the device, its evaluation transform, and what its rows say of it."""

    model: nn.Module
    augment: AugmentConfig
    num_classes: int
    channels_last: bool
    out: Path
    facts: dict[str, Any]


def run(config: EvalConfig, runtime: Runtime) -> list[dict[str, Any]]:
    """Evaluate what results.jsonl does not hold yet; append each row when it is done; print and return all rows of the call.

    A set whose root is not there gives a row with "not_run", or with strict=true an error. Raises ConfigError for what is wrong
    with the sets, ValueError for weights that cannot be used.
    """
    missing = _missing_sets(config)
    subject = load_subject(config, runtime)
    path = subject.out / "results.jsonl"
    known = {} if config.force else {_key(row): row for row in _read(path)}
    known = runtime.broadcast(known)
    plan = [(name, s, row) for name, s in config.evalsets.items() if name not in missing for row in evalsets.rows(s)]
    progress = Progress("evaluate", len(plan), active=runtime.is_main, every_s=0)
    rows = []
    for done, (name, evalset, (corruption, severity)) in enumerate(plan):
        row = {"kind": "result", "evalset": name, "corruption": corruption, "severity": severity, **subject.facts}
        row |= {"precision": config.precision.name, "settings": _settings(evalset)}
        if _key(row) in known:
            rows.append(known[_key(row)])
        else:
            row |= _measure(config, subject, evalset, corruption, severity, runtime)
            rows.append(row)
            if runtime.is_main:
                _append(path, row)
        label = name if corruption is None else f"{name} {corruption} {severity}"
        progress.update(done + 1, f"{label}: top-1 {rows[-1]['top1']:.2%}")
    progress.close()
    if runtime.is_main:
        _print(rows, missing, path)
    return rows + [{"kind": "result", "evalset": name, "not_run": why} for name, why in missing.items()]


def load_subject(config: EvalConfig, runtime: Runtime) -> Subject:
    """The model behind weights=…, on the device and in eval mode."""
    weights = str(config.weights)
    env = environment(runtime.device)
    facts = {"device": env["device"], "torch": env["versions"]["torch"], "git_hash": env["git_hash"]}
    if weights.startswith("timm:"):
        return _timm_subject(config, weights.removeprefix("timm:"), runtime, facts)
    path, ending = split_ending(weights)
    which = Which[ending] if ending else config.which
    folder = path if path.is_dir() else path.parent.parent
    if not (folder / "config.yaml").exists():
        raise ValueError(
            f"weights={weights}: give a run folder (it has config.yaml), a file in its checkpoints/, or timm:<name>; a bare "
            "weights file does not say which network it belongs to"
        )
    file = folder / "checkpoints" / config.checkpoint if path.is_dir() else path
    if not file.exists():
        raise ValueError(f"weights={weights}: {file} does not exist; train first, or choose another checkpoint=")
    state = checkpoint.read(file)
    if which is Which.auto:
        which = Which.raw if state["ema"] is None else Which.ema
    if which is Which.ema and state["ema"] is None:
        raise ValueError(f"weights={weights}: {file} holds no moving average (trained with ema.decay=0); use which=raw")
    saved = read_saved(folder / "config.yaml")
    model = build_model(
        replace(saved.model, init=None),
        num_classes=state["num_classes"],
        image_size=saved.augment.size,
        seed=saved.train.seed,
    )
    model.load_state_dict(state["model" if which is Which.raw else "ema"])
    facts = _run_facts(saved, json.loads((folder / "meta.json").read_text()), state) | facts
    facts |= {"weights": which.name, "checkpoint": file.name}
    layout = torch.channels_last if saved.train.channels_last else torch.contiguous_format
    model = model.to(runtime.device, memory_format=layout).eval()
    out = Path(config.out or folder)
    return Subject(model, saved.augment, state["num_classes"], saved.train.channels_last, out, facts)


def _run_facts(saved: Config, meta: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    return {
        "experiment": meta["experiment"], "config_hash": meta["config_hash"], "optimizer": saved.optimizer.name,
        "model": saved.model.name, "seed": saved.train.seed, "step": state["step"],
        "grad_evals": grad_evals(saved, state["step"]),
    }  # fmt: skip


def _timm_subject(config: EvalConfig, name: str, runtime: Runtime, facts: dict[str, Any]) -> Subject:
    """A pretrained timm model at its published size, crop, mean and std. The resize filter is bilinear for all models, also
    for those published with bicubic."""
    import timm
    from timm.data import resolve_data_config

    try:
        model = timm.create_model(name, pretrained=True)
    except RuntimeError as error:  # unknown name, or no weights for it
        raise ValueError(f"weights=timm:{name}: {error}") from error
    published = resolve_data_config({}, model=model)
    size = published["input_size"][-1]
    augment = AugmentConfig(
        size=size,
        mean=list(published["mean"]),
        std=list(published["std"]),
        eval_resize=int(size / published["crop_pct"]),
    )
    facts |= {"model": name, "weights": "raw", "checkpoint": f"timm:{name}", "step": None, "optimizer": None}
    out = Path(config.out or Path("runs") / "eval" / name)
    return Subject(model.to(runtime.device).eval(), augment, model.num_classes, False, out, facts)


def _measure(config: EvalConfig, subject: Subject, evalset: evalsets.EvalSet, corruption: str | None, severity: int | None,
             runtime: Runtime) -> dict[str, Any]:  # fmt: skip
    classes = num_classes(DataConfig(evalset.source, Backend.folder, evalset.root))
    if classes != subject.num_classes:
        raise ValueError(
            f"the model has {subject.num_classes} classes, {evalset.source} at {evalset.root} has {classes}: choose an evalset "
            "of the data it was trained on"
        )
    loader = evalsets.build(
        evalset, subject.augment, corruption, severity, config.batch_size, runtime.rank, runtime.world, config.workers
    )
    metrics = evaluate(
        subject.model, loader, device=runtime.device, autocast=lambda: runtime.autocast(config.precision),
        mean=subject.augment.mean, std=subject.augment.std, channels_last=subject.channels_last,
    )  # fmt: skip
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {**vars(metrics), "corruption_preset": getattr(loader, "preset", None), "time": now}


def _missing_sets(config: EvalConfig) -> dict[str, str]:
    """Sets whose root does not exist, with the reason; every other problem, of all sets, is one ConfigError."""
    missing, problems = {}, []
    for name, evalset in config.evalsets.items():
        found = list(evalsets.check(name, evalset))
        if found and not Path(evalset.root).exists() and not config.strict:
            missing[name] = found[-1]
            problems += found[:-1]
        else:
            problems += found
    if problems:
        raise ConfigError(problems)
    return missing


def _settings(evalset: evalsets.EvalSet) -> str:
    """8 hex digits of what decides the set's pictures; not its root, which may move."""
    plain = {k: v for k, v in as_dict(evalset).items() if k not in ("root", "corruptions", "severities")}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]


def _key(row: dict[str, Any]) -> tuple:
    return tuple(row.get(k) for k in KEY)


def _read(path: Path) -> list[dict[str, Any]]:
    """Rows of results.jsonl; a last line cut off by a crash is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def _append(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
    with open(path, "a") as f:
        f.write("\n" * torn + json.dumps(row) + "\n")


def _print(rows: list[dict[str, Any]], missing: dict[str, str], path: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=str(path.parent))
    for name in ("set", "corruption", "severity", "n", "top-1 %", "top-5 %", "NLL", "ECE %"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("set", "corruption") else "right")
    for row in rows:
        numbers = [
            f"{100 * row['top1']:.2f}",
            f"{100 * row['top5']:.2f}",
            f"{row['nll']:.3f}",
            f"{100 * row['ece']:.2f}",
        ]
        table.add_row(row["evalset"], row["corruption"] or "-", str(row["severity"] or "-"), str(row["n"]), *numbers)
    for name in missing:
        table.add_row(name, "-", "-", "not run", "", "", "", "")
    terminal = Console()
    Console(width=max(terminal.width, 100)).print(table)
    for name, why in missing.items():
        print(f"not run: {name}: {why}")
    print(f"results: {path}", flush=True)
