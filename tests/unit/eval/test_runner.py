import functools

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gsam.data import AugmentConfig, Backend, DataConfig, build_loader
from gsam.data.fashion_mnist import DEBIAN
from gsam.eval import evaluate
from tests.ranks import run_ranks

from .pictures import fashion_mnist

MEAN, STD = [0.5, 0.25, 0.0], [0.5, 0.2, 1.0]


class Batches:
    """A loader of given tensors that reuses one buffer, as FFCV does."""

    def __init__(self, images, labels, size):
        self.images, self.labels, self.size = images, labels, size

    def epoch(self, epoch=0, skip=0):
        buffer = torch.empty(self.size, *self.images.shape[1:], dtype=torch.uint8)
        for images, labels in zip(self.images.split(self.size), self.labels.split(self.size), strict=True):
            buffer[: len(images)] = images
            yield buffer[: len(images)], labels
            buffer.fill_(255)


class Spy(nn.Module):
    """Remembers its input; answers one class per brightest channel."""

    def forward(self, images):
        self.seen, self.was_training = images.clone(), self.training
        self.autocast, self.grad = torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()
        return images.mean((2, 3))


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(512, 10)
    )


def test_images_are_normalised_in_float32():
    images = torch.randint(256, (5, 3, 4, 6), dtype=torch.uint8)
    spy = Spy()
    evaluate(spy, Batches(images, torch.zeros(5, dtype=torch.int64), 5), device="cpu", mean=MEAN, std=STD)
    wanted = (images.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert spy.seen.dtype == torch.float32
    torch.testing.assert_close(spy.seen.double(), wanted, rtol=1e-6, atol=1e-6)
    assert not spy.was_training and not spy.grad and not spy.autocast


def test_autocast_and_channels_last_reach_the_model():
    images = torch.randint(256, (5, 3, 4, 6), dtype=torch.uint8)
    spy = Spy()
    evaluate(
        spy,
        Batches(images, torch.zeros(5, dtype=torch.int64), 5),
        device="cpu",
        autocast=functools.partial(torch.autocast, "cpu", torch.bfloat16),
        mean=MEAN,
        std=STD,
        channels_last=True,
    )
    assert spy.autocast and spy.seen.is_contiguous(memory_format=torch.channels_last)


def test_modes_and_buffers_are_as_before():
    net = small_net()
    net[1].eval()  # a frozen layer stays frozen
    before = {name: value.clone() for name, value in net.state_dict().items()}
    images, labels = torch.randint(256, (6, 3, 28, 28), dtype=torch.uint8), torch.zeros(6, dtype=torch.int64)
    evaluate(net, Batches(images, labels, 4), device="cpu", mean=MEAN, std=STD)
    assert net.training and net[4].training and not net[1].training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_modes_come_back_after_an_error():
    net = small_net()
    images, labels = torch.zeros(2, 3, 9, 9, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(RuntimeError):
        evaluate(net, Batches(images, labels, 2), device="cpu", mean=MEAN, std=STD)
    assert net.training and net[4].training


def test_batch_size_does_not_matter():
    torch.manual_seed(3)
    images, labels = torch.randint(256, (50, 3, 28, 28), dtype=torch.uint8), torch.randint(10, (50,))
    one, two = (evaluate(small_net(), Batches(images, labels, b), device="cpu", mean=MEAN, std=STD) for b in (50, 7))
    assert (one.n, one.top1, one.top5) == (two.n, two.top1, two.top5)
    assert one.nll == pytest.approx(two.nll, rel=1e-6)


def test_an_empty_loader_is_refused():
    empty = Batches(torch.zeros(0, 3, 4, 4, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), 1)
    with pytest.raises(ValueError, match="no example was seen"):
        evaluate(Spy(), empty, device="cpu", mean=MEAN, std=STD)


def _evaluated(rank, world, wrapped):
    data = DataConfig("fashion_mnist", Backend.folder, DEBIAN, workers=0, limit_eval=101)
    augment = AugmentConfig(size=28, eval_resize=28)
    loader = build_loader(data, augment, "val", batch_size=50, rank=rank, world=world, seed=0, train=False)
    model = DistributedDataParallel(small_net()) if wrapped else small_net()
    return vars(evaluate(model, loader, device="cpu", mean=augment.mean, std=augment.std))


@fashion_mnist
def test_two_ranks_count_like_one_process_also_with_unequal_numbers_of_batches():
    alone = _evaluated(0, 1, False)
    assert alone["n"] == 101
    for metrics in run_ranks(2, _evaluated, 2, True):  # 51 pictures = 2 batches and 50 = 1 batch
        assert (metrics["n"], metrics["top1"], metrics["top5"]) == (101, alone["top1"], alone["top5"])
        assert metrics["nll"] == pytest.approx(alone["nll"], rel=1e-6)
