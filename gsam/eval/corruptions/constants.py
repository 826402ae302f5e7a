"""The constants of every corruption at severities 1..5, for the three published image sizes.

224: ImageNet-C · 64: Tiny ImageNet-C · 32: CIFAR-10/100-C. Source: Hendrycks & Dietterich 2019, "Benchmarking Neural
Network Robustness to Common Corruptions and Perturbations", and the constants of its published scripts.
A corruption = one row here and one function in noise.py, blur.py, weather.py, digital.py or elastic.py, named in
__init__.py's tables.
"""

from __future__ import annotations

PRESETS = (32, 64, 224)


def _pixels(side: int, *severities: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(side * value for value in severity) for severity in severities)


SMALL_SNOW = (
    (0.1, 0.2, 1, 0.6, 8, 3),
    (0.1, 0.2, 1, 0.5, 10, 4),
    (0.15, 0.3, 1.75, 0.55, 10, 4),
    (0.25, 0.3, 2.25, 0.6, 12, 6),
    (0.3, 0.3, 1.25, 0.65, 14, 12),
)


def _with_share(flakes: tuple[tuple[float, ...], ...], *shares: float) -> tuple[tuple[float, ...], ...]:
    return tuple((*severity, share) for severity, share in zip(flakes, shares, strict=True))


CONSTANTS: dict[str, dict[int, tuple]] = {
    "gaussian_noise": {  # standard deviation, on the 0..1 scale
        224: (0.08, 0.12, 0.18, 0.26, 0.38),
        64: (0.04, 0.08, 0.12, 0.15, 0.18),
        32: (0.04, 0.06, 0.08, 0.09, 0.10),
    },
    "shot_noise": {  # photons at white
        224: (60, 25, 12, 5, 3),
        64: (250, 100, 50, 30, 15),
        32: (500, 250, 100, 75, 50),
    },
    "impulse_noise": {  # probability that a channel value is hit
        224: (0.03, 0.06, 0.09, 0.17, 0.27),
        64: (0.01, 0.02, 0.05, 0.08, 0.14),
        32: (0.01, 0.02, 0.03, 0.05, 0.07),
    },
    "speckle_noise": {  # standard deviation relative to the value
        224: (0.15, 0.20, 0.35, 0.45, 0.60),
        64: (0.15, 0.20, 0.25, 0.30, 0.35),
        32: (0.06, 0.10, 0.12, 0.16, 0.20),
    },
    "defocus_blur": {  # disc radius in pixels, sigma in pixels that smooths the disc's edge
        224: ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        64: ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        32: ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    },
    "glass_blur": {  # sigma in pixels, largest displacement in pixels, passes
        224: ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        64: ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        32: ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    },
    "motion_blur": {  # radius and sigma in pixels
        224: ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        64: ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        32: ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    },
    "zoom_blur": {  # end and step of the zoom factors from 1
        224: ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        64: ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        32: ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    },
    "gaussian_blur": {  # sigma in pixels
        224: (1, 2, 3, 4, 6),
        64: (0.5, 0.75, 1, 1.25, 1.5),
        32: (0.4, 0.6, 0.7, 0.8, 1),
    },
    "snow": {  # flakes: mean, std, zoom, threshold; radius and sigma of their motion in pixels; share of the picture
        224: (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        64: _with_share(SMALL_SNOW, 0.8, 0.8, 0.7, 0.65, 0.6),
        32: _with_share(SMALL_SNOW, 0.95, 0.9, 0.9, 0.85, 0.8),
    },
    "frost": {  # share of the picture, share of the texture, factor on the texture's sides
        224: ((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
        64: ((1, 0.3, 0.3), (0.9, 0.4, 0.3), (0.8, 0.45, 0.3), (0.75, 0.5, 0.3), (0.7, 0.55, 0.3)),
        32: ((1, 0.2, 0.2), (1, 0.3, 0.2), (0.9, 0.4, 0.2), (0.85, 0.4, 0.2), (0.75, 0.45, 0.2)),
    },
    "fog": {  # strength, and by what the plasma's steps shrink from one octave to the next
        224: ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        64: ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        32: ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    },
    "spatter": {  # liquid: mean, std, sigma in pixels, threshold; strength of water, or sigma in pixels of mud; mud?
        224: (
            (0.65, 0.3, 4, 0.69, 0.6, False),
            (0.65, 0.3, 3, 0.68, 0.6, False),
            (0.65, 0.3, 2, 0.68, 0.5, False),
            (0.65, 0.3, 1, 0.65, 1.5, True),
            (0.67, 0.4, 1, 0.65, 1.5, True),
        ),
        64: (
            (0.62, 0.1, 0.7, 0.7, 0.6, False),
            (0.65, 0.1, 0.8, 0.7, 0.6, False),
            (0.65, 0.3, 1, 0.69, 0.6, False),
            (0.65, 0.1, 0.7, 0.68, 0.6, True),
            (0.65, 0.1, 0.5, 0.67, 0.6, True),
        ),
        32: (
            (0.62, 0.1, 0.7, 0.7, 0.5, False),
            (0.65, 0.1, 0.8, 0.7, 0.5, False),
            (0.65, 0.3, 1, 0.69, 0.5, False),
            (0.65, 0.1, 0.7, 0.69, 0.6, True),
            (0.65, 0.1, 0.5, 0.68, 0.6, True),
        ),
    },
    "brightness": {  # added to V of HSV, 0..1 scale
        224: (0.1, 0.2, 0.3, 0.4, 0.5),
        64: (0.1, 0.2, 0.3, 0.4, 0.5),
        32: (0.05, 0.10, 0.15, 0.20, 0.30),
    },
    "contrast": {  # factor on the distance to the channel mean
        224: (0.4, 0.3, 0.2, 0.1, 0.05),
        64: (0.4, 0.3, 0.2, 0.1, 0.05),
        32: (0.75, 0.5, 0.4, 0.3, 0.15),
    },
    "saturate": {  # factor on S of HSV, then added to it
        224: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
        64: ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
        32: ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    },
    "elastic_transform": {  # pixels: strength, sigma of the displacements, shift of three points
        # 244 for 224 is what the published scripts have.
        224: _pixels(244, (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
        64: _pixels(64, (0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)),
        32: _pixels(32, (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    },
    "pixelate": {  # factor on both sides of the image
        224: (0.6, 0.5, 0.4, 0.3, 0.25),
        64: (0.9, 0.8, 0.7, 0.6, 0.5),
        32: (0.95, 0.90, 0.85, 0.75, 0.65),
    },
    "jpeg_compression": {  # quality
        224: (25, 18, 15, 10, 7),
        64: (65, 58, 50, 40, 25),
        32: (80, 65, 58, 50, 40),
    },
}


def preset_for(height: int, width: int) -> int:
    """The preset for an image of this size: 32 for a short side up to 45 pixels, 64 up to 119, 224 from 120.

    The limits are the geometric midpoints between the published sizes; sizes other than 32, 64 and 224 are this
    project's extension and their numbers are no benchmark numbers. 28-pixel images use the 32 preset as it is.
    """
    short = min(height, width)
    return 32 if short <= 45 else 64 if short <= 119 else 224


def length_scale(height: int, width: int, preset: int) -> float:
    """The factor on lengths given in pixels: 1 if the short side is within 15 % of the preset, else short / preset."""
    ratio = min(height, width) / preset
    return 1.0 if abs(ratio - 1.0) <= 0.15 else ratio
