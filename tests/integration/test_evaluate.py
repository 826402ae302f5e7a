"""evaluate.py on a real run: what it reuses, what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(fashion_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    small = [
        "data.limit_train=200",
        "data.limit_eval=50",
        "train.batch_size=50",
        "train.epochs=2st",
        "schedule.warmup_steps=0",
    ]
    train("optimizer=vanilla", "ema.decay=0.5", *small, f"paths.fashion_mnist={fashion_root}", f"run.dir={folder}")
    return folder


def evaluate(weights, *overrides, root):
    words = [sys.executable, "evaluate.py", f"weights={weights}", f"paths.fashion_mnist={root}", *overrides]
    return subprocess.run(words, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=200)


def rows(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_a_stored_row_answers_the_same_question_only(trained, fashion_root, tmp_path):
    sets = ["evalset=fashion_mnist", "evalsets.fashion_mnist.limit=60", f"out={tmp_path}"]
    for overrides in (
        sets,
        sets,
        [*sets, "precision=bf16"],
        [*sets, "evalsets.fashion_mnist.limit=70"],
        [*sets, "which=raw"],
    ):
        result = evaluate(trained, *overrides, root=fashion_root)
        assert result.returncode == 0, result.stderr
    found = [(row["n"], row["precision"], row["weights"]) for row in rows(tmp_path)]
    assert found == [(60, "fp32", "ema"), (60, "bf16", "ema"), (70, "fp32", "ema"), (60, "fp32", "raw")]


def test_a_file_in_checkpoints_and_an_ending(trained, fashion_root, tmp_path):
    weights = f"{trained}/checkpoints/best.pt@raw"
    result = evaluate(
        weights, "evalset=fashion_mnist", "evalsets.fashion_mnist.limit=60", f"out={tmp_path}", root=fashion_root
    )
    assert result.returncode == 0, result.stderr
    assert [(row["checkpoint"], row["weights"]) for row in rows(tmp_path)] == [("best.pt", "raw")]


def test_a_missing_set_is_not_run_and_strict_makes_it_an_error(trained, fashion_root, tmp_path):
    sets = ["evalset=[imagenet]", f"paths.imagenet={tmp_path}/none", f"out={tmp_path}"]
    result = evaluate(trained, *sets, root=fashion_root)
    assert result.returncode == 0 and "not run: imagenet" in result.stdout
    assert evaluate(trained, *sets, "strict=true", root=fashion_root).returncode == 2


@pytest.mark.parametrize(
    ("weights", "overrides", "words"),
    [
        ("/no/such/run", [], "give a run folder"),
        ("{run}", ["checkpoint=step_9.pt"], "step_9.pt does not exist"),
        ("{run}", ["evalsets.fashion_mnist.limt=3"], "did you mean evalsets.fashion_mnist.limit?"),
        ("{run}", ["batch_size=0", "workers=-1"], "2 problems"),
        ("{run}", ["paths.fashion_mnst=/x"], "did you mean paths.fashion_mnist?"),
        ("{run}", ["evalset=imagefolder", "paths.imagefolder={photos}"], "the model has 10 classes"),
        ("timm:resnet5", [], "weights=timm:resnet5"),
    ],
)
def test_bad_input_is_one_message(weights, overrides, words, trained, fashion_root, tmp_path):
    from tests.photos import make_folder

    names = {"run": trained, "photos": make_folder(tmp_path) if "photos" in str(overrides) else ""}
    overrides = [o.format(**names) for o in overrides]
    sets = [] if any(o.startswith("evalset=") for o in overrides) else ["evalset=fashion_mnist"]
    result = evaluate(weights.format(**names), *sets, *overrides, root=fashion_root)
    assert result.returncode == 2 and words in result.stderr and "Traceback" not in result.stderr, result.stderr
