"""Short real trainings for tests, in this process, from the real configs: `train("optimizer=sam", …)`."""

import json
from pathlib import Path

from hydra import compose, initialize_config_dir

from gsam.config import Config, load
from gsam.runtime import Runtime
from gsam.train.trainer import Trainer

CONFIGS = Path(__file__).parents[1] / "configs"


def compose_train(*overrides: str, experiment: str = "quickstart") -> Config:
    name = [] if any(o.startswith("run.experiment=") for o in overrides) else [f"run.experiment={experiment}"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return load(compose("train", [f"experiment={experiment}", *name, *overrides]))


def train(*overrides: str, experiment: str = "quickstart") -> Trainer:
    """A Trainer that has been run; its model, folder and step are there to look at."""
    with Runtime.start() as runtime:
        trainer = Trainer(compose_train(*overrides, experiment=experiment), runtime)
        trainer.fit()
    return trainer


def rows(folder: Path, kind: str | None = None) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if kind in (None, row["kind"])]
