"""Evaluation sets: which pictures, which corruptions of them, which labels count, and what is read in one pass."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gsam.data import Backend, DataConfig, open_source, subset
from gsam.data import num_classes as classes_of_source
from gsam.data.checks import workers_of
from gsam.data.sources import Source

from . import layouts
from .corruptions import frost_origin
from .pictures import Clean, Copy, PictureLoader
from .preprocess import Preprocess
from .scoring import Scoring

GENERATED = "generated.json"  # scripts/make_imagenet_c.py leaves it beside its corruptions
NOT_PIXELS = ("copies", "format")  # of its record: what is finished, which grows, and the kind of file


@dataclass
class EvalSet:
    """Schema of configs/evalset/*.yaml. Without corruptions: clean pictures; with them: corrupted copies."""

    layout: str = "split"
    """split (source and split) | wnid (<root>/<wnid>/*) | index (<root>/<0..999>/*) | corrupted (<root>/<corruption>/
    <severity>/<class>/* or /<split>.beton, stored copies; with layout split copies are made while they are read)"""
    source: str = "imagenet"
    """key of gsam.data.SOURCES; whose classes the labels are"""
    root: str = ""
    """folder of the set; with layout split the source's folder, as data.root"""
    split: str = "val"
    """train | val (for Fashion-MNIST val is its test set)"""
    labels: str = "folder"
    """folder: the class of the picture's folder | real: ImageNet-ReaL's sets of labels, joined by file number; pictures
    with none are not scored"""
    classes: str | None = None
    """imagenet_r | imagenet_a: only pictures of these 200 classes are scored; null: all"""
    argmax: str = "all"
    """the logits that compete: all | classes (those of `classes` only)"""
    expect_n: int | None = None
    """pictures of the complete set (of one corruption and severity); another number is refused; null: any"""
    limit: int | None = None
    """pictures used, the first of one fixed random order, as data.limit_eval; null: all"""
    corruptions: list[str] = field(default_factory=list)
    """keys of gsam.eval.corruptions.CORRUPTIONS, or the folders of layout corrupted; empty: clean pictures"""
    severities: list[int] = field(default_factory=list)
    """of each corruption, 1 (weak) to 5 (strong)"""
    canvas: int | None = None
    """side (pixels) of the central square that is corrupted, or of the stored copies: 224 for ImageNet-C; null: the
    whole picture"""
    grey: bool = False
    """the pictures are grey ones stored as RGB: average the channels of the corrupted copy"""
    seed: int = 0
    """of the corruptions' random numbers"""
    origin: str | None = None
    """official: the stored copies are a published set's, as long as no generated.json lies beside them; null: no"""

    @property
    def made_here(self) -> bool:
        """Copies are computed while they are read."""
        return bool(self.corruptions) and self.layout == "split"


@dataclass(frozen=True)
class Pass:
    """One reading of some pictures, for all sets that want them."""

    evalset: EvalSet
    """one of the sets; they differ only in what is scored"""
    corruption: str | None
    severity: int | None
    names: tuple[str, ...]


def passes(evalsets: dict[str, EvalSet]) -> list[Pass]:
    """What is to be read, in the order of the sets; sets of the same pictures share a pass."""
    found: dict[tuple, Pass] = {}
    for name, evalset in evalsets.items():
        for corruption, severity in rows(evalset):
            made = (evalset.canvas, evalset.grey, evalset.seed) if evalset.corruptions else ()
            folders = evalset.classes if evalset.layout == "wnid" else None
            where = (evalset.layout, evalset.source, evalset.root, evalset.split, folders, evalset.limit)
            key = (*where, *made, corruption, severity)
            first = found.get(key, Pass(evalset, corruption, severity, ()))
            found[key] = Pass(first.evalset, corruption, severity, (*first.names, name))
    return list(found.values())


def rows(evalset: EvalSet) -> list[tuple[str | None, int | None]]:
    """What is to be evaluated: (corruption, severity) in the order of the lists, or [(None, None)] for a clean set."""
    return [(c, s) for c in evalset.corruptions for s in evalset.severities] or [(None, None)]


def origin(evalset: EvalSet) -> str | None:
    """Of corrupted copies: "generated" by this project, "official" for a published set's, else "stored"; clean sets: None."""
    if not evalset.corruptions:
        return None
    own = evalset.made_here or os.path.exists(os.path.join(evalset.root, GENERATED))
    return "generated" if own else evalset.origin or "stored"


def origin_text(evalset: EvalSet, corruption: str | None) -> str:
    """The same in words, for a row's protocol, with the textures of generated frost; "" for clean sets."""
    if origin(evalset) != "generated":
        return f"{origin(evalset)} copies; " if evalset.corruptions else ""
    frost = f"frost ({frost_origin(None)})" if evalset.made_here else _record(evalset.root).get("frost", "frost")
    return f"generated copies{f' with {frost}' if corruption == 'frost' else ''}; "


def _record(root: str) -> dict[str, Any]:
    """How generated copies were made, {} for others. Raises ValueError for a damaged file."""
    path = Path(root, GENERATED)
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}); put it back, or make the set again") from error


def num_classes(evalset: EvalSet) -> int:
    """Of the labels. Raises ValueError when it must be counted and the pictures are not there."""
    if evalset.layout == "split":
        return classes_of_source(DataConfig(evalset.source, Backend.folder, evalset.root))
    return 1000 if evalset.source == "imagenet" else len(open_pictures(evalset, *rows(evalset)[0]).classes)


def open_pictures(evalset: EvalSet, corruption: str | None = None, severity: int | None = None) -> Source:
    """The pictures on disk; for stored copies those of one corruption and severity.

    Raises ValueError, with the key and the way out, for missing folders and other classes than the set has.
    """
    if evalset.layout == "wnid":
        return layouts.wnid_folders(evalset.root, evalset.classes)
    if evalset.layout == "index":
        return layouts.index_folders(evalset.root)
    if evalset.layout == "corrupted":
        imagenet = evalset.source == "imagenet"
        return layouts.corrupted_folders(evalset.root, corruption, severity, evalset.split, imagenet)
    return open_source(evalset.source, evalset.root, evalset.split)


def size(evalset: EvalSet) -> int:
    """Pictures of one pass, for the time that is left; a set that has passed `check` is not listed again for it."""
    return evalset.limit or evalset.expect_n or len(open_pictures(evalset, *rows(evalset)[0]))


def prepare(evalset: EvalSet, preprocess: Preprocess, corruption: str | None, severity: int | None) -> Clean | Copy:
    """What happens to each picture of one of `rows(evalset)` on its way to a model with this transform."""
    if corruption is None:
        return Clean(preprocess)
    if evalset.canvas is not None and evalset.canvas == preprocess.trained_size:
        # Enlarging the copy to the size for tests would blur the corruption.
        preprocess = replace(preprocess, size=evalset.canvas, resize=evalset.canvas)
    if not evalset.made_here:
        return Copy(preprocess, evalset.canvas)
    return Copy(preprocess, evalset.canvas, corruption, severity, evalset.seed, evalset.grey)


def build(
    evalset: EvalSet,
    preprocess: Preprocess,
    corruption: str | None = None,
    severity: int | None = None,
    *,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    workers: int | None = None,
    source: Source | None = None,
) -> PictureLoader:
    """The loader of one of `rows(evalset)` for one rank; batch_size is per rank; pictures rank, rank + world, ...

    workers: processes; None = none for pictures held in memory, else this rank's share of the cores. source: what
    `open_pictures` gave, where it is at hand. Raises ValueError for what `check` reports.
    """
    source = source or open_pictures(evalset, corruption, severity)
    own = 0 if workers is None and source.in_memory else workers_of(DataConfig(workers=workers))
    return PictureLoader(
        source,
        prepare(evalset, preprocess, corruption, severity),
        indices=subset(len(source), evalset.limit),
        batch_size=batch_size,
        rank=rank,
        world=world,
        workers=own,
    )


def pictures_hash(evalset: EvalSet, source: Source, corruption: str | None, severity: int | None) -> str:
    """8 hex digits of the pictures in use: their classes and names in order, and how their copies are or were made."""
    facts = [origin(evalset), corruption, severity]
    if evalset.made_here:
        facts += [evalset.canvas, evalset.grey, evalset.seed]
    elif evalset.corruptions:
        made = {key: value for key, value in _record(evalset.root).items() if key not in NOT_PIXELS}
        # Pictures in an FFCV file have no names: the record has them, and where it is lost, the file's checksum tells.
        facts += [json.dumps(made, sort_keys=True) if made else getattr(source, "sha256", None)]
    digest = hashlib.sha256(repr(facts).encode())
    for index in subset(len(source), evalset.limit).tolist():
        digest.update(f"{source.labels[index]} {os.path.basename(source.describe(index))}\n".encode())
    return digest.hexdigest()[:8]


def scoring(evalset: EvalSet, source: Source) -> Scoring:
    """Which label counts for which picture of the source, and which logits compete."""
    labels = layouts.real_labels(source) if evalset.labels == "real" else np.asarray(source.labels)[:, None]
    if evalset.classes is None:
        return Scoring(torch.from_numpy(labels))
    wanted = layouts.class_labels(evalset.classes)
    labels = np.where(np.isin(source.labels, wanted)[:, None], labels, -1)
    if evalset.argmax == "all":
        return Scoring(torch.from_numpy(labels))
    labels = np.where(np.isin(labels, wanted), labels, -1)
    return Scoring(torch.from_numpy(labels), torch.from_numpy(wanted))


def scoring_text(evalset: EvalSet, num_classes: int) -> str:
    """The same in words, for a row's protocol."""
    labels = "ReaL labels, correct if among them" if evalset.labels == "real" else "labels of the set"
    only = f", pictures of {layouts.CLASS_LISTS[evalset.classes]} classes" if evalset.classes else ""
    competing = len(layouts.class_list(evalset.classes)) if evalset.argmax == "classes" else num_classes
    return f"{labels}{only}; argmax over {competing} classes"


def check(name: str, evalset: EvalSet) -> Iterator[str]:
    """Every problem of `evalsets.<name>`, each as key, value, rule and way out. Lists the folders, reads no picture."""
    from . import checks

    yield from checks.settings_problems(f"evalsets.{name}", evalset)
    yield from checks.picture_problems(f"evalsets.{name}", evalset)
