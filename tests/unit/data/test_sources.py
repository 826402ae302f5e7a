"""Sources and configuration problems: what is read, and what a user is told when something is not there."""

import gzip
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from gsam.data import (
    SOURCES,
    AugmentConfig,
    Backend,
    Crop,
    DataConfig,
    build_loader,
    check,
    class_names,
    num_classes,
    open_source,
)
from gsam.data.fashion_mnist import FILES, fetch_fashion_mnist
from gsam.data.sources import imagenet_synsets
from tests.photos import CLASSES, TRAIN_PER_CLASS, make_folder

WHOLE = AugmentConfig(size=28, crop=Crop.none, eval_resize=28)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"))


def problems(augment=WHOLE, **data):
    return list(check(DataConfig(backend=Backend.folder, **data), augment))


def test_importing_the_package_is_cheap():
    heavy = "{'ffcv', 'numba', 'cv2', 'torchvision', 'PIL'}"
    code = f"import sys, gsam.data; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_folder_order_labels_and_colours(photos):
    source = open_source("imagefolder", str(photos), "train")
    assert source.classes == CLASSES and len(source) == 3 * TRAIN_PER_CLASS
    assert source.labels.tolist() == sorted(source.labels.tolist())
    names = [source.describe(i) for i in range(len(source))]
    assert names == sorted(names)
    for index in range(6):  # among them grey, CMYK, alpha and palette
        pixels, label = source[index]
        with Image.open(names[index]) as picture:
            assert np.array_equal(pixels, np.asarray(picture.convert("RGB")))
        assert pixels.dtype == np.uint8 and pixels.shape[2] == 3 and label == 0


def test_an_unreadable_picture_is_named(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "copy")
    victim = tmp_path / "copy" / "train" / "n02" / "020.jpg"
    victim.write_bytes(victim.read_bytes()[:300])
    source = open_source("imagefolder", str(tmp_path / "copy"), "train")
    index = next(i for i in range(len(source)) if source.describe(i) == str(victim))
    with pytest.raises(ValueError, match=r"n02/020\.jpg cannot be decoded"):
        source[index]


def test_train_and_val_must_have_the_same_classes(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "copy")
    (tmp_path / "copy" / "val" / "n09").mkdir()
    for split in ("train", "val"):
        with pytest.raises(ValueError, match="n09"):
            class_names("imagefolder", str(tmp_path / "copy"), split)
    shutil.rmtree(tmp_path / "copy" / "val" / "n09")
    (tmp_path / "copy" / "val" / ".cache").mkdir()
    assert class_names("imagefolder", str(tmp_path / "copy"), "val") == CLASSES


def test_a_class_without_pictures_is_refused(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "copy")
    for file in (tmp_path / "copy" / "val" / "n02").iterdir():
        file.rename(file.with_suffix(".txt"))
    with pytest.raises(ValueError, match="n02 holds no picture"):
        open_source("imagefolder", str(tmp_path / "copy"), "val")


def test_imagenet_needs_exactly_its_thousand_folders(tmp_path):
    synsets = imagenet_synsets()
    assert len(synsets) == 1000 and synsets == sorted(synsets) and synsets[0] == "n01440764"
    for split in ("train", "val"):
        for name in synsets:
            (tmp_path / split / name).mkdir(parents=True)
    assert class_names("imagenet", str(tmp_path), "val") == tuple(synsets)
    (tmp_path / "train" / "n00000000").mkdir()
    with pytest.raises(ValueError, match=r"1 too many \(n00000000\)"):
        class_names("imagenet", str(tmp_path), "train")
    (tmp_path / "train" / "n00000000").rename(tmp_path / "elsewhere")
    (tmp_path / "train" / "n01440764").rmdir()
    (tmp_path / "train" / "n01443537").rmdir()
    assert "2 missing (n01440764, n01443537)" in problems(name="imagenet", root=str(tmp_path))[0]


def test_fashion_mnist(fashion_root):
    train, val = (open_source("fashion_mnist", str(fashion_root), split) for split in ("train", "val"))
    assert (len(train), len(val)) == (60_000, 10_000)
    assert np.bincount(train.labels).tolist() == [6000] * 10
    pixels, label = train[0]
    assert pixels.shape == (28, 28, 3) and label == 9 and (pixels[..., 0] == pixels[..., 2]).all()
    grey = train.grey / 255
    assert grey.mean() == pytest.approx(0.2860, abs=1e-4) and grey.std() == pytest.approx(0.3530, abs=1e-4)


