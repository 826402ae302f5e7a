"""Evaluate one model on any number of sets: `python evaluate.py weights=runs/quickstart/1a2b3c4d evalset=[imagenet]`."""

import hydra
from omegaconf import DictConfig

from gsam.cli import entry, prepare_argv, share_cores
from gsam.launch.rank import follow_agent


@hydra.main(version_base="1.3", config_path="configs", config_name="evaluate")
@entry
def main(cfg: DictConfig) -> None:
    from gsam.config import load_evaluation
    from gsam.eval.card import run
    from gsam.runtime import Runtime

    with Runtime.start() as runtime:
        run(load_evaluation(cfg), runtime)


if __name__ == "__main__":
    follow_agent()
    prepare_argv()
    share_cores()
    main()
