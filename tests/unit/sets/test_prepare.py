"""scripts/prepare_eval.py: from official archives to what evaluate.py accepts."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from gsam.config import load_evaluation
from gsam.data.sources import imagenet_synsets
from gsam.eval import evalsets
from gsam.eval.layouts import class_list
from gsam.eval.prepare import C_ARCHIVES, SETS, prepare, stated
from gsam.eval.roots import data_folder, write_paths
from scripts.prepare_eval import main

from . import official
from .official import tree, write_folder, write_tar, write_zip

ROOT = Path(__file__).parents[3]


def run(name, given, to, partial=True):
    seen = []
    ready = prepare(name, [given], to, partial=partial, report=lambda *numbers: seen.append(numbers))
    return ready, seen


def accepted(ready):
    """The command that prepare_eval prints, as far as evaluate.py goes before it loads the model."""
    words = shlex.split(ready.command())
    assert words[:2] == ["python", "evaluate.py"]
    overrides = [
        "weights=x",
        f"paths.{ready.target.key}={ready.root}",
        *(w for w in words[2:] if not w.startswith("weights=")),
    ]
    overrides = [w for w in overrides if "=" in w]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = load_evaluation(compose("evaluate", overrides))
    problems = [p for name, evalset in config.evalsets.items() for p in evalsets.check(name, evalset)]
    assert problems == []
    return list(config.evalsets)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    """A folder as after downloading: every official archive but those of ImageNet-C."""
    folder = tmp_path_factory.mktemp("downloads")
    write_tar(folder / "imagenet-r.tar", official.imagenet_r())
    write_tar(folder / "imagenet-a.tar", official.imagenet_a())
    write_zip(folder / "ImageNet-Sketch.zip", official.sketch())
    for variant in ("matched-frequency", "threshold0.7", "top-images"):
        files = official.imagenet_v2(f"imagenetv2-{variant}-format-val")
        write_tar(folder / f"imagenetv2-{variant}.tar.gz", files, "w:gz")
    return folder


@pytest.mark.parametrize(
    ("name", "evalsets_of", "pictures"),
    [
        ("r", [["imagenet_r", "imagenet_r_200"]], 200),
        ("a", [["imagenet_a", "imagenet_a_1000"]], 200),
        ("sketch", [["imagenet_sketch"]], 1000),
        ("v2", [["imagenet_v2"], ["imagenet_v2_threshold"], ["imagenet_v2_top"]], 1000),
    ],
)
def test_a_folder_of_archives_becomes_sets_that_evaluate_accepts(name, evalsets_of, pictures, downloads, tmp_path):
    ready, seen = run(name, downloads, tmp_path)
    assert [one.pictures for one in ready] == [pictures] * len(evalsets_of) and not any(one.whole for one in ready)
    assert [accepted(one) for one in ready] == evalsets_of
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == sorted(target.folder for target in SETS[name])
    again, seen = run(name, downloads, tmp_path)
    assert again == ready and not seen  # only checked


def test_another_number_of_pictures_is_refused_and_leaves_nothing(downloads, tmp_path):
    with pytest.raises(ValueError, match="has 200 pictures, the complete set has 30,000: an incomplete download"):
        run("r", downloads, tmp_path, partial=False)
    assert not list(tmp_path.iterdir())
    run("r", downloads, tmp_path)
    with pytest.raises(ValueError, match="already there.*30,000"):
        run("r", downloads, tmp_path, partial=False)


@pytest.mark.slow
def test_v2_with_its_official_number_is_whole(tmp_path):
    files = official.in_folders(f"{official.V2}/", map(str, range(1000)), "jpeg", each=10)
    archive = write_tar(tmp_path / "imagenetv2-matched-frequency.tar.gz", files, "w:gz")
    (ready,), _ = run("v2", archive, tmp_path / "data", partial=False)
    assert ready.whole and ready.pictures == 10_000 and "expect_n" not in ready.command()
    assert accepted(ready) == ["imagenet_v2"]


def test_a_variant_of_v2_is_known_by_its_top_folder(tmp_path):
    archive = write_tar(tmp_path / "download.tar", official.imagenet_v2("imagenetv2-top-images-format-val"))
    (ready,), _ = run("v2", archive, tmp_path / "data")
    assert ready.target.key == "imagenet_v2_top"
    with pytest.raises(ValueError, match="which set it is"):
        run("v2", write_tar(tmp_path / "some.tar", official.imagenet_v2("top")), tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "files", "words"),
    [
        ("r", official.imagenet_a, "ImageNet-R's 200 classes; is it the archive of another set"),
        ("a", official.sketch, "ImageNet-A's 200 classes; is it the archive of another set"),
        ("v2", lambda: official.in_folders(f"{official.V2}/", imagenet_synsets()), "WordNet ids are an old version"),
        ("r", lambda: list(official.imagenet_r())[:-3], "3 missing"),
        ("c", lambda: official.imagenet_r(), "expected .../<corruption>/<severity>/"),
        ("c", lambda: official.imagenet_c("fog", severities=[2]), "fog/1, fog/3"),
        ("val", official.val_flat, "ILSVRC2012_devkit_t12.tar.gz"),
    ],
)
def test_wrong_archives_are_refused_with_the_reason(name, files, words, tmp_path):
    archive = write_tar(tmp_path / "x.tar", files())
    with pytest.raises(ValueError) as caught:
        run(name, archive, tmp_path / "data")
    assert words in str(caught.value) and str(archive.name) in str(caught.value)
    assert not list((tmp_path / "data").iterdir())


def test_a_folder_without_archives_names_what_it_looks_for(tmp_path):
    for name in SETS:
        with pytest.raises(ValueError, match=r"holds no archive named .*\.(tar|zip)"):
            run(name, tmp_path, tmp_path / "data")
    with pytest.raises(ValueError, match="does not exist"):
        run("r", tmp_path / "none", tmp_path / "data")


def test_imagenet_c_grows_archive_by_archive(tmp_path):
    """Parts of two of the five archives, one below a top folder; the rest is named, the command evaluates what is there."""
    write_tar(tmp_path / "weather.tar", official.imagenet_c("fog", top="weather/"))
    (ready,), _ = run("c", tmp_path / "weather.tar", tmp_path / "data")
    assert ready.pictures == 5000 and "frost" in ready.missing and ready.archives_of_missing() == list(C_ARCHIVES)
    assert "'evalsets.imagenet_c.corruptions=[fog]'" in ready.command() and accepted(ready) == ["imagenet_c"]
    before = (ready.root / "fog/1").stat().st_mtime_ns
    write_tar(tmp_path / "extra.tar", official.imagenet_c("spatter"))
    (ready,), _ = run("c", tmp_path, tmp_path / "data")  # weather.tar is read again and gives nothing new
    assert accepted(ready) == ["imagenet_c", "imagenet_c_extra"] and ready.pictures == 10_000
    assert (ready.root / "fog/1").stat().st_mtime_ns == before
    assert {entry.name for entry in (tmp_path / "data").iterdir()} == {"imagenet-c"}


def test_the_archives_of_c_hold_its_corruptions():
    of_sets = [c for name in SETS["c"][0].evalsets for c in stated(name, Path()).corruptions]
    assert sorted(c for group in C_ARCHIVES.values() for c in group) == sorted(of_sets)


def test_val_pictures_go_where_the_devkit_says(tmp_path, monkeypatch):
    from torchvision.datasets.imagenet import ARCHIVE_META

    classes = [(i * 7) % 1000 for i in range(1000)]
    digest = official.write_devkit(tmp_path / "ILSVRC2012_devkit_t12.tar.gz", classes)
    write_tar(tmp_path / "ILSVRC2012_img_val.tar", official.val_flat())
    with pytest.raises(ValueError, match="not the official"):  # its MD5 is that of no official file
        run("val", tmp_path, tmp_path / "data")
    monkeypatch.setitem(ARCHIVE_META, "devkit", ("ILSVRC2012_devkit_t12.tar.gz", digest))
    (ready,), _ = run("val", tmp_path, tmp_path / "data")
    assert ready.root == tmp_path / "data" / "imagenet"
    wanted = {
        f"val/{imagenet_synsets()[label]}/{name}": photo
        for label, (name, photo) in zip(classes, official.val_flat(), strict=True)
    }
    assert tree(ready.root) == wanted
    assert not (tmp_path / "meta.bin").exists()


def test_val_pictures_that_lie_in_class_folders_already_need_no_devkit(tmp_path):
    files = official.in_folders("imagenet_validation/", imagenet_synsets(), "JPEG")
    (ready,), _ = run("val", write_tar(tmp_path / "imagenet_validation.tar.gz", files, "w:gz"), tmp_path / "data")
    assert ready.pictures == 1000 and len(tree(ready.root / "val")) == 1000


def test_the_users_file_keeps_what_is_in_it(tmp_path):
    local = tmp_path / "paths.yaml"
    local.write_text("# mine\ndata: /data   # all of it\nimagenet_r: /old\nimagenet: /fast\n")
    write_paths(local, {"imagenet_r": tmp_path / "new: r", "imagenet_a": tmp_path / "a"})
    assert local.read_text() == (
        f'# mine\ndata: /data   # all of it\nimagenet_r: "{tmp_path}/new: r"\nimagenet: /fast\nimagenet_a: "{tmp_path}/a"\n'
    )
    assert data_folder(local) == Path("/data")
    local.write_text("{imagenet_r: /old}\n")
    with pytest.raises(ValueError, match="add these yourself: imagenet_a"):
        write_paths(local, {"imagenet_a": tmp_path})
    assert local.read_text() == "{imagenet_r: /old}\n"


def test_the_default_folder_is_that_of_the_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("GSAM_DATA", "/data")
    assert data_folder(tmp_path / "none.yaml") == Path("/data")
    monkeypatch.delenv("GSAM_DATA")
    assert data_folder(tmp_path / "none.yaml") == Path("data")


def test_the_script(downloads, tmp_path, capsys, monkeypatch):
    local = tmp_path / "local" / "paths.yaml"
    words = ["scripts/prepare_eval.py", "r", "--from", str(downloads), "--to", str(tmp_path), "--local", str(local)]
    monkeypatch.setattr(sys, "argv", words)
    assert main() == 1 and "30,000" in capsys.readouterr().err and not local.exists()
    result = subprocess.run(
        [sys.executable, *words, "--partial"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 0, result.stderr
    assert "imagenet-r.tar (MB)" in result.stdout and "ETA" in result.stdout
    assert f"imagenet_r: 200 pictures in {tmp_path}/imagenet-r (PARTIAL)" in result.stdout
    assert f"python -m gsam.eval.doctor {tmp_path}/imagenet-r" in result.stdout
    assert "evalset=[imagenet_r,imagenet_r_200]" in result.stdout
    assert yaml.safe_load(local.read_text()) == {"imagenet_r": f"{tmp_path}/imagenet-r"}


def test_a_set_that_is_unpacked_already_is_only_entered(downloads, tmp_path):
    write_folder(tmp_path, official.imagenet_a())
    (ready,), seen = run("a", downloads, tmp_path)
    assert not seen and ready.pictures == len(class_list("imagenet_a"))
