"""The constants of every corruption at severities 1..5, for the three published image sizes.

224: ImageNet-C · 64: Tiny ImageNet-C · 32: CIFAR-10/100-C. Source: Hendrycks & Dietterich 2019, "Benchmarking Neural
Network Robustness to Common Corruptions and Perturbations", and the constants of its published scripts.
A corruption = one row here and one function in noise.py, blur.py or digital.py.
"""

from __future__ import annotations

PRESETS = (32, 64, 224)

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
    "gaussian_blur": {  # sigma in pixels
        224: (1, 2, 3, 4, 6),
        64: (0.5, 0.75, 1, 1.25, 1.5),
        32: (0.4, 0.6, 0.7, 0.8, 1),
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
