"""The operations of the official RandAugment on batches: uint8 (n, 3, H, W) in and out, on any device.

Source: big_vision/pp/autoaugment.py, what its TensorFlow code computes, quirks included:

* geometry is nearest neighbour, empty pixels are 128; translations are 100 pixels at magnitude 10 whatever the picture's size;
* results are cut to whole numbers, not rounded;
* contrast blends with the grey min(H * W / 256, 255) (196 at 224 pixels) instead of the mean (big_vision issue 109);
* solarize's threshold wraps at 256 (issue 110): at magnitude 10 it is 0, and everything is inverted; at 15 it is 128;
* enhancing factors are 0.18 m + 0.1: from magnitude 5 on, above 1, sharpness only sharpens.

One thing is not imitated: TensorFlow smooths with rounded 1/13, which gives flat areas 1 less or not by its order of adding.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

FILL = 128


class Draw(NamedTuple):
    """What is random about an operation, for each picture."""

    sign: Tensor
    """(n,) float32, -1 or 1"""
    row: Tensor
    """(n,) int64, and column: cutout's centre"""
    column: Tensor


# name -> operation(pictures, magnitude / 10, Draw)
OFFICIAL = {
    "AutoContrast": lambda x, m, draw: autocontrast(x),
    "Equalize": lambda x, m, draw: equalize(x),
    "Invert": lambda x, m, draw: 255 - x,
    "Rotate": lambda x, m, draw: rotate(x, 30 * m, draw.sign),
    "Posterize": lambda x, m, draw: posterize(x, int(4 * m)),
    "Solarize": lambda x, m, draw: solarize(x, int(256 * m) % 256),
    "Color": lambda x, m, draw: blend(grey(x), x, 1.8 * m + 0.1),
    "Contrast": lambda x, m, draw: blend(int(min(x[0, 0].numel() / 256, 255)), x, 1.8 * m + 0.1),
    "Brightness": lambda x, m, draw: blend(0, x, 1.8 * m + 0.1),
    "Sharpness": lambda x, m, draw: blend(smooth(x), x, 1.8 * m + 0.1),
    "ShearX": lambda x, m, draw: affine(x, 1, 0.3 * m * draw.sign, 0, 0, 1, 0),
    "ShearY": lambda x, m, draw: affine(x, 1, 0, 0, 0.3 * m * draw.sign, 1, 0),
    "TranslateX": lambda x, m, draw: affine(x, 1, 0, 100 * m * draw.sign, 0, 1, 0),
    "TranslateY": lambda x, m, draw: affine(x, 1, 0, 0, 0, 1, 100 * m * draw.sign),
    "Cutout": lambda x, m, draw: cutout(x, int(40 * m), draw.row, draw.column),
    "SolarizeAdd": lambda x, m, draw: torch.where(x < 128, whole(x.int() + int(110 * m)), x),
}


def whole(x: Tensor) -> Tensor:
    """Numbers to uint8: limited to 0 .. 255, then cut."""
    return x.clamp(0, 255).to(torch.uint8)


def blend(one: Tensor | int, two: Tensor, factor: float | Tensor) -> Tensor:
    """one + factor * (two - one); factor: a number, or (n,) with one for each picture. Pillow's Image.blend."""
    difference = two.float() - one
    return whole(difference.mul_(_each(factor)).add_(one))


def grey(x: Tensor) -> Tensor:
    """(n, 1, H, W) uint8: tf.image.rgb_to_grayscale, which scales by 1/255 and back by 255.5, then cuts."""
    red, green, blue = (x.float() * (1 / 255)).split(1, dim=1)
    return whole((0.2989 * red + 0.587 * green + 0.114 * blue) * 255.5)


