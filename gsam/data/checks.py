"""Configuration problems of gsam.data as sentences: key, value, rule, way out."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator
from itertools import zip_longest

from gsam.data import (
    SOURCES,
    SPLITS,
    AugmentConfig,
    Backend,
    Crop,
    DataConfig,
    RandAugment,
    class_names,
    ffcv_root,
    stored_split,
)
from gsam.data.manifest import beton_problem, missing_splits, read_manifest, write_command

WORKERS_PER_CORE = 8  # of data.backend=folder at most: each process takes half a gigabyte


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_ranks() -> int:
    """Ranks on this host, which share its cores and memory (torchrun's LOCAL_WORLD_SIZE)."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def workers_of(data: DataConfig) -> int:
    """Workers of this rank: as configured, else this rank's share of the cores, at least 1."""
    return data.workers if data.workers is not None else max(1, cores() // local_ranks())


def augment_problems(augment: AugmentConfig) -> Iterator[str]:
    """Ranges of the transform."""
    if augment.size < 1:
        yield f"augment.size={augment.size} is not positive; 224 is usual"
    if augment.eval_resize < augment.size:
        yield (
            f"augment.eval_resize={augment.eval_resize} is less than augment.size={augment.size}: the centre crop "
            f"would leave the picture; set augment.eval_resize to {augment.size} or more"
        )
    if not 0 <= augment.flip <= 1:
        yield f"augment.flip={augment.flip} is a probability; choose a value from 0 to 1"
    if augment.crop is not Crop.none:
        if len(augment.area) != 2 or not 0 < augment.area[0] <= augment.area[1] <= 1:
            yield f"augment.area={list(augment.area)}: needs two fractions, 0 < least <= most <= 1, such as [0.05, 1.0]"
        if len(augment.aspect) != 2 or not 0 < augment.aspect[0] <= augment.aspect[1]:
            yield f"augment.aspect={list(augment.aspect)}: needs two ratios, 0 < least <= most, such as [0.75, 1.33]"
    for key, values in (("mean", augment.mean), ("std", augment.std)):
        if len(values) != 3:
            yield f"augment.{key}={list(values)}: needs three values, for red, green and blue on the scale 0 to 1"
    if not all(0 < value < math.inf for value in augment.std) or not all(map(math.isfinite, augment.mean)):
        yield f"augment.mean={list(augment.mean)}, augment.std={list(augment.std)}: finite, and std positive: it divides"
    defaults = AugmentConfig()
    if augment.layers < 1:
        yield f"augment.layers={augment.layers}: at least 1 operation; augment.randaugment=none for none"
    elif not 0 <= augment.magnitude <= 20:
        yield f"augment.magnitude={augment.magnitude}: choose 0 to 20; above, posterize would keep more than 8 bits"
    elif augment.randaugment is RandAugment.none and (
        (augment.layers, augment.magnitude) != (defaults.layers, defaults.magnitude)
    ):
        yield (
            f"augment.layers={augment.layers}, augment.magnitude={augment.magnitude} has no effect with "
            "augment.randaugment=none; add augment.randaugment=official, or leave them at "
            f"{defaults.layers} and {defaults.magnitude}"
        )
    if not 0 <= augment.color_jitter <= 1:
        yield f"augment.color_jitter={augment.color_jitter}: choose a share from 0 to 1; 0.4 is usual"
    for key in ("mixup", "cutmix"):
        value = getattr(augment, key)
        if not (0 <= value < math.inf):
            yield f"augment.{key}={value} is p of Beta(p, p): choose a positive number such as 0.2, or 0 for none"


def data_problems(data: DataConfig, machine: int | None = None) -> Iterator[str]:
    """Names, numbers and files of the data set."""
    if data.name not in SOURCES:
        yield f"data.name={data.name} is unknown; choose one of {', '.join(SOURCES)}"
        return
    for key in ("limit_train", "limit_eval"):
        limit = getattr(data, key)
        if limit is not None and limit < 1:
            yield f"data.{key}={limit} must be at least 1; use null for the whole split"
    if not 0 <= data.holdout < 1:
        yield f"data.holdout={data.holdout} must be in [0, 1): the fraction of the training pictures to evaluate on"
    least, per_core = (1, 1) if data.backend is Backend.ffcv else (0, WORKERS_PER_CORE)
    most = per_core * (machine or cores())
    if data.workers is not None and not least <= data.workers <= most:
        yield (
            f"data.workers={data.workers} with data.backend={data.backend.value}: choose from {least} to {most}, {per_core} "
            f"per core of {'a host' if machine else 'this process'}, or null"
        )
    if data.backend is Backend.ffcv:
        yield from _ffcv_problems(data)
    else:
        yield from _source_problems(data)


def _ffcv_problems(data: DataConfig) -> Iterator[str]:
    if importlib.util.find_spec("ffcv") is None:
        yield "data.backend=ffcv but ffcv is not installed; run scripts/setup.sh, or set data.backend=folder"
        return
    if not data.root and not data.ffcv_root:
        yield "data.ffcv_root and data.root are empty; name the folder of train.beton and val.beton in data.ffcv_root"
        return
    if SOURCES[data.name].automatic and missing_splits(data):  # prepare() will write the files, if it can
        yield from _source_problems(data)
        return
    problems = [problem for split in _splits(data) if (problem := beton_problem(data, split)) is not None]
    yield from problems or _class_problems(data)


def _splits(data: DataConfig) -> tuple[str, ...]:
    """Those that are read: with a held-out part the other one is not."""
    return tuple(dict.fromkeys(stored_split(data, split) for split in SPLITS))


def _class_problems(data: DataConfig) -> Iterator[str]:
    """Labels must mean the same in both files, and in ImageNet's what they mean to any ImageNet model."""
    root = ffcv_root(data)
    lists = {split: read_manifest(root, split)["classes"] for split in _splits(data)}
    wanted, whose = lists["train"], "train.beton"
    if data.name == "imagenet":
        from gsam.data.sources import IMAGENET, imagenet_synsets

        wanted, whose = imagenet_synsets(), IMAGENET
    for split, names in lists.items():
        differing = [(n, *pair) for n, pair in enumerate(zip_longest(names, wanted)) if pair[0] != pair[1]]
        if differing:
            label, name, other = differing[0]
            yield (
                f"data.ffcv_root={root}: label {label} of {split}.beton is class {name}, in {whose} it is {other}; "
                f"write both files from the same folders with `{write_command(data)} --overwrite`"
            )


def _source_problems(data: DataConfig) -> Iterator[str]:
    for split in _splits(data):
        try:
            class_names(data.name, data.root, split)
        except ValueError as error:
            yield str(error)
            return  # the other split lacks the same
