"""Images per second of our FFCV loader against FFCV's own Loader and against torchvision, in turns in one run.

Photographs of about 500 x 375 pixels (photos.py) become random crops of 224 pixels, mirrored or not, uint8. `ours` reads
.beton files of scripts/write_ffcv.py and draws every crop from (seed, epoch, index); `ffcv` is FFCV's Loader with its
RandomResizedCropRGBImageDecoder on files of FFCV's own writer; `pil` is ImageFolder with Pillow, `tv` torchvision.io and
v2 transforms, both in DataLoader's worker processes on the JPEG files. `raw` holds pixels of at most 256 a side, `jpeg`
(the default preset) JPEGs of at most 500. All crop by torchvision's rule, the only one that FFCV has, and ours and FFCV's
resize with the same filter (INTER_AREA), but where a name says `inception` (the recipes' rule, smaller crops) or `linear`.

`ratio_to_<x>` is ours over x, of the median images per second over the epochs; `core_ratio_to_<x>` the same of images per
second of processor time, which other processes on the machine disturb less. The last line printed is one JSON object.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import common
import numpy as np
import photos
import psutil

from gsam.data import AugmentConfig, Backend, Crop, DataConfig, Filter, build_loader, ffcv_guard
from gsam.data.checks import cores
from gsam.data.write import write_dataset

PRESETS = {"jpeg": "500_jpeg90", "raw": "256_raw"}
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
TORCHVISION = AugmentConfig(crop=Crop.torchvision, area=list(AREA), aspect=list(ASPECT))
INCEPTION, LINEAR = AugmentConfig(), replace(TORCHVISION, filter=Filter.linear)
Epochs = Iterator[int]
"""Each next() reads one epoch and gives its number of pictures."""


def ours(root: Path, betons: Path, augment: AugmentConfig, batch: int, workers: int) -> Epochs:
    loader = our_loader(root, betons, augment, batch, workers)
    epoch = 0
    while True:
        yield sum(len(labels) for _, labels in loader.epoch(epoch))
        epoch += 1


def our_loader(root: Path, betons: Path, augment: AugmentConfig, batch: int, workers: int):
    data = DataConfig("imagefolder", Backend.ffcv, str(root), ffcv_root=str(betons), workers=workers)
    return build_loader(data, augment, "train", batch_size=batch, rank=0, world=1, seed=0, train=True)


def bare_ffcv(root: Path, kind: str, folder: Path, batch: int, workers: int) -> Epochs:
    """FFCV as its documentation has it, uint8."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage
    from ffcv.writer import DatasetWriter
    from torchvision.datasets import ImageFolder

    path = folder / f"bare_{kind}.beton"
    stored = {"jpeg": {"write_mode": "jpg", "max_resolution": 500}, "raw": {"write_mode": "raw", "max_resolution": 256}}
    with open(os.devnull, "w") as nothing, redirect_stderr(nothing):  # its progress bar
        fields = {"image": RGBImageField(**stored[kind]), "label": IntField()}
        DatasetWriter(str(path), fields, num_workers=workers).from_indexed_dataset(ImageFolder(root / "train"))
    image = [
        RandomResizedCropRGBImageDecoder((224, 224), AREA, ASPECT),
        RandomHorizontalFlip(),
        ToTensor(),
        ToTorchImage(),
    ]
    pipelines = {"image": image, "label": [IntDecoder(), ToTensor(), Squeeze(1)]}
    loader = Loader(
        str(path), batch_size=batch, num_workers=workers, order=OrderOption.RANDOM, os_cache=True, pipelines=pipelines
    )
    while True:
        batches = iter(loader)
        yield sum(len(labels) for _, labels in batches)
        batches.close()
        batches.join()  # else its thread may still run at exit


def torchvision_loader(root: Path, kind: str, batch: int, workers: int) -> Epochs:
    import torch
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.io import ImageReadMode, decode_image, read_file
    from torchvision.transforms import v2

    crop = [v2.RandomResizedCrop(224, AREA, ASPECT), v2.RandomHorizontalFlip()]
    pil = ImageFolder(root / "train", v2.Compose([*crop, v2.PILToTensor()]))
    tv = ImageFolder(
        root / "train", v2.Compose(crop), loader=lambda path: decode_image(read_file(path), ImageReadMode.RGB)
    )
    loader = DataLoader(
        {"pil": pil, "tv": tv}[kind], batch, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True,
        multiprocessing_context="fork", worker_init_fn=lambda _: torch.set_num_threads(1),
    )  # fmt: skip
    while True:
        yield sum(len(labels) for _, labels in loader)


def processor_seconds() -> float:
    """Of this process and its living children, so far."""
    children = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(times.user + times.system for times in children)  # children: in steps of 10 ms


