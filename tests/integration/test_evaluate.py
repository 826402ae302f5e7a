"""evaluate.py on a real run and on the sets of ImageNet: what it writes, what it reuses, what it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from gsam.eval.card import run
from gsam.eval.layouts import class_labels, class_list
from gsam.models import ModelConfig, build_model
from gsam.report.predictions import load
from gsam.runtime import Runtime
from tests.runs import train
from tests.unit.eval.sets import configured
from tests.unit.sets import official

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
        (
            "{run}",
            ["evalsets.imagenet_r.limit=5"],
            "evalsets.imagenet_r: not among evalset=[fashion_mnist]; choose it too",
        ),
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


# ---- the sets of ImageNet -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Every set in its official layout below one folder, a picture per class; of ImageNet-C the corruption fog at 1 and 2 and
    all of spatter."""
    root = tmp_path_factory.mktemp("data")
    official.write_folder(root / "imagenet", official.val())
    for variant in ("matched-frequency", "threshold0.7", "top-images"):
        official.write_folder(root, official.imagenet_v2(f"imagenetv2-{variant}-format-val"))
    for files in (official.imagenet_r(), official.imagenet_a(), official.sketch()):
        official.write_folder(root, files)
    for pair in ("fog/1", "fog/2", *(f"spatter/{severity}" for severity in range(1, 6))):
        (root / "imagenet-c" / pair).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(root / "imagenet" / "val", root / "imagenet-c" / pair)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small network of 1000 classes, its head scaled so that it is sure of something."""
    torch.manual_seed(0)
    model = build_model(ModelConfig("small_convnet"), num_classes=1000, image_size=28, seed=0)
    with torch.no_grad():
        model.get_classifier().weight.mul_(30)
    torch.save(model.state_dict(), file := tmp_path_factory.mktemp("weights") / "net.pth")
    return file


C = ["evalsets.imagenet_c.corruptions=[fog]", "evalsets.imagenet_c.severities=[1,2]", "evalsets.imagenet_c.canvas=4"]
C += ["evalsets.imagenet_c_extra.corruptions=[spatter]", "evalsets.imagenet_c_extra.canvas=4"]
SIZES = {"imagenet_r": 200, "imagenet_r_200": 200, "imagenet_a": 200, "imagenet_a_1000": 200}
NAMES = ("imagenet", "imagenet_real", "imagenet_val_r", "imagenet_val_a", "imagenet_v2", "imagenet_v2_threshold",
         "imagenet_v2_top", *SIZES, "imagenet_sketch", "imagenet_c", "imagenet_c_extra")  # fmt: skip
ALL = ["evalset=all", *C, *(f"evalsets.{name}.expect_n={SIZES.get(name, 1000)}" for name in NAMES)]


def here(weights, data, *overrides):
    """As evaluate.py, in this process; returns the rows."""
    words = [f"weights={weights}", "network=small_convnet", f"paths.data={data}", "workers=0", "batch_size=100"]
    with Runtime.start() as runtime:
        return run(configured(*words, *overrides), runtime)


@pytest.fixture(scope="module")
def evaluated(weights, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    here(weights, data, *ALL, f"out={out}")
    return out


def test_every_set_gives_its_rows(evaluated, data):
    found = rows(evaluated)
    counts = {row["evalset"]: row["n"] for row in found}
    assert list(counts) == list(NAMES)
    assert counts["imagenet_val_r"] == counts["imagenet_val_a"] == 200 and 900 < counts["imagenet_real"] <= 1000
    assert {counts[name] for name in NAMES if name not in SIZES and "val_" not in name and "real" not in name} == {1000}
    copies = [(row["corruption"], row["severity"], row["origin"]) for row in found if row["corruption"]]
    assert copies == [("fog", 1, "official"), ("fog", 2, "official")] + [
        ("spatter", severity, "official") for severity in range(1, 6)
    ]
    for row in found:
        assert row["top1_low"] <= row["top1"] <= row["top1_high"] and row["flip_tta"] is False
        assert row["backend"] == "folder" and set(row["versions"]) == {"torch", "timm", "numpy", "pillow", "opencv"}
        within = row["evalset"] in ("imagenet_r_200", "imagenet_a", "imagenet_val_r", "imagenet_val_a")
        assert f"argmax over {200 if within else 1000} classes" in row["protocol"]
    assert {row["resized"] for row in found if row["corruption"]} == {28} and found[0]["resized"] is None
    assert "resized to 28" in found[-1]["protocol"] and "ReaL labels" in found[1]["protocol"]


def test_every_row_has_its_predictions(evaluated, weights, data):
    for row in rows(evaluated):
        kept = load(evaluated / row["predictions"])
        assert kept.pictures == row["pictures"] and len(kept.index) == row["n"]
        assert kept.correct.mean() == row["top1"] and kept.nll.mean(dtype=float) == pytest.approx(row["nll"])
    r = load(evaluated / next(row["predictions"] for row in rows(evaluated) if row["evalset"] == "imagenet_r_200"))
    assert np.isin(r.top5, class_labels("imagenet_r")).all()


def test_sets_that_share_pictures_say_so_and_asking_again_computes_nothing(evaluated, weights, data, capsys):
    pictures = {row["evalset"]: row["pictures"] for row in rows(evaluated)}
    assert (
        pictures["imagenet"] == pictures["imagenet_real"] == pictures["imagenet_val_r"] != pictures["imagenet_sketch"]
    )
    before = {path: path.stat().st_mtime_ns for path in evaluated.rglob("*") if path.is_file()}
    again = here(weights, data, *ALL, f"out={evaluated}")
    assert again == rows(evaluated)
    assert {path: path.stat().st_mtime_ns for path in evaluated.rglob("*") if path.is_file()} == before
    assert "ImageNet-Sketch" in capsys.readouterr().out and (evaluated / "card" / "card.png").exists()


def test_another_transform_and_other_pictures_are_other_questions(weights, data, tmp_path):
    """A .json beside the weights changes the pictures' size; ImageNet-A of another root has other names."""
    shutil.copy(weights, tmp_path / "net.pth")
    other = official.write_folder(tmp_path / "other", official.in_folders("", class_list("imagenet_a"), "jpeg"))
    sets = ["evalset=imagenet_a", "evalsets.imagenet_a.expect_n=200", f"out={tmp_path}"]
    here(tmp_path / "net.pth", data, *sets)
    here(tmp_path / "net.pth", data, *sets, f"paths.imagenet_a={other}")
    described = {"architecture": "small_convnet", "input_size": [3, 20, 20], "crop_pct": 1.0}
    (tmp_path / "net.json").write_text(json.dumps(described))
    for _ in range(2):
        here(tmp_path / "net.pth", data, *sets)
    first, moved, small = rows(tmp_path)
    assert first["pictures"] == small["pictures"] != moved["pictures"]
    assert len(list((tmp_path / "predictions").iterdir())) == 3  # none has replaced another's
    assert first["preprocess"] == moved["preprocess"] != small["preprocess"] and "crop 20" in small["preprocess"]


