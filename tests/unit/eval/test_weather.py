"""Snow, frost, fog and spatter, each against its definition written plainly; the textures of ice."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from gsam.eval.corruptions import PRESETS, corrupt, frost_origin
from gsam.eval.corruptions.blur import enlarged, motion_blurred
from gsam.eval.corruptions.textures import ICE, frost_textures
from gsam.eval.corruptions.weather import drops, frost, plasma, snow, spatter
from tests.photos import photograph

from .pictures import gradient, mad

GREY = np.array([0.299, 0.587, 0.114])


def test_snow_is_flakes_and_the_same_flakes_turned():
    black = np.zeros((64, 64, 3), np.uint8)
    flakes = (0.1, 0.3, 3, 0.5, 10, 4, 1.0)  # share 1: nothing is whitened
    copy = snow(black, flakes, np.random.default_rng(0), 1.0)
    assert np.array_equal(copy[::-1, ::-1], copy) and np.ptp(copy, axis=-1).max() == 0
    rng = np.random.default_rng(0)
    layer = enlarged(enlarged(rng.normal(0.1, 0.3, (64, 64)), 3).T, 3).T
    layer = (np.clip(np.where(layer < 0.5, 0, layer), 0, 1) * 255).astype(np.uint8)
    layer = motion_blurred(layer, 10, 4, rng.uniform(-135, -45)) / 255
    np.testing.assert_allclose(copy[..., 0], layer + layer[::-1, ::-1], atol=1e-6)


def test_snow_whitens_dark_places():
    image = gradient(64)
    x = image / 255
    no_flakes = (0.1, 0.3, 3, 9.0, 10, 4, 0.8)  # a threshold that none reaches
    wanted = 0.8 * x + 0.2 * np.maximum(x, 1.5 * (x @ GREY)[..., None] + 0.5)
    np.testing.assert_allclose(snow(image, no_flakes, np.random.default_rng(0), 1.0), wanted, atol=1e-6)


@pytest.mark.parametrize("decay", [1.4, 3])
def test_the_plasma_is_diamond_square_on_a_torus(decay):
    side, rng = 16, np.random.default_rng(1)
    wanted, step, width = np.zeros((side, side)), side, 100.0
    while step >= 2:
        half, places = step // 2, range(0, side, step)

        def fill(top, left, around, noise, places=places, wanted=wanted, width=width):
            for i, r in enumerate(places):
                for j, c in enumerate(places):
                    mean = sum(wanted[(r + top + dr) % side, (c + left + dc) % side] for dr, dc in around) / 4
                    wanted[r + top, c + left] = mean + width * noise[i, j]  # uniform in +-width, times width

        squares = [(-half, -half), (-half, half), (half, -half), (half, half)]
        diamonds = [(-half, 0), (half, 0), (0, -half), (0, half)]
        for top, left, around in ((half, half, squares), (0, half, diamonds), (half, 0, diamonds)):
            fill(top, left, around, rng.uniform(-width, width, (len(places), len(places))))
        step, width = half, width / decay
    wanted = (wanted - wanted.min()) / np.ptp(wanted)
    np.testing.assert_allclose(plasma(side, decay, np.random.default_rng(1)), wanted, atol=1e-12)


@pytest.mark.parametrize("size", PRESETS)
def test_fog_keeps_black_black_and_the_brightest_value(size):
    black = np.zeros((size, size, 3), np.uint8)
    assert corrupt(black, "fog", 3, seed=0, index=0, save_jpeg85=False).max() == 0
    dim = gradient(size) // 2
    assert corrupt(dim, "fog", 5, seed=0, index=0, save_jpeg85=False).max() <= dim.max()


def test_spatter_of_mud_is_brown_and_of_water_pale_blue():
    image = np.full((224, 224, 3), 100, np.uint8)
    mud = corrupt(image, "spatter", 4, seed=0, index=0, save_jpeg85=False)
    assert [int(v) for v in mud.reshape(-1, 3).min(0)] == [63, 42, 20] and mud.max() == 100
    water = corrupt(image, "spatter", 1, seed=0, index=0, save_jpeg85=False).astype(int) - image
    wet = water[water.max(-1) > 50]
    assert water.min() == 0 and len(wet) and np.allclose(wet[:, 0] / wet[:, 1], 175 / 238, atol=0.03)
    assert np.array_equal(water[..., 1], water[..., 2])


def test_spatter_without_a_drop_leaves_the_picture():
    assert drops(np.zeros((32, 32))).max() == 0
    image = gradient(32)
    dry = spatter(image, (0.1, 0.01, 1, 0.69, 0.5, False), np.random.default_rng(0), 1.0)
    np.testing.assert_allclose(dry, image / 255, atol=1e-6)


def test_frost_mixes_a_piece_of_a_texture_and_draws_every_texture():
    textures = [np.full((40, 50, 3), grey, np.uint8) for grey in (10, 20, 30, 40, 50)]
    image = np.full((32, 32, 3), 100, np.uint8)
    levels = {int(frost(image, (0.8, 0.6, 1), np.random.default_rng(seed), 1.0, textures).max()) for seed in range(60)}
    assert levels == {int(80 + 0.6 * grey) for grey in (10, 20, 30, 40, 50)}


def test_a_texture_smaller_than_the_picture_is_enlarged():
    texture = np.random.default_rng(0).integers(0, 256, (20, 200, 3), dtype=np.uint8)
    copy = frost(np.zeros((64, 32, 3), np.uint8), (1, 1, 1), np.random.default_rng(0), 1.0, [texture])
    assert copy.shape == (64, 32, 3) and copy.std() > 20


@pytest.mark.parametrize(("index", "step"), [(0, 7.4), (1, 7.9), (3, 13.2), (4, 17.4)])
def test_synthetic_textures_have_the_measured_statistics(index, step):
    """Of the published textures: mean colour, luma percentiles, mean horizontal luma step; not one of their pixels."""
    textures = frost_textures(None)
    assert len(textures) == 5 and textures[1] is textures[2]  # two of the published five are the same picture
    texture, ice = textures[index].astype(float), ICE[index - (index > 1)]
    luma = texture @ GREY
    assert np.abs(texture.mean((0, 1)) - ice.rgb).max() < 1
    assert np.abs(np.percentile(luma, (1, 5, 25, 50, 75, 95, 99)) - ice.luma[1:-1]).max() <= 4
    assert np.abs(np.diff(luma, axis=1)).mean() == pytest.approx(step, rel=0.05)
    spectrum = np.abs(np.fft.fft2(ndimage.zoom(luma, 0.25) - luma.mean())) ** 2
    assert spectrum[1:4, 1:4].mean() > 5 * spectrum[20:30, 20:30].mean()  # clouds, not white noise


def test_a_folder_of_textures(tmp_path):
    image = gradient(224)
    for number in range(6):
        Image.new("RGB", (300, 260), (40 * number,) * 3).save(tmp_path / f"frost{number + 1}.png")
    copies = [corrupt(image, "frost", 2, seed=0, index=i, frost_textures=str(tmp_path)) for i in range(40)]
    strongest = max(mad(copy, image) for copy in copies)
    sixth = np.clip(0.8 * image + 0.6 * 200, 0, 255).astype(np.uint8)  # is never used
    assert strongest < mad(sixth, image) - 5
    assert frost_origin(None) == "synthetic"
    assert frost_origin(str(tmp_path)).startswith(f"{tmp_path.name}, 5 textures, ")
    with pytest.raises(ValueError, match="frost_textures=.*nowhere is not a folder"):
        corrupt(image, "frost", 2, seed=0, index=0, frost_textures=str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no picture"):
        corrupt(image, "frost", 2, seed=0, index=0, frost_textures=str(tmp_path / "empty"))


def test_weather_on_a_photograph_is_not_flat():
    photo = np.asarray(photograph().crop((100, 60, 324, 284)))
    for name in ("snow", "frost", "fog", "spatter"):
        copy = corrupt(photo, name, 5, seed=0, index=0)
        assert copy.std() > 15 and mad(copy, photo) > 5
