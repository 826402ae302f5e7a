"""Curvature and sharpness around trained weights: `python scripts/analyze.py weights=runs/… analysis=[hessian,sharpness]`."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from gsam.cli import entry, prepare_argv  # noqa: E402


@hydra.main(version_base="1.3", config_path="../configs", config_name="analyze")
@entry
def main(cfg: DictConfig) -> None:
    from gsam.analysis.settings import load_analysis
    from gsam.analysis.task import run
    from gsam.runtime import Runtime

    with Runtime.start() as runtime:
        run(load_analysis(cfg), runtime)


if __name__ == "__main__":
    prepare_argv()
    main()
