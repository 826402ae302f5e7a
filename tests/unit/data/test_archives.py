"""ImageNet's official archives read where they lie, and unpacked: archives with the real class names and photographs."""

import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from gsam.data import class_names, open_source
from gsam.data.ilsvrc import ARCHIVES, DEVKIT
from gsam.data.sources import imagenet_synsets
from tests.unit.sets import official
from tests.unit.sets.official import write_tar

VAL_CLASSES = [(i * 7) % 1000 for i in range(1000)]


def train_files(each=1):
    """n01440764.tar, ...: each with its pictures, not in the order of their names."""
    for wnid in imagenet_synsets():
        inner = [
            (f"{wnid}_{number}.JPEG", official.photographs()[official.label_of(wnid)]) for number in range(each, 0, -1)
        ]
        yield wnid, inner


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    """The three archives as image-net.org gives them, with two pictures per class; and the devkit's MD5."""
    folder = tmp_path_factory.mktemp("downloads")
    scratch = folder / "inner.tar"
    outer = ((f"{wnid}.tar", write_tar(scratch, inner).read_bytes()) for wnid, inner in train_files(2))
    write_tar(folder / ARCHIVES["train"], outer)
    scratch.unlink()
    write_tar(folder / ARCHIVES["val"], official.val_flat())
    return folder, official.write_devkit(folder / DEVKIT, VAL_CLASSES)


@pytest.fixture
def devkit_accepted(downloads, monkeypatch):
    """The published MD5 replaced by the one of our devkit; torchvision's check itself runs."""
    from torchvision.datasets.imagenet import ARCHIVE_META

    monkeypatch.setitem(ARCHIVE_META, "devkit", (DEVKIT, downloads[1]))
    return str(downloads[0])


def test_archives_give_what_the_unpacked_folders_would(devkit_accepted, tmp_path):
    for wnid, inner in train_files(2):
        official.write_folder(tmp_path / "train" / wnid, inner)
    for label, (name, photo) in zip(VAL_CLASSES, official.val_flat(), strict=True):
        official.write_folder(tmp_path / "val" / imagenet_synsets()[label], [(name, photo)])
    for split in ("train", "val"):
        packed, unpacked = (open_source("imagenet", root, split) for root in (devkit_accepted, str(tmp_path)))
        assert packed.classes == unpacked.classes == class_names("imagenet", devkit_accepted, split)
        assert np.array_equal(packed.labels, unpacked.labels)
        assert [packed.describe(i).split("/")[-1] for i in range(len(packed))] == [
            os.path.basename(unpacked.describe(i)) for i in range(len(unpacked))
        ]
        for index in (0, 1, 500, len(packed) - 1):
            assert np.array_equal(packed[index][0], unpacked[index][0]) and packed[index][1] == unpacked[index][1]


def test_the_headers_are_read_once(devkit_accepted, monkeypatch):
    first = open_source("imagenet", devkit_accepted, "train")
    monkeypatch.setattr(tarfile, "TarFile", None)  # reading a header again would fail
    again = open_source("imagenet", devkit_accepted, "train")
    assert np.array_equal(first.labels, again.labels) and first.describe(7) == again.describe(7)


@pytest.mark.parametrize("size", [0, 1000])
def test_a_damaged_index_is_made_anew(devkit_accepted, size):
    first = open_source("imagenet", devkit_accepted, "train")
    beside = Path(devkit_accepted) / (ARCHIVES["train"] + ".index.npz")
    whole = beside.read_bytes()
    beside.write_bytes(whole[:size])
    again = open_source("imagenet", devkit_accepted, "train")
    assert np.array_equal(first.labels, again.labels) and len(beside.read_bytes()) == len(whole)


def test_an_archive_that_changed_is_read_again(downloads, tmp_path):
    for name in (ARCHIVES["train"], ARCHIVES["train"] + ".index.npz"):
        if (downloads[0] / name).exists():
            os.link(downloads[0] / name, tmp_path / name)
    assert len(open_source("imagenet", str(tmp_path), "train")) == 2000
    (tmp_path / ARCHIVES["train"]).unlink()
    inner = tmp_path / "inner.tar"
    outer = [(f"{wnid}.tar", write_tar(inner, files).read_bytes()) for wnid, files in train_files(1)]
    write_tar(tmp_path / ARCHIVES["train"], outer)
    assert len(open_source("imagenet", str(tmp_path), "train")) == 1000


