"""Settings of the transform, `augment.*`: the loaders crop and flip, gsam.augment does the rest."""

from dataclasses import dataclass, field
from enum import Enum


class Crop(Enum):
    """Rule of the training crop; see gsam.data.keyed."""

    inception = "inception"
    torchvision = "torchvision"
    resmall = "resmall"
    none = "none"


class Filter(Enum):
    """How the FFCV backend resizes the training crop: OpenCV's INTER_AREA or INTER_LINEAR."""

    area = "area"  # averages: what FFCV does
    linear = "linear"  # faster, other pixels: not antialiased


class RandAugment(Enum):
    """Whose operations; see gsam.augment."""

    none = "none"
    official = "official"
    timm = "timm"


@dataclass
class AugmentConfig:
    """One transform for both backends: sizes in pixels, `mean` and `std` on the scale 0 to 1 (applied by the trainer
    on the device).
    """

    size: int = 224
    """Side of the square training and evaluation picture."""
    crop: Crop = Crop.inception
    area: list[float] = field(default_factory=lambda: [0.05, 1.0])
    """Range of the crop's area, fractions of the picture."""
    aspect: list[float] = field(default_factory=lambda: [0.75, 1.3333333])
    """Range of the crop's width / height."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    filter: Filter = Filter.area
    """Of the training crop's resize with data.backend=ffcv; the folder backend has Pillow's bilinear one."""
    mean: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    std: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    eval_resize: int = 256
    """Shorter side before the centre crop of evaluation."""
    randaugment: RandAugment = RandAugment.none
    """official: the operations of the paper's code; timm: timm's, in Pillow on the host."""
    layers: int = 2
    """Operations of RandAugment that a picture goes through."""
    magnitude: int = 10
    """Strength of RandAugment's operations, 0 to 20."""
    color_jitter: float = 0.0
    """s: brightness, contrast and saturation change by factors from 1 - s to 1 + s."""
    mixup: float = 0.0
    """p of mixup's Beta(p, p); 0: none. With cutmix too, each step draws one of the two."""
    cutmix: float = 0.0
    """p of cutmix's Beta(p, p); 0: none."""
