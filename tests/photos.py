"""Real photographs for tests: pieces of the portrait that matplotlib ships, in ImageNet's folder layout."""

from pathlib import Path

import matplotlib.cbook
import numpy as np
from PIL import Image

CLASSES = ("n01", "n02", "n03")
TRAIN_PER_CLASS, VAL_PER_CLASS = 14, 7


def photograph() -> Image.Image:
    """Grace Hopper, 512 x 606 RGB."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        return Image.open(file).convert("RGB")


def pieces(count: int, seed: int) -> list[Image.Image]:
    """Pieces of the photograph of many shapes, sides 30 to 500."""
    rng, photo = np.random.default_rng(seed), photograph()
    found = []
    for _ in range(count):
        width, height = (int(n) for n in rng.integers(30, 500, 2))
        left, top = int(rng.integers(0, photo.width - width + 1)), int(rng.integers(0, photo.height - height + 1))
        found.append(photo.crop((left, top, left + width, top + height)))
    return found


def make_folder(root: Path) -> Path:
    """<root>/{train,val}/<class>/: JPEGs, one each of them grey and CMYK, and PNGs with alpha and with a palette."""
    for seed, (split, each) in enumerate((("train", TRAIN_PER_CLASS), ("val", VAL_PER_CLASS))):
        pictures = pieces(each * len(CLASSES), seed)
        for i, picture in enumerate(pictures):
            folder = root / split / CLASSES[i // each]
            folder.mkdir(parents=True, exist_ok=True)
            mode, extension = {1: ("L", "jpg"), 2: ("CMYK", "JPEG"), 3: ("RGBA", "png"), 4: ("P", "png")}.get(
                i, ("RGB", "jpg")
            )
            options = {} if extension == "png" else {"quality": 95}
            picture.convert(mode).save(folder / f"{i:03d}.{extension}", **options)
    return root
