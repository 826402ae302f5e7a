"""scripts/make_imagenet_c.py: the same bytes by any number of processes and after any kill, labelled as generated."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gsam.data import AugmentConfig, Backend, DataConfig, build_loader, open_source
from gsam.data.write import write_dataset
from gsam.eval.copies import Settings
from gsam.eval.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from gsam.eval.evalsets import EvalSet, open_pictures, origin
from gsam.eval.make_c import make
from gsam.eval.pictures import central_square
from tests.photos import CLASSES, make_folder
from tests.unit.eval.pictures import DEBIAN, fashion_mnist

ROOT = Path(__file__).parents[2]
SOME = ["shot_noise", "glass_blur", "frost", "elastic_transform", "jpeg_compression"]


def quiet(*_):
    pass


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes with seven pictures each: JPEGs (RGB, grey, CMYK) and PNGs of many sizes."""
    return make_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def settings(photos):
    return Settings("imagefolder", str(photos), canvas=224, limit=5)


@pytest.fixture(scope="module")
def made(settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    return out, make(settings, str(out), SOME, [1, 5], 1, quiet)


def files(folder):
    """All files but the lock."""
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".write.lock")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def child_of(pid):
    """A process that `pid` started."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "stat").read_text().rpartition(") ")[2].split()[1] == str(pid):
                return int(entry.name)
    raise AssertionError(f"{pid} has no child")


def pictures_of(folder):
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))


def command(*words):
    return [sys.executable, str(ROOT / "scripts" / "make_imagenet_c.py"), *map(str, words)]


def run(*words):
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=250)


def test_files_are_the_copies_that_evaluation_computes(photos, made):
    out, record = made
    source = open_source("imagefolder", str(photos), "val")
    found = {name for name in files(out) if name.startswith("frost/5/")}
    assert len(found) == 5 and record["pictures"] == 5 and record["copies"]["frost/5"] == 5
    for index in range(len(source)):
        path = Path(source.describe(index))
        name = path.name if path.suffix.lower() in (".jpg", ".jpeg") else path.name + ".jpg"
        if f"frost/5/{path.parent.name}/{name}" in found:
            for corruption in SOME:
                stored = Image.open(out / corruption / "5" / path.parent.name / name)
                wanted = corrupt(central_square(source[index][0], 224), corruption, 5, seed=0, index=index)
                assert stored.format == "JPEG" and np.array_equal(np.asarray(stored), wanted)


def test_a_file_is_what_the_original_saves(made):
    """Pillow's JPEG of quality 85, optimised, 4:2:0: saved again with these options its tables are the same."""
    stored = Image.open(pictures_of(made[0] / "glass_blur" / "1")[0])
    again = io.BytesIO()
    Image.fromarray(np.asarray(stored)).save(again, "JPEG", quality=85, optimize=True)
    assert Image.open(again).quantization == stored.quantization
    assert [component[1:3] for component in stored.layer] == [(2, 2), (1, 1), (1, 1)]


def test_workers_and_order_change_no_byte(settings, made, tmp_path):
    make(settings, str(tmp_path), list(reversed(SOME))[:3], [5], 3, quiet)
    make(settings, str(tmp_path), SOME, [1, 5], 2, quiet)
    mine, others = files(made[0]), files(tmp_path)
    assert json.loads(mine.pop("generated.json"))["copies"] == json.loads(others.pop("generated.json"))["copies"]
    assert len(mine) == 5 * 2 * 5 and mine == others


def test_what_is_there_stays_and_what_is_missing_or_empty_is_made(settings, made, tmp_path):
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    lost, empty, *_ = kept = pictures_of(tmp_path / "shot_noise")
    lost.unlink()
    empty.write_bytes(b"")
    times = {path: path.stat().st_mtime_ns for path in kept[2:]}
    reports = []
    make(settings, str(tmp_path), SOME, [1, 5], 2, lambda *words: reports.append(words))
    assert files(tmp_path) == files(made[0]) and {path: path.stat().st_mtime_ns for path in kept[2:]} == times
    assert reports[-1][1] == len({lost.name, empty.name})  # pictures that lacked nothing say nothing of the time left


