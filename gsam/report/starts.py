"""From which weights the fine-tunings of a row started: gsam.catalogue says whether these are the row's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gsam.catalogue import Row, starts_from
from gsam.runs import names, origin

from .load import Run


def start(run: Run, row: Row) -> str:
    """What names the weights: "table1/vit_s16_gsam/0f3a91c2" wherever that run lies, else model.init; "" of a row without."""
    if not row.weights:
        return ""
    init = run.setting("model.init")
    if not init:
        return "null"
    place, ema = origin(str(init)), "@ema" if str(init).endswith("@ema") else ""
    if names(place, row.weights) and not place.suffix:
        return f"{row.weights}/{place.name}{ema}"
    return f"{place.resolve() if place.exists() else place}{ema}"


def refuted(run: Run, row: Row, name: str) -> bool:
    """Whether the pretraining of this name (of `start`) lies in the same runs folder and is not one of the row's: model.init is
    a path of the machine that trained, and run folders can be copied."""
    above = run.folder.absolute().parents
    root = above[min(row.experiment.count("/") + 1, len(above) - 1)]
    place = root / name.removesuffix("@ema")
    return bool(row.weights) and place.is_dir() and not starts_from(str(place), row.weights)


def usual(found: Sequence[tuple[Row, Run, str]]) -> dict[str, str]:
    """Pretraining experiment -> the weights that most of these fine-tunings start from; of equals those of the lowest seed."""
    counts: dict[str, Counter] = {}
    for row, _, name in sorted(found, key=lambda each: str(each[1].setting("train.seed"))):
        counts.setdefault(row.weights, Counter())[name] += 1
    return {experiment: names.most_common(1)[0][0] for experiment, names in counts.items()}
