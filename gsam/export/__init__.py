"""A trained model as a folder that timm loads and the Hugging Face Hub takes: weights, config.json, model card, provenance."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save

from gsam.config import WeightsConfig
from gsam.eval.preprocess import Preprocess
from gsam.eval.subject import Subject, load_subject
from gsam.export import hub
from gsam.export.card import model_card
from gsam.export.recipe import read_recipe
from gsam.files import write_atomic
from gsam.report.load import of_subject, read_results, read_run
from gsam.runtime import Runtime

WEIGHTS, CONFIG, CARD, RESULTS, RUN = "model.safetensors", "config.json", "README.md", "results.jsonl", "run"
# What makes rows of results.jsonl those of these weights.
SAME_WEIGHTS = ("model", "weights", "checkpoint", "step", "config_hash", "weights_hash")


def export(config: WeightsConfig, out: Path, *, license: str | None = None, overwrite: bool = False) -> Path:
    """Write model.safetensors, config.json, README.md, results.jsonl and run/{config.yaml,meta.json} into the folder `out`.

    config: the same words as evaluate.py's; its `out` is where evaluate.py left the results, if it was told a place. license:
    a name of the Hub; None: timm's own of a timm: model, apache-2.0 (this project's) of a run, else unknown. overwrite: replace
    an earlier export. `out` is whole or what it was before; before it appears, timm has loaded the folder and given the same
    logits. Raises ValueError for weights that cannot be read and for a folder in the way.
    """
    out = out.resolve()  # of a link the folder behind it
    refuse(out, overwrite)
    subject = load_subject(config, Runtime(torch.device("cpu")))
    subject.model.to(memory_format=torch.contiguous_format)
    described = hub.describe(subject, license or _license(subject))
    assert Preprocess.published(described["pretrained_cfg"], "the export") == subject.preprocess, "another transform"
    rows = _rows(subject)
    folder = subject.out if subject.run is None else _folder_of_run(config)
    run = None if subject.run is None else read_run(folder)
    recipe = None if run is None else read_recipe(run)
    with _appearing(out) as place:
        data = save({name: t.contiguous() for name, t in subject.model.state_dict().items()}, {"format": "pt"})
        write_atomic(place / WEIGHTS, data)
        write_atomic(place / CONFIG, json.dumps(described, indent=2) + "\n")
        if rows:
            write_atomic(place / RESULTS, "".join(json.dumps(row) + "\n" for row in rows))
        if run is not None:
            for name in ("config.yaml", "meta.json"):
                write_atomic(place / RUN / name, (folder / name).read_bytes())
        hub.check_loads(place, subject)
        digest = hashlib.sha256(data).hexdigest()
        text = model_card(subject, described, out.name, _shown(rows), run, recipe, digest)
        write_atomic(place / CARD, text)
    return out


def refuse(out: Path, overwrite: bool) -> None:
    """Raises ValueError if `out` is in the way."""
    if not out.exists() or out.is_dir() and not any(out.iterdir()):
        return
    if not all((out / name).is_file() for name in (WEIGHTS, CONFIG, CARD)):
        raise ValueError(f"--out {out}: is there and is no earlier export; give a folder that is new or empty")
    if not overwrite:
        raise ValueError(f"--out {out}: holds an export; give another folder, or --overwrite to replace it")
    if others := sorted({path.name for path in out.iterdir()} - {WEIGHTS, CONFIG, CARD, RESULTS, RUN}):
        raise ValueError(
            f"--out {out}: holds an export and {', '.join(others)}, which --overwrite would delete; export into a new folder "
            "and copy its files here"
        )


def _folder_of_run(config: WeightsConfig) -> Path:
    from gsam.models import split_ending

    path, _ = split_ending(str(config.weights))
    return path if path.is_dir() else path.parent.parent


def _license(subject: Subject) -> str:
    if subject.run is not None:
        return "apache-2.0"
    if str(subject.facts["checkpoint"]).startswith("timm:"):
        return subject.model.pretrained_cfg.get("license") or "unknown"
    return "unknown"


def _rows(subject: Subject) -> list[dict]:
    """What evaluate.py measured of exactly these weights."""
    return of_subject(read_results(subject.out), subject.facts, SAME_WEIGHTS)[0]


def _shown(rows: list[dict]) -> list[dict]:
    """Those of one way to evaluate, for the card: that of the last row without the mirror image."""
    plain = [row for row in rows if not row.get("flip_tta")]
    return of_subject(rows, (plain or rows)[-1])[0] if rows else []


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A folder to fill that takes the name `out` when the block ends; when it raises, `out` is what it was."""
    place, old = (out.with_name(f".{out.name}.{os.getpid()}.{word}") for word in ("tmp", "old"))
    try:
        place.mkdir(parents=True)
        yield place
        if out.exists():
            out.rename(old)
        place.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise ValueError(
            f"--out {out}: cannot be written ({error}); make room there, or give another folder"
        ) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
