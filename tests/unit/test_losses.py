"""Losses: against torch's own and against the formulas of big_vision."""

import math

import pytest
import torch
import torch.nn.functional as F

from gsam.losses import LossKind, build_loss

N, K = 16, 1000


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(N, K, generator=generator) * 3
    return logits, torch.randint(K, (N,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_is_torchs_cross_entropy(batch, smoothing):
    logits, labels = batch
    expected = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(logits, labels)
    assert torch.equal(build_loss(LossKind.softmax, smoothing, K)(logits, labels), expected)


@pytest.mark.parametrize("smoothing", [0.0, 1e-4])
def test_sigmoid_is_the_sum_over_classes_and_the_mean_over_images(batch, smoothing):
    """big_vision utils.sigmoid_xent: -sum(y log_sigmoid(x) + (1 - y) log_sigmoid(-x)), on = 1 - s, off = s."""
    logits, labels = batch
    targets = torch.full((N, K), smoothing, dtype=torch.float64)
    targets[torch.arange(N), labels] = 1 - smoothing
    x = logits.double()
    expected = -(targets * F.logsigmoid(x) + (1 - targets) * F.logsigmoid(-x)).sum(-1).mean()
    torch.testing.assert_close(build_loss(LossKind.sigmoid, smoothing, K)(logits, labels).double(), expected)


@pytest.mark.parametrize("kind", LossKind)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_hot_labels_give_what_integer_labels_give(batch, kind, smoothing):
    logits, labels = batch
    loss = build_loss(kind, smoothing, K)
    torch.testing.assert_close(loss(logits, F.one_hot(labels, K).float()), loss(logits, labels))


@pytest.mark.parametrize("kind", LossKind)
def test_low_precision_logits_are_computed_in_float32(batch, kind):
    logits, labels = batch
    loss = build_loss(kind, 0.1, K)
    low = logits.bfloat16().requires_grad_()
    value = loss(low, labels)
    assert value.dtype == torch.float32 and value.shape == ()
    assert torch.equal(value, loss(low.detach().float(), labels))
    value.backward()
    assert low.grad.dtype == torch.bfloat16


def test_initial_sigmoid_loss_of_the_recipes(batch):
    """Zero classifier kernel, bias -10: K - 1 negatives at log(1 + e^-10) and one positive at log(1 + e^10)."""
    loss = build_loss(LossKind.sigmoid, 0.0, K)(torch.full((N, K), -10.0), batch[1])
    assert loss.item() == pytest.approx(999 * math.log1p(math.exp(-10)) + math.log1p(math.exp(10)), rel=1e-6)
    assert loss.item() == pytest.approx(10.05, abs=0.01)


OUTSIDE = [(LossKind.softmax, 1.0), (LossKind.sigmoid, 0.5), (LossKind.softmax, -0.1)]


@pytest.mark.parametrize(("kind", "smoothing"), OUTSIDE)
def test_smoothing_outside_its_range_is_refused(kind, smoothing):
    with pytest.raises(ValueError, match=rf"loss.label_smoothing={smoothing} is not in \[0, "):
        build_loss(kind, smoothing, K)


@pytest.mark.parametrize("kind", LossKind)
def test_another_number_of_classes_is_refused(batch, kind):
    with pytest.raises(ValueError, match="1000 logits per image, the data has 10 classes"):
        build_loss(kind, 0.0, 10)(*batch)
