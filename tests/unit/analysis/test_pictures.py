"""Which pictures an analysis sees."""

import numpy as np
import pytest
import torch

from gsam.analysis.pictures import choose, of_run
from gsam.data import AugmentConfig, Backend, DataConfig

CPU = torch.device("cpu")


def test_a_smaller_subset_is_the_beginning_of_a_larger_one():
    whole = np.arange(60_000)
    thousand, two = choose(whole, 1000, 0, "it"), choose(whole, 2000, 0, "it")
    assert np.array_equal(two[:1000], thousand) and len(set(two.tolist())) == 2000
    assert np.array_equal(np.sort(choose(whole, None, 0, "it")), whole)
    assert len(np.intersect1d(thousand, choose(whole, 1000, 1, "it"))) < 50  # another seed: 17 expected
    assert abs(np.diff(thousand)).mean() == pytest.approx(20_000, rel=0.05)  # no order of classes
    odd = whole[whole % 2 == 1]  # what a held-out part leaves keeps its order
    assert set(choose(odd, 900, 0, "it")[:400].tolist()) <= set(two.tolist())


def test_more_than_there_are_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"n=60001: the train set has 60,000 pictures; choose 1 to 60000, or n=null"):
        choose(np.arange(60_000), 60_001, 0, "the train set")


def test_pictures_of_a_run(fashion_root):
    data = DataConfig("fashion_mnist", Backend.folder, str(fashion_root), holdout=0.1)
    augment = AugmentConfig(size=28, eval_resize=28)
    some = of_run(data, augment, "train", 70, 0, batch_size=32, device=CPU)
    held = of_run(data, augment, "val", None, 0, batch_size=500, device=CPU)
    assert (some.set, held.set, held.n) == ("fashion_mnist/train", "fashion_mnist/holdout", 6000)
    first, again = list(some()), list(some())
    assert [len(y) for _, y in first] == [32, 32, 6]
    assert all(torch.equal(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True))
    more = of_run(data, augment, "train", 140, 0, batch_size=70, device=CPU)
    assert torch.equal(next(more())[0], torch.cat([x for x, _ in first]))
    subsets = {some.subset, more.subset, of_run(data, augment, "train", 70, 1, batch_size=32, device=CPU).subset}
    assert len(subsets) == 3 and all(len(subset) == 16 for subset in subsets)
