"""Several models in one table, and effective robustness against a line that the test knows."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit, logit

from gsam.report.card import make_card
from gsam.report.effective import card_of, effective, fit, read_baselines
from gsam.report.figures import side_by_side as figure
from gsam.report.side_by_side import markdown, records, side_by_side
from gsam.report.write import png

from . import cards
from .cards import plain

ROOT = Path(__file__).parents[3]
IMAGENET, SKETCH, R, VAL_R = "ImageNet", "ImageNet-Sketch", "ImageNet-R, 200-way", "ImageNet, the classes of R"
HEADER = "model,top1,top1_err,top5,top5_err,param_count,img_size,crop_pct,interpolation\n"


def on_a_line(*pairs, slope=1.5, intercept=-2.0, models=6):
    """Baselines with logit(shifted) = slope * logit(clean) + intercept, exactly."""
    out = {}
    for i, clean in enumerate(np.linspace(0.6, 0.85, models)):
        out[f"model{i}"] = {}
        for clean_label, label in pairs:
            out[f"model{i}"] |= {clean_label: float(clean), label: float(expit(slope * logit(clean) + intercept))}
    return out


def write(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_effective_robustness_is_the_distance_from_the_line_at_the_same_clean_accuracy():
    rows = [cards.row("imagenet", 50_000, 0.75), cards.row("imagenet_sketch", 50_889, 0.40)]
    (found,) = effective(make_card(rows), on_a_line((IMAGENET, SKETCH)))
    # logit(0.75) = ln 3; 1.5 ln 3 - 2 = -0.35208; 1 / (1 + exp(0.35208)) = 0.41288
    assert found.expected == pytest.approx(0.41288, abs=1e-5) and found.value == pytest.approx(0.40 - 0.41288, abs=1e-5)
    assert (found.models, found.outside) == (6, False) and found.scatter == pytest.approx(0, abs=1e-9)


def test_a_model_on_the_line_has_none_and_a_better_clean_accuracy_alone_gives_none():
    for clean in (0.62, 0.70, 0.84):
        rows = [
            cards.row("imagenet", 50_000, clean),
            cards.row("imagenet_sketch", 1, float(expit(1.5 * logit(clean) - 2))),
        ]
        assert effective(make_card(rows), on_a_line((IMAGENET, SKETCH)))[0].value == pytest.approx(0, abs=1e-9)


def test_sets_of_200_classes_are_held_against_the_clean_accuracy_on_these_classes():
    rows = cards.clean("imagenet", "imagenet_r_200", "imagenet_val_r", "imagenet_real")
    (found,) = effective(make_card(rows), on_a_line((IMAGENET, "ImageNet-ReaL"), (VAL_R, R)))
    assert (found.label, found.clean_label, found.clean) == (R, VAL_R, 0.915) and found.outside
    without = cards.clean("imagenet", "imagenet_r_200")
    assert effective(make_card(without), on_a_line((IMAGENET, R))) == []


def test_a_line_needs_three_models_and_accuracies_that_have_a_logit():
    assert fit(SKETCH, IMAGENET, on_a_line((IMAGENET, SKETCH), models=2)) is None
    baselines = on_a_line((IMAGENET, SKETCH), models=3) | {
        "none right": {IMAGENET: 0.7, SKETCH: 0.0},
        "other": {IMAGENET: 0.5},
    }
    assert len(fit(SKETCH, IMAGENET, baselines).clean) == 3


def test_baselines_from_timms_csv_files_and_from_folders(tmp_path):
    """Lines of timm's results folder; since 2025 with a line per model and size, the columns in another order."""
    files = [tmp_path / "results-imagenet.csv", tmp_path / "results-sketch.csv"]
    files[0].write_text(
        "model,img_size,top1,top1_err,top5,top5_err,param_count,crop_pct,interpolation\n"
        'eva_giant_patch14_224.clip_ft_in1k,224,88.880,11.120,98.680,1.320,"1,012.56",0.900,bicubic\n'
        "resnet50.a1_in1k,288,81.240,18.760,95.112,4.888,25.56,1.000,bicubic\n"
        "resnet50.a1_in1k,224,80.382,19.618,94.598,5.402,25.56,0.950,bicubic\n"
    )
    files[1].write_text(
        "model,top1,top1_err,top5,top5_err,param_count,img_size,crop_pct,interpolation,top1_diff,top5_diff,rank_diff\n"
        "resnet50.a1_in1k,29.641,70.359,46.737,53.263,25.56,224,0.950,bicubic,-50.741,-47.861,-25\n"
    )
    assert read_baselines(files, only=r"^(?!.*clip).*in1k") == {
        "resnet50.a1_in1k at 288 px": {IMAGENET: pytest.approx(0.8124)},
        "resnet50.a1_in1k at 224 px": {IMAGENET: pytest.approx(0.80382), SKETCH: pytest.approx(0.29641)},
    }
    assert len(read_baselines(files)) == 3
    rows = cards.clean("imagenet") + cards.corrupted() + cards.corrupted(origin="generated")
    assert read_baselines([write(tmp_path / "run", rows)]) == {
        "resnet50.a1_in1k [run]": {
            IMAGENET: 0.7613,
            "ImageNet-C-official": pytest.approx(0.4108, abs=1e-4),
            "ImageNet-C-generated": pytest.approx(0.4108, abs=1e-4),
        }
    }


