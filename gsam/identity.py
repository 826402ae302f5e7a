"""Which settings make a run the run it is. Read by the trainer's run hash, the recipes' ledger and the report."""

from collections.abc import Iterator
from typing import Any

# Sections and keys that leave the trained weights alone: places, cadence, logging.
FREE = (
    *("run", "wandb", "paths", "launcher", "analysis"),
    *("data.workers", "data.root", "data.ffcv_root", "data.limit_eval", "data.on_bad"),
    *("train.max_steps", "train.eval_every", "train.save_every", "train.keep_every", "train.log_every"),
    *("train.profile_steps", "train.keep_last", "train.non_finite"),
)


def leaves(tree: dict[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a nested dict; an empty dict is a value."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def deciding(config: dict[str, Any]) -> dict[str, Any]:
    """Dotted key -> value of everything in a configuration that decides the trained weights."""
    return {k: v for k, v in leaves(config) if not any(k == free or k.startswith(free + ".") for free in FREE)}