def test_a_changed_setting_is_refused(settings, made):
    out = str(made[0])
    for change, words in (
        ({"seed": 1}, "seed was 0, is now 1"),
        ({"limit": 4}, "limit was 5, is now 4; pictures was 5, is now 4; names was"),
        ({"canvas": 64}, "canvas was 224, is now 64; preset was 224, is now 64"),
        ({"grey": True}, "grey was False, is now True"),
        ({"format": "ffcv"}, "format was 'folders', is now 'ffcv'"),
    ):
        with pytest.raises(ValueError, match="must not share a folder: repeat the old settings") as error:
            make(replace(settings, **change), out, SOME, [1], 1, quiet)
        assert words in str(error.value)
    record = json.loads((made[0] / "generated.json").read_text())
    record["versions"]["PIL"] = "5.0"
    older = made[0].parent / "older"
    older.mkdir()
    (older / "generated.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="versions was .*'PIL': '5.0'"):
        make(settings, str(older), SOME, [1], 1, quiet)


def test_wrong_arguments_are_named(settings, tmp_path):
    for change, corruptions, severities, workers, words in (
        ({}, ["snwo"], [1], 1, "'snwo'; did you mean 'snow'"),
        ({}, ["snow", "snow"], [1], 1, "at most once"),
        ({}, ["snow"], [0], 1, r"severities=\[0\]"),
        ({}, ["snow"], [1], 0, "workers=0 must be at least 1"),
        ({"canvas": 8}, ["snow"], [1], 1, "canvas=8 must be at least 16"),
        ({"seed": -1}, ["snow"], [1], 1, "seed=-1"),
        ({"limit": 1000}, ["snow"], [1], 1, "limit=1000"),
        ({"frost_textures": "/nowhere"}, ["frost"], [1], 1, "frost_textures=/nowhere is not a folder"),
    ):
        with pytest.raises(ValueError, match=words):
            make(replace(settings, **change), str(tmp_path / "out"), corruptions, severities, workers, quiet)
    assert not (tmp_path / "out" / "generated.json").exists()
    (tmp_path / "official" / "snow").mkdir(parents=True)
    with pytest.raises(ValueError, match="official holds snow and no generated.json: not a set made here"):
        make(settings, str(tmp_path / "official"), ["snow"], [1], 1, quiet)


def test_pictures_that_cannot_be_used_are_listed_and_the_others_made(photos, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(photos / "val", root / "val")
    torn = sorted((root / "val" / "n01").iterdir())[0]
    whole = torn.read_bytes()
    torn.write_bytes(whole[:200])
    settings, out = Settings("imagefolder", str(root), canvas=224, limit=None), tmp_path / "out"
    with pytest.raises(ValueError, match=f"1 of 21 pictures cannot be used.*\n  {torn} cannot be decoded"):
        make(settings, str(out), ["contrast"], [1], 2, quiet)
    assert len(files(out)) == 20 + 1 and json.loads((out / "generated.json").read_text())["copies"] == {}
    torn.write_bytes(whole)
    assert make(settings, str(out), ["contrast"], [1], 2, quiet)["copies"] == {"contrast/1": 21}


def test_a_file_that_cannot_be_written_is_named(settings, tmp_path):
    make(settings, str(tmp_path), ["contrast"], [1], 1, quiet)
    (tmp_path / "fog").write_text("a file where a folder is wanted")
    with pytest.raises(RuntimeError, match=f"{tmp_path}/fog/1/n0.* cannot be written .*run again to go on"):
        make(settings, str(tmp_path), ["fog"], [1], 1, quiet)
    (tmp_path / "fog").unlink()
    assert make(settings, str(tmp_path), ["fog"], [1], 1, quiet)["copies"] == {"contrast/1": 5, "fog/1": 5}
    (tmp_path / "generated.json").write_text("{")
    with pytest.raises(ValueError, match="generated.json cannot be read"):
        make(settings, str(tmp_path), ["fog"], [1], 1, quiet)


def test_two_pictures_of_one_name_are_refused(photos, tmp_path):
    shutil.copytree(photos / "val" / "n01", tmp_path / "val" / "n01")
    twin = next((tmp_path / "val" / "n01").glob("*.png"))
    shutil.copy(twin, f"{twin}.jpg")
    with pytest.raises(ValueError, match=f"two pictures would both become n01/{twin.name}.jpg"):
        make(Settings("imagefolder", str(tmp_path), canvas=224), str(tmp_path / "out"), ["fog"], [1], 1, quiet)


@fashion_mnist
def test_28_pixel_pictures_are_kept_without_loss_and_grey(tmp_path):
    settings = Settings("fashion_mnist", DEBIAN, limit=30, grey=True)
    record = make(settings, str(tmp_path), ["speckle_noise", "frost", "saturate"], [5], 2, quiet)
    assert record["preset"] == 32 and record["length_factor"] == 1.0 and record["file"] == "png"
    assert record["frost"] == "frost (synthetic)"
    source = open_source("fashion_mnist", DEBIAN, "val")
    pictures = open_pictures(
        EvalSet("corrupted", "fashion_mnist", str(tmp_path), corruptions=["frost"], severities=[5]), "frost", 5
    )
    assert len(pictures) == 30
    for i in range(30):
        index = int(Path(pictures.describe(i)).stem)
        copy, label = pictures[i]
        assert label == source.labels[index]  # although "ankle boot", class 9, sorts first
        assert np.array_equal(copy, corrupt(source[index][0], "frost", 5, seed=0, index=index, grey=True))
        assert np.ptp(copy, axis=-1).max() == 0


def test_a_made_set_is_generated_for_evaluation(made, tmp_path):
    stored = {"layout": "corrupted", "source": "imagefolder", "corruptions": SOME, "severities": [1, 5]}
    assert origin(EvalSet(root=str(made[0]), **stored)) == "generated"
    assert origin(EvalSet(root=str(tmp_path), **stored)) == "stored"
    assert origin(EvalSet(root=str(tmp_path), origin="official", **stored)) == "official"


def test_own_textures_are_named(settings, tmp_path):
    (tmp_path / "ice").mkdir()
    Image.new("RGB", (300, 300), (200, 210, 220)).save(tmp_path / "ice" / "a.png")
    own = replace(settings, frost_textures=str(tmp_path / "ice"), limit=2)
    record = make(own, str(tmp_path / "out"), ["frost"], [3], 1, quiet)
    assert record["frost"].startswith("frost (ice, 1 textures, ")


@pytest.mark.slow
def test_ffcv_holds_the_pixels_of_those_files(settings, photos, made, tmp_path):
    pytest.importorskip("ffcv")
    out, reports = tmp_path / "out", []
    make_betons = partial(make, replace(settings, format="ffcv"), str(out), ["frost", "shot_noise"], [5], 2)
    assert make_betons(lambda *words: reports.append(words))["copies"] == {"frost/5": 5, "shot_noise/5": 5}
    assert {what for what, *_ in reports} >= {"frost 5, val, pictures", "shot_noise 5, val, pictures"}
    folder = out / "frost" / "5"
    write_dataset("imagefolder", str(photos), str(folder), splits=["train"], workers=1)  # a loader wants both splits
    data = DataConfig("imagefolder", Backend.ffcv, str(photos), ffcv_root=str(folder), workers=1)
    sizes = AugmentConfig(size=224, eval_resize=224)
    loader = build_loader(data, sizes, "val", batch_size=5, rank=0, world=1, seed=0, train=False)
    ((images, labels),) = [(images.clone(), labels.tolist()) for images, labels in loader.epoch()]
    jpegs = pictures_of(made[0] / "frost" / "5")
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), np.stack([np.asarray(Image.open(p)) for p in jpegs]))
    assert [CLASSES[label] for label in labels] == [path.parent.name for path in jpegs]
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.beton")}
    make_betons(quiet)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.beton")} == times and len(times) == 3


