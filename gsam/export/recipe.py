"""How a run was trained, for its model card: each setting with its source, and the command that trains it again."""

from dataclasses import dataclass
from typing import Any

import yaml

from gsam.cli import CONFIGS, forced
from gsam.config import as_dict, read_composed
from gsam.identity import deciding, leaves
from gsam.recipes import compose, experiment_sources, same, values
from gsam.report.load import Run

GROUPS = ("data", "augment", "model", "optimizer", "base", "schedule")


@dataclass
class Recipe:
    """settings: (dotted key, value, where it comes from) of everything that decides the weights. command: the words behind
    train.py, composed and compared with the run; None where no command was found that gives this configuration."""

    settings: list[tuple[str, Any, str]]
    command: list[str] | None


def read_recipe(run: Run) -> Recipe:
    ours = deciding(run.config)
    experiment = run.meta.get("experiment")
    try:
        theirs, ledger = _settled([f"experiment={experiment}"]), experiment_sources(str(experiment))
        said = values(compose([f"experiment={experiment}"]))
    except ValueError:  # no file of configs/experiment (any more)
        experiment, theirs, ledger, said = None, {}, {}, {}
    settings = []
    for key, value in ours.items():
        if key in theirs and same(theirs[key], value):
            source = ledger.get(key) or (f"experiment={experiment}" if key in said else "default")
        elif key in theirs:
            source = f"this run; experiment={experiment} has {theirs[key]}"
        else:
            source = "this run"
        settings.append((key, value, source))
    return Recipe(settings, _command(experiment, theirs, ours))


def _settled(words: list[str]) -> dict[str, Any]:
    """Dotted key -> value of all that decides the weights, defaults included. Raises ValueError if it does not compose."""
    return deciding(as_dict(read_composed(compose([forced(word) for word in [*words, "run.experiment=card"]]))))


def _command(experiment: str | None, theirs: dict[str, Any], wanted: dict[str, Any]) -> list[str] | None:
    """theirs: what the experiment alone settles to."""
    words, groups = [f"experiment={experiment}"] if experiment else [], []
    try:
        found = theirs or _settled(words)
        for group in GROUPS:
            if found.get(f"{group}.name") != wanted.get(f"{group}.name") and (choice := _choice(group, wanted)):
                groups.append(f"{group}={choice}")
        found = _settled([*words, *groups]) if groups else found
        keys = [f"{key}={_text(value)}" for key, value in wanted.items() if not same(found.get(key), value)]
        words += [*groups, *keys]
        found = _settled(words) if keys else found
    except ValueError:
        return None
    agree = found.keys() == wanted.keys() and all(same(found[key], value) for key, value in wanted.items())
    return words if agree else None


def _choice(group: str, wanted: dict[str, Any]) -> str | None:
    """The file of configs/<group> for the name in the configuration; of several the one with most of its values."""
    best, most = None, -1
    for file in sorted((CONFIGS / group).glob("*.yaml")):
        said = yaml.safe_load(file.read_text())
        if said.get("name", file.stem) != wanted.get(f"{group}.name"):
            continue
        found = {f"{group}.{key}": value for key, value in leaves(said)}
        agreeing = sum(1 if key in wanted and same(wanted[key], value) else -1 for key, value in found.items())
        if best is None or agreeing > most:
            best, most = file.stem, agreeing
    return best


def _text(value: Any) -> str:
    """As Hydra's command line reads it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_text(each)}" for key, each in value.items()) + "}"
    return str(value)