def test_a_torn_fashion_mnist_is_refused(fashion_root, tmp_path):
    for name in (name for names in FILES.values() for name in names):
        (tmp_path / name).write_bytes((fashion_root / name).read_bytes())
    images, labels = (tmp_path / name for name in FILES["val"])
    images.write_bytes(images.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="t10k-images.*not a complete gzip file"):
        open_source("fashion_mnist", str(tmp_path), "val")
    shutil.copyfile(labels, images)
    with pytest.raises(ValueError, match="t10k-images.*not the idx file"):
        open_source("fashion_mnist", str(tmp_path), "val")
    content = gzip.decompress((fashion_root / FILES["val"][0]).read_bytes())
    images.write_bytes(gzip.compress(content[:-1], 1))
    with pytest.raises(ValueError, match="7839999 values instead of 7840000"):
        open_source("fashion_mnist", str(tmp_path), "val")


def test_fetching_twice_changes_nothing(fashion_root):
    before = {path.name: path.stat().st_mtime for path in fashion_root.iterdir()}
    fetch_fashion_mnist(str(fashion_root))
    assert {path.name: path.stat().st_mtime for path in fashion_root.iterdir()} == before


@pytest.mark.parametrize("name", SOURCES)
def test_a_missing_folder_is_a_problem_with_a_way_out(name, tmp_path, monkeypatch):
    monkeypatch.setattr("gsam.data.fashion_mnist.DEBIAN", str(tmp_path / "no-debian"))
    (found,) = problems(name=name, root=str(tmp_path / "nowhere"))
    assert f"data.root={tmp_path / 'nowhere'}" in found
    torchvision = name in ("cifar10", "cifar100", "flowers102", "pets")
    way_out = "apt install dataset-fashion-mnist" if name == "fashion_mnist" else "train/<class>/"
    assert ("download=True" if torchvision else way_out) in found


def test_number_of_classes(photos, tmp_path):
    assert num_classes(DataConfig("imagenet", Backend.folder, str(tmp_path))) == 1000
    assert num_classes(DataConfig("fashion_mnist", Backend.ffcv, str(tmp_path))) == 10
    assert num_classes(DataConfig("imagefolder", Backend.folder, str(photos))) == 3


@pytest.mark.parametrize(
    "change, words",
    [
        ({"flip": 1.5}, "augment.flip=1.5"),
        ({"area": [0.0, 1.0], "crop": Crop.inception}, "augment.area="),
        ({"area": [0.5, 0.2], "crop": Crop.torchvision}, "augment.area="),
        ({"aspect": [0.0, 1.0], "crop": Crop.inception}, "augment.aspect="),
        ({"mean": [0.5]}, "augment.mean="),
        ({"std": [0.5, 0.0, 0.5]}, "augment.std="),
        ({"size": 0}, "augment.size=0"),
        ({"size": 32}, "augment.eval_resize=28 is less than augment.size=32"),
    ],
)
def test_bad_transforms(change, words, fashion_root):
    augment = AugmentConfig(**{"size": 28, "crop": Crop.none, "eval_resize": 28, **change})
    found = problems(augment, name="fashion_mnist", root=str(fashion_root))
    assert len(found) == 1 and words in found[0]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"name": "cifar"}, "choose one of imagenet, imagefolder, fashion_mnist"),
        ({"limit_train": 0}, "data.limit_train=0"),
        ({"limit_eval": -3}, "data.limit_eval=-3"),
        ({"workers": -1}, "data.workers=-1"),
    ],
)
def test_bad_data(change, words, fashion_root):
    found = problems(**{"name": "fashion_mnist", "root": str(fashion_root), **change})
    assert len(found) == 1 and words in found[0]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"split": "test"}, "split='test'"),
        ({"seed": 2**32}, "seed=4294967296"),
        ({"rank": 2}, "rank=2"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_arguments_of_build_loader(change, words, fashion_root):
    data = DataConfig("fashion_mnist", Backend.folder, str(fashion_root))
    arguments = {"split": "train", "batch_size": 4, "rank": 0, "world": 2, "seed": 0, "train": True, **change}
    with pytest.raises(ValueError, match=words):
        build_loader(data, WHOLE, **arguments)
