import hashlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy import ndimage

from gsam.eval.corruptions import BENCHMARK, CONSTANTS, CORRUPTIONS, EXTRA, PRESETS, SEVERITIES, corrupt, preset_for
from gsam.eval.corruptions.blur import defocus_kernel, glass_sources, motion_blurred
from gsam.eval.corruptions.constants import length_scale
from gsam.eval.corruptions.elastic import elastic_transform
from tests.photos import photograph

from .pictures import clothes, fashion_mnist, gradient, mad

GOLDEN = Path(__file__).parents[2] / "golden"
# OpenCV and libjpeg may differ by a grey level between builds and processors; the rest is exact arithmetic.
FROM_LIBRARIES = {
    "defocus_blur": 1,
    "glass_blur": 2,  # truncated twice
    "motion_blur": 1,
    "zoom_blur": 1,
    "snow": 1,
    "frost": 3,
    "spatter": 60,  # where a drop's edge is drawn
    "elastic_transform": 3,
    "gaussian_blur": 1,
    "jpeg_compression": 8,
}
RANDOM = {"gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"}
RANDOM |= {"glass_blur", "motion_blur", "elastic_transform", "snow", "frost", "fog", "spatter"}
# Saturate takes colour away, then adds it; the others are published with a dip (elastic: stronger at 1 and 2), and a
# texture of frost is dark or bright.
NOT_MONOTONE = {"saturate", "glass_blur", "elastic_transform", "motion_blur", "frost", "spatter"}


def severities(name, image, **options):
    return np.stack([corrupt(image, name, s, seed=0, index=3, **options) for s in SEVERITIES])


def plain(image, name, severity, **options):
    return corrupt(image, name, severity, seed=0, index=0, save_jpeg85=False, **options)


def portrait(size: int) -> np.ndarray:
    """The head of the photograph, uint8 (size, size, 3)."""
    return np.asarray(photograph().crop((32, 60, 480, 508)).resize((size, size), Image.Resampling.BILINEAR))


def digest(copies: np.ndarray) -> str:
    return hashlib.sha256(copies.tobytes()).hexdigest()


def write_golden() -> None:
    """`python -m tests.unit.eval.test_corruptions`, after a change that is meant to change copies."""
    made = {(n, size): severities(n, portrait(size), save_jpeg85=False) for n in CORRUPTIONS for size in PRESETS}
    hashes = {f"{n}/{size}": digest(copies) for (n, size), copies in made.items() if n not in FROM_LIBRARIES}
    (GOLDEN / "corruptions.json").write_text(json.dumps(hashes, indent=1) + "\n")
    np.savez_compressed(GOLDEN / "corruptions.npz", **{name: made[name, 32] for name in FROM_LIBRARIES})


@pytest.mark.parametrize("size", PRESETS)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_golden(name, size):
    """The five severities of a piece of a photograph, before the benchmark's JPEG save."""
    if name not in FROM_LIBRARIES:
        hashes = json.loads((GOLDEN / "corruptions.json").read_text())
        assert digest(severities(name, portrait(size), save_jpeg85=False)) == hashes[f"{name}/{size}"]
    elif size == 32:
        copies = severities(name, portrait(size), save_jpeg85=False)
        wanted = np.load(GOLDEN / "corruptions.npz")[name]
        assert np.abs(copies.astype(int) - wanted).max() <= FROM_LIBRARIES[name]
        assert mad(copies, wanted) <= 0.05


def test_the_tables_are_the_published_15_in_order_and_4_more():
    assert " ".join(BENCHMARK) == (
        "gaussian_noise shot_noise impulse_noise defocus_blur glass_blur motion_blur zoom_blur snow frost fog brightness "
        "contrast elastic_transform pixelate jpeg_compression"
    )
    assert " ".join(EXTRA) == "speckle_noise gaussian_blur spatter saturate"
    assert CORRUPTIONS == BENCHMARK | EXTRA and list(CONSTANTS.keys() - CORRUPTIONS) == []


