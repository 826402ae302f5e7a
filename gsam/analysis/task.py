"""analyze.py's work: load the weights once, then one analysis after the other."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gsam.analysis import ANALYSES
from gsam.analysis import pictures as picture_sets
from gsam.analysis.objective import BatchNorm, Objective
from gsam.analysis.pictures import Pictures
from gsam.analysis.rows import Row, Rows
from gsam.analysis.settings import AnalyzeConfig
from gsam.config import as_dict
from gsam.data import Backend, DataConfig
from gsam.eval.subject import Subject, load_subject
from gsam.losses import LossKind, build_loss
from gsam.runtime import Runtime, SharedError, environment
from gsam.train.progress import Progress, say

DTYPES = {"fp32": torch.float32, "float64": torch.float64}


@dataclass
class Task:
    """What an analysis gets besides its Settings. subject, pictures, objective: None for one that needs no weights."""

    config: AnalyzeConfig
    runtime: Runtime
    rows: Rows
    subject: Subject | None = None
    pictures: Pictures | None = None
    objective: Objective | None = None

    def objective_of(self, batches: Any) -> Objective:
        """The same network and loss over other pictures: `batches` as gsam.analysis.objective.Batches."""
        return Objective(self.subject.model, loss_of(self.subject), batches, self.config.batchnorm)

    def progress(self, label: str, total: int) -> Progress:
        return Progress(label, total, active=self.runtime.is_main)


def run(config: AnalyzeConfig, runtime: Runtime) -> list[Row]:
    """Every chosen analysis; its rows stand in <out>/analysis.jsonl as soon as they are measured and are not measured again.

    Raises ValueError for weights and pictures that cannot be used, FloatingPointError for a loss that is not finite.
    """
    if runtime.world > 1:
        raise SharedError(
            f"analyze.py runs in one process, not in {runtime.world}: start it with python, not with torchrun"
        )
    found = []
    loaded = _loaded(config, runtime) if config.needs_weights else None
    for name, settings in config.analyses.items():
        task = loaded if ANALYSES[name].needs_weights else _bare(config, runtime, name)
        say(f"{name}: {', '.join(f'{key}={value}' for key, value in as_dict(settings).items())}")
        found += (rows := importlib.import_module(ANALYSES[name].module).run(settings, task))
        for row in rows:
            say(text(row))
        say(f"results: {task.rows.out / 'analysis.jsonl'}")
    return found


def text(row: Row) -> str:
    """A row for the terminal: its sentence, or its numbers."""
    if "sentence" in row:
        return f"{row['analysis']}: {row['sentence']}"
    known = {"kind", "analysis", "settings", "set", "n", "subset", "batchnorm", "batch_size", "precision", "loss_function",
             "model", "step", "seed", "grad_evals", "num_classes", "wall_s"}  # fmt: skip
    numbers = {k: v for k, v in row.items() if k not in known and isinstance(v, (int, float, list))}
    shown = [f"{k} {_short(v)}" for k, v in numbers.items() if not k.endswith("_std")]
    name = " ".join(row[key] for key in ("analysis", "ascent", "perturb") if key in row)
    return f"{name}: {' · '.join(shown)}"


def _short(value: Any) -> str:
    return " ".join(map(_short, value)) if isinstance(value, list) else f"{value:.5g}"


def loss_of(subject: Subject) -> Any:
    """The run's own loss; softmax cross-entropy for published weights."""
    kind, smoothing = _loss_settings(subject)
    return build_loss(kind, smoothing, subject.num_classes)


def _loss_settings(subject: Subject) -> tuple[LossKind, float]:
    return (subject.run.train.loss, subject.run.train.label_smoothing) if subject.run else (LossKind.softmax, 0.0)


def _bare(config: AnalyzeConfig, runtime: Runtime, name: str) -> Task:
    out = Path(config.out) if config.out else Path("runs") / "theory" / name
    return Task(config, runtime, Rows(out, _environment(runtime), config.force))


def _environment(runtime: Runtime) -> Row:
    env = environment(runtime.device)
    return {"device": env["device"], "torch": env["versions"]["torch"], "git_hash": env["git_hash"]}


def _loaded(config: AnalyzeConfig, runtime: Runtime) -> Task:
    subject = load_subject(config, runtime)
    subject.out = Path(config.out) if config.out else _out(subject)
    require_finite(subject.model, config.weights)
    subject.model.to(DTYPES[config.precision])
    pictures = pictures_for(config, subject, runtime)
    kind, smoothing = _loss_settings(subject)
    facts = {key: value for key, value in subject.facts.items() if key != "m"}  # the training's; here m is the measurement's
    same = {
        "set": pictures.set, "n": pictures.n, "subset": pictures.subset, "batchnorm": config.batchnorm.name,
        "batch_size": config.batch_size if config.batchnorm is BatchNorm.batch else None, "precision": config.precision,
        "loss_function": f"{kind.name}, label smoothing {smoothing:g}, without weight decay", **facts,
    }  # fmt: skip
    say(
        f"pictures: {pictures.n:,} of {pictures.set} (subset {pictures.subset}), loss {same['loss_function']}, "
        f"batchnorm={config.batchnorm.name}, {config.precision}"
    )
    task = Task(config, runtime, Rows(subject.out, same, config.force), subject, pictures)
    task.objective = task.objective_of(pictures)
    return task


def _out(subject: Subject) -> Path:
    return Path("runs") / "analysis" / subject.out.name if subject.run is None else subject.out


def pictures_for(config: AnalyzeConfig, subject: Subject, runtime: Runtime) -> Pictures:
    """The subset that `config` names. Raises ValueError for missing data and another number of classes."""
    which = {"batch_size": config.batch_size, "device": runtime.device}
    if subject.run is not None and config.source in (None, subject.run.data.name):
        data = replace(subject.run.data, workers=config.workers)
        if config.root is not None or config.source is not None:
            data = replace(data, root=_root(config, data.name), ffcv_root=None)
        return picture_sets.of_run(data, subject.run.augment, config.split, config.n, config.seed, **which)
    if config.source is None:
        raise SharedError(
            f"source: missing; weights={config.weights} do not say on which pictures: give source=imagenet, say"
        )
    data = DataConfig(config.source, Backend.folder, _root(config, config.source), workers=config.workers)
    pictures = picture_sets.of_set(data, subject.preprocess, config.split, config.n, config.seed, **which)
    if pictures.loader.num_classes != subject.num_classes:
        raise SharedError(
            f"source={config.source} has {pictures.loader.num_classes} classes, the model {subject.num_classes}; choose the "
            "data that it was trained on"
        )
    return pictures


def _root(config: AnalyzeConfig, name: str) -> str:
    return config.root or str(config.paths[name])


def require_finite(model: nn.Module, weights: str | None, key: str = "weights") -> None:
    """Raises ValueError naming the first tensor with an infinite or undefined value."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and (bad := int((~tensor.isfinite()).sum())):
            raise SharedError(
                f"{key}={weights}: {name} has {bad} of {tensor.numel()} values that are not finite; there is no curvature to "
                "measure. Choose an earlier checkpoint= (a diverged training leaves such weights)"
            )
