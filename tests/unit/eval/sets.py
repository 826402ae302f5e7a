"""The evaluation sets of configs/evalset/ by name, and one pass over them with a model."""

from pathlib import Path

from hydra import compose, initialize_config_dir

from gsam.config import load_evaluation
from gsam.eval import evalsets
from gsam.eval.runner import score

from .codes import SMALL, Reader

CONFIGS = Path(__file__).parents[3] / "configs"


def configured(*overrides):
    """EvalConfig as evaluate.py gets it."""
    words = [o if o.startswith("evalset=") else f"++{o}" for o in overrides]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return load_evaluation(compose("evaluate", ["++weights=somewhere", *words]))


def named(*names, **changes):
    """The sets as their files describe them; changes: of each of them, as on the command line."""
    words = [f"evalsets.{name}.{key}={value}" for name in names for key, value in changes.items()]
    return configured(f"evalset=[{','.join(names)}]", *words).evalsets


def measured(
    sets, corruption=None, severity=None, model=None, preprocess=SMALL, rank=0, world=1, batch_size=64, **options
):
    """Scored by set, all in one pass; this rank's part of it."""
    (one,) = [p for p in evalsets.passes(sets) if (p.corruption, p.severity) == (corruption, severity)]
    source = evalsets.open_pictures(one.evalset, corruption, severity)
    loader = evalsets.build(
        one.evalset,
        preprocess,
        corruption,
        severity,
        batch_size=batch_size,
        rank=rank,
        world=world,
        workers=0,
        source=source,
    )
    scorings = {name: evalsets.scoring(sets[name], source) for name in one.names}
    return score(model or Reader(), loader, scorings, device="cpu", mean=[0.5] * 3, std=[0.5] * 3, **options)