def test_the_command(photos, tmp_path):
    words = (
        "imagefolder",
        "--root",
        photos / "val",
        "--split",
        ".",
        "--limit",
        3,
        "--canvas",
        64,
        "--out",
        tmp_path / "c",
    )
    result = run(*words, "--corruptions", "extra", "fog", "--severities", 2, "--workers", 1)
    assert result.returncode == 0, result.stderr
    assert "5 copies of each of 3 pictures, constants of 64 pixels" in result.stdout
    assert "pictures: 3/3 (100 %)" in result.stderr and "s left" in result.stderr
    assert len(files(tmp_path / "c")) == 3 * 5 + 1
    missing = run("imagenet", "--root", tmp_path / "nothing", "--out", tmp_path / "d")
    assert (
        missing.returncode == 1
        and missing.stderr.startswith("make_imagenet_c: --root")
        and "\n" not in missing.stderr.strip()
    )


@pytest.mark.slow
def test_a_stopped_run_continues_to_the_same_bytes(photos, tmp_path):
    settings = Settings("imagefolder", str(photos), canvas=224)
    make(settings, str(tmp_path / "whole"), list(CORRUPTIONS), SEVERITIES, 2, quiet)
    cut, pictures, kinds = tmp_path / "cut", 21, len(CORRUPTIONS) * len(SEVERITIES)
    words = ("imagefolder", "--root", photos, "--canvas", 224, "--corruptions", "all", "--out", cut)
    endings = {"killed": "", "interrupted": "the same command continues", "worker killed": "a process died"}
    for ending, message in endings.items():  # each time after some files
        before = len(pictures_of(cut))
        process = subprocess.Popen(command(*words, "--workers", 2), stderr=subprocess.PIPE, text=True)
        while len(pictures_of(cut)) < before + 120:
            time.sleep(0.02)
        whom = child_of(process.pid) if ending == "worker killed" else process.pid
        os.kill(whom, signal.SIGINT if ending == "interrupted" else signal.SIGKILL)
        _, messages = process.communicate(timeout=60)
        assert process.returncode != 0 and message in messages and "Traceback" not in messages
        assert json.loads((cut / "generated.json").read_text())["copies"] == {}
        time.sleep(1)  # a killed parent's workers notice within 0.2 s
    assert len(pictures_of(cut)) < pictures * kinds
    again = run(*words, "--workers", 1)
    assert again.returncode == 0, again.stderr
    assert files(cut) == files(tmp_path / "whole") and len(files(cut)) == pictures * kinds + 1


@pytest.mark.slow
def test_the_benchmark_promises_at_most_4_core_hours_for_imagenet():
    words = [sys.executable, "scripts/bench/corruptions.py", "--json", "--rounds", "3", "--pictures", "2"]
    result = subprocess.run([*words, "--run-pictures", "8"], cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert result.returncode == 0, result.stderr
    numbers = json.loads(result.stdout.splitlines()[-1])
    assert list(numbers["images_per_s"]) == list(CORRUPTIONS) and numbers["core_hours"] <= 4
