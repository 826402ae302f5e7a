"""From a training to a comparison: what evaluate.py leaves behind is what the reports read."""

import json

import pytest
from hydra import compose, initialize_config_dir

from gsam.config import load_evaluation
from gsam.eval.card import run
from gsam.report.compare import compare
from gsam.report.effective import card_of
from gsam.report.predictions import load
from gsam.runtime import Runtime
from tests.runs import CONFIGS, train


def evaluate(folder, root, *overrides):
    small = [
        "evalsets.fashion_mnist.limit=80",
        "evalsets.fashion_mnist_c.limit=60",
        "evalsets.fashion_mnist_c.severities=[2,4]",
    ]
    words = [
        f"weights={folder}",
        "evalset=[fashion_mnist,fashion_mnist_c]",
        f"paths.fashion_mnist={root}",
        *small,
        *overrides,
    ]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"), Runtime.start() as runtime:
        return run(load_evaluation(compose("evaluate", words)), runtime)


@pytest.fixture(scope="module")
def evaluated(fashion_root, tmp_path_factory):
    """One run with its weights and their average, both evaluated."""
    folder = tmp_path_factory.mktemp("compared") / "run"
    small = ["data.limit_train=600", "data.limit_eval=50", "train.batch_size=50", "train.epochs=12st", "ema.decay=0.9"]
    train(
        "optimizer=vanilla",
        "schedule.warmup_steps=0",
        *small,
        f"paths.fashion_mnist={fashion_root}",
        f"run.dir={folder}",
    )
    for which in ("raw", "ema"):
        evaluate(folder, fashion_root, f"which={which}")
    return folder


def test_the_two_sets_of_weights_of_a_run_are_paired_picture_by_picture(evaluated):
    found = compare(f"{evaluated}@raw", f"{evaluated}@ema", resamples=200)
    rows = [json.loads(line) for line in (evaluated / "results.jsonl").read_text().splitlines()]
    assert len(found.sets) == 1 + 4 * 2 and not found.unpaired and not found.notes
    for one in found.sets:
        raw, ema = (
            next(r for r in rows if (r["weights"], r["evalset"], r["corruption"], r["severity"])
                 == (weights, one.evalset, one.corruption, one.severity))
            for weights in ("raw", "ema")
        )  # fmt: skip
        assert (one.n, one.a, one.b) == (raw["n"], pytest.approx(raw["top1"]), pytest.approx(ema["top1"]))
        assert one.only_b - one.only_a == round(one.n * (ema["top1"] - raw["top1"]))
        assert one.nll == pytest.approx(ema["nll"] - raw["nll"], abs=1e-5)
    assert found.means[0].label == "fashion_mnist_c (C-generated), mean of 8"
    stored = load(evaluated / rows[0]["predictions"])
    assert len(stored.index) == 80 and (stored.top5[:, 0] == stored.label)[stored.correct].all()


def test_the_card_is_about_the_weights_that_were_asked_for(evaluated):
    for which in ("raw", "ema"):
        card = card_of(f"{evaluated}@{which}")
        assert card.subject["weights"] == which and [score.name for score in card.sets] == ["fashion_mnist"]
        (group,) = card.corrupted
        assert len(group.rows) == 8 and group.mean and group.mce is None
        name = "card.json" if which == "raw" else "card-ema.json"  # raw was first; of another, what sets it apart
        stored = json.loads((evaluated / "card" / name).read_text())
        assert stored["subject"]["weights"] == which and stored["corrupted"][0]["origin"] == "generated"
