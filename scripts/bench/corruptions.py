"""Core time of an ImageNet-C made here: each corruption and severity, and what the whole set of 15 x 5 would take.

One thread, processor time (not wall time, so that other processes matter little), on photographs of 500 x 375 pixels: decoded,
resized and cropped to 224, corrupted, encoded as JPEG of quality 85. `core_hours` = (reading + the medians of all 75 copies)
x 50,000; `run_core_hours` is the same from one real run of scripts/make_imagenet_c.py's code with one process, files written.
The last line printed is one JSON object.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is loaded

import common
import matplotlib.cbook
from PIL import Image

from gsam.eval.copies import Copies, Pair, Settings
from gsam.eval.corruptions import BENCHMARK, CORRUPTIONS, SEVERITIES
from gsam.eval.corruptions.pixels import keep_freed_memory
from gsam.eval.make_c import make

IMAGENET_VAL = 50_000


def photographs(root: Path, count: int) -> None:
    """Pieces of the portrait that matplotlib ships, in the layout of an image folder."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        photo = Image.open(file).convert("RGB")
    folder = root / "val" / "portrait"
    folder.mkdir(parents=True)
    for i in range(count):
        left, top = i * (photo.width - 500) // count, i * (photo.height - 375) // count
        photo.crop((left, top, left + 500, top + 375)).save(folder / f"{i}.JPEG", quality=90)


def core_seconds(job: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    result = job()
    return time.process_time() - began, result


def measure(copies: Copies, indices: list[int], pairs: list[Pair], rounds: int) -> tuple[float, dict[Pair, float]]:
    """Core seconds of reading one picture and of making each copy, medians over rounds x pictures."""
    reading: list[float] = []
    making: dict[Pair, list[float]] = {pair: [] for pair in pairs}
    for turn in range(rounds + 1):  # the first one warms up
        for index in indices:
            seconds, clean = core_seconds(lambda index=index: copies.clean(index))
            reading += [seconds] if turn else []
            for pair in pairs:
                seconds, _ = core_seconds(lambda c=clean, i=index, pair=pair: copies.file(c, i, pair))
                making[pair] += [seconds] if turn else []
    return median(reading), {pair: median(values) for pair, values in making.items()}


def one_run(settings: Settings, folder: str, pictures: int) -> float:
    """Core seconds per picture of a real run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    make(settings, folder, list(BENCHMARK), SEVERITIES, 1, lambda *_: None)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) / pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=5, help="each makes every copy of every picture (default: %(default)s)"
    )
    parser.add_argument(
        "--pictures", type=int, default=8, help="different pieces of the photograph (default: %(default)s)"
    )
    parser.add_argument("--run-pictures", type=int, default=48, help="of the real run (default: %(default)s)")
    common.arguments(parser)
    args = parser.parse_args()
    keep_freed_memory()  # as the workers of make_imagenet_c do
    pairs = [(corruption, severity) for corruption in CORRUPTIONS for severity in SEVERITIES]
    with tempfile.TemporaryDirectory() as folder:
        photographs(Path(folder), max(args.pictures, args.run_pictures))
        settings = Settings("imagefolder", folder, canvas=224)
        copies = Copies(settings)
        reading, making = measure(copies, copies.indices[: args.pictures].tolist(), pairs, args.rounds)
        run = one_run(replace(settings, limit=args.run_pictures), os.path.join(folder, "c"), args.run_pictures)
    rates = {name: [round(1 / making[name, s], 1) for s in SEVERITIES] for name in CORRUPTIONS}
    whole = reading + sum(making[name, s] for name in BENCHMARK for s in SEVERITIES)
    if not args.json:
        print("| corruption | images/s at severity 1 … 5 | ms for all five |\n|---|---|---|")
        for name, values in rates.items():
            print(f"| {name} | {' '.join(f'{v:.0f}' for v in values)} | {sum(1000 / v for v in values):.1f} |")
    result = {
        "rounds": args.rounds, "pictures": args.pictures, "run_pictures": args.run_pictures,
        "images_per_s": rates, "read_resize_crop_s": reading,
        "core_s_per_image": whole, "core_hours": whole * IMAGENET_VAL / 3600,
        "run_core_s_per_image": run, "run_core_hours": run * IMAGENET_VAL / 3600,
    }  # fmt: skip
    common.report("corruptions", result, args)


if __name__ == "__main__":
    main()
