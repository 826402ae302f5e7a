"""A training as a Slurm job: everything is checked here, before it waits in a queue."""

import re
import sys

from hydra.core.hydra_config import HydraConfig

from gsam.config import Config, as_dict, run_place
from gsam.launch.slurm import submit
from gsam.train.progress import say
from gsam.train.run_folder import RunFolder


def training(config: Config) -> None:
    """Submit this command, without its launcher. Raises ValueError for what train.py would refuse, and as submit does."""
    if dropped := [word for word in sys.argv[1:] if re.match(r"-|[+~]*hydra[./]", word)]:
        raise ValueError(
            f"{' '.join(dropped)}: with launcher= Hydra's own options do not reach the job; leave them out, and give what they "
            "set as settings"
        )
    name, folder = run_place(config)
    run = RunFolder(folder, as_dict(config), {"config_hash": name.rpartition("/")[2], "data": None}, writer=False)
    run.refuse_other_run()
    if run.finished:
        say(f"{folder}: finished; nothing to submit (delete the folder to train again)")
        return
    overrides = [each for each in HydraConfig.get().overrides.task if not re.match(r"[+~]*launcher[.=]", each)]
    submit("train.py", overrides, name, folder, config.launcher)
