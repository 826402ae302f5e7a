"""Evaluation sets: their files, their schema, and everything that is refused before a picture is read."""

import os

import pytest
from omegaconf import OmegaConf

from gsam.data.fashion_mnist import DEBIAN
from gsam.data.sources import imagenet_synsets
from gsam.eval import EvalSet, layouts
from gsam.eval.corruptions import BENCHMARK, EXTRA
from gsam.eval.evalsets import check, open_pictures, passes, pictures_hash, rows, scoring

from .codes import write
from .pictures import fashion_mnist
from .sets import CONFIGS, configured, named

WNIDS = imagenet_synsets()
NAMES = sorted(path.stem for path in (CONFIGS / "evalset").glob("*.yaml") if path.stem != "all")


def corrupted(**changes):
    values = {"source": "fashion_mnist", "root": DEBIAN, "limit": 101, "grey": True}
    return EvalSet(**{**values, "corruptions": ["gaussian_noise", "contrast"], "severities": [2, 5], **changes})


def tree(root, folders):
    """A picture per folder, all the same photograph."""
    folders = list(folders)
    write(root, [(f"{folders[0]}/0.JPEG", (0, 1))])
    for folder in folders[1:]:
        os.makedirs(root / folder)
        os.link(root / folders[0] / "0.JPEG", root / folder / "0.JPEG")
    return root


# ---- the files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_files_fit_the_schema(name):
    sets = configured(f"evalset=[{name}]", "paths.data=/data").evalsets
    assert list(sets) == [name]
    OmegaConf.structured(sets[name])  # checks the types
    assert sets[name].root.startswith("/data/") and rows(sets[name])
    # nothing is wrong but the missing folder; Fashion-MNIST may come from Debian's package
    assert all(problem.startswith(f"evalsets.{name}.root=/data/") for problem in check(name, sets[name]))


def test_all_is_every_set_of_imagenet_that_lies_on_disk():
    others = {"fashion_mnist", "fashion_mnist_c", "fashion_mnist_c15", "imagefolder", "imagenet_c_generated"}
    assert set(configured("evalset=all").evalsets) == set(NAMES) - others
    sizes = {name: evalset.expect_n for name, evalset in configured("evalset=all").evalsets.items()}
    assert sizes["imagenet"] == 50_000 and sizes["imagenet_v2"] == 10_000 and sizes["imagenet_sketch"] == 50_889
    assert sizes["imagenet_r"] == sizes["imagenet_r_200"] == 30_000 and sizes["imagenet_a"] == 7_500


def test_the_corruptions_of_imagenet_c():
    for name, wanted in (("imagenet_c", BENCHMARK), ("imagenet_c_generated", BENCHMARK), ("imagenet_c_extra", EXTRA)):
        assert named(name)[name].corruptions == list(wanted) and named(name)[name].severities == [1, 2, 3, 4, 5]


def test_several_files_compose_into_several_sets():
    sets = named("fashion_mnist", "fashion_mnist_c")
    assert list(sets) == ["fashion_mnist", "fashion_mnist_c"]
    assert sets["fashion_mnist_c"].severities == [3] and sets["fashion_mnist_c"].limit == 2000


def test_rows_and_passes():
    assert rows(EvalSet(source="fashion_mnist")) == [(None, None)]
    noise, contrast = "gaussian_noise", "contrast"
    assert rows(corrupted()) == [(noise, 2), (noise, 5), (contrast, 2), (contrast, 5)]
    sets = {"a": corrupted(), "b": corrupted(severities=[5]), "c": corrupted(seed=1, severities=[5])}
    found = [(p.corruption, p.severity, p.names) for p in passes(sets)]
    shared = [(noise, 2, ("a",)), (noise, 5, ("a", "b")), (contrast, 2, ("a",)), (contrast, 5, ("a", "b"))]
    assert found == [*shared, (noise, 5, ("c",)), (contrast, 5, ("c",))]


# ---- what is refused ------------------------------------------------------------------------------------------------


@fashion_mnist
def test_a_good_set_has_no_problem():
    assert list(check("x", corrupted())) == [] == list(check("x", EvalSet(source="fashion_mnist", root=DEBIAN)))


