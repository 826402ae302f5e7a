"""A training as a Slurm job: everything is checked here, before it waits in a queue."""

import re

from hydra.core.hydra_config import HydraConfig

from gsam.config import Config, as_dict, run_place
from gsam.launch.slurm import submit
from gsam.train.progress import say
from gsam.train.run_folder import RunFolder


def training(config: Config) -> None:
    """Submit this command, without its launcher. Raises ValueError for what train.py would refuse, and as submit does."""
    name, folder = run_place(config)
    run = RunFolder(folder, as_dict(config), {"config_hash": name.rpartition("/")[2], "data": None}, writer=False)
    run.refuse_other_run()
    if run.finished:
        say(f"{folder}: finished; nothing to submit (delete the folder to train again)")
        return
    overrides = [each for each in HydraConfig.get().overrides.task if not re.match(r"[+~]*launcher[.=]", each)]
    submit("train.py", overrides, name, folder, config.launcher)
