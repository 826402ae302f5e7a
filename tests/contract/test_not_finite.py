"""A gradient that is not finite moves nothing (a property of the matrix); what the run then does, and what it says."""

import pytest
import torch

from gsam.runtime import Precision
from gsam.train.settings import NonFinite
from gsam.train.stepper import MAX_SKIPPED
from tests.contract.matrix import Case, advance, batches, stepper
from tests.contract.properties import assert_equal, weights
from tests.ranks import run_ranks


def spoiled(made, in_pass):
    """The step's loss in this pass becomes NaN, forward activations and BatchNorm statistics included."""
    calls = iter(range(100))
    return made.model.stem[0].register_forward_pre_hook(
        lambda _, args: (args[0] * float("nan"),) if next(calls) == in_pass else None
    )


def case(world=1, precision=Precision.fp32, method="gsam"):
    return Case(method, precision, world, 1, 1, "bn")


def message(made, in_pass):
    """What the run stops with; the weights and statistics must be those before the step."""
    before, hook = weights(made), spoiled(made, in_pass)
    with pytest.raises(FloatingPointError) as stopped:
        made.train_step(batches(made))
    hook.remove()
    assert_equal(before, weights(made))
    return str(stopped.value)


@pytest.mark.parametrize(("in_pass", "name"), [(0, "clean"), (1, "sharp")])
def test_the_run_stops_with_step_and_pass(in_pass, name):
    made = advance(stepper(case()), 3)
    made.config.train.non_finite = NonFinite.stop
    text = message(made, in_pass)
    assert text.startswith(f"step 3: the loss or gradient of the {name} pass is not finite (1 such step(s) in a row)")
    assert "train.non_finite=skip" in text and made.step == 3


@pytest.mark.parametrize("method", ["gsam", "gsam global"])
def test_every_rank_stops_and_names_the_rank(method):
    for text in run_ranks(2, _one_rank_spoiled, method):
        assert ("on rank 1 of 2" in text or method == "gsam global") and "clean pass" in text


def _one_rank_spoiled(rank, method):
    made = advance(stepper(case(world=2, method=method)), 1)
    made.config.train.non_finite = NonFinite.stop
    if rank == 1:
        return message(made, 0)
    before = weights(made)
    with pytest.raises(FloatingPointError) as stopped:
        made.train_step(batches(made))
    assert_equal(before, weights(made))
    return str(stopped.value)


@pytest.mark.parametrize("precision", Precision, ids=lambda p: p.name)
def test_skipping_ends_after_many_steps_in_a_row_and_only_then(precision):
    made = stepper(case(precision=precision))
    made.config.train.non_finite = NonFinite.stop if precision is Precision.fp16 else NonFinite.skip
    for _ in range(2):
        hook = made.model.stem[0].register_forward_pre_hook(lambda _, args: (args[0] * float("nan"),))
        for _ in range(MAX_SKIPPED - 1):
            assert made.train_step(batches(made)) == {}
        hook.remove()
        assert made.train_step(batches(made))["loss"].isfinite() and made.skipped_in_row == 0
    assert made.skipped == {"clean": 2 * (MAX_SKIPPED - 1), "sharp": 0}
    made.model.stem[0].register_forward_pre_hook(lambda _, args: (args[0] * float("nan"),))
    with pytest.raises(FloatingPointError, match=f"{MAX_SKIPPED} such step"):
        advance(made, MAX_SKIPPED)
    assert all(value.isfinite().all() for value in weights(made).values() if value.is_floating_point())


def test_a_run_continues_with_its_counts():
    first = stepper(case())
    hook = spoiled(first, 1)
    first.train_step(batches(first))
    hook.remove()
    second = stepper(case())
    second.load_state_dict(first.state_dict())
    assert second.skipped == {"clean": 0, "sharp": 1}
    assert torch.equal(second.model.head.weight, first.model.head.weight)
