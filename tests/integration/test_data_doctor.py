"""`python -m gsam.data.doctor` on real photographs and .beton files, whole and damaged."""

import os
import shutil

import numpy as np
import pytest
import torch

from gsam.data import AugmentConfig, DataConfig, open_source
from gsam.data.doctor import check, main
from gsam.data.manifest import beton_path
from gsam.data.parity import measure
from gsam.eval.preprocess import Preprocess
from tests.photos import make_folder

pytest.importorskip("ffcv")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    from gsam.data.write import write_dataset

    root = make_folder(tmp_path_factory.mktemp("photos"))
    write_dataset("imagefolder", str(root), str(root / "ffcv"), preset="raw", workers=1)
    return root


def findings(**where):
    """Name of the check -> Finding"""
    found = list(check(DataConfig("imagefolder", **{key: str(path) for key, path in where.items()})))
    assert len({each.what for each in found}) == len(found)
    return {each.what: each for each in found}


def wrong(found):
    return [what for what, finding in found.items() if finding.ok is False]


def test_check_of_a_good_data_set_counts_everything(photos, capfd):
    found = findings(root=photos)
    assert not wrong(found)
    assert found["train pictures"].text == "42 in 3 classes, 14 (n01) to 14 (n01) each"
    assert found["val readable"].ok and found["train.beton readable"].ok and found["train.beton sha256"].ok
    assert found["val.beton classes"].text == "the 3 of --root in the same order"
    assert "1 L JPEG, 1 CMYK JPEG, 1 RGBA PNG, 1 P PNG" in found["val formats"].text  # what tests.photos makes
    assert main(["check", "imagefolder", "--root", str(photos)]) == 0 and "nothing wrong" in capfd.readouterr().out


def test_check_names_what_is_wrong_with_the_files(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "copy", ignore=shutil.ignore_patterns("ffcv"))
    train, val = open_source("imagefolder", str(root), "train"), open_source("imagefolder", str(root), "val")
    with open(train.describe(20), "r+b") as file:
        file.truncate(300)
    shutil.copy(train.describe(30), os.path.join(os.path.dirname(val.describe(20)), "again.jpg"))
    shutil.copy(train.describe(6), os.path.join(os.path.dirname(train.describe(20)), "other.jpg"))
    shutil.copy(train.describe(0), os.path.join(os.path.dirname(train.describe(0)), "named.png"))
    found = findings(root=root)
    assert wrong(found) == ["train readable", "same picture twice"]
    assert f"1 of 44 cannot be read: {train.describe(20)}" in found["train readable"].text
    counted = "1 pictures are in both splits, 1 in two classes of one split, 1 in one class"
    assert counted in found["same picture twice"].text and train.describe(30) in found["same picture twice"].text
    assert "1 RGB JPEG named .png" in found["train formats"].text and found["train.beton"].ok is None


def test_check_names_what_is_wrong_with_a_beton(photos, tmp_path, capfd):
    """One bit of a raw picture is what nothing but a checksum can find."""
    from ffcv.reader import Reader

    root = shutil.copytree(photos / "ffcv", tmp_path / "ffcv")
    path = beton_path(str(root), "train")
    place = int(Reader(path).metadata["f0"]["data_ptr"][17]) + 1000
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    found = findings(ffcv_root=root)
    assert wrong(found) == ["train.beton readable", "train.beton sha256"]
    assert "sample 17 (class n02) is not what was written: its checksum differs" in found["train.beton readable"].text
    assert main(["check", "imagefolder", "--ffcv-root", str(root)]) == 1 and "2 wrong" in capfd.readouterr().out


def test_check_compares_the_classes_of_a_beton_with_the_folders(photos, tmp_path):
    root = shutil.copytree(photos, tmp_path / "copy", ignore=shutil.ignore_patterns("ffcv"))
    for split in ("train", "val"):
        os.rename(root / split / "n01", root / split / "n99")
    found = findings(root=root, ffcv_root=photos / "ffcv")
    assert wrong(found) == ["train.beton classes", "val.beton classes"]
    assert "labels would mean other classes" in found["train.beton classes"].text


def test_nothing_there_is_not_nothing_wrong(tmp_path, capfd):
    assert main(["check", "imagefolder", "--ffcv-root", str(tmp_path)]) == 2
    assert "neither pictures nor .beton files" in capfd.readouterr().err


def test_parity_measures_each_path_against_pillow(photos):
    """From a raw .beton our path is Pillow's but for rounding; FFCV's own decoder takes another box."""
    data, augment = DataConfig("imagefolder", root=str(photos), ffcv_root=str(photos / "ffcv")), AugmentConfig()
    predict = lambda images: (images.float().mean((1, 2, 3)) // 64).long()  # noqa: E731 of any model the result matters
    base, others = measure(data, 224, 256, Preprocess.trained(augment), predict, lambda *_: None)
    mean = {way.name: np.mean(way.differences) for way in others}
    assert len(base.differences) == 21 and not any(base.differences) and base.same == 21
    assert mean["data.backend=ffcv"] < 0.1 and max(way.worst for way in others[:1]) <= 1
    assert 0.1 < mean["OpenCV INTER_LINEAR"] < mean["OpenCV INTER_AREA"] < mean["FFCV's CenterCrop decoder"]
    assert all(0 < way.same <= 21 for way in others)


def test_parity_scores_a_model_both_ways(photos, tmp_path, capfd):
    import timm

    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=3)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    words = ("--root", photos, "--limit", 15, "--weights", tmp_path / "weights.pth", "--network", "test_vit")
    code = main(["parity", "imagefolder", *map(str, words)])
    printed = capfd.readouterr()
    assert code == 0, printed.err
    assert "15 pictures" in printed.out and "top-1" in printed.out and "predictions" in printed.out
