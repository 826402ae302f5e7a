"""Which rank sees which picture when: properties of gsam.data.plan and of the subset."""

import numpy as np
import pytest

from gsam.data import DataConfig, subset
from gsam.data.plan import make_plan


def plan(n=101, batch_size=4, rank=0, world=1, seed=5, train=True, labels=None, split="train", **limits):
    data = DataConfig(**limits)
    labels = np.zeros(n, int) if labels is None else labels
    return make_plan(data, labels, split, batch_size=batch_size, rank=rank, world=world, seed=seed, train=train)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_global_batches_are_the_same_on_any_number_of_ranks(world):
    """Each rank holds its contiguous block, so the ranks' blocks side by side are the batch of a single process."""
    one = list(plan(batch_size=4 * world).batches(epoch=3))
    parts = [list(plan(batch_size=4, rank=rank, world=world).batches(epoch=3)) for rank in range(world)]
    assert len(one) == 101 // (4 * world)
    for number, batch in enumerate(one):
        assert np.array_equal(np.concatenate([part[number] for part in parts]), batch)


def test_epochs_are_different_permutations_and_seeds_too():
    orders = [plan(n=100, seed=seed).order(epoch) for seed, epoch in ((5, 0), (5, 1), (6, 0))]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("skip", [0, 1, 7, 1000])
def test_skipping_gives_the_tail(train, skip):
    full = list(plan(train=train, rank=1, world=2).batches(2))
    tail = list(plan(train=train, rank=1, world=2).batches(2, skip))
    assert len(tail) == max(0, len(full) - skip)
    assert all(np.array_equal(a, b) for a, b in zip(full[skip:], tail, strict=True))


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [1, 7, 101])
def test_evaluation_takes_every_picture_once(n, world):
    plans = [plan(n=n, train=False, rank=rank, world=world) for rank in range(world)]
    seen = np.concatenate([each.order(0) for each in plans])
    assert sorted(seen) == list(range(n))
    assert [len(list(each.batches(0))) for each in plans] == [len(each) for each in plans]
    assert plans[0].order(0).tolist() == list(range(0, n, world))


def test_limits_take_the_same_pictures_for_every_seed_and_grow():
    used = {limit: set(plan(limit_train=limit, seed=limit).order(0)) for limit in (8, 40, 100)}
    assert used[8] < used[40] < used[100]
    assert used[40] == set(subset(101, 40))
    assert set(plan(limit_eval=40, train=False).order(0)) == used[40]
    assert len(subset(101, None)) == 101


def test_limit_beyond_the_split_and_a_batch_that_does_not_fill_are_refused():
    with pytest.raises(ValueError, match="limit_train=102 is more than the 101 pictures"):
        plan(limit_train=102)
    with pytest.raises(ValueError, match="limit_eval=102"):
        plan(limit_eval=102, train=False)
    with pytest.raises(ValueError, match="global batch of 60 x 2 ranks is more than the 101"):
        plan(batch_size=60, world=2)
    with pytest.raises(ValueError, match="outside 1 to 101"):
        subset(101, 0)


LABELS = np.repeat(np.arange(4), (40, 20, 10, 3))[np.random.default_rng(0).permutation(73)]


def parts(fraction, labels=LABELS, **options):
    """(training, held-out) picture numbers."""
    options = {"n": None, "labels": labels, "holdout": fraction, "batch_size": 1, **options}
    return tuple(
        set(plan(split=split, train=split == "train", **options).order(0).tolist()) for split in ("train", "val")
    )


def test_a_held_out_part_is_taken_from_every_class_and_from_training():
    training, held = parts(0.1)
    assert not training & held and len(training | held) == 73
    assert np.bincount(LABELS[sorted(held)]).tolist() == [4, 2, 1, 1]  # 10 %, and at least one
    assert parts(0.1, seed=9) == (training, held)
    for label in range(3):  # drawn, not the tail: neighbours of a folder are often alike
        members = np.flatnonzero(LABELS == label)
        assert set(members.tolist()) & held != set(members[-(4, 2, 1)[label] :].tolist())
    assert held < parts(0.3)[1]
    assert parts(0.1, limit_eval=3)[1] < held and len(parts(0.1, limit_train=30)[0]) == 30


def test_without_a_held_out_part_evaluation_reads_the_split_it_is_given():
    assert parts(0.0) == (set(range(73)), set(range(73)))


def test_a_class_that_would_be_held_out_whole_is_refused():
    with pytest.raises(ValueError, match="data.holdout=0.9 leaves no picture of class 3 to train on, it has 3"):
        parts(0.9)
