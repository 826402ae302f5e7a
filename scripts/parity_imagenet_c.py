"""Our corruptions beside the original's under the same random numbers, on photographs of 224 pixels; writes the table.

    python scripts/parity_imagenet_c.py --oracle corruptions.py --frost-textures frost/ --write docs/imagenet_c.md

The original is the file `corruptions.py` of PyPI's imagenet-c 0.0.3 (`pip download imagenet-c==0.0.3 --no-deps`, unzip). It
needs scikit-image, Wand and ImageMagick's library (Debian: libmagickwand-6.q16-6); the photographs are those that scikit-image
and scikit-learn ship. None of them is a requirement of this project: give the script an environment of its own that has them
beside what `pip install .[train]` installs. The original's pictures of ice are in PyPI's imagecorruptions 1.1.2 (frost/).
Exits with 1 when a tolerance is exceeded.
"""

import argparse
import importlib
import importlib.util
import sys
import types
from importlib import metadata
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from gsam.eval.corruptions import CONSTANTS, CORRUPTIONS, SEVERITIES
from gsam.eval.corruptions.pixels import to_uint8
from gsam.eval.corruptions.textures import USED, frost_textures

PHOTOS = {
    "skimage": ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "retina.jpg", "motorcycle_left.png"),
    "sklearn": ("china.jpg", "flower.jpg"),
}
FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}
PIXEL_TOLERANCE = 0.05  # grey levels, mean over pixels, photographs and seeds
SYNTHETIC = "frost (synthetic)"
MAGNITUDE_TOLERANCE = {"impulse_noise": 0.03, SYNTHETIC: 0.05}  # relative; impulse draws from another generator
OTHER = {"impulse_noise": "another generator", SYNTHETIC: "other textures"}
BEGIN, END = "<!-- parity: written by scripts/parity_imagenet_c.py -->", "<!-- end of parity -->"


class LegacyStream:
    """What our corruptions ask of a numpy Generator, answered by the legacy generator that the original uses."""

    def __init__(self, seed: int) -> None:
        state = np.random.RandomState(seed)
        self.normal, self.uniform, self.poisson, self.integers = (
            state.normal,
            state.uniform,
            state.poisson,
            state.randint,
        )
        self._state = state

    def standard_normal(self, size, dtype=np.float64):
        return self._state.standard_normal(size).astype(dtype)

    def random(self, size, dtype=np.float64):
        return self._state.random_sample(size).astype(dtype)


