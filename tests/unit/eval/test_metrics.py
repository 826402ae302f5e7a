import math

import pytest
import torch
import torch.nn.functional as F

from gsam.eval.metrics import Counter, judge
from tests.ranks import run_ranks


def count(*batches):
    counter = Counter()
    for logits, labels in batches:
        counter.update(logits, labels)
    return counter.result()


def test_values_computed_by_hand():
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5], [0.05, 0.9, 0.05]]))
    metrics = count((logits, torch.tensor([0, 2, 2, 1])))
    assert metrics.n == 4
    assert metrics.top1 == 0.75  # the second one is wrong
    assert metrics.top5 == 1.0  # three classes: top-3
    assert metrics.nll == pytest.approx(-math.log(0.7 * 0.3 * 0.5 * 0.9) / 4, rel=1e-6)
    # Every picture in a bin of its own: |correct - confidence| = 0.3, 0.6, 0.5, 0.1
    assert metrics.ece == pytest.approx((0.3 + 0.6 + 0.5 + 0.1) / 4, rel=1e-6)


def test_top5_of_many_classes():
    logits = torch.arange(10.0).repeat(3, 1)  # the best five are 9, 8, 7, 6, 5
    metrics = count((logits, torch.tensor([9, 5, 4])))
    assert metrics.top1 == pytest.approx(1 / 3) and metrics.top5 == pytest.approx(2 / 3)


@pytest.mark.parametrize("confidence", [0.55, 0.7, 0.95])
def test_calibrated_predictions_have_no_calibration_error(confidence):
    n = 2000
    logits = torch.tensor([confidence, 1 - confidence]).log().repeat(n, 1)
    labels = (torch.arange(n) >= round(confidence * n)).long()
    assert count((logits, labels)).ece == pytest.approx(0.0, abs=1e-6)
    assert count((logits, 1 - labels)).ece == pytest.approx(2 * confidence - 1, abs=1e-6)


def test_calibration_bins_are_closed_on_the_right():
    # Confidences 0.6 = 9/15 and 0.61 lie in different bins, so their errors +0.4 and -0.61 do not cancel.
    logits = torch.tensor([[0.6, 0.4], [0.61, 0.39]], dtype=torch.float64).log()
    assert count((logits, torch.tensor([0, 1]))).ece == pytest.approx((0.4 + 0.61) / 2, rel=1e-6)


def test_batches_do_not_matter():
    torch.manual_seed(0)
    logits, labels = torch.randn(1000, 7) * 3, torch.randint(7, (1000,))
    whole = count((logits, labels))
    parts = count(*zip(logits.split(37), labels.split(37), strict=True))
    assert (whole.n, whole.top1, whole.top5) == (parts.n, parts.top1, parts.top5)
    assert whole.nll == pytest.approx(parts.nll, rel=1e-12) and whole.ece == pytest.approx(parts.ece, rel=1e-12)
    assert whole.nll == pytest.approx(F.cross_entropy(logits.double(), labels).item(), rel=1e-6)


def test_a_set_of_labels_is_hit_by_any_of_them():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.1, 0.1], [0.5, 0.3, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1]]))
    found = judge(logits, torch.tensor([[1, 0], [2, 1], [0, -1]]))
    assert found.correct.tolist() == [True, False, True] and found.in_top5.tolist() == [True, True, True]
    assert found.nll.tolist() == pytest.approx([-math.log(0.8), -math.log(0.4), -math.log(0.7)], rel=1e-6)
    assert found.confidence.tolist() == pytest.approx([0.5, 0.5, 0.7], rel=1e-6)


def test_only_some_logits_compete():
    logits = torch.tensor([[9.0, 1.0, 2.0, 0.0, 3.0, 8.0]])
    found = judge(logits, torch.tensor([[4]]), torch.tensor([1, 2, 4]))
    assert found.correct.tolist() == [True] and found.top5.tolist() == [[4, 2, 1]]
    assert found.nll.item() == pytest.approx(-F.log_softmax(torch.tensor([1.0, 2.0, 3.0]), 0)[2].item(), rel=1e-6)
    assert found.confidence.item() == pytest.approx(math.exp(-found.nll.item()), rel=1e-6)


def test_nan_is_wrong_and_shows():
    metrics = count((torch.full((4, 3), math.nan), torch.tensor([0, 0, 1, 2])))
    assert metrics.top1 == metrics.top5 == 0.0
    assert math.isnan(metrics.nll) and math.isnan(metrics.ece)


def test_classes_masked_with_minus_infinity_do_not_spoil_a_row():
    logits = torch.tensor([[-math.inf, 2.0, 1.0]])
    metrics = count((logits, torch.tensor([1])))
    assert metrics.top1 == 1.0 and math.isfinite(metrics.nll) and math.isfinite(metrics.ece)


def test_half_precision_logits_are_counted_in_float():
    metrics = count((torch.tensor([[4.0, 0.0]] * 1000).bfloat16(), torch.zeros(1000, dtype=torch.int64)))
    assert metrics.nll == pytest.approx(math.log1p(math.exp(-4)), rel=1e-5)


def test_nothing_seen_and_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="no example was seen"):
        Counter().result()
    with pytest.raises(ValueError, match="do not fit"):
        count((torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64)))


def _counted(rank, world):
    torch.manual_seed(1)
    logits, labels = torch.randn(101, 6), torch.randint(6, (101,))
    metrics = count((logits[rank::world], labels[rank::world]))
    return vars(metrics)


def _idle_rank(rank, world):
    """Rank 1 sees nothing."""
    return vars(count((torch.eye(3), torch.tensor([0, 1, 0])))) if rank == 0 else vars(count())


def test_two_ranks_count_like_one_process():
    alone = _counted(0, 1)
    for metrics in run_ranks(2, _counted, 2):
        for name, value in alone.items():
            assert metrics[name] == pytest.approx(value, rel=1e-12), name


def test_a_rank_without_pictures():
    for metrics in run_ranks(2, _idle_rank, 2):
        assert metrics["n"] == 3 and metrics["top1"] == pytest.approx(2 / 3)
