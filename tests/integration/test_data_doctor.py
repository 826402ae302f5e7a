"""`python -m gsam.data.doctor` on real photographs and .beton files, whole and damaged."""

import os
import shutil

import numpy as np
import pytest
import torch

from gsam.data import AugmentConfig, DataConfig, open_source
from gsam.data.doctor import main
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


def doctor(capfd, *words):
    """(exit code, every word of the table with single spaces)"""
    code = main([str(word) for word in words])
    printed = capfd.readouterr()
    return code, " ".join((printed.out + printed.err).split())


def test_check_of_a_good_data_set_counts_everything(photos, capfd):
    code, text = doctor(capfd, "check", "imagefolder", "--root", photos)
    assert code == 0 and "nothing wrong" in text
    assert "train pictures ok 42 in 3 classes, 14 (n01) to 14 (n01) each" in text
    assert "val readable ok every picture" in text and "train.beton readable ok every picture" in text
    assert "train.beton sha256 ok" in text and "val.beton classes ok the 3 of --root in the same order" in text
    assert "1 L JPEG, 1 CMYK JPEG, 1 RGBA PNG, 1 P PNG" in text  # what tests.photos makes


def test_check_names_what_is_wrong_with_the_files(photos, tmp_path, capfd):
    root = shutil.copytree(photos, tmp_path / "copy", ignore=shutil.ignore_patterns("ffcv"))
    train, val = open_source("imagefolder", str(root), "train"), open_source("imagefolder", str(root), "val")
    with open(train.describe(20), "r+b") as file:
        file.truncate(300)
    shutil.copy(train.describe(30), os.path.join(os.path.dirname(val.describe(20)), "again.jpg"))
    shutil.copy(train.describe(6), os.path.join(os.path.dirname(train.describe(20)), "other.jpg"))
    shutil.copy(train.describe(0), os.path.join(os.path.dirname(train.describe(0)), "named.png"))
    code, text = doctor(capfd, "check", "imagefolder", "--root", root)
    assert code == 1 and "2 wrong" in text
    assert "1 of 44 cannot be read" in text and os.path.basename(train.describe(20)) in text
    assert "1 pictures are in both splits, 1 in two classes of one split, 1 in one class" in text
    assert "1 RGB JPEG named .png" in text and "train.beton note not there" in text


def test_check_names_what_is_wrong_with_a_beton(photos, tmp_path, capfd):
    """One byte of a raw picture is what nothing but a checksum can find."""
    from ffcv.reader import Reader

    root = shutil.copytree(photos / "ffcv", tmp_path / "ffcv")
    path = beton_path(str(root), "train")
    place = int(Reader(path).metadata["f0"]["data_ptr"][17]) + 1000
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    code, text = doctor(capfd, "check", "imagefolder", "--ffcv-root", root)
    assert code == 1 and "2 wrong" in text
    assert "sample 17 (class n02) is not what was written: its checksum differs" in text
    assert "the file has changed since it was written" in text and "val.beton sha256 ok" in text


def test_check_compares_the_classes_of_a_beton_with_the_folders(photos, tmp_path, capfd):
    root = shutil.copytree(photos, tmp_path / "copy", ignore=shutil.ignore_patterns("ffcv"))
    for split in ("train", "val"):
        os.rename(root / split / "n01", root / split / "n99")
    code, text = doctor(capfd, "check", "imagefolder", "--root", root, "--ffcv-root", photos / "ffcv")
    assert code == 1 and "train.beton classes WRONG" in text and "labels would mean other classes" in text


def test_nothing_there_is_not_nothing_wrong(tmp_path, capfd):
    code, text = doctor(capfd, "check", "imagefolder", "--ffcv-root", tmp_path)
    assert code == 2 and "neither pictures nor .beton files" in text


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
    code, text = doctor(capfd, "parity", "imagefolder", *words)
    assert code == 0, text
    assert "Pillow, from the files note 15 pictures" in text and "top-1" in text and "predictions differ" in text
