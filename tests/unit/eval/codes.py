"""Photographs that carry an answer as black and white squares, and a model that reads it: every number is known beforehand,
and a wrong protocol gives another one.

An answer is (first, second): the classes with the largest and the second largest logit.
"""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from gsam.eval.preprocess import Preprocess
from tests.photos import photograph

BITS = 10
SMALL = Preprocess(32, 36)  # of pictures of 72 pixels it shows the model the central 64
SIDE = 72
MIDDLE = (5, 4, (4, 4, 68, 68))  # columns, rows and box (left, top, right, bottom) of the squares in such a picture
BORDER = (20, 1, (0, 0, 224, 14))  # along the upper edge of a picture of 224


def photo(side: int, seed: int = 0) -> Image.Image:
    """A square piece of a real photograph."""
    left, top = (int(n) for n in np.random.default_rng(seed).integers(0, 200, 2))
    return photograph().crop((left, top, left + 300, top + 300)).resize((side, side))


def jpeg(picture: Image.Image, answer: tuple[int, int], squares=MIDDLE) -> bytes:
    columns, rows, (left, top, right, bottom) = squares
    bits = [answer[i // BITS] >> i % BITS & 1 for i in range(2 * BITS)]
    code = np.array(bits, np.uint8).reshape(rows, columns) * 255
    picture = picture.copy()
    picture.paste(Image.fromarray(code).resize((right - left, bottom - top), Image.Resampling.NEAREST), (left, top))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()


class Reader(nn.Module):
    """float32 (B, 3, S, S), normalised with mean and std 0.5 -> logits (B, classes): 2 for the first class, 1 for the
    second, 0 for the others. Squares beyond the known classes are answered with class 0."""

    def __init__(self, classes: int = 1000, squares=MIDDLE, shown=(4, 68)):
        super().__init__()
        self.classes, self.shapes = classes, []
        columns, rows, (left, top, right, bottom) = squares
        low, high = shown  # the part of the picture that the model sees, in pixels of the picture
        x = (left + (np.arange(columns) + 0.5) * (right - left) / columns - low) / (high - low)
        y = (top + (np.arange(rows) + 0.5) * (bottom - top) / rows - low) / (high - low)
        self.at = np.stack(np.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2)  # centres of the squares, 0 to 1

    def forward(self, images):
        self.shapes.append(tuple(images.shape))
        rows, columns = (torch.from_numpy(self.at * images.shape[-1]).long()).T
        bits = images.mean(1)[:, rows, columns] > 0
        answers = (bits.view(-1, 2, BITS) << torch.arange(BITS)).sum(2)
        answers = torch.where(answers < self.classes, answers, 0)
        logits = torch.zeros(len(images), self.classes)
        return logits.scatter(1, answers[:, 1:], 1.0).scatter(1, answers[:, :1], 2.0)


def write(root: Path, answers: Iterable[tuple[str, tuple[int, int]]]) -> Path:
    """Pictures by (path below root, answer), photographs of SIDE pixels."""
    backgrounds = [photo(SIDE, seed) for seed in range(5)]
    for number, (name, answer) in enumerate(answers):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(backgrounds[number % 5], answer))
    return root
