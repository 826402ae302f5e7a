"""m-sharpness does not depend on how a batch is spread: one process with 4 groups, 2 ranks with 2, 4 ranks with 1."""

import pytest
import torch

from gsam.runtime import Precision, Runtime
from gsam.train.stepper import Stepper
from tests.contract.matrix import Case, batches, stepper
from tests.contract.properties import assert_ranks_equal, weights
from tests.ranks import run_ranks

IMAGES, M, STEPS = 64, 16, 4


def made(method, net, rank, world):
    config = stepper(Case(method, Precision.fp32, 1, 1, 1, net)).config
    config.train.batch_size = IMAGES
    config.optimizer.group_size = M
    return Stepper(config, Runtime(torch.device("cpu"), rank, world, rank), num_classes=5, num_examples=256)


def trained(rank, world, method, net):
    ours = made(method, net, rank, world)
    stats = [ours.train_step(batches(ours)) for _ in range(STEPS)]
    if world > 1:
        assert_ranks_equal(ours)
    numbers = {f"{k} {i}": v.clone() for i, s in enumerate(stats) for k, v in s.items() if v is not None}
    return weights(ours) | numbers


@pytest.mark.parametrize("net", ["bn", "dropout", "drop_path", "unused"])
@pytest.mark.parametrize("method", ["sam", "gsam", "asam"])
def test_the_update_is_the_same_on_1_2_and_4_ranks(method, net):
    """To rounding: weights, BatchNorm statistics, random masks, and every number of the telemetry."""
    alone = trained(0, 1, method, net)
    for world in (2, 4):
        for result in run_ranks(world, trained, world, method, net):
            assert result.keys() == alone.keys()
            for key, value in result.items():
                torch.testing.assert_close(
                    value, alone[key], rtol=1e-4, atol=1e-5, msg=lambda m, key=key: f"{key}: {m}"
                )


def test_another_m_is_another_update():
    one = trained(0, 1, "gsam", "bn")
    other = made("gsam", "bn", 0, 1)
    other.config.optimizer.group_size = other.group_size = 2 * M
    for _ in range(STEPS):
        other.train_step(batches(other))
    assert (one["head.weight"] - other.model.head.weight).abs().max() > 1e-4
