"""Every operation of the official RandAugment on a calibration picture, against an independent statement of what it is."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from gsam.augment.operations import OFFICIAL, Draw, jitter
from tests.photos import photograph

HEIGHT, WIDTH = 96, 112
ROW, COLUMN = 10, 70  # cutout's centre: the square leaves the picture at the top


def calibration():
    """uint8 (H, W, 3): a photograph with a ramp, a flat area, and another beside it; values from 10 to 240."""
    picture = np.array(photograph().crop((60, 40, 60 + WIDTH, 40 + HEIGHT)))
    picture[-20:-10] = np.linspace(10, 240, WIDTH).astype(np.uint8)[None, :, None]
    picture[-10:, :50] = (200, 30, 90)
    picture[-10:, 50:] = (10, 240, 128)
    return picture.clip(10, 240)


def cut(values):
    return np.clip(values, 0, 255).astype(np.uint8)


def blended(one, two, factor):
    return cut(np.float32(one) + np.float32(factor) * (np.float32(two) - np.float32(one)))


def grey(x):
    """rgb_to_grayscale of TensorFlow: weights on 0..1, then times 255.5, cut."""
    red, green, blue = np.moveaxis(x.astype(np.float32) * np.float32(1 / 255), 2, 0)
    values = np.float32(0.2989) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    return cut(values * np.float32(255.5))[..., None]


def autocontrast(x):
    result = x.copy()
    for c in range(3):
        low, high = x[..., c].min(), x[..., c].max()
        scale = np.float32(255) / (np.float32(high) - np.float32(low))
        result[..., c] = cut(x[..., c].astype(np.float32) * scale - np.float32(low) * scale)
    return result


def smoothed(x):
    """Pillow's SMOOTH kernel in whole numbers; the border is the picture's."""
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]])[..., None]
    inner, result = ndimage.convolve(x.astype(int), kernel)[1:-1, 1:-1] // 13, x.copy()
    result[1:-1, 1:-1] = inner
    return result


def transformed(x, across=0.0, down=0.0):
    """Pillow's affine: pixel (column, row) from (column + across * row, row + down * column), centres at whole numbers."""
    matrix = (1, across, -0.5 * across, down, 1, -0.5 * down)
    return np.array(Image.fromarray(x).transform((WIDTH, HEIGHT), Image.Transform.AFFINE, matrix, fillcolor=(128,) * 3))


def moved(x, pixels, axis):
    """Towards lower numbers by `pixels`, 128 where nothing comes from."""
    result, n = np.full_like(x, 128), x.shape[axis]
    x, out = np.moveaxis(x, axis, 0), np.moveaxis(result, axis, 0)
    pixels = int(pixels)
    if abs(pixels) < n:
        out[max(-pixels, 0) : n - max(pixels, 0)] = x[max(pixels, 0) : n - max(-pixels, 0)]
    return result


def square(x, half):
    result = x.copy()
    result[max(ROW - half, 0) : ROW + half, max(COLUMN - half, 0) : COLUMN + half] = 128
    return result


def pillow(function):
    return lambda x, *rest: np.array(function(Image.fromarray(x), *rest))


