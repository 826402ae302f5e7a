"""Augmentation on the device within real steps: both passes see one draw, and draws survive ranks, groups and restarts."""

import io

import pytest
import torch

from gsam.augment import OnDevice
from gsam.data import RandAugment
from gsam.optim import VanillaEstimator
from gsam.runtime import Precision
from tests.contract.matrix import Case, advance, batches, estimator, grouped_vanilla, stepper
from tests.contract.properties import assert_close, assert_equal, assert_ranks_equal, weights
from tests.ranks import run_ranks

MIXUP = {"mixup": 0.4}
EVERYTHING = {"mixup": 0.4, "cutmix": 1.0, "randaugment": RandAugment.official, "color_jitter": 0.4}


def case(method="gsam", net="plain", world=1, accumulate=1, groups=1):
    return Case(method, Precision.fp32, world, accumulate, groups, net)


@pytest.mark.parametrize(
    ("method", "augment", "groups", "accumulate"),
    [("gsam", MIXUP, 1, 1), ("gsam", MIXUP, 4, 4), ("sam", EVERYTHING, 4, 1), ("asam", EVERYTHING, 1, 4)],
)
def test_without_radius_mixed_steps_are_vanillas_bit_for_bit(method, augment, groups, accumulate):
    """A second draw for the second pass would differ at once."""
    c = case(method, "bn", groups=groups, accumulate=accumulate)
    ours = advance(stepper(c, estimator(c, rho=0.0), augment=augment), 3)
    vanilla = advance(stepper(c, grouped_vanilla(c), augment=augment), 3)
    assert_equal(weights(ours), weights(vanilla))
    assert not torch.equal(ours.params[0], advance(stepper(c), 3).params[0])


def test_both_passes_see_the_same_mixed_images():
    seen = []
    made = stepper(case(groups=2), augment=EVERYTHING)
    made.model.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    made.train_step(batches(made))
    assert len(seen) == 4 and torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3])
    assert not torch.equal(seen[0], made.augment.normalize(batches(made)[0][0])[:8])


def test_each_batch_of_a_step_has_its_own_mix():
    made = stepper(case("entropy_sgd"), augment=MIXUP)
    assert len({made.augment.drawn(made.step, part, 8, 8) for part in range(2)}) == 2


@pytest.mark.parametrize("augment", [MIXUP, EVERYTHING], ids=["mixup", "everything"])
def test_a_saved_state_continues_exactly(augment):
    c = case(groups=4)
    whole, first, second = (stepper(c, augment=augment) for _ in range(3))
    advance(whole, 6), advance(first, 3)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert_equal(weights(whole), weights(advance(second, 3)))


def test_two_ranks_are_one_process():
    """With the same groups: images and targets bit for bit, weights to rounding (sums in another order)."""
    c = case(world=2, groups=2)
    for problem in run_ranks(2, _as_one_process, c):
        assert problem == {"images": True, "targets": True}


def _as_one_process(rank, c):
    made, alone = stepper(c, augment=EVERYTHING), stepper(c, alone=True, augment=EVERYTHING)
    (mine,), (whole,) = ([m.augment(*b, step=0) for b in batches(m)] for m in (made, alone))
    same = [torch.equal(a, b.chunk(2)[rank]) for a, b in zip(mine, whole, strict=True)]
    advance(made, 3), advance(alone, 3)
    assert_ranks_equal(made)
    assert_close(weights(made), weights(alone), c)
    return dict(zip(("images", "targets"), same, strict=True))


def test_without_augmentation_a_step_gets_what_it_got_before(monkeypatch):
    """Labels stay classes, images are the normalised ones and nothing is drawn."""
    monkeypatch.setattr(OnDevice, "drawn", lambda *_: pytest.fail("a draw"))
    monkeypatch.setattr(OnDevice, "distort", lambda *_: pytest.fail("a distortion"))
    made, seen = stepper(case("vanilla"), VanillaEstimator()), []
    loss = made.loss
    made.loss = lambda logits, labels: seen.append(labels) or loss(logits, labels)
    made.model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    ((x, y),) = batches(made)
    made.train_step([(x, y)])
    assert torch.equal(seen[0], made.augment.normalize(x)) and torch.equal(seen[1], y)
