"""Problems of an evaluation set as sentences: key, value, rule, way out."""

from __future__ import annotations

import os
from collections.abc import Iterator

from gsam.data import SOURCES, SPLITS

from . import layouts
from .corruptions import SEVERITIES, unknown_corruption
from .evalsets import EvalSet, open_pictures, rows

CANVAS = 224  # pixels of the pictures of ImageNet-C
LABELS, ARGMAX = ("folder", "real"), ("all", "classes")


def settings_problems(at: str, evalset: EvalSet) -> list[str]:
    """What is wrong with the keys; `at` is the set's place in the configuration."""
    return [*_choices(at, evalset), *_corruptions(at, evalset)]


def picture_problems(at: str, evalset: EvalSet) -> list[str]:
    """What is wrong with the folders; nothing as long as the keys do not say which."""
    if any(key in p for p in _choices(at, evalset) for key in (".layout=", ".source=", ".split=", ".classes=")):
        return []
    return list(_pictures(at, evalset))


def is_absent(evalset: EvalSet) -> bool:
    """Nothing of the set is there: no root, or of stored copies no folder of any of its corruptions."""
    if evalset.layout == "corrupted" and os.path.isdir(evalset.root):
        return not any(os.path.isdir(os.path.join(evalset.root, corruption)) for corruption in evalset.corruptions)
    return not os.path.exists(evalset.root)


def _choices(at: str, evalset: EvalSet) -> Iterator[str]:
    tables = {
        "layout": layouts.LAYOUTS,
        "source": tuple(SOURCES),
        "split": SPLITS,
        "labels": LABELS,
        "classes": (None, *layouts.CLASS_LISTS),
        "argmax": ARGMAX,
        "origin": (None, "official"),
    }
    for key, known in tables.items():
        value = getattr(evalset, key)
        if value not in known:
            yield f"{at}.{key}={value} is unknown; choose one of {', '.join('null' if k is None else k for k in known)}"
    if evalset.source != "imagenet":
        numbered = evalset.layout in ("wnid", "index")
        wanted = {"labels": evalset.labels == "real", "classes": evalset.classes is not None, "layout": numbered}
        for key, needed in wanted.items():
            if needed:
                yield f"{at}.{key}={getattr(evalset, key)} is about ImageNet's classes, but source={evalset.source}"
    if evalset.argmax == "classes" and evalset.classes is None:
        yield f"{at}.argmax=classes, but classes is null; name them, for example classes: imagenet_r"
    if evalset.seed < 0:
        yield f"{at}.seed={evalset.seed} must not be negative"


def _corruptions(at: str, evalset: EvalSet) -> Iterator[str]:
    if evalset.made_here:
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
    if bool(evalset.corruptions) != bool(evalset.severities) or (
        evalset.layout == "corrupted" and not evalset.corruptions
    ):
        yield (
            f"{at}: corruptions={list(evalset.corruptions)} with severities={list(evalset.severities)}; "
            "give both, for example [gaussian_noise] and [3], or neither for the clean pictures of another layout"
        )
    if evalset.corruptions and evalset.layout in ("wnid", "index"):
        yield f"{at}.layout={evalset.layout} has clean pictures only; copies need layout split or corrupted"
    if evalset.canvas is not None and evalset.canvas < 1:
        yield f"{at}.canvas={evalset.canvas} must be at least 1 pixel; use null for the picture as it is"
    if evalset.source == "imagenet" and evalset.corruptions and evalset.canvas is None:
        yield f"{at}.canvas is null, but ImageNet-C corrupts a central square of {CANVAS} pixels; set canvas: {CANVAS}"


def _pictures(at: str, evalset: EvalSet) -> Iterator[str]:
    stored = evalset.layout == "corrupted"
    if stored and os.path.isdir(evalset.root):
        missing = layouts.missing_copies(evalset.root, evalset.corruptions, evalset.severities)
        if missing:
            yield (
                f"{at}.root={evalset.root}: {len(missing)} of {len(rows(evalset))} folders <corruption>/<severity> are missing "
                f"({', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}); unpack the archive that holds them, or "
                f"name in {at}.corruptions and {at}.severities only what is there"
            )
            return
    for corruption, severity in rows(evalset) if stored else [(None, None)]:
        try:
            source = open_pictures(evalset, corruption, severity)
            if evalset.labels == "real":
                layouts.real_labels(source)
        except ValueError as error:
            text = str(error).removeprefix("data.").replace("data.root", f"{at}.root")
            yield f"{at}.{text}" if text.startswith(("root=", "labels=")) else f"{at}: {text}"
            return
        yield from _counts(at, evalset, len(source), f" in {corruption}/{severity}" if stored else "")


def _counts(at: str, evalset: EvalSet, found: int, where: str) -> Iterator[str]:
    if evalset.limit is not None and not 1 <= evalset.limit <= found:
        yield f"{at}.limit={evalset.limit} is outside 1 to {found}, the pictures of the set; use null for all of them"
    if evalset.limit is None and evalset.expect_n not in (None, found):
        fewer = found < evalset.expect_n
        way = "the download or its unpacking is incomplete" if fewer else "other files lie among them"
        yield (
            f"{at}.root={evalset.root} holds {found:,} pictures{where}, the complete set has {evalset.expect_n:,}: {way}; "
            f"get the set again, or set {at}.limit to try a part of it"
        )