def test_a_line_that_is_no_row_is_passed_over(evaluated, weights, data, tmp_path):
    lines = [line for line in (evaluated / "results.jsonl").read_text().splitlines() if '"imagenet_a"' in line]
    (tmp_path / "results.jsonl").write_text("\n".join(["3", "[]", "null", *lines]) + "\n")
    found = here(weights, data, "evalset=imagenet_a", "evalsets.imagenet_a.expect_n=200", f"out={tmp_path}")
    assert found == [json.loads(line) for line in lines]


def test_only_what_is_missing_is_computed(evaluated, weights, data, tmp_path):
    """As after a kill: the rows of the passes before it, and half a line."""
    text = (evaluated / "results.jsonl").read_text()
    lines = text.splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_text("".join(lines[:9]) + lines[9][:50])
    found = here(weights, data, *ALL, f"out={tmp_path}")
    assert [{**row, "time": 0} for row in found] == [{**json.loads(line), "time": 0} for line in lines]
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == len(lines) + 1  # with the torn one
    assert len(list((tmp_path / "predictions").iterdir())) == len(lines) - 9


def test_the_mirror_image_is_another_question(evaluated, weights, data, tmp_path):
    (tmp_path / "results.jsonl").write_text((evaluated / "results.jsonl").read_text())
    sets = ["evalset=imagenet_a", "evalsets.imagenet_a.expect_n=200", f"out={tmp_path}"]
    (plain,), (both,) = here(weights, data, *sets), here(weights, data, *sets, "flip_tta=true")
    assert plain in rows(evaluated) and both["flip_tta"] and both["nll"] != plain["nll"]
    assert "mirror" in both["protocol"] and "-tta-" in both["predictions"]


def test_wrong_counts_are_refused_before_any_picture_is_read(weights, data, tmp_path):
    with pytest.raises(ValueError, match="2 problems") as error:
        here(weights, data, "evalset=[imagenet_r,imagenet_v2]", f"out={tmp_path}")
    assert "holds 200 pictures, the complete set has 30,000" in str(error.value)
    assert "holds 1,000 pictures, the complete set has 10,000" in str(error.value)
    assert not (tmp_path / "results.jsonl").exists()


