"""CIFAR, Flowers-102 and Pets in torchvision's layout, made of real photographs.

The published files are not at hand in a test: where torchvision compares MD5s, those of the files made here take the
place of the published ones, and torchvision's comparison and reading run as always.
"""

import hashlib
import io
import pickle
import re

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision import datasets

from gsam.data import SOURCES, AugmentConfig, Backend, DataConfig, build_loader, check, class_names, open_source
from tests.photos import pieces

NAMES = ("cifar10", "cifar100", "flowers102", "pets")


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return hashlib.md5(content).hexdigest()


def jpeg(picture):
    file = io.BytesIO()
    picture.save(file, "JPEG")
    return file.getvalue()


def make_cifar(root, cls, label_key, classes, monkeypatch):
    """Pickles as CIFAR's: rows of 3072 bytes, colour by colour; returns the pictures of both splits."""
    made = {}
    for attribute, files, seed in (("train_list", ("one", "two"), 0), ("test_list", ("test",), 1)):
        pictures = np.stack([np.asarray(p.resize((32, 32))) for p in pieces(8 * len(files), seed)])
        made[attribute] = pictures
        listed = []
        for number, name in enumerate(files):
            rows = pictures[8 * number : 8 * number + 8].transpose(0, 3, 1, 2).reshape(8, 3072)
            content = pickle.dumps({"data": rows, label_key: [i % 10 for i in range(8)]}, protocol=2)
            listed.append([name, put(root / cls.base_folder / name, content)])
        monkeypatch.setattr(cls, attribute, listed)
    key = {"labels": "label_names", "fine_labels": "fine_label_names"}[label_key]
    md5 = put(root / cls.base_folder / "meta", pickle.dumps({key: classes}, protocol=2))
    monkeypatch.setattr(cls, "meta", {"filename": "meta", "key": key, "md5": md5})
    return made


@pytest.mark.parametrize(
    "name, cls, label_key, count",
    [("cifar10", datasets.CIFAR10, "labels", 10), ("cifar100", datasets.CIFAR100, "fine_labels", 100)],
)
def test_cifar(name, cls, label_key, count, tmp_path, monkeypatch):
    classes = [f"class {i}" for i in range(count)]
    made = make_cifar(tmp_path, cls, label_key, classes, monkeypatch)
    train, val = (open_source(name, str(tmp_path), split) for split in ("train", "val"))
    assert np.array_equal([train[i][0] for i in range(16)], made["train_list"])
    assert np.array_equal([val[i][0] for i in range(8)], made["test_list"])
    assert train.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7] * 2 and train.classes == tuple(classes)
    assert class_names(name, str(tmp_path), "train") == tuple(classes) and SOURCES[name].num_classes == count
    data = DataConfig(name, Backend.folder, str(tmp_path), workers=0)
    batches = build_loader(data, AugmentConfig(), "val", batch_size=8, rank=0, world=1, seed=0, train=False)
    images, _ = next(iter(batches.epoch()))
    assert images.shape == (8, 3, 224, 224)


class Bomb:
    def __reduce__(self):
        return (open, ("/tmp/this file must not be made by reading a data set", "w"))


def test_a_pickle_that_is_not_the_published_one_is_never_opened(tmp_path, monkeypatch):
    """Reading it would run what is inside."""
    make_cifar(tmp_path, datasets.CIFAR10, "labels", ["a"] * 10, monkeypatch)
    opened = []
    monkeypatch.setattr(pickle, "load", lambda *args, **_: opened.append(args))
    (tmp_path / datasets.CIFAR10.base_folder / "test").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="a file is not the published one"):
        open_source("cifar10", str(tmp_path), "val")
    assert opened == []


def test_flowers_are_the_official_train_and_test(tmp_path, monkeypatch):
    folder = tmp_path / "flowers-102"
    pictures = [jpeg(picture) for picture in pieces(6, 2)]
    for number, content in enumerate(pictures, 1):
        put(folder / "jpg" / f"image_{number:05d}.jpg", content)
    files = dict(datasets.Flowers102._file_dict)
    for key, name, content in (
        ("label", "imagelabels.mat", {"labels": np.array([[3, 1, 2, 1, 2, 102]])}),
        ("setid", "setid.mat", {"trnid": [[1, 3]], "valid": [[2]], "tstid": [[4, 5, 6]]}),
    ):
        file = io.BytesIO()
        scipy.io.savemat(file, content)
        files[key] = (name, put(folder / name, file.getvalue()))
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", files)
    train, val = (open_source("flowers102", str(tmp_path), split) for split in ("train", "val"))
    assert train.labels.tolist() == [2, 1] and val.labels.tolist() == [0, 1, 101]
    assert len(train.classes) == 102 == SOURCES["flowers102"].num_classes
    assert val.describe(2).endswith("image_00006.jpg")
    assert np.array_equal(train[1][0], np.asarray(Image.open(io.BytesIO(pictures[2]))))


def test_pets_are_trainval_and_test(tmp_path):
    folder = tmp_path / "oxford-iiit-pet"
    named = {"trainval": [("Bengal_2", 1), ("pug_7", 2), ("pug_8", 2)], "test": [("pug_1", 2), ("Bengal_9", 1)]}
    for split, pictures in named.items():
        lines = "".join(f"{name} {label} 1 1\n" for name, label in pictures)
        put(folder / "annotations" / f"{split}.txt", lines.encode())
        for (name, _), picture in zip(pictures, pieces(3, 4), strict=False):
            put(folder / "images" / f"{name}.jpg", jpeg(picture))
    train, val = (open_source("pets", str(tmp_path), split) for split in ("train", "val"))
    assert train.labels.tolist() == [0, 1, 1] and val.labels.tolist() == [1, 0]
    assert train.classes == ("Bengal", "Pug") and val[0][0].shape[2] == 3


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_there_is_not_downloaded_but_named_with_its_command(name, tmp_path):
    (problem,) = check(DataConfig(name, Backend.folder, str(tmp_path)), AugmentConfig())
    cls = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "flowers102": "Flowers102", "pets": "OxfordIIITPet"}[name]
    assert f"from torchvision.datasets import {cls}; {cls}('{tmp_path}', download=True)" in problem
    assert not any(tmp_path.rglob("*.*")) and re.search("is not there", problem)