def load_oracle(path: Path, frost: Path | None) -> types.ModuleType:
    """The original's module, its source untouched, with what newer libraries have taken away put in place."""
    import scipy.ndimage

    # The original's own dependency, not one of this project: the docs say how to install it for this script.
    skimage = importlib.import_module("skimage")
    importlib.import_module("skimage.filters"), importlib.import_module("skimage.util")

    np.float_ = np.float64
    np.fromstring = lambda data, dtype: np.frombuffer(data, dtype).copy()
    gaussian, random_noise = skimage.filters.gaussian, skimage.util.random_noise

    def gaussian_shim(image, *args, multichannel=False, **options):
        return gaussian(image, *args, **options, **({"channel_axis": -1} if multichannel else {}))

    def noise_shim(image, **options):
        return random_noise(image, rng=np.random.randint(2**31 - 1), **options)

    skimage.filters.gaussian, skimage.util.random_noise = gaussian_shim, noise_shim
    interpolation = types.ModuleType("scipy.ndimage.interpolation")
    interpolation.map_coordinates = scipy.ndimage.map_coordinates
    resources = types.ModuleType("pkg_resources")
    resources.resource_filename = lambda package, name: str((frost or Path("frost")) / Path(name).name)
    sys.modules |= {"scipy.ndimage.interpolation": interpolation, "pkg_resources": resources}
    spec = importlib.util.spec_from_file_location("oracle", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def photographs() -> dict[str, Image.Image]:
    """Short side 256 (Pillow, bilinear), centre crop 224."""
    found = {}
    for package, names in PHOTOS.items():
        (root,) = importlib.util.find_spec(package).submodule_search_locations
        for name in names:
            picture = Image.open(Path(root) / FOLDERS[package] / name).convert("RGB")
            width, height = (round(side * 256 / min(picture.size)) for side in picture.size)
            left, top = (width - 224) // 2, (height - 224) // 2
            small = picture.resize((width, height), Image.Resampling.BILINEAR)
            found[Path(name).stem] = small.crop((left, top, left + 224, top + 224))
    return found


def original(oracle: types.ModuleType, name: str, photo: Image.Image, severity: int, seed: int) -> np.ndarray:
    np.random.seed(seed)
    return np.uint8(getattr(oracle, name)(photo, severity))


def ours(name: str, photo: Image.Image, severity: int, seed: int, textures: tuple | None) -> np.ndarray:
    options = {"textures": textures} if name == "frost" else {}
    constant = CONSTANTS[name][224][severity - 1]
    return to_uint8(CORRUPTIONS[name](np.asarray(photo), constant, LegacyStream(seed), 1.0, **options))


def mad(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference in grey levels."""
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def frost_seeds(per_texture: int) -> list[int]:
    """Seeds that draw each of the five textures equally often."""
    by_texture: dict[int, list[int]] = {i: [] for i in range(USED)}
    seed = 0
    while min(map(len, by_texture.values())) < per_texture:
        by_texture[int(np.random.RandomState(seed).randint(USED))].append(seed)
        seed += 1
    return [seed for seeds in by_texture.values() for seed in seeds[:per_texture]]


def measure(oracle: types.ModuleType, name: str, photos: dict[str, Image.Image], seeds: list[int],
            textures: tuple | None) -> dict[str, list[float]]:  # fmt: skip
    """Per severity: mean and largest difference of the pixels, and both magnitudes (MAD from the clean photograph)."""
    result: dict[str, list[float]] = {"mean": [], "max": [], "original": [], "ours": []}
    for severity in SEVERITIES:
        rows = []
        for photo in photos.values():
            clean = np.asarray(photo)
            for seed in seeds:
                theirs = original(oracle, name, photo, severity, seed)
                mine = ours(name, photo, severity, seed, textures)
                largest = np.abs(theirs.astype(int) - mine).max()
                rows.append((mad(theirs, mine), largest, mad(theirs, clean), mad(mine, clean)))
        for key, values in zip(result, zip(*rows, strict=True), strict=True):
            result[key].append(float(max(values) if key == "max" else np.mean(values)))
        print(f"{name} {severity}: " + " ".join(f"{k}={v[-1]:.4g}" for k, v in result.items()), flush=True)
    return result


def measure_all(oracle: types.ModuleType, photos: dict[str, Image.Image], frost: Path | None, seeds: int,
                only: list[str]) -> dict[str, dict[str, list[float]]]:  # fmt: skip
    """By row of the table. Frost gives two: with the original's textures (pixels) and with ours (magnitude)."""
    results = {}
    for name in only:
        if name != "frost":
            results[name] = measure(oracle, name, photos, list(range(seeds)), None)
        elif frost is not None:
            results["frost"] = measure(oracle, name, photos, frost_seeds(1), frost_textures(str(frost)))
            results[SYNTHETIC] = measure(oracle, name, photos, frost_seeds(4), frost_textures(None))
    return results


def problems(label: str, result: dict[str, list[float]]) -> list[str]:
    """Which severities miss their tolerance."""
    if label in MAGNITUDE_TOLERANCE:
        pairs = zip(SEVERITIES, result["ours"], result["original"], strict=True)
        limit = MAGNITUDE_TOLERANCE[label]
        return [f"{label} {s}: magnitude {a:.2f}, original {b:.2f}" for s, a, b in pairs if abs(a / b - 1) > limit]
    pairs = zip(SEVERITIES, result["mean"], strict=True)
    return [f"{label} {s}: mean difference {d:.4f}" for s, d in pairs if d > PIXEL_TOLERANCE]


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: differences under shared random numbers, and magnitudes."""
    head = ("corruption", "mean difference at severity 1 … 5", "largest", "magnitude ours / original at severity 1 … 5")
    rows = [head, ("---",) * len(head)]
    for label, result in results.items():
        magnitudes = " · ".join(f"{a:.2f} / {b:.2f}" for a, b in zip(result["ours"], result["original"], strict=True))
        differences, largest = " ".join(f"{d:.4f}" for d in result["mean"]), f"{max(result['max']):.0f}"
        if label in MAGNITUDE_TOLERANCE:
            differences, largest = f"not comparable: {OTHER[label]}", "–"
        rows.append((label, differences, largest, magnitudes))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def write_into(path: Path, text: str) -> None:
    """Replace what stands between the two marks."""
    before, rest = path.read_text().split(BEGIN)
    _, after = rest.split(END)
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracle", type=Path, required=True, help="corruptions.py of the original")
    parser.add_argument(
        "--frost-textures", type=Path, help="the original's pictures of ice; without them frost is left out"
    )
    parser.add_argument("--seeds", type=int, default=2, help="random draws per photograph")
    parser.add_argument(
        "--only", nargs="+", choices=list(CORRUPTIONS), default=list(CORRUPTIONS), help="these corruptions"
    )
    parser.add_argument("--write", type=Path, help="put the table into this file, between its marks")
    args = parser.parse_args()
    photos = photographs()
    results = measure_all(
        load_oracle(args.oracle, args.frost_textures), photos, args.frost_textures, args.seeds, args.only
    )
    packages = ("numpy", "scipy", "scikit-image", "opencv-python-headless", "pillow", "Wand")
    text = (
        f"{len(photos)} photographs ({', '.join(photos)}), {args.seeds} seeds each; "
        + ", ".join(f"{package} {metadata.version(package)}" for package in packages)
        + f".\n\n{table(results)}"
    )
    print(text)
    if args.write:
        write_into(args.write, text)
    failed = [problem for label, result in results.items() for problem in problems(label, result)]
    print("\n".join(failed) or "all within tolerance")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