def test_sets_that_are_not_there_are_not_run_and_the_others_are(weights, data, tmp_path, capsys):
    few = ["evalset=[imagenet_a,imagenet_c,imagenet_r]", "evalsets.imagenet_a.expect_n=200", f"out={tmp_path}"]
    few += ["paths.imagenet_c=/none/c", "paths.imagenet_r=/none/r"]
    found = here(weights, data, *few)
    assert [row.get("not_run") is None for row in found] == [True, False, False]
    assert [row["evalset"] for row in rows(tmp_path)] == ["imagenet_a"]
    assert "/none/r" in capsys.readouterr().out
    with pytest.raises(ValueError, match="/none/c"):
        here(weights, data, *few, "strict=true")
    with pytest.raises(
        ValueError, match="imagenet_r.layout=wnids is unknown"
    ):  # also where there is no folder to look at
        here(weights, data, *few, "evalsets.imagenet_r.layout=wnids")


def test_a_root_of_imagenet_c_may_hold_the_fifteen_without_the_four_but_no_part_of_a_set(weights, data, tmp_path):
    (tmp_path / "c").mkdir()
    os.symlink(data / "imagenet-c" / "fog", tmp_path / "c" / "fog")
    words = ["evalset=[imagenet_c,imagenet_c_extra]", f"paths.imagenet_c={tmp_path}/c", f"out={tmp_path}"]
    words += ["evalsets.imagenet_c.severities=[1]", "evalsets.imagenet_c.canvas=4", "evalsets.imagenet_c.limit=10"]
    with pytest.raises(ValueError, match="evalsets.imagenet_c.root=.*14 of 15 folders"):
        here(weights, data, *words)
    words.append("evalsets.imagenet_c.corruptions=[fog]")
    fog, extra = here(weights, data, *words)
    assert fog["n"] == 10 and "20 of 20 folders <corruption>/<severity> are missing" in extra["not_run"]
    with pytest.raises(ValueError, match="evalsets.imagenet_c_extra.root=.*20 of 20 folders"):
        here(weights, data, *words, "strict=true")


def test_a_model_of_other_classes_is_one_message_that_names_the_sets(trained, data, tmp_path):
    with pytest.raises(ValueError) as error, Runtime.start() as runtime:
        run(configured(f"weights={trained}", f"paths.data={data}", *ALL, f"out={tmp_path}"), runtime)
    assert str(error.value).startswith("the model has 10 classes, which does not fit imagenet, imagenet_real, ")
    assert str(error.value).count("1000 classes") == 1 and not (tmp_path / "results.jsonl").exists()


def test_clean_sets_need_neither_ffcv_nor_opencv(weights, data, tmp_path):
    words = [f"weights={weights}", "network=small_convnet", f"paths.data={data}", f"out={tmp_path}", "workers=0"]
    words += ["evalset=imagenet_a", "evalsets.imagenet_a.expect_n=200"]
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("cv2", "ffcv", "numba")))
from gsam.eval.card import run
from gsam.runtime import Runtime
from tests.unit.eval.sets import configured
with Runtime.start() as runtime:
    run(configured(*{words!r}), runtime)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert [row["n"] for row in rows(tmp_path)] == [200]


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_after_the_passes_that_were_done(weights, data, evaluated, tmp_path):
    words = [sys.executable, "evaluate.py", f"weights={weights}", "network=small_convnet", f"paths.data={data}", *ALL,
             "batch_size=100", "workers=1", f"out={tmp_path}"]  # fmt: skip
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    results = tmp_path / "results.jsonl"
    while not (results.exists() and len(results.read_text().splitlines()) >= 6):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = results.read_text().splitlines()
    assert 6 <= len(done) < len(rows(evaluated))
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert results.read_text().splitlines()[: len(done)] == done
    strip = lambda row: {k: v for k, v in row.items() if k not in ("time", "git_hash")}  # noqa: E731
    assert [strip(row) for row in rows(tmp_path)] == [strip(row) for row in rows(evaluated)]


@pytest.mark.slow
def test_ranks_write_what_one_process_writes(weights, data, evaluated, tmp_path):
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "evaluate.py", f"weights={weights}"]
    words += ["network=small_convnet", f"paths.data={data}", *ALL, "batch_size=50", "workers=1", f"out={tmp_path}"]
    result = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert result.returncode == 0, result.stderr
    for mine, alone in zip(rows(tmp_path), rows(evaluated), strict=True):
        counts = ("evalset", "corruption", "severity", "n", "top1", "top5", "pictures", "protocol")
        assert [mine[key] for key in counts] == [alone[key] for key in counts]
        assert mine["nll"] == pytest.approx(alone["nll"], rel=1e-6)