def smooth(x: Tensor) -> Tensor:
    """Mean of 3 x 3 pixels in which the middle one counts five times; the border stays."""
    wide = x.to(torch.int16)
    rows = wide[..., :-2, :] + wide[..., 1:-1, :] + wide[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * wide[..., 1:-1, 1:-1]
    result = x.clone()
    result[..., 1:-1, 1:-1] = total.div(13, rounding_mode="floor").to(torch.uint8)
    return result


def autocontrast(x: Tensor) -> Tensor:
    """Each channel stretched so that its least value becomes 0 and its largest 255; a channel of one value stays."""
    low, high = x.amin((2, 3), keepdim=True).float(), x.amax((2, 3), keepdim=True).float()
    scale = 255.0 / (high - low)
    return torch.where(high > low, whole(torch.nan_to_num(x.float() * scale - low * scale)), x)


def equalize(x: Tensor) -> Tensor:
    """Each channel through the table that flattens its histogram. Pillow's ImageOps.equalize."""
    values = x.flatten(2).long()
    counts = values.new_zeros(*values.shape[:2], 256).scatter_add_(2, values, torch.ones_like(values))
    last = counts.gather(2, values.amax(2, keepdim=True))
    step = (values.shape[2] - last) // 255
    before = counts.cumsum(2) - counts
    table = ((before + step // 2) // step.clamp(min=1)).clamp(0, 255)
    return torch.where(step > 0, table.gather(2, values), values).to(torch.uint8).view(x.shape)


def posterize(x: Tensor, bits: int) -> Tensor:
    """The highest `bits` bits of each value; TensorFlow shifts by 7 at most, hence 0 bits keep one."""
    shift = min(8 - bits, 7)
    return (x >> shift) << shift


def solarize(x: Tensor, threshold: int) -> Tensor:
    """Values from the threshold on are inverted."""
    return torch.where(x < threshold, x, 255 - x)


def cutout(x: Tensor, half: int, row: Tensor, column: Tensor) -> Tensor:
    """A square of 2 * half pixels around (row, column) becomes grey, as far as it lies in the picture."""
    rows, columns = (torch.arange(n, device=x.device) for n in x.shape[2:])
    up = (rows >= row[:, None] - half) & (rows < row[:, None] + half)
    across = (columns >= column[:, None] - half) & (columns < column[:, None] + half)
    return x.masked_fill((up[:, :, None] & across[:, None, :])[:, None], FILL)


def rotate(x: Tensor, degrees: float, sign: Tensor) -> Tensor:
    """About the centre; nearest neighbour. Source: tensorflow_addons.image.angles_to_projective_transforms."""
    right, down = x.shape[3] - 1, x.shape[2] - 1
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees)) * sign
    left = (right - (cos * right - sin * down)) / 2
    top = (down - (sin * right + cos * down)) / 2
    return affine(x, cos, -sin, left, sin, cos, top)


def affine(x: Tensor, *matrix: float | Tensor) -> Tensor:
    """Pixel (column, row) comes from (a * column + b * row + c, d * column + e * row + f), to the nearest; 128 where that is
    outside. matrix: a .. f, each a number, or (n,) with one for each picture."""
    height, width = x.shape[2:]
    a, b, c, d, e, f = (_each(value)[:, 0] if isinstance(value, Tensor) else value for value in matrix)
    column = torch.arange(width, device=x.device, dtype=torch.float32)
    row = torch.arange(height, device=x.device, dtype=torch.float32)[:, None]
    columns, rows = _nearest(a * column + b * row + c), _nearest(d * column + e * row + f)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    place = rows.clamp(0, height - 1).long() * width + columns.clamp(0, width - 1).long()
    place = place.expand(len(x), height, width).reshape(len(x), 1, -1).expand(-1, 3, -1)
    return x.flatten(2).gather(2, place).view(x.shape).masked_fill_(~inside.expand(len(x), -1, -1)[:, None], FILL)


def jitter(x: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast, then saturation of each picture by its factors (n, 3): torchvision's ColorJitter in one order."""
    x = blend(0, x, factors[:, 0])
    x = blend(grey(x).float().mean((1, 2, 3), keepdim=True), x, factors[:, 1])
    return blend(grey(x), x, factors[:, 2])


def _each(value: float | Tensor) -> float | Tensor:
    return value.view(-1, 1, 1, 1) if isinstance(value, Tensor) else value


def _nearest(x: Tensor) -> Tensor:
    """Rounded, halves away from 0."""
    return x.abs().add_(0.5).floor_().copysign(x)
