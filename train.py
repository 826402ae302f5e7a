"""Train one model: `python train.py experiment=quickstart optimizer=gsam`; `torchrun --nproc-per-node=8 train.py …`."""

import hydra
from omegaconf import DictConfig

from gsam.cli import entry, leave_when_asked, prepare_argv
from gsam.launch.rank import follow_agent


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
@entry
def main(cfg: DictConfig) -> None:
    leave_when_asked()
    from gsam.config import load
    from gsam.runtime import Runtime
    from gsam.train.trainer import Trainer

    if "launcher" in cfg:
        from gsam.train import submit

        return submit.training(load(cfg))
    with Runtime.start() as runtime:
        Trainer(load(cfg, world=runtime.world), runtime).fit()


if __name__ == "__main__":
    follow_agent()
    prepare_argv()
    main()
