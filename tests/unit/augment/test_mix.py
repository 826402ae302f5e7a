"""Mixup and cutmix against their definitions."""

import numpy as np
import pytest
import torch
from scipy import stats

from gsam.augment.mix import Mix, draw, mixed

SIZE = 16


def draws(count, **p):
    p = {"mixup": 0.0, "cutmix": 0.0} | p
    return [draw(0, step, 0, height=40, width=60, **p) for step in range(count)]


def batch(count=8):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, SIZE, SIZE, generator=generator), torch.arange(count) % 5


def test_mixup_takes_the_larger_part_of_a_beta_draw():
    shares = np.array([d.share for d in draws(4000, mixup=0.2)])
    assert shares.min() >= 0.5 and all(d.box is None for d in draws(5, mixup=0.2))
    beta = stats.beta(0.2, 0.2)
    assert stats.kstest(shares, lambda x: beta.cdf(x) - beta.cdf(1 - x)).pvalue > 0.01


def test_cutmix_leaves_the_share_that_its_box_does_not_cover():
    found = draws(4000, cutmix=1.0)
    boxes = np.array([d.box for d in found])
    heights, widths = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    assert np.allclose([d.share for d in found], 1 - heights * widths / 2400)
    assert boxes.min() >= 0 and boxes[:, 1].max() == 40 and boxes[:, 3].max() == 60 and (heights >= 0).all()
    inside = (boxes[:, 0] > 0) & (boxes[:, 1] < 40) & (boxes[:, 2] > 0) & (boxes[:, 3] < 60)
    assert np.allclose(heights[inside] / 40, widths[inside] / 60, atol=1 / 40)
    # Beta(1, 1): the uncut box covers a uniform share; boxes wholly inside are small. The mean of what is left is known for a
    # uniform centre and side s: covered (s - s^2/4)^2 with s^2 uniform.
    s = np.sqrt(np.linspace(0, 1, 100_001))
    assert np.mean([d.share for d in found]) == pytest.approx(1 - np.mean((s - s**2 / 4) ** 2), abs=0.015)


def test_with_both_a_step_draws_one_of_them_equally_often():
    cut = np.mean([d.box is not None for d in draws(2000, mixup=0.2, cutmix=1.0)])
    assert abs(cut - 0.5) < 0.04


def test_steps_seeds_and_batches_of_a_step_have_their_own_draws():
    names = [(seed, step, part) for seed in range(3) for step in range(3) for part in range(3)]
    assert len({draw(*name, 0.2, 0.0, 8, 8).share for name in names}) == 27
    assert draw(1, 2, 3, 0.2, 0.0, 8, 8) == draw(1, 2, 3, 0.2, 0.0, 8, 8)


def test_draws_never_change():
    """numpy keeps its streams without promising it. A change here means that runs started before go on with other shares."""
    assert draw(2**32 - 1, 1000, 1, 0.2, 0.0, 224, 224).share == pytest.approx(0.9999993461993031, abs=1e-12)
    assert draw(2**32 - 1, 1000, 1, 0.0, 1.0, 224, 224).box == (55, 224, 0, 216)


@pytest.mark.parametrize("group", [4, 8])
def test_mixup_is_the_written_formula_within_each_group(group):
    """big_vision: a * thing + (1 - a) * jnp.roll(thing, shift=1, axis=0), for images and one-hot labels."""
    x, y = batch()
    images, targets = mixed(x.clone(), y, Mix(0.7), group, 5)
    one_hot = np.eye(5)[y.numpy()]
    for thing, ours in ((x.numpy(), images), (one_hot, targets)):
        for start in range(0, 8, group):
            part = thing[start : start + group]
            np.testing.assert_allclose(
                ours[start : start + group], 0.7 * part + 0.3 * np.roll(part, 1, axis=0), atol=1e-6
            )
    assert torch.allclose(targets.sum(1), torch.ones(8))


def test_cutmix_puts_the_partners_pixels_into_the_box():
    x, y = batch()
    images, targets = mixed(x.clone(), y, Mix(0.75, (2, 10, 4, 12)), 4, 5)
    partner = [3, 0, 1, 2, 7, 4, 5, 6]
    expected = x.clone()
    expected[:, :, 2:10, 4:12] = x[partner][:, :, 2:10, 4:12]
    assert torch.equal(images, expected)
    np.testing.assert_allclose(targets, 0.75 * np.eye(5)[y] + 0.25 * np.eye(5)[y[partner]], atol=1e-6)


@pytest.mark.parametrize("mix", [Mix(0.6), Mix(0.75, (2, 10, 4, 12))], ids=["mixup", "cutmix"])
def test_groups_mix_alike_on_any_number_of_ranks(mix):
    x, y = batch()
    whole = mixed(x.clone(), y, mix, 4, 5)
    ranks = [mixed(a.clone(), b, mix, 4, 5) for a, b in zip(x.chunk(2), y.chunk(2), strict=True)]
    assert all(torch.equal(w, torch.cat(parts)) for w, parts in zip(whole, zip(*ranks, strict=True), strict=True))
    last = x.to(memory_format=torch.channels_last)
    other = mixed(last.clone(memory_format=torch.preserve_format), y, mix, 4, 5)[0]
    assert torch.equal(whole[0], other) and other.is_contiguous(memory_format=torch.channels_last)