@pytest.mark.parametrize(
    "damage, words",
    [
        ("cut", "incomplete or damaged download"),
        ("other", "is not <WordNet id>.tar"),
        ("inside", "n01440764_1.JPEG goes beyond the end"),
        ("class", "has no picture of 1 of ImageNet's 1000 classes \\(n01440764"),
    ],
)
def test_another_or_an_incomplete_archive_is_refused(downloads, tmp_path, damage, words):
    path = tmp_path / ARCHIVES["train"]
    whole = (downloads[0] / ARCHIVES["train"]).read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "other":
        write_tar(path, official.val_flat())
    elif damage == "inside":  # a class's tar was cut when the archive was made
        inner = write_tar(tmp_path / "inner.tar", next(iter(train_files()))[1]).read_bytes()
        write_tar(path, [("n01440764.tar", inner[:700]), ("n01443537.tar", inner)])
    else:
        inner = tmp_path / "inner.tar"
        rest = list(train_files())[1:]
        write_tar(path, [(f"{wnid}.tar", write_tar(inner, files).read_bytes()) for wnid, files in rest])
    with pytest.raises(ValueError, match=words):
        open_source("imagenet", str(tmp_path), "train")


def test_val_needs_the_official_labels(downloads, tmp_path):
    os.link(downloads[0] / ARCHIVES["val"], tmp_path / ARCHIVES["val"])
    with pytest.raises(ValueError, match=f"{DEVKIT} is missing"):
        open_source("imagenet", str(tmp_path), "val")
    os.link(downloads[0] / DEVKIT, tmp_path / DEVKIT)
    with pytest.raises(ValueError, match="MD5 differs"):  # nothing of it is read
        open_source("imagenet", str(tmp_path), "val")


def prepare(*arguments):
    """scripts/prepare_imagenet.py in this process: exit code."""
    from scripts import prepare_imagenet

    return prepare_imagenet.main(list(map(str, arguments)))


def test_unpacking_is_checked_and_continues(devkit_accepted, tmp_path, capsys):
    to = tmp_path / "imagenet"
    assert prepare("--from", devkit_accepted, "--to", to) == 1
    assert "has 2,000 pictures, the official one 1,281,167" in capsys.readouterr().err and not (to / "train").exists()
    wnid = imagenet_synsets()[3]
    torn, whole = (to / ".train.unpacking" / wnid / f"{wnid}_{number}.JPEG" for number in (1, 2))
    official.write_folder(to / ".train.unpacking" / wnid, [(torn.name, b"half a pic"), (whole.name, photo_of(3))])
    before = whole.stat().st_mtime_ns
    assert prepare("--from", devkit_accepted, "--to", to, "--partial") == 0
    assert (to / "train" / wnid / torn.name).read_bytes() == photo_of(3)
    assert (to / "train" / wnid / whole.name).stat().st_mtime_ns == before  # it was there in full size
    assert sorted(path.name for path in to.iterdir() if path.is_dir()) == ["train", "val"]
    for split in ("train", "val"):
        packed, unpacked = (open_source("imagenet", root, split) for root in (devkit_accepted, str(to)))
        assert np.array_equal(packed.labels, unpacked.labels)
    told = capsys.readouterr().out
    assert "val in" in told and "has 1,000 pictures, ImageNet-1k has 50,000" in told
    assert "1000 classes do not have 50 pictures" in told
    assert prepare("--check", "--partial", "--to", tmp_path / "nowhere") == 1
    assert prepare("--check", "--to", to) == 1 and prepare("--check", "--to", devkit_accepted, "--splits", "train") == 1
    assert "(archive) has 2,000 pictures" in capsys.readouterr().out


def test_a_flat_val_is_moved_into_class_folders_and_a_killed_move_continues(devkit_accepted, tmp_path, capsys):
    """The archive unpacked by hand leaves all pictures side by side."""
    flat = official.write_folder(tmp_path / "val", official.val_flat())
    shutil.copy(Path(devkit_accepted) / DEVKIT, tmp_path)
    moved = flat / imagenet_synsets()[VAL_CLASSES[0]]
    moved.mkdir()
    (flat / "ILSVRC2012_val_00000001.JPEG").rename(moved / "ILSVRC2012_val_00000001.JPEG")  # what a killed run had done
    assert prepare("--to", tmp_path, "--splits", "val", "--partial") == 0
    assert not [file for file in flat.iterdir() if file.is_file()]
    packed, sorted_now = (open_source("imagenet", root, "val") for root in (devkit_accepted, str(tmp_path)))
    assert np.array_equal(packed.labels, sorted_now.labels) and len(sorted_now) == 1000
    for number in (0, 500, 999):
        assert np.array_equal(packed[number][0], sorted_now[number][0])
    stranger = flat / "ILSVRC2012_val_00050001.JPEG"
    stranger.write_bytes(b"")
    assert prepare("--to", tmp_path, "--splits", "val", "--partial") == 1
    assert "ILSVRC2012_val_00050001.JPEG" in capsys.readouterr().err and stranger.exists()


def photo_of(label):
    """The photograph of a class."""
    return official.photographs()[label]


def test_a_missing_archive_is_named(tmp_path, capsys):
    assert prepare("--from", tmp_path, "--to", tmp_path / "to") == 1
    assert f"{ARCHIVES['train']} is missing; download it from image-net.org" in capsys.readouterr().err
