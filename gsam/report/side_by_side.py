"""Several models on the same sets: one table of their cards, and their effective robustness."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from .card import SETS, Card, Corrupted, Score
from .card_text import percent, to_markdown
from .effective import Baselines, Effective, effective
from .render import as_csv, with_interval
from .tables import NOT_RUN

LEGEND = (
    "Top-1 accuracy in % (low–high: 95 % Wilson interval); of a mean over corruptions with the number of pictures, which are "
    "the same in each. mCE: error relative to AlexNet's, mean over the 15 corruptions. Official and generated copies are "
    "different pictures: compare only like with like."
)
EFFECTIVE = (
    "Effective robustness (Taori et al. 2020): top-1 beyond what the line of the baseline models, fitted on logit axes, gives "
    "at the same clean accuracy; in points. Scatter: standard deviation of the baselines around their line."
)


@dataclass
class SideBySide:
    """names and cards of the models · baselines: accuracies of others · effective: per model, empty without baselines."""

    names: list[str]
    cards: list[Card]
    baselines: Baselines = field(default_factory=dict)
    effective: list[list[Effective]] = field(default_factory=list)

    def lines(self, generated: bool) -> list[tuple[str, str, list[Score | None]]]:
        """(label, name, scores per model) of every set that any model has; generated corruptions apart from the rest."""
        places: dict[str, tuple[str, list[Score | None]]] = {}
        for place, card in enumerate(self.cards):
            means = [
                group.mean for group in card.corrupted if group.mean and (group.origin == "generated") == generated
            ]
            for score in ([] if generated else card.sets) + means:
                places.setdefault(score.label, (score.name, [None] * len(self.cards)))[1][place] = score
        order = list(SETS)
        lines = [(label, name, found) for label, (name, found) in places.items()]
        return sorted(lines, key=lambda line: order.index(line[1]) if line[1] in SETS else len(SETS))

    def groups(self) -> dict[str, list[Corrupted | None]]:
        """Groups of corruptions that have an mCE for any model, by label."""
        found: dict[str, list[Corrupted | None]] = {}
        for place, card in enumerate(self.cards):
            for group in card.corrupted:
                if group.mce is not None:
                    found.setdefault(group.label, [None] * len(self.cards))[place] = group
        return found


def side_by_side(named: list[tuple[str, Card]], baselines: Baselines) -> SideBySide:
    """named: a name to use where titles do not tell the models apart, and the card."""
    titles = [card.title for _, card in named]
    names = [card.title if titles.count(card.title) == 1 else f"{card.title} [{name}]" for name, card in named]
    cards = [card for _, card in named]
    return SideBySide(names, cards, baselines, [effective(card, baselines) for card in cards] if baselines else [])


def markdown(models: SideBySide, picture: str | None = None) -> str:
    """The page; picture: file name of its PNG beside it."""
    parts = ["# Robustness side by side", *tables(models)]
    if picture:
        parts.append(f"![Top-1 of every model on every set]({picture})")
    return "\n\n".join(parts) + "\n"


def tables(models: SideBySide) -> list[str]:
    """Markdown: the sets, generated corruptions, what was left out, effective robustness; with their legends."""
    parts = []
    for generated, title in ((False, "Top-1"), (True, "Top-1, generated corruptions")):
        lines = [[label, *map(_cell, found)] for label, _, found in models.lines(generated)]
        for label, groups in models.groups().items():
            if any(group and (group.origin == "generated") == generated for group in groups):
                lines.append([f"{label}, mCE", *(percent(group.mce) if group else NOT_RUN for group in groups)])
        if lines:
            parts += [f"## {title}", to_markdown([title + " (%)", *models.names], lines)]
    parts.append(LEGEND)
    if dropped := [f"- {line}" for card in models.cards for line in card.dropped]:
        parts.append("\n".join(dropped))
    if models.baselines:
        parts += ["## Effective robustness", _effective_table(models), EFFECTIVE]
    return parts


def records(models: SideBySide) -> str:
    """CSV, a line per model and set; effective robustness where there is one; fractions 0-1."""
    rows = []
    for place, (name, card) in enumerate(zip(models.names, models.cards, strict=True)):
        gains = {one.label: asdict(one) for one in models.effective[place]} if models.effective else {}
        groups = {group.label: group for group in card.corrupted}
        for score in [found[place] for kind in (False, True) for _, _, found in models.lines(kind)]:
            if score is not None:
                group, gain = groups.get(score.label), gains.get(score.label, {})
                row = {"model": name, **asdict(score), "origin": group and group.origin, "mce": group and group.mce}
                keys = ("clean_label", "clean", "expected", "value", "models", "scatter", "outside")
                rows.append(row | {f"effective_{key}": gain.get(key) for key in keys})
    return as_csv(rows)


def _cell(score: Score | None) -> str:
    return NOT_RUN if score is None else with_interval(score.top1, score.low, score.high)


def _effective_table(models: SideBySide) -> str:
    lines = []
    for name, found in zip(models.names, models.effective, strict=True):
        for one in found:
            numbers = [percent(one.clean) + " *" * one.outside, percent(one.measured), percent(one.expected)]
            lines.append([one.label, name, *numbers, f"{100 * one.value:+.2f}", percent(one.scatter), str(one.models)])
    if not lines:
        return "None: no shifted set of these models has a clean counterpart and three baseline models with both."
    order = list(dict.fromkeys(line[0] for line in lines))
    lines.sort(key=lambda line: order.index(line[0]))
    head = ["set", "model", "clean %", "measured %", "expected %", "effective robustness", "scatter", "baselines"]
    return to_markdown(head, lines) + "\n\n\\* beyond the clean accuracies of the baselines" * any(
        " *" in line[2] for line in lines
    )
