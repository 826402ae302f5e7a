"""python -m gsam.eval.doctor: a good set has nothing wrong, and every classic damage is named."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from gsam.data.sources import imagenet_synsets
from gsam.eval.doctor import main
from gsam.eval.inspection import recognise
from gsam.eval.preprocess import Preprocess

from . import official
from .official import photographs, write_folder

ROOT = Path(__file__).parents[3]
NETWORK = "test_byobnet.r160_in1k"  # small, 160 pixels
HEADER = "model,img_size,top1,top1_err,top5,top5_err,param_count,crop_pct,interpolation\n"


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """No line breaks inside the table's cells."""
    monkeypatch.setenv("COLUMNS", "2000")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network that knows every class's photograph: random filters, the last layer fitted by least squares."""
    torch.manual_seed(0)
    model = timm.create_model(NETWORK)
    prepare = Preprocess.published(model.pretrained_cfg, NETWORK)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (prepare.mean, prepare.std))
    pictures = np.stack([prepare(official.pixels(data)) for data in photographs()])
    images = (torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255 - mean) / std
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(images[:100])  # BatchNorm's statistics: without them all features are nearly equal
        model.eval()
        features = [model.forward_head(model.forward_features(part), pre_logits=True) for part in images.split(50)]
        x = torch.cat(features).double()
        model.get_classifier().weight.copy_(torch.linalg.lstsq(x, torch.eye(1000, dtype=x.dtype)).solution.T * 10)
        model.get_classifier().bias.zero_()
    file = tmp_path_factory.mktemp("weights") / "knows.pth"
    torch.save(model.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def v2(tmp_path_factory):
    """ImageNet-V2 in its official numbers: 10,000 pictures, 10 per class."""
    root = tmp_path_factory.mktemp("v2")
    return (
        write_folder(root, official.in_folders(f"{official.V2}/", map(str, range(1000)), "jpeg", each=10)) / official.V2
    )


def doctor(capsys, *words):
    """Exit code and what was printed, without the table's line breaks."""
    code = main([str(word) for word in words])
    printed = capsys.readouterr()
    return code, " ".join((printed.out + printed.err).split())


def published(path, *rows):
    path.write_text(HEADER + "".join(f"{model},{size},{top1},0,0,0,1.9,0.875,bicubic\n" for model, size, top1 in rows))
    return path


def test_nothing_is_wrong_with_a_good_set_and_a_model_that_scores_as_published(v2, weights, tmp_path, capsys):
    table = published(
        tmp_path / "results-imagenetv2-matched-frequency.csv", (NETWORK, 160, "99.500"), ("other", 224, "1.0")
    )
    words = ["--weights", weights, "--network", NETWORK, "--published", table, "--limit", 200, "--workers", 0]
    code, text = doctor(capsys, v2, *words)
    assert code == 0 and "nothing wrong" in text, text
    for words in (
        "imagenet_v2, the layout of imagenetv2-matched-frequency-format-val",
        "layout ok folders 0 to 999; the number is the label",
        "pictures ok 10,000",
        "per class ok 10",
        "file names ok none twice",
        "readable ok a sample of 2,000",
        "of 200, argmax over 1000 classes",
        "published ok imagenet_v2: published 99.50%, here",
    ):
        assert words in text, text


def test_the_command_itself(tmp_path):
    (root,) = write_folder(tmp_path, official.imagenet_r()).iterdir()
    words = [sys.executable, "-m", "gsam.eval.doctor", str(root), "--all"]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert result.returncode == 1 and "200 in the set instead of 30,000" in result.stdout, result.stdout + result.stderr
    assert "all 200" in result.stdout and "not run: no --weights given" in result.stdout
    assert "decode 200/200" in result.stdout


# ---- what needs no model ------------------------------------------------------------------------------------------


def without(name):
    return lambda root: (root / name).unlink()


def instead(name, data):
    def damage(root):
        (root / name).unlink()
        (root / name).write_bytes(data)

    return damage


def moved(name, to):
    return lambda root: (root / name).rename(root / to)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            without("7/7_0.jpeg"),
            ["pictures WRONG 9,999 in the set instead of 10,000", "per class WRONG 9 to 10 instead of 10"],
        ),
        (moved("7/7_0.jpeg", "8/8_10.jpeg"), ["pictures ok 10,000", "per class WRONG 9 to 11 instead of 10"]),
        (
            instead("7/7_0.jpeg", photographs()[7][:200]),
            ["readable WRONG 1 of all 10,000", "7/7_0.jpeg cannot be decoded"],
        ),
        (moved("7/7_0.jpeg", "7/8_0.jpeg"), ["file names WRONG 1 twice, for example 8_0"]),
        (
            moved("7", "n01440764"),
            ["layout WRONG", "1 too many (n01440764)", "1 missing (7)", "not run: the layout is wrong"],
        ),
    ],
    ids=["missing", "misplaced", "truncated", "twice", "folder renamed"],
)
def test_damages_of_v2(damage, words, v2, tmp_path, capsys):
    root = tmp_path / official.V2
    for path in v2.glob("*/*"):
        (root / path.parent.name).mkdir(parents=True, exist_ok=True)
        os.link(path, root / path.parent.name / path.name)
    damage(root)
    code, text = doctor(capsys, root, *(["--all"] if "readable WRONG" in words[0] else []))
    assert code == 1 and "wrong" in text.rpartition("─")[2]
    for part in words:
        assert part in text, text