# name -> what it gives for (picture, magnitude, sign); Pillow where the definitions agree.
DEFINITIONS = {
    "AutoContrast": lambda x, m, s: autocontrast(x),
    "Equalize": lambda x, m, s: pillow(ImageOps.equalize)(x),
    "Invert": lambda x, m, s: pillow(ImageOps.invert)(x),
    "Rotate": lambda x, m, s: np.array(Image.fromarray(x).rotate(3 * m * s, fillcolor=(128,) * 3)),
    "Posterize": lambda x, m, s: pillow(ImageOps.posterize)(x, int(0.4 * m)),
    "Solarize": lambda x, m, s: pillow(ImageOps.solarize)(x, {3: 76, 10: 0, 15: 128}[m]),
    "Color": lambda x, m, s: blended(grey(x), x, 0.18 * m + 0.1),
    "Contrast": lambda x, m, s: blended(HEIGHT * WIDTH // 256, x, 0.18 * m + 0.1),
    "Brightness": lambda x, m, s: np.array(ImageEnhance.Brightness(Image.fromarray(x)).enhance(0.18 * m + 0.1)),
    "Sharpness": lambda x, m, s: blended(smoothed(x), x, 0.18 * m + 0.1),
    "ShearX": lambda x, m, s: transformed(x, across=0.03 * m * s),
    "ShearY": lambda x, m, s: transformed(x, down=0.03 * m * s),
    "TranslateX": lambda x, m, s: moved(x, 10 * m * s, 1),
    "TranslateY": lambda x, m, s: moved(x, 10 * m * s, 0),
    "Cutout": lambda x, m, s: square(x, 4 * m),
    "SolarizeAdd": lambda x, m, s: np.where(x < 128, cut(x.astype(int) + 11 * m), x),
}


def run(name, pictures, magnitude, signs):
    x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    places = (torch.full((len(x),), value) for value in (ROW, COLUMN))
    result = OFFICIAL[name](x, magnitude / 10, Draw(torch.tensor(signs, dtype=torch.float32), *places))
    assert result.dtype == torch.uint8 and result.shape == x.shape
    return result.permute(0, 2, 3, 1).numpy()


def decided(name, magnitude):
    """Where a sheared position is not in the middle of two pixels."""
    offset = {"ShearX": np.arange(HEIGHT)[:, None], "ShearY": np.arange(WIDTH)[None]}.get(name, np.zeros((1, 1)))
    return np.broadcast_to(abs(0.03 * magnitude * offset % 1 - 0.5) > 1e-3, (HEIGHT, WIDTH))


@pytest.mark.parametrize("magnitude", [3, 10, 15])
@pytest.mark.parametrize("name", OFFICIAL)
def test_an_operation_is_what_its_definition_says(name, magnitude):
    """Both signs in one batch; equal in every pixel, but that a turned position may be rounded to the neighbour in 0.5 % of
    them, and that those of a shear which lie in the middle of two pixels are left out."""
    picture = calibration()
    for ours, sign in zip(run(name, [picture] * 2, magnitude, [1, -1]), (1, -1), strict=True):
        differing = (ours != DEFINITIONS[name](picture, magnitude, sign)).any(2)[decided(name, magnitude)].mean()
        assert differing <= (0.005 if name == "Rotate" else 0), f"{name}, sign {sign}: {differing:.2%}"
        assert not np.array_equal(ours, picture)


def test_there_are_the_sixteen_of_the_official_list():
    assert len(OFFICIAL) == 16 and OFFICIAL.keys() == DEFINITIONS.keys()


def test_pictures_of_a_batch_do_not_touch_each_other():
    """Each of three different ones as if it were alone, which only min, max, histogram or mean over the batch would break."""
    pictures = [calibration(), calibration()[::-1].copy() // 2, 255 - calibration()[:, ::-1]]
    for name in OFFICIAL:
        together = run(name, pictures, 10, [1, -1, 1])
        alone = [run(name, [p], 10, [s])[0] for p, s in zip(pictures, (1, -1, 1), strict=True)]
        assert np.array_equal(together, np.stack(alone)), name


def test_flat_pictures_stay_whole():
    """No division by a range of 0, no table of an empty histogram."""
    flat = np.full((HEIGHT, WIDTH, 3), 77, np.uint8)
    for name in ("AutoContrast", "Equalize"):
        assert np.array_equal(run(name, [flat], 10, [1])[0], flat)


def test_the_documented_quirks_of_the_official_code():
    picture = calibration()
    large = np.zeros((224, 224, 3), np.uint8)
    assert (run("Contrast", [large], 5, [1])[0] == 0).all()  # 196 + 1.0 * (0 - 196)
    assert (
        run("Contrast", [large + 200], 10, [1])[0] == 203
    ).all()  # 196 + 1.9 * (200 - 196), cut; its own mean would leave 200
    assert np.array_equal(run("Solarize", [picture], 10, [1])[0], 255 - picture)  # 256 is 0 in 8 bits
    assert (run("TranslateX", [picture], 15, [1])[0] == 128).all()  # 150 pixels, whatever the width
    assert np.array_equal(run("Posterize", [picture], 0, [1])[0], picture & 128)  # TensorFlow shifts by 7 at most
    weak, strong = (run("Sharpness", [picture], m, [1])[0].astype(int) for m in (10, 15))
    edges = [np.abs(np.diff(x.astype(int), axis=1)).mean() for x in (picture, weak, strong)]
    assert edges[0] < edges[1] < edges[2]


def test_colour_jitter_changes_brightness_contrast_and_saturation_by_its_factors():
    """Against Pillow, one factor at a time; Pillow rounds the grey that is blended with, so 2 levels may be between."""
    picture = calibration()
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].expand(2, -1, -1, -1)
    for place, enhancer in enumerate((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)):
        factors = torch.ones(2, 3)
        factors[:, place] = torch.tensor([0.6, 1.4])
        for ours, factor in zip(jitter(x, factors), (0.6, 1.4), strict=True):
            expected = np.array(enhancer(Image.fromarray(picture)).enhance(factor)).astype(int)
            assert np.abs(ours.permute(1, 2, 0).numpy() - expected).max() <= 2, (enhancer, factor)
    assert torch.equal(jitter(x, torch.ones(2, 3)), x) and math.isclose(
        picture.mean(), x.float().mean().item(), rel_tol=1e-5
    )
