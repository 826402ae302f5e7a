"""The robustness card: what one model scores on every set, and the means, mCE and gaps that are made of it."""

from __future__ import annotations

import hashlib
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from gsam.files import write_atomic

from .imagenet_c import ALEXNET, EXTRA, SEVERITIES, is_extra, is_imagenet
from .load import SUBJECT, first_result, of_subject, read_results, subject_of
from .stats import wilson
from .tables import NOT_RUN

# Known sets in the order of the card; others follow in the order of their rows.
SETS = {
    "imagenet": "ImageNet",
    "imagenet_real": "ImageNet-ReaL",
    "imagenet_v2": "ImageNet-V2 matched frequency",
    "imagenet_v2_threshold": "ImageNet-V2 threshold 0.7",
    "imagenet_v2_top": "ImageNet-V2 top images",
    "imagenet_val_r": "ImageNet, the classes of R",
    "imagenet_r_200": "ImageNet-R, 200-way",
    "imagenet_r": "ImageNet-R, 1000-way",
    "imagenet_val_a": "ImageNet, the classes of A",
    "imagenet_a": "ImageNet-A, 200-way",
    "imagenet_a_1000": "ImageNet-A, 1000-way",
    "imagenet_sketch": "ImageNet-Sketch",
    "imagenet_c": "ImageNet-C",
    "imagenet_c_extra": "ImageNet-C",
    "imagenet_c_generated": "ImageNet-C",
}


@dataclass
class Score:
    """One line of the card, fractions 0-1: top-1 with its 95 % Wilson interval over n pictures.

    The same pictures stand behind every corruption, so a mean over them has no more than n independent trials.
    """

    name: str
    label: str
    n: int
    top1: float
    low: float
    high: float
    top5: float
    nll: float
    ece: float
    protocol: str | None = None


@dataclass
class Corrupted:
    """The corruptions of one set and origin that belong in one mean.

    origin: "official" | "generated" | None (rows older than the word) · rows: by (corruption, severity) · missing: the
    ones a mean would need and lacks, or what else is wrong · mean: None while something is missing · mce: mean error
    over AlexNet's, 1.0 = AlexNet; None where it is not defined.
    """

    name: str
    label: str
    origin: str | None
    corruptions: list[str]
    severities: list[int]
    rows: dict[tuple[str, int], dict]
    missing: list[str]
    mean: Score | None = None
    mce: float | None = None

    def error(self, corruption: str) -> float | None:
        """Mean error over the severities; None if one is missing."""
        found = [self.rows.get((corruption, severity)) for severity in self.severities]
        return None if None in found else 1 - statistics.fmean(row["top1"] for row in found)

    def relative(self, corruption: str) -> float | None:
        """That error divided by AlexNet's: the CE of the paper; None where no mCE is defined."""
        return self.error(corruption) / ALEXNET[corruption] if self.mce is not None else None


@dataclass
class Card:
    """One model. subject: what the rows say of it · sets: clean sets · corrupted: groups of corruptions, official and
    generated ones apart · not_run: set -> why · dropped: what else was there and is not on the card."""

    subject: dict
    sets: list[Score]
    corrupted: list[Corrupted]
    not_run: dict[str, str] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The model in a few words."""
        facts = self.subject
        trained = f"trained with {facts['optimizer']}" if facts.get("optimizer") else ""
        weights = "" if facts.get("weights") in ("raw", None) else f"({facts['weights']} weights)"
        return " ".join(
            filter(None, [str(facts.get("model")), trained, weights, "with flip TTA" * bool(facts.get("flip_tta"))])
        )

    def tables(self) -> list[tuple[str, list[tuple[str, Score | str]]]]:
        """(title, lines) of each table of scores; a line is its label with the score, or with why there is none.

        Generated corruptions have a table of their own: their pictures are not those of anybody else's numbers.
        """
        first: list[tuple[str, Score | str]] = [(score.label, score) for score in self.sets]
        generated: list[tuple[str, Score | str]] = []
        for group in self.corrupted:
            place = generated if group.origin == "generated" else first
            place.append((f"{group.label}, mean", group.mean or "incomplete"))
        first += [(label(name), NOT_RUN) for name in self.not_run]
        titles = (f"Robustness card: {self.title}", f"Generated corruptions: {self.title}")
        return [(title, lines) for title, lines in zip(titles, (first, generated), strict=True) if lines]


def make_card(rows: Iterable[dict], missing: dict[str, str] | None = None) -> Card:
    """The card of one model's rows of results.jsonl; of a set and corruption the last row counts.

    Raises ValueError without a row, and for rows of several models, or of one that was evaluated in several ways.
    """
    last = {(r["evalset"], r.get("origin"), r.get("corruption"), r.get("severity")): r for r in rows if "top1" in r}
    rows = list(last.values())
    subjects = list(dict.fromkeys(subject_of(row) for row in rows))
    if len(subjects) != 1:
        differing = [key for i, key in enumerate(SUBJECT) if len({subject[i] for subject in subjects}) > 1]
        raise ValueError(
            f"a card is about one model and one way to evaluate it; these {len(rows)} rows differ in {', '.join(differing)}"
        )
    clean = [_score(row["evalset"], label(row["evalset"]), [row]) for row in rows if row.get("corruption") is None]
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        if row.get("corruption") is not None:
            groups.setdefault((row["evalset"], row.get("origin"), is_extra(row), row.get("resized")), []).append(row)
    corrupted = [_corrupted(*key, found) for key, found in groups.items()]
    return Card(rows[-1], sorted(clean, key=_place), sorted(corrupted, key=_place), dict(missing or {}))


def label(evalset: str, origin: str | None = None) -> str:
    """The set's name for readers; of corruptions with their origin, as in ImageNet-C-official."""
    if origin is None:
        return SETS.get(evalset, evalset)
    name = f"{SETS[evalset]}-{origin}" if evalset in SETS else f"{evalset} (C-{origin})"
    return name + ", on the fly" * (evalset == "imagenet_c_generated")