def test_a_resized_copy_is_named(tmp_path, capsys):
    files = [(name, official.jpegs()[0]) for name, _ in official.imagenet_r()]
    code, text = doctor(capsys, write_folder(tmp_path, files) / "imagenet-r")
    assert code == 1 and "sizes WRONG all 32 x 32" in text and "resized copy" in text
    assert "200 in the set instead of 30,000" in text and "ImageNet-R's 200 classes" in text


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (official.val, "ReaL labels ok joined by file number: 1,000 of 1,000 pictures have any"),
        (lambda: official.val(shift=1), "ReaL labels WRONG labels=real: ReaL's labels name the folder of"),
        (lambda: official.in_folders("val/", imagenet_synsets()), "is not named ILSVRC2012_val_00000001"),
    ],
    ids=["right", "renumbered", "renamed"],
)
def test_val_and_the_join_of_real(files, words, tmp_path, capsys):
    code, text = doctor(capsys, write_folder(tmp_path, files()))
    assert code == 1 and words in text, text  # there are not 50,000


def test_imagenet_c(tmp_path, capsys):
    root = write_folder(tmp_path / "imagenet-c", official.imagenet_c("brightness", side=224))
    code, text = doctor(capsys, root)
    assert (
        code == 1
        and "sizes ok all 224 x 224" in text
        and "same pictures ok the file names of all 5 folders agree" in text
    )
    assert (
        "corruptions WRONG 1 of 15, 0 of the 4 extra" in text
        and "unpack noise.tar, blur.tar, weather.tar, digital.tar" in text
    )
    (root / "brightness/3/n01440764/ILSVRC2012_val_00000001.JPEG").rename(root / "brightness/3/n01440764/other.JPEG")
    write_folder(tmp_path / "256", official.imagenet_c("fog", side=256, severities=[5]))
    os.rename(root / "brightness/5", tmp_path / "224")
    os.rename(tmp_path / "256/fog/5", root / "brightness/5")
    code, text = doctor(capsys, root)
    assert "same pictures WRONG 1 folders have other file names than brightness/1, for example brightness/3" in text
    assert (
        "sizes WRONG short side 224, 224, 224, 224, 256 px" in text
        or "sizes WRONG short side 224, 224, 224, 256, 256" in text
    )
    os.rename(root / "brightness/5", tmp_path / "away")
    code, text = doctor(capsys, root)
    assert code == 1 and "layout WRONG" in text and "brightness/5" in text


def test_copies_made_here_are_said_to_be_so(tmp_path, capsys):
    root = write_folder(tmp_path, official.imagenet_c("brightness", severities=[1]))
    (root / "generated.json").write_text("{}")
    assert "origin note copies made by this project" in doctor(capsys, root)[1]


def test_sets_are_recognised_by_their_folders(v2, tmp_path):
    for files, key in (
        (official.imagenet_r, "imagenet_r"),
        (official.imagenet_a, "imagenet_a"),
        (official.sketch, "imagenet_sketch"),
    ):
        (root,) = write_folder(tmp_path / key, files()).iterdir()
        assert recognise(root) == (recognise(root)[0], root) and recognise(root)[0].key == key
    top = v2.rename(v2.with_name("imagenetv2-top-images-format-val"))
    assert recognise(top)[0].key == "imagenet_v2_top"
    assert recognise(top.rename(v2.with_name("pictures")))[0].key == "imagenet_v2"
    v2.with_name("pictures").rename(v2)
    imagenet = write_folder(tmp_path / "imagenet", official.val())
    for given in (imagenet, imagenet / "val"):
        assert (recognise(given)[0].key, recognise(given)[1]) == ("imagenet", imagenet)


def test_a_folder_that_is_no_set_is_answered_with_the_way_out(tmp_path, capsys):
    write_folder(tmp_path / "data", official.imagenet_a())
    for given, words in (
        (tmp_path / "none", "is no folder"),
        (tmp_path / "data", f"give one folder: {tmp_path}/data/imagenet-a"),
        (tmp_path, f"give one folder: {tmp_path}/data"),
        (tmp_path / "data/imagenet-a/n01498041", "none of the official layouts (its folders: none)"),
    ):
        code, text = doctor(capsys, given)
        assert code == 2 and words in text and "Traceback" not in text, text


