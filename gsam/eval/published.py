"""Whether a model's accuracy on a set is what it should be: not chance, and what timm published."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gsam.report.effective import read_timm
from gsam.report.stats import wilson

from .evalsets import EvalSet
from .inspection import Finding
from .layouts import class_list
from .metrics import Metrics


class Published(NamedTuple):
    """A model's top-1 (0-1) on a set, with pictures of `size` pixels."""

    evalset: str
    top1: float
    size: int


def read(path: Path, model: str, size: int) -> Published:
    """A model's row of one of timm's results csv files, at this size if it has several. Raises ValueError if it has none."""
    evalset, table = read_timm(path)
    sizes = [at for name, at in table if name == model]
    if not sizes:
        near = difflib.get_close_matches(model, {name for name, _ in table}, 3)
        raise ValueError(f"{path} has no model {model}" + (f"; near: {', '.join(near)}" if near else ""))
    at = size if size in sizes else sizes[0]
    return Published(evalset, table[model, at], at)


def compare(metrics: Metrics, published: Published, size: int) -> Finding:
    """Whether the published accuracy lies in the 95 % interval of the measured one."""
    low, high = wilson(metrics.top1, metrics.n)
    text = f"{published.evalset}: published {published.top1:.2%}, here {metrics.top1:.2%} ({low:.2%} to {high:.2%})"
    if published.size != size:
        return Finding("published", None, f"{text}, but at {published.size} pixels, here {size}: not comparable")
    good = low <= published.top1 <= high
    way = (
        "other pictures, labels, or transform than published: see the findings above, and the model's resize and filter"
    )
    return Finding("published", good, text, "" if good else way)


def accuracy(name: str, evalset: EvalSet, metrics: Metrics, num_classes: int) -> Finding:
    """The accuracy, wrong if it is near chance: below 1 %, or three times that of guessing."""
    competing = len(class_list(evalset.classes)) if evalset.argmax == "classes" else num_classes
    low, high = wilson(metrics.top1, metrics.n)
    text = f"top-1 {metrics.top1:.2%} ({low:.2%} to {high:.2%}) of {metrics.n:,}, argmax over {competing} classes"
    if metrics.top1 >= max(0.01, 3 / competing):
        return Finding(name, True, text)
    text += ": near chance"
    if evalset.classes == "imagenet_a" and evalset.layout == "wnid":
        return Finding(
            name, None, text, "usual for ResNet-50, against which ImageNet-A was selected: try another model"
        )
    return Finding(
        name, False, text, "the labels are probably scrambled: get the set again, or check the model on ImageNet"
    )


def text_order(predictions: dict[str, np.ndarray]) -> Finding | None:
    """Wrong if an ImageNet-V2 fits better with its numbers taken for places in the text order 0, 1, 10, 100, ..."""
    by_text = np.array(sorted(range(1000), key=str))
    guess, label = predictions["top5"][:, 0], predictions["label"]
    best = max((guess == order[label]).mean() for order in (by_text, by_text.argsort()))
    if best <= max(0.01, 3 * (guess == label).mean()):
        return None
    way = "somebody numbered the folders by their text order: get the set again"
    return Finding("class order", False, f"top-1 {best:.2%} with the folders in text order", way)