def write_card(out: Path, rows: list[dict], missing: dict[str, str]) -> str:
    """Write <out>/card/<name>.{md,json,png} of one model's rows and of what results.jsonl in `out` holds of it besides;
    `missing`: set -> why it was not run.

    The name is "card" for what was evaluated first in `out`; others have in theirs what sets them apart (card-ema-tta).
    Returns the text to print. Without a row nothing is written, and the text says what was not run.
    """
    from .card_text import as_json, markdown, terminal
    from .figures import robustness_card
    from .write import png

    if not rows:
        return "\n".join(f"not run: {name}: {why}" for name, why in missing.items())
    stored, _ = of_subject(read_results(out), rows[-1])
    stored.sort(key=lambda row: row["n"])  # of earlier calls the whole set counts, not a trial on a few pictures
    known = {row["evalset"] for row in stored}
    card = make_card([*stored, *rows], {name: why for name, why in missing.items() if name not in known})
    folder, name = Path(out) / "card", _file_name(rows[-1], first_result(out) or rows[-1])
    pages = {"json": as_json(card).encode(), "md": markdown(card, f"{name}.png").encode(),
             "png": png(robustness_card.draw(card))}  # fmt: skip
    for ending, data in pages.items():
        file = folder / f"{name}.{ending}"
        if not file.exists() or file.read_bytes() != data:  # asking again changes no file
            write_atomic(file, data)
    return f"{terminal(card)}\nwritten: {folder}/{', '.join(f'{name}.{ending}' for ending in ('md', 'json', 'png'))}"


def _file_name(row: dict, first: dict) -> str:
    words = ["card"]
    for key, mine, theirs in zip(SUBJECT, subject_of(row), subject_of(first), strict=True):
        if mine != theirs:
            words.append(_word(key, mine))
    return "-".join(words)


def _word(key: str, value: object) -> str:
    """A value of SUBJECT as a part of a file name."""
    if key == "flip_tta":
        return "tta" if value else "no-tta"
    if key == "preprocess":  # a sentence
        return f"preprocess-{hashlib.sha256(str(value).encode()).hexdigest()[:8]}"
    text = f"step{value or 0}" if key == "step" else re.sub(r"\.(pt|pth|bin|safetensors)$", "", str(value))
    return re.sub(r"[^\w.+-]", "-", text)


def _place(item: Score | Corrupted) -> int:
    return list(SETS).index(item.name) if item.name in SETS else len(SETS)


def _score(name: str, text: str, rows: list[dict]) -> Score:
    top1, top5, nll, ece = (statistics.fmean(row[key] for row in rows) for key in ("top1", "top5", "nll", "ece"))
    n = min(row["n"] for row in rows)
    return Score(name, text, n, top1, *wilson(top1, n), top5, nll, ece, rows[0].get("protocol"))


def _corrupted(name: str, origin: str | None, extra: bool, resized: int | None, rows: list[dict]) -> Corrupted:
    imagenet = is_imagenet(rows[0])
    found = {(row["corruption"], row["severity"]): row for row in rows}
    present = list(dict.fromkeys(row["corruption"] for row in rows))
    if imagenet:
        corruptions = [*EXTRA, *(c for c in present if c not in EXTRA)] if extra else list(ALEXNET)
        severities = list(SEVERITIES)
    else:
        corruptions, severities = present, sorted({row["severity"] for row in rows})
    text = label(name, origin) + ", 4 extra" * extra + (f", resized to {resized}" if resized else "")
    group = Corrupted(name, text, origin, corruptions, severities, found, [])
    group.missing = [f"{c} {s}" for c in corruptions for s in severities if (c, s) not in found]
    counts = sorted({row["n"] for row in rows})
    if len(counts) > 1:
        group.missing.append(f"equal numbers of pictures (there are {counts[0]:,} to {counts[-1]:,})")
    if not group.missing:
        group.mean = _score(name, text, rows)
        if imagenet and not extra:
            group.mce = statistics.fmean(group.error(c) / ALEXNET[c] for c in corruptions)
    return group