@fashion_mnist
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"corruptions": ["gausian_noise"]}, "unknown corruption 'gausian_noise'; did you mean"),
        ({"severities": [0, 3]}, "evalsets.x.severities=[0, 3]: 0 is not one of"),
        ({"severities": []}, "give both"),
        ({"severities": [3, 3]}, "names one twice"),
        ({"limit": 10_001}, "evalsets.x.limit=10001 is outside 1 to 10000"),
        ({"limit": 0}, "evalsets.x.limit=0"),
        ({"split": "test"}, "evalsets.x.split=test is unknown; choose one of train, val"),
        ({"source": "fashion"}, "evalsets.x.source=fashion is unknown"),
        ({"source": "imagefolder", "root": "/no/such"}, "evalsets.x.root=/no/such"),
        ({"canvas": 0}, "evalsets.x.canvas=0"),
        ({"seed": -1}, "evalsets.x.seed=-1"),
        ({"layout": "wnids"}, "evalsets.x.layout=wnids is unknown; choose one of split, wnid, index, corrupted"),
        ({"labels": "real"}, "evalsets.x.labels=real is about ImageNet's classes, but source=fashion_mnist"),
        ({"argmax": "classes"}, "evalsets.x.argmax=classes, but classes is null"),
        ({"classes": "imagenet_o"}, "evalsets.x.classes=imagenet_o is unknown; choose one of null, imagenet_r"),
        ({"limit": None, "expect_n": 9_999}, "holds 10,000 pictures, the complete set has 9,999: other files"),
        ({"limit": None, "expect_n": 10_001}, "the complete set has 10,001: the download or its unpacking is inco"),
    ],
)
def test_problems(changes, said):
    problems = list(check("x", corrupted(**changes)))
    assert any(said in problem for problem in problems) and not any("data." in problem for problem in problems)
    assert len(problems) == 1 or "labels" in changes or "classes" in changes


def test_imagenet_copies_need_the_canvas(tmp_path):
    evalset = EvalSet(root=str(tmp_path), corruptions=["contrast"], severities=[1])
    assert any("set canvas: 224" in problem for problem in check("x", evalset))


def the_problem(name, root, **changes):
    (problem,) = check(name, named(name, root=root, **changes)[name])
    return problem


def test_wrong_folders_are_refused_with_what_they_are(tmp_path):
    numbers = tree(tmp_path / "numbers", map(str, range(1000)))
    wnids = tree(tmp_path / "wnids", WNIDS)
    a = tree(tmp_path / "a", layouts.class_list("imagenet_a"))
    tree(tmp_path / "nested" / "imagenet-r", layouts.class_list("imagenet_r"))
    assert "layout=index" in the_problem("imagenet_sketch", numbers)
    assert "layout=wnid" in the_problem("imagenet_v2", wnids)
    assert "They are ImageNet-A's 200" in the_problem("imagenet_r", a)
    assert f"use {tmp_path}/nested/imagenet-r" in the_problem("imagenet_r", tmp_path / "nested")
    assert "ImageNet's 1000" in the_problem("imagenet_sketch", a) and "800 missing" in the_problem("imagenet_sketch", a)
    assert "incomplete" in the_problem("imagenet_v2", numbers)  # one picture per class
    assert list(check("x", named("imagenet_v2", root=numbers, expect_n=1000)["imagenet_v2"])) == []
    assert list(check("x", named("imagenet_v2", root=numbers, limit=10)["imagenet_v2"])) == []
    old = named("imagenet_v2", root=wnids, layout="wnid", expect_n=1000)["imagenet_v2"]  # what the message advises
    assert list(check("x", old)) == [] and open_pictures(old).labels.tolist() == list(range(1000))


def test_an_empty_folder_and_a_missing_one_are_named(tmp_path):
    root = tree(tmp_path / "v2", map(str, range(1000)))
    (root / "998" / "0.JPEG").unlink()
    assert f"{root}/998 holds no picture" in the_problem("imagenet_v2", root)
    (root / "998").rmdir()
    assert "1 missing (998)" in the_problem("imagenet_v2", root)
    assert the_problem("imagenet_v2", tmp_path / "none").startswith("evalsets.imagenet_v2.root=")


