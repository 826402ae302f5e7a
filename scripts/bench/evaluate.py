"""Evaluation end to end against its two parts: decoding alone and the forward pass alone, in turns in one run.

Real JPEGs of ImageNet's usual 500 x 375 pixels (pieces of a photograph, enlarged), read, resized and cropped by the worker
processes of evaluation and scored by its loop. `ratio` is the evaluation's speed, on a CPU of 1 / (1/decode + 1/forward),
where the two share the cores, on a GPU of the slower of the two; it is the median over rounds of each round's own ratio.
`core_ratio` is the same of processor time, which other processes on the machine disturb less: below 1, putting the parts
together costs something. The last line printed is one JSON object.
"""

import argparse
import os

# As evaluate.py does (gsam.cli.share_cores), before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import common
import matplotlib.cbook
import numpy as np
import torch
from PIL import Image

from gsam.data import open_source
from gsam.eval.pictures import Clean, PictureLoader
from gsam.eval.preprocess import Preprocess
from gsam.eval.runner import score
from gsam.eval.scoring import Scoring
from gsam.runtime import Normalize, Precision, Runtime


def photographs(root: Path, count: int) -> None:
    """`count` different pieces of the portrait that matplotlib ships, as an image folder of two classes."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        photo = Image.open(file).convert("RGB")
    rng = np.random.default_rng(0)
    for i in range(count):
        width = int(rng.integers(300, 500))
        height = width * 3 // 4
        left, top = int(rng.integers(0, photo.width - width)), int(rng.integers(0, photo.height - height))
        piece = photo.resize((500, 375), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))
        folder = root / "val" / str(i % 2)
        folder.mkdir(parents=True, exist_ok=True)
        piece.save(folder / f"{i:05d}.JPEG", quality=95)


class CoreTime:
    """A job that also notes the processor time of each call, of this process and of the workers that ended in it."""

    def __init__(self, job: Callable[[], None]) -> None:
        self.job, self.seconds = job, []

    def __call__(self) -> None:
        began = sum(os.times()[:4])
        self.job()
        self.seconds.append(sum(os.times()[:4]) - began)


class Task:
    """The three jobs over the same pictures; each returns nothing and takes its time."""

    def __init__(self, args: argparse.Namespace, root: Path) -> None:
        import timm

        source = open_source("imagefolder", str(root), "val")
        self.device, self.args = common.device(), args
        self.runtime = Runtime(self.device)
        settings = timm.get_pretrained_cfg(args.model).to_dict()
        self.preprocess = Preprocess.published(settings, args.model)
        self.model = timm.create_model(args.model).to(self.device).eval()
        compiled = self.device.type == "cuda" if args.compile is None else args.compile
        if compiled:
            self.model = torch.compile(self.model, dynamic=False)
        self.pad_to = args.batch if compiled else None
        self.loader = PictureLoader(
            source, Clean(self.preprocess), indices=np.arange(len(source)), batch_size=args.batch, workers=args.workers
        )
        self.scoring = {"pictures": Scoring(torch.from_numpy(np.asarray(source.labels))[:, None])}
        self.batches = [images.clone() for images, _ in self.loader.epoch()]

    def autocast(self):
        return self.runtime.autocast(Precision[self.args.precision])

    def decode(self) -> None:
        for _ in self.loader.epoch():
            pass

    def forward(self) -> None:
        normalize = Normalize(self.preprocess.mean, self.preprocess.std, self.device)
        with torch.inference_mode():
            for images in self.batches:
                with self.autocast():
                    self.model(normalize(images))

    def evaluate(self) -> None:
        score(
            self.model, self.loader, self.scoring, device=self.device, autocast=self.autocast, mean=self.preprocess.mean,
            std=self.preprocess.std, pad_to=self.pad_to,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_small_patch32_224", help="timm name (default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=512, help="a multiple of --batch (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--workers", type=int, default=None, help="processes that decode (default: one per core)")
    parser.add_argument("--precision", choices=[p.name for p in Precision], default="fp32")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=None, help="(default: on a GPU)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    common.arguments(parser)
    args = parser.parse_args()
    if args.pictures % args.batch:
        parser.error(f"--pictures {args.pictures} must be a multiple of --batch {args.batch}")
    if args.workers is None:
        args.workers = len(os.sched_getaffinity(0))

    with tempfile.TemporaryDirectory() as folder:
        photographs(Path(folder), args.pictures)
        task = Task(args, Path(folder))
        jobs = {name: CoreTime(getattr(task, name)) for name in ("decode", "forward", "evaluate")}
        times = common.in_turns(jobs, args.rounds, 1)
    combine = max if task.device.type == "cuda" else lambda *parts: sum(parts)
    rounds = zip(times["decode"], times["forward"], times["evaluate"], strict=True)
    ratios = [combine(decode, forward) / whole for decode, forward, whole in rounds]
    cores = {name: median(job.seconds[1:]) for name, job in jobs.items()}
    speeds = {f"{name}_per_s": args.pictures / value for name, value in common.medians(times).items()}
    result = {
        "model": args.model, "size": task.preprocess.size, "pictures": args.pictures, "batch": args.batch,
        "workers": args.workers, "precision": args.precision, "compile": task.pad_to is not None, "rounds": args.rounds,
        "ratio": median(ratios), "ratio_of": "the slower" if task.device.type == "cuda" else "1 / (1/decode + 1/forward)",
        "core_ratio": (cores["decode"] + cores["forward"]) / cores["evaluate"], **speeds,
    }  # fmt: skip
    common.report("evaluate", result, args)


if __name__ == "__main__":
    main()