@pytest.mark.parametrize("size", PRESETS)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_severity_is_defined_and_changes_the_picture(name, size):
    assert all(len(CONSTANTS[name][preset]) == 5 for preset in PRESETS)
    image = gradient(size)
    before = image.copy()
    for copy in severities(name, image):
        assert copy.dtype == np.uint8 and copy.shape == image.shape and mad(copy, image) > 0
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in NOT_MONOTONE])
def test_severity_grows(name):
    rng = np.random.default_rng(0)
    textured = np.clip(gradient(32) + rng.normal(0, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
    steps = [mad(copy, textured) for copy in severities(name, textured)]
    assert steps == sorted(steps) and steps[0] < steps[-1]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_copy_depends_on_its_four_numbers_only(name):
    image = gradient(32)
    one = corrupt(image, name, 3, seed=5, index=7)
    corrupt(image, name, 4, seed=9, index=1)
    assert np.array_equal(one, corrupt(image, name, 3, seed=5, index=7))
    others = [corrupt(image, name, 3, seed=5, index=8), corrupt(image, name, 3, seed=6, index=7)]
    assert all(np.array_equal(one, other) != (name in RANDOM) for other in others)


def test_corruptions_have_streams_of_their_own():
    grey = np.full((32, 32, 3), 128, np.uint8)
    noise = [
        corrupt(grey, n, s, seed=0, index=0).astype(float) - 128
        for n, s in (("gaussian_noise", 3), ("gaussian_noise", 4), ("speckle_noise", 3))
    ]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(noise[i].ravel(), noise[j].ravel())[0, 1]) < 0.1


def test_values_are_truncated_not_rounded():
    # Contrast 0.75 on levels 0 and 3: mean 1.5, so 0.375 and 2.625.
    image = np.zeros((32, 32, 3), np.uint8)
    image[:16] = 3
    assert set(np.unique(corrupt(image, "contrast", 1, seed=0, index=0))) == {0, 2}


@pytest.mark.parametrize(
    ("name", "published", "tolerance"),
    [
        ("gaussian_noise", (15.38, 22.52, 32.41, 44.14, 58.75), 0.07),
        ("impulse_noise", (3.80, 7.67, 11.50, 21.66, 34.43), 0.03),
        ("snow", (40.11, 65.40, 64.87, 79.16, 93.37), 0.08),
        ("brightness", (16.74, 31.81, 43.99, 54.04, 62.18), 0.09),
        ("jpeg_compression", (5.80, 6.63, 7.20, 8.62, 10.42), 0.09),
    ],
)
def test_magnitudes_are_the_published_ones(name, published, tolerance):
    """Mean difference that the original makes on eight other photographs; of the corruptions whose strength depends
    little on the photograph. scripts/parity_imagenet_c.py compares all of them with the original itself."""
    image = portrait(224)
    for severity, wanted in zip(SEVERITIES, published, strict=True):
        copies = [corrupt(image, name, severity, seed=0, index=i, save_jpeg85=False) for i in range(4)]
        assert np.mean([mad(copy, image) for copy in copies]) == pytest.approx(wanted, rel=tolerance)


@pytest.mark.parametrize(("severity", "rate"), [(1, 0.03), (2, 0.06), (3, 0.09), (4, 0.17), (5, 0.27)])
def test_impulse_noise_hits_values_at_its_rate_half_of_them_white(severity, rate):
    grey = np.full((224, 224, 3), 100, np.uint8)
    copy = plain(grey, "impulse_noise", severity)
    n = copy.size
    assert set(np.unique(copy)) == {0, 100, 255}
    assert (copy != 100).mean() == pytest.approx(rate, abs=4 * (rate * (1 - rate) / n) ** 0.5)
    assert (copy == 255).mean() == pytest.approx(rate / 2, abs=4 * (rate / 2 / n) ** 0.5)


def test_shot_noise_has_poisson_variance():
    grey = np.full((224, 224, 3), 64, np.uint8)
    copy = plain(grey, "shot_noise", 1) / 255
    assert copy.mean() == pytest.approx(64 / 255, abs=0.004)  # truncation takes half a grey level
    assert copy.var() == pytest.approx(64 / 255 / 60, rel=0.02)


@pytest.mark.parametrize("size", PRESETS)
def test_defocus_kernels(size):
    for severity, (radius, sigma) in enumerate(CONSTANTS["defocus_blur"][size], start=1):
        kernel = defocus_kernel(radius, sigma)
        reach = 8 if radius <= 8 else radius
        assert kernel.shape == (2 * reach + 1, 2 * reach + 1) and kernel.dtype == np.float32
        # The published kernels brighten by about 1 % where their disc touches the grid's edge.
        wanted = {(224, 4): 1.012975, (224, 5): 1.010786}.get((size, severity), 1.0)
        assert kernel.sum(dtype=np.float64) == pytest.approx(wanted, abs=1e-6) and kernel.min() >= 0
        # Symmetric up to OpenCV's order of additions.
        for flipped in (kernel.T, kernel[::-1], kernel[:, ::-1]):
            np.testing.assert_allclose(kernel, flipped, atol=1e-8)


@pytest.mark.parametrize("size", PRESETS)
def test_blurs_equal_scipys(size):
    image = gradient(size)
    for severity in SEVERITIES:
        kernel = defocus_kernel(*CONSTANTS["defocus_blur"][size][severity - 1])
        wanted = ndimage.correlate(image / 255, kernel[:, :, None].astype(float), mode="mirror")
        copy = plain(image, "defocus_blur", severity)
        assert np.abs(copy - np.clip(wanted, 0, 1) * 255).max() <= 1.001  # truncation
        sigma = CONSTANTS["gaussian_blur"][size][severity - 1]
        wanted = ndimage.gaussian_filter(image / 255, (sigma, sigma, 0), mode="nearest", truncate=4)
        assert np.abs(plain(image, "gaussian_blur", severity) - wanted * 255).max() <= 1.001


@pytest.mark.parametrize("reach", [1, 2, 4])
def test_a_glass_sweep_equals_the_published_loop(reach):
    height, width = 21, 26
    wanted = np.arange(height * width).reshape(height, width)
    rng = np.random.default_rng(5)
    for h in range(height - reach, reach, -1):
        for w in range(width - reach, reach, -1):
            dx, dy = rng.integers(-reach, reach, size=2)
            wanted[h, w] = wanted[h + dy, w + dx]  # a copy: the partner keeps its content
    sources = glass_sources(height, width, reach, np.random.default_rng(5))
    assert np.array_equal(sources.reshape(height, width), wanted)


def test_a_glass_pass_copies_and_never_swaps():
    sources = glass_sources(32, 32, 2, np.random.default_rng(0))
    assert len(np.unique(sources)) < 32 * 32  # some pixel is there twice, another one is lost


@pytest.mark.parametrize("degrees", [0.0, 26.6, -45.0, 45.0, -120.0])
def test_motion_blur_equals_its_definition(degrees):
    image, radius, sigma = gradient(64), 10, 2.5
    steps = range(2 * radius + 1)
    weights = [math.exp(-i * i / (2 * sigma * sigma)) for i in steps]
    wanted = np.zeros(image.shape)
    for i, weight in zip(steps, weights, strict=True):
        x = math.ceil(i * math.cos(math.radians(degrees)) - 0.5)
        y = math.ceil(i * math.sin(math.radians(degrees)) - 0.5)
        rows, columns = np.clip(np.arange(64) + y, 0, 63), np.clip(np.arange(64) + x, 0, 63)
        wanted += weight / sum(weights) * image[rows][:, columns]
    copy = motion_blurred(image, radius, sigma, degrees)
    assert np.abs(copy - (wanted + 1 / 514)).max() <= 1.001  # truncated, after rounding in 16 bits
    assert np.array_equal(motion_blurred(image[..., 0].copy(), radius, sigma, degrees), copy[..., 0])


def test_zoom_blur_has_the_published_numbers_of_factors():
    counts = {size: [len(np.arange(1.0, *zooms)) for zooms in CONSTANTS["zoom_blur"][size]] for size in PRESETS}
    assert counts == {32: [7, 12, 16, 21, 26], 64: [7, 12, 16, 21, 26], 224: [12, 16, 11, 13, 11]}


def test_zoom_blur_equals_scipys():
    image = gradient(64)
    x = (image / 255).astype(np.float32)
    total = x.copy()
    for factor in np.arange(1.0, 1.16, 0.01):
        kept = math.ceil(64 / factor)
        first = (64 - kept) // 2
        square = x[first : first + kept, first : first + kept]
        grown = ndimage.zoom(square, (factor, factor, 1), order=1)
        trim = (len(grown) - 64) // 2
        total += grown[trim : trim + 64, trim : trim + 64]
    assert np.abs(plain(image, "zoom_blur", 3) - np.clip(total / 17, 0, 1) * 255).max() <= 1.01


def test_elastic_transform_is_an_affine_warp_and_then_smooth_displacements():
    image = gradient(64)
    still = elastic_transform(image, (0, 0, 0), np.random.default_rng(0), 1.0)
    assert np.abs(still * 255 - image).max() < 1e-3
    moved = elastic_transform(image, (0, 0, 5), np.random.default_rng(0), 1.0)
    assert mad((moved * 255).astype(np.uint8), image) > 1
    rough = elastic_transform(image, (10, 2, 0), np.random.default_rng(0), 1.0)
    rng = np.random.default_rng(0)
    rng.uniform(0, 0, (3, 2))
    across = ndimage.gaussian_filter(rng.uniform(-1, 1, (64, 64)), 2, truncate=3) * 10
    down = ndimage.gaussian_filter(rng.uniform(-1, 1, (64, 64)), 2, truncate=3) * 10
    at = np.arange(64)[:, None] + down, np.arange(64) + across
    wanted = ndimage.map_coordinates(image[..., 0] / 255, at, order=1, mode="reflect")
    np.testing.assert_allclose(rough[..., 0], wanted, atol=1e-5)


@pytest.mark.parametrize("size", PRESETS)
def test_contrast_keeps_the_channel_means(size):
    image = gradient(size)
    for severity in SEVERITIES:
        difference = plain(image, "contrast", severity).mean((0, 1)) - image.mean((0, 1))
        assert np.all(difference <= 1e-9) and np.all(difference > -1)  # truncation lowers it by less than one level


@pytest.mark.parametrize("size", PRESETS)
def test_brightness_and_saturate_equal_their_definition_in_hsv(size):
    image = gradient(size)
    hsv = rgb_to_hsv(image / 255)
    for severity in SEVERITIES:
        bright, colour = hsv.copy(), hsv.copy()
        bright[..., 2] = np.clip(bright[..., 2] + CONSTANTS["brightness"][size][severity - 1], 0, 1)
        factor, shift = CONSTANTS["saturate"][size][severity - 1]
        colour[..., 1] = np.clip(colour[..., 1] * factor + shift, 0, 1)
        for name, wanted in (("brightness", bright), ("saturate", colour)):
            assert np.abs(plain(image, name, severity) - hsv_to_rgb(wanted) * 255).max() <= 1.001


def test_saturate_reddens_grey():
    copy = plain(np.full((224, 224, 3), 100, np.uint8), "saturate", 5)
    assert copy[0, 0].tolist() == [100, 80, 80]


def test_jpeg85_save_by_preset():
    for size, saved in ((32, False), (64, True), (224, True)):
        image = gradient(size)
        raw, default = plain(image, "gaussian_noise", 3), corrupt(image, "gaussian_noise", 3, seed=0, index=0)
        buffer = io.BytesIO()
        Image.fromarray(raw).save(buffer, "JPEG", quality=85, optimize=True)
        assert np.array_equal(default, np.asarray(Image.open(buffer)) if saved else raw)
        assert np.array_equal(corrupt(image, "gaussian_noise", 3, seed=0, index=0, save_jpeg85=saved), default)


def test_presets_and_lengths():
    sides = (28, 32, 45, 46, 64, 119, 120, 224, 500)
    assert [preset_for(side, side + 9) for side in sides] == [32, 32, 32, 64, 64, 64, 224, 224, 224]
    assert length_scale(28, 28, 32) == length_scale(36, 40, 32) == length_scale(224, 300, 224) == 1.0
    assert length_scale(448, 600, 224) == 2.0
    # A picture twice as large, blurred twice as far, is the same picture. Away from the border, which differs.
    small, large = gradient(224), gradient(224).repeat(2, 0).repeat(2, 1)
    blurred = corrupt(large, "gaussian_blur", 3, seed=0, index=0, save_jpeg85=False)[::2, ::2]
    assert mad(blurred[40:-40, 40:-40], plain(small, "gaussian_blur", 3)[40:-40, 40:-40]) < 1


def test_wrong_arguments_are_named():
    image = gradient(32)
    with pytest.raises(ValueError, match="'gausian_noise'; did you mean 'gaussian_noise'"):
        corrupt(image, "gausian_noise", 3, seed=0, index=0)
    with pytest.raises(ValueError, match="severity=6"):
        corrupt(image, "contrast", 6, seed=0, index=0)
    with pytest.raises(ValueError, match="preset=128"):
        corrupt(image, "contrast", 3, seed=0, index=0, preset=128)
    with pytest.raises(ValueError, match="float64"):
        corrupt(image / 255, "contrast", 3, seed=0, index=0)
    with pytest.raises(ValueError, match="at least 16 pixels a side, not .*15, 32"):
        corrupt(image[:15], "contrast", 3, seed=0, index=0)


@fashion_mnist
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_28_pixel_pictures_use_the_32_pixel_constants_unscaled(name):
    image, _ = clothes()[12]
    assert np.array_equal(corrupt(image, name, 3, seed=0, index=0), corrupt(image, name, 3, seed=0, index=0, preset=32))


@pytest.mark.parametrize("shape", [(16, 16), (17, 40), (46, 60), (160, 121), (300, 500)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_any_size_and_shape(name, shape):
    image = np.asarray(photograph().crop((150, 60, 150 + shape[1], 60 + shape[0])))
    copy = corrupt(image, name, 5, seed=0, index=0)
    assert copy.shape == image.shape and mad(copy, image) > 0


if __name__ == "__main__":
    write_golden()