def test_missing_severities_and_other_classes_of_stored_copies(tmp_path):
    one = tree(tmp_path / "all", WNIDS)
    for pair in ("fog/1", "fog/2", "snow/1"):
        (tmp_path / "c" / pair).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(one, tmp_path / "c" / pair)
    wanted = {"severities": "[1,2]", "expect_n": 1000}
    said = the_problem("imagenet_c", tmp_path / "c", corruptions="[fog,snow]", **wanted)
    assert "1 of 4 folders <corruption>/<severity> are missing (snow/2)" in said
    assert "73 of 75" not in said and "72 of 75" in the_problem("imagenet_c", tmp_path / "c")
    assert list(check("x", named("imagenet_c", root=tmp_path / "c", corruptions="[fog]", **wanted)["imagenet_c"])) == []
    os.symlink(tree(tmp_path / "other", WNIDS[1:]), tmp_path / "c" / "snow" / "2")
    assert "1 missing" in the_problem("imagenet_c", tmp_path / "c", corruptions="[snow]", **wanted)


def test_copies_of_another_data_set_have_its_classes(tmp_path):
    """What make_imagenet_c writes of an image folder: the classes are the folders."""
    tree(tmp_path, (f"fog/{severity}/{kind}" for severity in (1, 2) for kind in ("cat", "dog")))
    evalset = EvalSet("corrupted", "imagefolder", str(tmp_path), corruptions=["fog"], severities=[1, 2])
    assert list(check("x", evalset)) == [] and open_pictures(evalset, "fog", 2).classes == ("cat", "dog")


# ---- ReaL -----------------------------------------------------------------------------------------------------------


def val(root, number_of):
    """A picture per class, numbered by number_of(class) from 0."""
    names = [f"ILSVRC2012_val_{number_of(label) + 1:08d}.JPEG" for label in range(1000)]
    return write(root, [(f"val/{wnid}/{name}", (0, 1)) for wnid, name in zip(WNIDS, names, strict=True)])


def test_pictures_that_cannot_be_joined_with_real_are_refused(tmp_path):
    real = layouts._real_lists()
    first = {int(label): number for number, label in reversed(list(enumerate(real[:, 0]))) if label >= 0}
    number_of = lambda label: first.get(label, 50_000 - 1 - label)  # noqa: E731
    good = named("imagenet_real", root=val(tmp_path / "good", number_of), expect_n=1000)["imagenet_real"]
    assert list(check("imagenet_real", good)) == []
    labels = scoring(good, open_pictures(good)).labels
    assert [labels[k, 0].item() for k in (0, 500)] == [0, 500]
    shifted = val(tmp_path / "shifted", lambda label: max(number_of(label) - 1, 0) + (number_of(label) == 0) * 49_000)
    assert "about 90 % are usual: files were renumbered" in the_problem("imagenet_real", shifted, expect_n=1000)
    for path in (tmp_path / "good" / "val" / WNIDS[3]).iterdir():
        path.rename(path.with_name("picture.JPEG"))
    said = the_problem("imagenet_real", tmp_path / "good", expect_n=1000)
    assert said.startswith("evalsets.imagenet_real.labels=real joins by file number") and "picture.JPEG" in said


def test_the_hash_of_the_pictures(tmp_path):
    root = tree(tmp_path / "a", layouts.class_list("imagenet_a"))
    a, few = (named("imagenet_a", root=root, **more)["imagenet_a"] for more in ({}, {"limit": 7}))
    source = open_pictures(a)
    one = pictures_hash(a, source, None, None)
    moved = named("imagenet_a_1000", root=tree(tmp_path / "moved", layouts.class_list("imagenet_a")))["imagenet_a_1000"]
    assert one == pictures_hash(moved, open_pictures(moved), None, None) and len(one) == 8
    assert one != pictures_hash(few, source, None, None) != pictures_hash(a, source, "fog", 1)
    (root / WNIDS[6] / "0.JPEG").rename(root / WNIDS[6] / "1.JPEG")
    assert one != pictures_hash(a, open_pictures(a), None, None)
