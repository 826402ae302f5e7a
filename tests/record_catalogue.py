"""Real miniature runs of the catalogue, recorded for the tests of the report: `python -m tests.record_catalogue <folder>`.

Every experiment of configs/catalogue.yaml is trained for 20 steps (40 where the recipe has 600 epochs) on 2,000 pictures of
Fashion-MNIST with a small network on one CPU thread, and evaluated on 200; of long grids every third point. ViT-B/32's three
recipes of Table 1 get two seeds; Figure 4's runs are analyzed on 200 pictures. Run again it goes on in <folder>. The rows,
without weights, become tests/golden/catalogue.jsonl.gz.
"""

import gzip
import json
import os
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir

from gsam import runs
from gsam.catalogue import entries, expected, jobs

ROOT = Path(__file__).parents[1]
RECORDED = Path(__file__).parent / "golden" / "catalogue.jsonl.gz"
TWO_SEEDS = ("table1/vit_b32_vanilla", "table1/vit_b32_sam", "table1/vit_b32_gsam")
THINNED = ("fig5/asam", "fig5/asam_ascent", "fig5/entropy_sgd", "fig5/sam")
SMALL = (
    *(
        "data=fashion_mnist",
        "data.backend=folder",
        "data.limit_train=2000",
        "data.limit_eval=200",
        "model=small_convnet",
    ),
    *("augment.size=28", "augment.crop=none", "augment.eval_resize=28", "train.precision=fp32", "train.batch_size=50"),
    *("train.log_every=1st", "train.eval_every=20st", "train.save_every=20st", "schedule.warmup_steps=4st"),
    *("data.workers=0", "train.keep_last=1"),
)
EVALUATION = ("evalset=[fashion_mnist]", "evalsets.fashion_mnist.limit=200", "workers=0")
ANALYSES = ("analysis=[hessian,sharpness]", "n=200", "batch_size=200", "workers=0", "hessian.top=0", "hessian.probes=0",
            "hessian.starts=1", "hessian.iterations=30", "sharpness.ascent=[one_step]")  # fmt: skip


def unpack(folder: Path) -> Path:
    """The recorded runs as run folders `<folder>/<experiment>/<hash>`."""
    with gzip.open(RECORDED, "rt", encoding="utf-8") as file:
        for run in map(json.loads, file):
            runs.unpack(run, folder)
    return folder


def main(folder: Path) -> None:
    for entry in entries().values():
        places: dict[str, int] = {}
        for job in () if entry.theory or entry.settings else jobs(entry):
            name = job.row.experiment
            places[name] = places.get(name, -1) + 1
            if name not in THINNED or places[name] % 3 == 0:
                for seed in (0, 1) if name in TWO_SEEDS else (0,):
                    train_and_measure(folder, job, seed, analyze=bool(entry.analyses))
    record(folder)


def train_and_measure(folder: Path, job, seed: int, analyze: bool) -> None:
    from gsam.analysis.settings import load_analysis
    from gsam.analysis.task import run as measure
    from gsam.config import load, load_evaluation
    from gsam.eval import card
    from gsam.runtime import Runtime
    from gsam.train.trainer import Trainer

    card.write_card = lambda *_: ""  # drawing takes longer than training here
    values = expected(job.row.experiment)
    steps = 40 if str(values["train.epochs"]) == "600ep" else 20
    small = [*SMALL, f"train.epochs={steps}st", f"train.seed={seed}", f"run.root={folder}"]
    small += ["optimizer.group_size=null"] * ("optimizer.group_size" in values)
    if job.row.weights:
        small.append(f"model.init={next((folder / job.row.weights).glob('*/DONE')).parent}")
    settings = [word for word in job.overrides if not word.startswith("train.seed")]
    config = load(composed("train", f"run.experiment={job.row.experiment}", *settings, *small))
    with Runtime.start() as runtime:
        trainer = Trainer(config, runtime)
        trainer.fit()
        weights = f"weights={trainer.folder.path}"
        card.run(load_evaluation(composed("evaluate", weights, *EVALUATION)), runtime)
        if analyze:
            radius = f"sharpness.rho=[{config.optimizer.rho}]"
            measure(load_analysis(composed("analyze", weights, *ANALYSES, radius)), runtime)


def composed(name: str, *overrides: str):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose(name, list(overrides))


def record(folder: Path) -> None:
    """Without what names this machine."""
    with gzip.GzipFile(RECORDED, "wb", mtime=0) as file:
        for place in sorted(path.parent for path in folder.rglob("DONE")):
            text = json.dumps(runs.pack(place), ensure_ascii=False)
            file.write((text.replace(str(folder), "runs").replace(str(ROOT), ".") + "\n").encode())
    print(f"{RECORDED}: {RECORDED.stat().st_size:,} bytes")


if __name__ == "__main__":
    os.environ.setdefault("GSAM_PATHS", "none")
    main(Path(sys.argv[1]).resolve())
