"""Evaluation sets: which pictures, which corruptions of them, and the loaders for both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from gsam.data import SOURCES, SPLITS, AugmentConfig, Backend, DataConfig, Loader, build_loader, open_source, subset
from gsam.data.checks import workers_of
from gsam.data.folder import eval_pixels

from .corrupted import CorruptedLoader
from .corruptions import SEVERITIES, unknown_corruption

CANVAS = 224  # pixels of the pictures of ImageNet-C


@dataclass
class EvalSet:
    """Schema of configs/evalset/*.yaml. Without corruptions: the clean split; with them: its corrupted copies."""

    source: str = "imagenet"
    """key of gsam.data.SOURCES"""
    root: str = ""
    """the source's folder, as data.root"""
    split: str = "val"
    """train | val (for Fashion-MNIST val is its test set)"""
    limit: int | None = None
    """pictures used, the first of one fixed random order, as data.limit_eval; None: all"""
    corruptions: list[str] = field(default_factory=list)
    """keys of gsam.eval.corruptions.CORRUPTIONS; empty: clean pictures"""
    severities: list[int] = field(default_factory=list)
    """of each corruption, 1 (weak) to 5 (strong)"""
    canvas: int | None = None
    """cut this central square (pixels) out of the picture before corrupting it, 224 for ImageNet-C; None: as it is"""
    grey: bool = False
    """the pictures are grey ones stored as RGB: average the channels of the corrupted copy"""
    seed: int = 0
    """of the corruptions' random numbers"""


def check(name: str, evalset: EvalSet) -> Iterator[str]:
    """Every problem of `evalsets.<name>`, each as key, value, rule and way out. Lists the folder, reads no picture."""
    at = f"evalsets.{name}"
    for corruption in evalset.corruptions:
        if problem := unknown_corruption(corruption):
            yield f"{at}.corruptions: {problem}"
    for severity in evalset.severities:
        if severity not in SEVERITIES:
            yield f"{at}.severities={list(evalset.severities)}: {severity} is not one of 1, 2, 3, 4, 5"
    for key in ("corruptions", "severities"):
        values = list(getattr(evalset, key))
        if len(set(values)) != len(values):
            yield f"{at}.{key}={values} names one twice; name each once"
    if bool(evalset.corruptions) != bool(evalset.severities):
        yield (
            f"{at}: corruptions={list(evalset.corruptions)} with severities={list(evalset.severities)}; "
            "give both, for example [gaussian_noise] and [3], or neither for the clean pictures"
        )
    if evalset.canvas is not None and evalset.canvas < 1:
        yield f"{at}.canvas={evalset.canvas} must be at least 1 pixel; use null for the picture as it is"
    if evalset.source == "imagenet" and evalset.corruptions and evalset.canvas is None:
        yield f"{at}.canvas is null, but ImageNet-C corrupts a central square of {CANVAS} pixels; set canvas: {CANVAS}"
    if evalset.seed < 0:
        yield f"{at}.seed={evalset.seed} must not be negative"
    yield from _source_problems(at, evalset)


def _source_problems(at: str, evalset: EvalSet) -> Iterator[str]:
    if evalset.source not in SOURCES:
        yield f"{at}.source={evalset.source} is unknown; choose one of {', '.join(SOURCES)}"
        return
    if evalset.split not in SPLITS:
        yield f"{at}.split={evalset.split} is not one of {', '.join(SPLITS)}"
        return
    try:
        available = len(open_source(evalset.source, evalset.root, evalset.split))
    except ValueError as error:
        yield f"{at}: {str(error).replace('data.root', f'{at}.root')}"
        return
    if evalset.limit is not None and not 1 <= evalset.limit <= available:
        yield f"{at}.limit={evalset.limit} is outside 1 to {available}, the size of the split; use null for all of it"


def rows(evalset: EvalSet) -> list[tuple[str | None, int | None]]:
    """What is to be evaluated: (corruption, severity) in the order of the lists, or [(None, None)] for a clean set."""
    return [(c, s) for c in evalset.corruptions for s in evalset.severities] or [(None, None)]


def build(
    evalset: EvalSet,
    augment: AugmentConfig,
    corruption: str | None,
    severity: int | None,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    workers: int | None = None,
) -> Loader:
    """The loader of one of `rows(evalset)` for one rank; batch_size is per rank; pictures rank, rank + world, ...

    Clean pictures come from the folder backend. A corrupted copy gets the evaluation transform of `augment` unless it
    is augment.size square already; with a canvas it is then only resized, since it has been cropped.
    workers: processes; None = none for pictures held in memory, else this rank's share of the cores.
    Raises ValueError for what `check` reports.
    """
    data = DataConfig(evalset.source, Backend.folder, evalset.root, workers=workers, limit_eval=evalset.limit)
    if corruption is None:
        return build_loader(
            data, augment, evalset.split, batch_size=batch_size, rank=rank, world=world, seed=0, train=False
        )
    source = open_source(evalset.source, evalset.root, evalset.split)
    if evalset.canvas is not None:
        augment = replace(augment, eval_resize=augment.size)
    return CorruptedLoader(
        source,
        corruption,
        severity,
        transform=partial(fit, augment=augment),
        batch_size=batch_size,
        seed=evalset.seed,
        indices=subset(len(source), evalset.limit),
        canvas=evalset.canvas,
        grey=evalset.grey,
        rank=rank,
        world=world,
        workers=0 if workers is None and source.in_memory else workers_of(data),
    )


def fit(image: np.ndarray, augment: AugmentConfig) -> np.ndarray:
    """The evaluation transform, or the picture itself if it has the wanted size: uint8 (H, W, 3) -> (size, size, 3)."""
    if image.shape[:2] == (augment.size, augment.size):
        return image
    return eval_pixels(image, augment)