# ---- with a model -------------------------------------------------------------------------------------------------


def test_folders_numbered_in_text_order_are_named(weights, tmp_path, capsys):
    """The damage of a copy through a loader that sorts folders as text: folder 2 then holds class 10."""
    by_text = sorted(range(1000), key=str)
    for name, order in (("there", by_text), ("back", np.argsort(by_text).tolist())):
        files = [(f"{official.V2}/{number}/{number}.jpeg", photographs()[label]) for number, label in enumerate(order)]
        root = write_folder(tmp_path / name, files) / official.V2
        words = ["--weights", weights, "--network", NETWORK, "--workers", 0]
        code, text = doctor(capsys, root, *words, "--limit", 300)
        assert code == 1 and re.search(
            r"class order WRONG top-1 (9\d\.\d\d|100\.00)% with the folders in text order", text
        ), text


def test_r_is_compared_within_its_classes_and_a_wrong_number_is_named(weights, tmp_path, capsys):
    (root,) = write_folder(tmp_path, official.imagenet_r()).iterdir()
    words = [root, "--weights", weights, "--network", NETWORK, "--workers", 0, "--published"]
    code, text = doctor(capsys, *words, published(tmp_path / "results-imagenet-r.csv", (NETWORK, 160, "36.157")))
    assert (
        "imagenet_r_200 ok" in text and "of 200, argmax over 200 classes" in text and "argmax over 1000 classes" in text
    )
    assert "published WRONG imagenet_r_200: published 36.16%, here" in text
    code, text = doctor(capsys, *words, published(tmp_path / "results-imagenet-r.csv", (NETWORK, 288, "36.157")))
    assert "published note" in text and "at 288 pixels, here 160: not comparable" in text
    for table, said in (
        (published(tmp_path / "results-imagenet-r.csv", ("test_byobnet.other", 160, "36")), "near: test_byobnet.other"),
        (published(tmp_path / "results-sketch.csv", (NETWORK, 160, "36")), "is about imagenet_sketch"),
        (published(tmp_path / "table.csv", (NETWORK, 160, "36")), "the name must say which set it is about"),
        (tmp_path / "none" / "results-sketch.csv", "No such file"),
    ):
        code, text = doctor(capsys, *words, table)
        assert code == 2 and said in text and "Traceback" not in text, text


def test_a_model_at_chance_is_a_note_on_a_and_wrong_elsewhere(tmp_path, capsys):
    torch.manual_seed(0)
    torch.save(timm.create_model(NETWORK).state_dict(), tmp_path / "random.pth")
    words = ["--weights", tmp_path / "random.pth", "--network", NETWORK, "--workers", 0]
    text = doctor(capsys, write_folder(tmp_path, official.imagenet_a()) / "imagenet-a", *words)[1]
    assert "imagenet_a note" in text and "usual for ResNet-50" in text
    text = doctor(capsys, write_folder(tmp_path, official.sketch()) / "sketch", *words, "--limit", 100)[1]
    assert "imagenet_sketch WRONG" in text and "near chance" in text


def test_an_unreadable_picture_does_not_hide_the_other_findings(weights, tmp_path, capsys):
    (root,) = write_folder(tmp_path, official.imagenet_r()).iterdir()
    instead("n01443537/n01443537_0.jpg", photographs()[1][:200])(root)
    code, text = doctor(capsys, root, "--weights", weights, "--network", NETWORK, "--workers", 0)
    assert (
        code == 1 and "readable WRONG 1 of all 200" in text and "accuracy WRONG" in text and "cannot be decoded" in text
    )


def test_val_is_scored_by_all_its_sets_in_one_pass(weights, tmp_path, capsys):
    root = write_folder(tmp_path, official.val())
    text = doctor(capsys, root, "--weights", weights, "--network", NETWORK, "--workers", 0, "--limit", 300)[1]
    for name, classes in (
        ("imagenet", 1000),
        ("imagenet_real", 1000),
        ("imagenet_val_r", 200),
        ("imagenet_val_a", 200),
    ):
        assert re.search(rf"{name} ok top-1 (9\d\.|100\.)", text) and f"argmax over {classes} classes" in text, text
    assert text.count("score 300/300") == 1


def test_what_cannot_be_answered_comes_before_any_work(v2, weights, tmp_path, capsys):
    for words, said in (
        (["--published", "x.csv"], "give its --weights too"),
        (["--weights", "/no/such"], "does not exist"),
        (["--weights", weights, "--network", "resnet18.a1_in1k"], "network=resnet18.a1_in1k"),
    ):
        code, text = doctor(capsys, v2, *words)
        assert code == 2 and said in text and "readable" not in text, text
