"""The published recipes (configs/experiment/table1/*.yaml), and the ledger with the source of each of their values."""

import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from gsam.cli import CONFIGS
from gsam.identity import deciding

FOLDER = "table1"
TRAINING_PICTURES = {
    "imagenet": 1_281_167,
    "fashion_mnist": 60_000,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "flowers102": 1_020,
    "pets": 3_680,
}


@dataclass
class Entry:
    """A line of configs/ledger.yaml: these `values` of these `recipes` come from `source`."""

    recipes: list[str]
    """patterns over recipe names, e.g. "vit_*" """
    source: str
    """a name of the ledger's `sources`, then the place"""
    values: dict[str, Any]
    """dotted key -> value"""
    because: str | None = None
    """why this source, where it does not speak for itself"""
    verified: bool = True
    """False where the source could not be read or does not decide the value"""


class Difference(NamedTuple):
    """A key in which a run and its recipe disagree; None stands for "not set"."""

    key: str
    recipe: Any
    run: Any
    source: str


def names() -> list[str]:
    """The 36 recipes, e.g. "vit_b32_gsam", in alphabetical order."""
    return sorted(path.stem for path in (CONFIGS / "experiment" / FOLDER).glob("*.yaml"))


def compose(overrides: list[str]) -> DictConfig:
    """What train.py composes from these overrides, e.g. ["experiment=table1/vit_b32_gsam"]. Not checked, not resolved.

    Raises ValueError where Hydra refuses.
    """
    try:
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return hydra.compose("train", overrides)
    except HydraException as error:
        raise ValueError(f"{' '.join(overrides)}: {error}") from error


def values(config: DictConfig | dict[str, Any]) -> dict[str, Any]:
    """Dotted key -> value of everything in a configuration that decides the trained weights: each needs a source."""
    return deciding(OmegaConf.to_container(config) if isinstance(config, DictConfig) else config)


def ledger() -> list[Entry]:
    """Every entry of configs/ledger.yaml. Raises ValueError for a source that the file does not define."""
    document = yaml.safe_load((CONFIGS / "ledger.yaml").read_text())
    entries = [Entry(**entry) for entry in document["entries"]]
    for entry in entries:
        if entry.source.replace(",", " ").split()[0] not in document["sources"]:
            raise ValueError(f"configs/ledger.yaml: source {entry.source!r} does not begin with a name of `sources`")
    return entries


def sources(recipe: str) -> dict[str, Entry]:
    """Dotted key -> the ledger's entry for this recipe. Raises ValueError for a key with two entries."""
    found: dict[str, Entry] = {}
    for entry in ledger():
        if any(fnmatch(recipe, pattern) for pattern in entry.recipes):
            for key in entry.values:
                if key in found:
                    raise ValueError(f"configs/ledger.yaml: {recipe} has two sources for {key}")
                found[key] = entry
    return found


def experiment_sources(experiment: str) -> dict[str, str]:
    """Dotted key -> the ledger's source, in words, for an experiment of Table 1 or one that the ledger derives from it; {} for
    others."""
    if experiment.partition("/")[0] == FOLDER:
        return {key: _words(entry.source, entry.verified) for key, entry in sources(Path(experiment).name).items()}
    for entry in yaml.safe_load((CONFIGS / "ledger.yaml").read_text())["experiments"]:
        if match := re.fullmatch(entry["experiments"], experiment):
            changes = {
                key: _words(change["source"], change.get("verified", True))
                for change in entry["changes"]
                for key in change["values"]
            }
            return experiment_sources(entry["like"].format(**match.groupdict())) | changes
    return {}


def _words(source: str, verified: bool) -> str:
    return source if verified else f"{source} (not verified)"


def same(a: Any, b: Any) -> bool:
    """Equal as settings: 90 and "90" are, 3 and 3.0 too."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    try:
        return float(a) == float(b)
    except (TypeError, ValueError):
        return str(a) == str(b)


def compare(run: Path, recipe: str | None = None) -> list[Difference]:
    """Where the run in this folder differs from a recipe; by default from the experiment it was started with.

    Raises ValueError if the folder holds no run, or its experiment is not one of Table 1.
    """
    try:
        config = yaml.safe_load((run / "config.yaml").read_text())
    except FileNotFoundError:
        raise ValueError(f"{run}: no config.yaml there; give the folder of a run, runs/<experiment>/<hash>") from None
    recipe = (recipe or str(config["run"]["experiment"])).removeprefix(f"{FOLDER}/")
    if recipe not in names():
        raise ValueError(f"{run}: experiment {recipe} is not a recipe; name one of {', '.join(names())}")
    theirs, ours, known = values(compose([f"experiment={FOLDER}/{recipe}"])), values(config), sources(recipe)
    differing = [
        key
        for key in sorted(theirs.keys() | ours.keys())
        if key not in theirs or key not in ours or not same(theirs[key], ours[key])
    ]
    return [
        Difference(key, theirs.get(key), ours.get(key), known[key].source if key in known else "not set by the recipe")
        for key in differing
    ]
