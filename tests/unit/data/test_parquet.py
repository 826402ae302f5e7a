"""Hugging Face's data set directories: parquet files as the `datasets` library writes them, with real photographs."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from gsam.data import AugmentConfig, Backend, DataConfig, check, class_names, num_classes, open_source
from gsam.data.sources import imagenet_synsets, layout
from tests.photos import CLASSES, make_folder
from tests.unit.sets import official

pyarrow = pytest.importorskip("pyarrow")


def write(path, rows, names, described=True, group=5):
    """One file; rows: (picture's bytes, its path, label)."""
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table({
        "image": [{"bytes": content, "path": name} for content, name, _ in rows],
        "label": [label for _, _, label in rows],
    })  # fmt: skip
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    if described:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=group)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """The same photographs in class folders and in <root>/data/*.parquet, there shuffled over two files of a split."""
    folders, root = make_folder(tmp_path_factory.mktemp("folders")), tmp_path_factory.mktemp("parquet")
    for split, named in (("train", "train"), ("val", "validation")):
        source = open_source("imagefolder", str(folders), split)
        rows = []
        for i in np.random.default_rng(0).permutation(len(source)).tolist():
            with open(source.describe(i), "rb") as file:
                rows.append((file.read(), f"{i:03d}", int(source.labels[i])))
        for number, part in enumerate((rows[:12], rows[12:])):
            write(root / "data" / f"{named}-{number:05d}-of-00002.parquet", part, CLASSES)
    return str(folders), str(root)


@pytest.mark.parametrize("split", ["train", "val"])
def test_pictures_and_labels_are_those_of_the_files(sets, split):
    folders, root = sets
    source, original = open_source("imagefolder", root, split), open_source("imagefolder", folders, split)
    assert layout(root, split) == "parquet" and layout(folders, split) == "folders"
    assert source.classes == CLASSES == class_names("imagefolder", root, split) and len(source) == len(original)
    for index in range(len(source)):
        number = int(source.describe(index).split()[-1])
        pixels, label = source[index]
        assert label == source.labels[index] == original.labels[number]
        assert np.array_equal(pixels, original[number][0])
    assert num_classes(DataConfig("imagefolder", Backend.folder, root)) == 3


def test_imagenet_is_checked_by_the_names_of_its_pictures(tmp_path):
    synsets = imagenet_synsets()
    rows = [
        (photo, f"{wnid}_1_{wnid}.JPEG", i)
        for i, (wnid, photo) in enumerate(zip(synsets, official.photographs(), strict=True))
    ]
    write(tmp_path / "train-00000-of-00001.parquet", rows, [f"name {i}" for i in range(1000)], group=100)
    source = open_source("imagenet", str(tmp_path), "train")
    assert source.classes == tuple(synsets) and source[999][1] == 999
    swapped = [(content, name, {3: 4, 4: 3}.get(label, label)) for content, name, label in rows]
    write(tmp_path / "train-00000-of-00001.parquet", swapped, [f"name {i}" for i in range(1000)], group=100)
    with pytest.raises(
        ValueError, match=f"has label 4, ImageNet's class {synsets[3]} has 3: the labels are in another"
    ):
        open_source("imagenet", str(tmp_path), "train")


def test_an_unreadable_or_absent_picture_is_named(tmp_path):
    photo = official.photographs()[0]
    write(tmp_path / "train-0.parquet", [(photo, "a.jpg", 0), (photo[:60], "b.jpg", 0), (None, "c.jpg", 1)], ["x", "y"])
    write(tmp_path / "test-0.parquet", [(photo, "a.jpg", -1)], ["x", "y"])  # no split of ours
    source = open_source("imagefolder", str(tmp_path), "train")
    assert len(source) == 3
    for index, words in ((1, "row 1] b.jpg cannot be decoded"), (2, "row 2] c.jpg holds a path instead of a picture")):
        with pytest.raises(ValueError, match=re.escape(words)):
            source[index]


def test_what_is_no_hugging_face_data_set_is_refused(tmp_path):
    photo = official.photographs()[0]
    write(tmp_path / "plain" / "train-0.parquet", [(photo, "a.jpg", 0)], ["x"], described=False)
    with pytest.raises(ValueError, match="do not describe a column of pictures"):
        open_source("imagefolder", str(tmp_path / "plain"), "train")
    write(tmp_path / "unlabelled" / "train-0.parquet", [(photo, "a.jpg", -1)], ["x"])
    with pytest.raises(ValueError, match="labels of train are not 0 to 0"):
        open_source("imagefolder", str(tmp_path / "unlabelled"), "train")
    for name in ("one", "two"):
        write(tmp_path / "several" / name / "train-0.parquet", [(photo, "a.jpg", 0)], ["x"])
    with pytest.raises(ValueError, match="holds several data sets"):
        open_source("imagefolder", str(tmp_path / "several"), "train")


@pytest.mark.parametrize(
    "val, words",
    [
        (["dog", "cat"], "label 0 of train is class cat, of val it is dog"),
        (["cat", "dog", "elk"], "label 2 of train is class None, of val it is elk"),
        (["cat", "dog"], None),
    ],
)
def test_labels_must_mean_the_same_in_both_splits(tmp_path, val, words):
    rows = [(official.photographs()[0], "a.jpg", label) for label in (0, 1)]
    write(tmp_path / "train-0.parquet", rows, ["cat", "dog"])
    assert class_names("imagefolder", str(tmp_path), "train") == ("cat", "dog")  # alone
    write(tmp_path / "validation-0.parquet", rows, val)
    data = DataConfig("imagefolder", Backend.folder, str(tmp_path))
    if words is None:
        assert not list(check(data, AugmentConfig()))
    else:
        (problem,) = check(data, AugmentConfig())
        assert words in problem
        for split in ("train", "val"):
            with pytest.raises(ValueError, match="a label must mean the same"):
                open_source("imagefolder", str(tmp_path), split)


def test_without_pyarrow_the_message_says_what_to_install(sets):
    """In a process that cannot import it."""
    code = (
        "import sys; sys.modules['pyarrow'] = None\nfrom gsam.data import open_source\n"
        f"open_source('imagefolder', {sets[1]!r}, 'train')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "need pyarrow: pip install pyarrow" in done.stderr