def measure(jobs: dict[str, Epochs], rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Images per second of every epoch, and per second of processor time; A B C, A B C, …"""
    rates, core_rates = {name: [] for name in jobs}, {name: [] for name in jobs}
    for turn in range(rounds + 1):  # the first one warms up
        for name, epochs in jobs.items():
            processor, began = processor_seconds(), time.perf_counter()
            count = next(epochs)
            if turn:
                rates[name].append(count / (time.perf_counter() - began))
                core_rates[name].append(count / (processor_seconds() - processor))
    return rates, core_rates


def parts(kind: str, betons: Path, rounds: int) -> dict[str, float]:
    """Microseconds of processor time per picture of what a training picture goes through: medians over rounds."""
    kernels = ffcv_guard.load().kernels
    import numba
    from ffcv.reader import Reader

    cut, add_up = numba.njit(kernels.cut), numba.njit(kernels.add_up)
    reader = Reader(str(betons / "train.beton"))
    mapped, out, pictures = np.memmap(reader.file_name, np.uint8, mode="r"), np.empty((224, 224, 3), np.uint8), []
    values = np.array([0, 0, kernels.TORCHVISION, *AREA, *ASPECT, 0.5, 0])[: kernels.NUM_PARAMETERS]
    for index in range(min(240, int(reader.num_samples))):
        entry, (_, start, size) = reader.metadata["f0"][index], reader.alloc_table[index].tolist()
        height, width = int(entry["height"]), int(entry["width"])
        data, box = np.array(mapped[start : start + size]), kernels.training_box(index, height, width, values)
        pixels = data.reshape(height, width, 3) if kind == "raw" else kernels.decode_jpeg(data, height, width)[0]
        pictures.append((data, pixels, box, *(cut(data, height, width, *box) if kind == "jpeg" else ())))
    jobs: dict[str, Callable] = {
        "checksum": lambda data, *_: add_up(data),
        "resize_area": lambda data, pixels, box, *_: kernels.resize_box(pixels, *box, kernels.FILTERS["area"], out),
        "resize_linear": lambda data, pixels, box, *_: kernels.resize_box(pixels, *box, kernels.FILTERS["linear"], out),
    }
    if kind == "jpeg":
        jobs |= {
            "cut": lambda data, pixels, box, *_: cut(data, *pixels.shape[:2], *box),
            "decode_whole": lambda data, pixels, *_: kernels.decode_jpeg(data, *pixels.shape[:2]),
            "decode_cut": lambda data, pixels, box, part, top, left, *size: kernels.decode_jpeg(part, *size),
        }
    seconds = {name: [] for name in jobs}
    for turn in range(rounds + 1):  # the first one warms up and compiles
        for name, job in jobs.items():
            began = time.thread_time()
            for picture in pictures:
                job(*picture)
            if turn:
                seconds[name].append((time.thread_time() - began) / len(pictures))
    return {f"{kind}_{name}_us": 1e6 * median(values) for name, values in seconds.items()}


FIRST_BATCH = """
import sys, time
from pathlib import Path
sys.path.insert(0, {scripts!r})
import loader
made = time.perf_counter()
batches = loader.our_loader(Path({root!r}), Path({betons!r}), loader.TORCHVISION, {batch}, {workers})
built = time.perf_counter()
next(batches.epoch(0))
print(built - made, time.perf_counter() - built)
"""


def first_batch(**where: Any) -> dict[str, float]:
    """Seconds in new processes, the second of which finds the compiled kernels on disk: to build, then to a first batch."""
    found = {}
    with tempfile.TemporaryDirectory() as empty:
        for name in ("first", "second"):
            text = FIRST_BATCH.format(scripts=str(Path(__file__).parent), **where)
            command, env = [sys.executable, "-c", text], {**os.environ, "NUMBA_CACHE_DIR": empty}
            words = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout.split()
            found |= {f"{name}_start_build_s": float(words[-2]), f"{name}_start_first_batch_s": float(words[-1])}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=960, help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--workers", type=int, default=cores(), help="threads or processes (default: one per core)")
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each (default: %(default)s)")
    common.arguments(parser)
    args = parser.parse_args()
    root, packages = photos.folder(args.pictures)
    ffcv_guard.load()  # before anything else imports ffcv, for its threads and kernels
    how = {"batch": args.batch, "workers": args.workers}
    with tempfile.TemporaryDirectory() as folder:
        betons = {kind: Path(folder) / kind for kind in PRESETS}
        for kind, preset in PRESETS.items():
            write_dataset("imagefolder", str(root), str(betons[kind]), preset=preset)
        jobs = {}
        for kind in PRESETS:
            jobs |= {
                f"ours_{kind}": ours(root, betons[kind], TORCHVISION, **how),
                f"ffcv_{kind}": bare_ffcv(root, kind, Path(folder), **how),
                f"ours_{kind}_inception": ours(root, betons[kind], INCEPTION, **how),
                f"ours_{kind}_linear": ours(root, betons[kind], LINEAR, **how),
            }
        jobs |= {name: torchvision_loader(root, name, **how) for name in ("pil", "tv")}
        rates, core_rates = measure(jobs, args.rounds)
        result = {
            "pictures": args.pictures, "batch": args.batch, "workers": args.workers, "rounds": args.rounds,
            "photographs": packages, **ratios(rates, "ratio"), **ratios(core_rates, "core_ratio"),
            "images_per_s": {name: median(values) for name, values in rates.items()},
            "images_per_core_s": {name: median(values) for name, values in core_rates.items()},
            "spread": {name: [min(values), max(values)] for name, values in rates.items()},
            **parts("jpeg", betons["jpeg"], args.rounds), **parts("raw", betons["raw"], args.rounds),
            **first_batch(root=str(root), betons=str(betons["jpeg"]), **how),
        }  # fmt: skip
    common.report("loader", result, args)


def ratios(rates: dict[str, list[float]], name: str) -> dict[str, float]:
    middle = {job: median(values) for job, values in rates.items()}
    found = {}
    for kind in PRESETS:
        for rule in ("", "_inception", "_linear"):
            us = middle[f"ours_{kind}{rule}"]
            found |= {f"{name}_to_{x}_{kind}{rule}": us / middle[y] for x, y in
                      (("ffcv", f"ffcv_{kind}"), ("pil", "pil"), ("tv", "tv"))}  # fmt: skip
    return found


if __name__ == "__main__":
    main()
