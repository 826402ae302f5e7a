"""Signals to one process and to one rank of several; the rest is in tests/integration/test_faults.py."""

import os
import signal
import time

import pytest
import torch

from gsam.runtime import Runtime
from gsam.train import signals
from gsam.train.signals import Signals
from tests.ranks import run_ranks

ALONE = Runtime(torch.device("cpu"))


@pytest.mark.parametrize("number", signals.SIGNALS, ids=lambda number: number.name)
def test_a_signal_is_taken_once_and_the_handlers_come_back(number):
    before = [signal.getsignal(n) for n in signals.SIGNALS]
    with Signals(ALONE) as taken:
        assert taken.asked() is None
        for _ in range(3):  # by a scheduler, a launcher, a person in a hurry: within seconds they mean one thing
            os.kill(os.getpid(), number)
        assert taken.asked() == number.name
    assert [signal.getsignal(n) for n in signals.SIGNALS] == before


def test_a_later_second_one_has_its_usual_effect(monkeypatch):
    monkeypatch.setattr(signals, "AGAIN_S", 0.05)
    with pytest.raises(KeyboardInterrupt), Signals(ALONE):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)


def _one_of_two(rank):
    answers = []
    with Signals(Runtime(torch.device("cpu"), rank, 2)) as taken:
        for step in range(6):
            if rank == 1 and step == 2:
                os.kill(os.getpid(), signal.SIGUSR1)
            answers.append(taken.asked())
        began = time.monotonic()
        if rank == 0:
            time.sleep(0.5)  # rank 0 writes a checkpoint
    return answers, time.monotonic() - began


def test_every_rank_hears_at_the_same_step_and_none_leaves_before_the_other():
    results = run_ranks(2, _one_of_two)
    assert [answers for answers, _ in results] == [[None, None, None, "SIGUSR1", "SIGUSR1", "SIGUSR1"]] * 2
    assert all(waited >= 0.3 for _, waited in results)