def test_what_is_no_baseline(tmp_path):
    (tmp_path / "mine.csv").write_text(HEADER)
    with pytest.raises(
        ValueError, match="mine.csv: the name must say which set it is about, one of results-imagenet.csv"
    ):
        read_baselines([tmp_path / "mine.csv"])
    (tmp_path / "results-imagenet.csv").write_text("name;accuracy\na;0.7\n")
    with pytest.raises(ValueError, match="not a results csv of timm"):
        read_baselines([tmp_path / "results-imagenet.csv"])
    with pytest.raises(ValueError, match="none: no results.jsonl"):
        read_baselines([tmp_path / "none"])


def models(tmp_path):
    one = cards.clean() + cards.corrupted() + cards.extra()
    two = [
        {**row, "optimizer": "gsam", "top1": row["top1"] + 0.005} for row in cards.clean("imagenet", "imagenet_sketch")
    ]
    two += cards.corrupted("imagenet_c_generated", "generated", optimizer="gsam")
    folders = write(tmp_path / "one", one), write(tmp_path / "two", two)
    return folders, side_by_side([(f.name, card_of(f)) for f in folders], on_a_line((IMAGENET, SKETCH)))


def test_table_csv_and_what_is_never_mixed(tmp_path):
    _, both = models(tmp_path)
    assert both.names == ["resnet50.a1_in1k", "resnet50.a1_in1k trained with gsam"]
    page = plain(markdown(both, "x.png"))
    first, generated = page.split("## Top-1, generated corruptions")
    assert (
        "| ImageNet-A, 200-way | 3.50 (3.11–3.94) | not run |" in first
        and "| ImageNet-C-official, mCE | 75.26 | not run |" in first
    )
    assert "generated" not in first and "| ImageNet-C-generated, on the fly, mCE | not run | 75.26 |" in generated
    assert "| ImageNet-Sketch | resnet50.a1_in1k | 76.13 | 24.20 |" in generated
    rows = list(csv.DictReader(io.StringIO(records(both))))
    assert len(rows) == 12 + 2 + 2 + 1
    row = next(r for r in rows if r["name"] == "imagenet_sketch" and "gsam" in r["model"])
    assert float(row["effective_value"]) == pytest.approx(0.247 - expit(1.5 * logit(0.7663) - 2))
    assert next(r for r in rows if r["origin"] == "generated")["mce"]


def test_two_runs_of_one_name_are_told_apart_by_their_folders():
    card = make_card(cards.clean("imagenet"))
    assert side_by_side([("a", card), ("b", card)], {}).names == ["resnet50.a1_in1k [a]", "resnet50.a1_in1k [b]"]


def test_a_later_evaluation_of_other_weights_does_not_mix_with_an_earlier_one(tmp_path):
    early = cards.clean("imagenet", "imagenet_v2", step=10, checkpoint="last.pt")
    late = cards.clean("imagenet", step=20, checkpoint="last.pt") + cards.clean(
        "imagenet_sketch", step=20, checkpoint="last.pt"
    )
    flipped = cards.clean("imagenet_a", step=20, checkpoint="last.pt", flip_tta=True)
    assert [score.name for score in card_of(write(tmp_path, early + late + flipped)).sets] == [
        "imagenet",
        "imagenet_sketch",
    ]


def test_one_set_in_another_precision_turns_no_other_set_into_not_run(tmp_path):
    rows = cards.clean("imagenet", "imagenet_v2") + cards.clean("imagenet_sketch", precision="bf16")
    folder = write(tmp_path / "run", rows)
    card = card_of(folder)
    assert [score.name for score in card.sets] == ["imagenet", "imagenet_v2"]
    line = f"{folder}: left out: 1 result with precision bf16 (not fp32)"
    assert card.dropped == [line] and f"- {line}" in markdown(side_by_side([("run", card)], {}))
    assert [score.name for score in card_of(folder, precision="bf16").sets] == ["imagenet_sketch"]
    done = script(folder, "--precision", "bf16", cwd=tmp_path)
    assert "ImageNet-Sketch" in done.stdout and "left out" not in done.stdout, done.stderr


def test_a_trial_on_a_few_pictures_does_not_hide_the_whole_set(tmp_path):
    trial = cards.row("imagenet", 60, 0.9, settings="limit 60")
    assert [score.n for score in card_of(write(tmp_path, [*cards.clean("imagenet"), trial])).sets] == [50_000]


def test_picture(tmp_path):
    _, both = models(tmp_path)
    assert Image.open(io.BytesIO(png(figure.draw(both)))).size[0] == 1100
    alone = side_by_side([("a", make_card(cards.clean("imagenet")))], {})
    assert Image.open(io.BytesIO(png(figure.draw(alone)))).size[1] < 400


def script(*arguments, cwd):
    command = [sys.executable, str(ROOT / "scripts" / "robustness_card.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_script(tmp_path):
    folders, _ = models(tmp_path)
    done = script(*folders, "--baseline", *folders, cwd=tmp_path)
    assert done.returncode == 0 and "written: runs/robustness/robustness.md" in done.stdout, done.stderr
    assert sorted(p.name for p in (tmp_path / "runs/robustness").iterdir()) == [
        "robustness.csv", "robustness.md", "robustness.png",
    ]  # fmt: skip
    failed = script(folders[0], "--baseline", folders[0], "--only", "(", cwd=tmp_path)
    assert failed.returncode == 2 and failed.stderr.startswith("error: ") and "Traceback" not in failed.stderr
