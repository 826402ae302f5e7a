"""Every experiment beside Table 1's recipes (test_recipes.py) composed, loaded and stepped twice on small pictures, at the
first and the last point of its grid; the grids through train.py -m."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gsam.catalogue import entries
from gsam.config import load
from gsam.data import build_loader
from gsam.recipes import compose
from gsam.runtime import Runtime
from gsam.train.stepper import Stepper, images_per_step

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ROWS = {
    row.experiment: row for one in entries().values() for row in one.rows if not row.experiment.startswith("table1/")
}
STEPS = 2


def smaller(name: str, fashion_root: Path) -> list[str]:
    """Four patches and, for ViTs, one block of width 64 (timm's Mixers cannot be shortened); Fashion-MNIST."""
    model = "vit_s16" if "s16" in name else "vit_b16" if "b16" in name else "mixer_s32" if "fig5" in name else "vit_b32"
    pixels = 32 if model.endswith("16") else 64
    vit = ["++model.kwargs.depth=1", "++model.kwargs.embed_dim=64", "++model.kwargs.num_heads=2"]
    return [
        *("data=fashion_mnist", "data.backend=folder", f"paths.fashion_mnist={fashion_root}", "data.workers=0"),
        *("data.limit_train=120", "data.limit_eval=8", "train.batch_size=4", "train.precision=fp32"),
        *(f"augment.size={pixels}", f"augment.eval_resize={pixels}", *(vit if model.startswith("vit") else [])),
    ]


def points(name: str) -> list[list[str]]:
    grid = ROWS[name].grid()
    every = [
        [f"{key}={value}" for key, value in zip(grid, point, strict=True)]
        for point in itertools.product(*grid.values())
    ]
    return every if len(every) < 2 else [every[0], every[-1]]


@pytest.mark.parametrize("name", ROWS)
def test_two_steps_of_every_experiment(name, fashion_root):
    for point in points(name):
        composed = compose([f"experiment={name}", f"run.experiment={name}", *point, *smaller(name, fashion_root)])
        if "group_size" in composed.optimizer:
            assert composed.optimizer.group_size == 64
            composed.optimizer.group_size = 2
        config = load(composed, world=1)
        which = {"batch_size": 4, "rank": 0, "world": 1, "seed": config.train.seed}
        loader = build_loader(config.data, config.augment, "train", train=True, **which)
        with Runtime.start() as runtime:
            stepper = Stepper(config, runtime, num_classes=loader.num_classes, num_examples=10**6)
            before = [p.detach().clone() for p in stepper.params]
            batches, keys = iter(loader.epoch(0)), iter(loader.order(0))
            for _ in range(STEPS):
                taken = list(itertools.islice(batches, images_per_step(config) // 4))
                if stepper.augment.needs_keys:
                    taken = [(*b, torch.tensor([[0, int(next(keys))] for _ in range(4)])) for b in taken]
                row = stepper.train_step([tuple(t.clone() for t in batch) for batch in taken])
        assert stepper.schedules.at(1).lr > 0 and stepper.total_steps > 2
        assert any(not torch.equal(p, old) for p, old in zip(stepper.params, before, strict=True))
        assert all(value.isfinite() for key, value in row.items() if key != "cos" and value is not None), row


def test_a_grid_is_run_by_train_and_an_axis_of_the_command_line_replaces_the_files(fashion_root, tmp_path):
    settings = [*smaller("fig9", fashion_root), "optimizer.group_size=2", "train.epochs=1st", f"run.root={tmp_path}"]
    command = [sys.executable, "train.py", "-m", "experiment=fig9", "optimizer.alpha=0.1,0.2", *settings]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    jobs = [line for line in result.stdout.splitlines() if line.startswith("--- job: ")]
    assert [line.split()[2] for line in jobs] == ["++optimizer.alpha=0.1", "++optimizer.alpha=0.2"]
    assert len(list((tmp_path / "fig9").glob("*/DONE"))) == 2
