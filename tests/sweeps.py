"""Sweeps for tests: the real files of configs/sweep on Fashion-MNIST in miniature, and workers without trainings."""

import os
import time
from pathlib import Path

from optuna.exceptions import UpdateFinishedTrialError

from gsam.sweep.plan import Plan
from gsam.sweep.settings import read
from gsam.sweep.storage import open_storage
from gsam.sweep.study import Ledger, open_study

# For the paper's experiments: another data set and network, everything else theirs.
MINIATURE = (
    *("data=fashion_mnist", "data.backend=folder", "data.workers=0", "data.limit_train=400", "data.limit_eval=101"),
    *(
        "model=small_convnet",
        "augment=fashion_mnist",
        "train.loss=softmax",
        "train.batch_size=64",
        "train.precision=fp32",
    ),
)


def plan_of(root: Path, *words: str, sweep: str = "rho") -> Plan:
    return Plan(*read([f"sweep={sweep}", f"run.root={root}", *words]))


def ledger_of(plan: Plan) -> Ledger:
    """A worker's view of its own: another object for the storage, as another process has."""
    storage = open_storage(plan.folder, plan.config.storage)
    return Ledger(open_study(storage, plan), storage, plan, lambda text: None)


def work(root: Path, words: list[str], claims: Path) -> None:
    """A worker whose trainings are naps. Each claim of a trial makes a folder: a second claim of the same one raises."""
    ledger = ledger_of(plan_of(root, *words))
    while True:
        taken = ledger.take()
        if taken is None:
            if not ledger.watch(()):
                return
            time.sleep(0.05)
            continue
        os.mkdir(claims / f"{taken.ordinal}_{taken.attempt}")
        try:
            for _ in range(5):
                time.sleep(0.05)
                ledger.beat(taken.trial)
                ledger.watch([taken.trial.number])
        except UpdateFinishedTrialError:  # stood still for too long
            continue
        ledger.complete(taken.trial, float(taken.ordinal))
