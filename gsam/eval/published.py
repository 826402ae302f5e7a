"""Whether a model's accuracy on a set is what it should be: not chance, and what timm published."""

from __future__ import annotations

import csv
import difflib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .evalsets import EvalSet
from .inspection import Finding
from .layouts import class_list
from .metrics import Metrics, wilson_interval

# timm's results/*.csv and the set each is about: R and A within their 200 classes.
TABLES = {
    "results-imagenet.csv": "imagenet",
    "results-imagenet-real.csv": "imagenet_real",
    "results-imagenet-r-clean.csv": "imagenet_val_r",
    "results-imagenet-a-clean.csv": "imagenet_val_a",
    "results-imagenetv2-matched-frequency.csv": "imagenet_v2",
    "results-imagenet-r.csv": "imagenet_r_200",
    "results-imagenet-a.csv": "imagenet_a",
    "results-sketch.csv": "imagenet_sketch",
}


class Published(NamedTuple):
    """top1: fraction 0-1; size: pixels, None where the file does not say it."""

    top1: float
    size: int | None


def read(path: Path, model: str, size: int) -> Published:
    """The row of a model, at this picture size if it has several. Raises ValueError if the file has no such row."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"--published {path}: {error}; give one of timm's results/*.csv") from error
    if not table or not {"model", "top1"} <= set(table[0]):
        raise ValueError(f"--published {path} has no columns model and top1; give one of timm's results/*.csv")
    rows = [row for row in table if row["model"] == model]
    if not rows:
        near = difflib.get_close_matches(model, [row["model"] for row in table], 3)
        raise ValueError(f"--published {path} has no model {model}" + (f"; near: {', '.join(near)}" if near else ""))
    found = [Published(float(row["top1"]) / 100, int(row["img_size"]) if row.get("img_size") else None) for row in rows]
    return next((row for row in found if row.size == size), found[0])


def compare(name: str, metrics: Metrics, published: Published, size: int) -> Finding:
    """Whether the published accuracy lies in the 95 % interval of the measured one."""
    low, high = wilson_interval(metrics.top1, metrics.n)
    text = f"{name}: published {published.top1:.2%}, here {metrics.top1:.2%} ({low:.2%} to {high:.2%})"
    if published.size not in (None, size):
        return Finding("published", None, f"{text}, but at {published.size} pixels, here {size}: not comparable")
    good = low <= published.top1 <= high
    way = (
        "other pictures, labels, or transform than published: see the findings above, and the model's resize and filter"
    )
    return Finding("published", good, text, "" if good else way)


def accuracy(name: str, evalset: EvalSet, metrics: Metrics, num_classes: int) -> Finding:
    """The accuracy, wrong if it is near chance: below 1 %, or three times that of guessing."""
    competing = len(class_list(evalset.classes)) if evalset.argmax == "classes" else num_classes
    low, high = wilson_interval(metrics.top1, metrics.n)
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
