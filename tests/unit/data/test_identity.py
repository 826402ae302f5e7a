"""What a run's data are known by: the same wherever they lie, another as soon as pictures change."""

import shutil
from importlib.util import find_spec

import pytest

from gsam.data import Backend, DataConfig, identity
from gsam.train.run_folder import RunFolder
from tests.photos import make_folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def copy(photos, tmp_path):
    return shutil.copytree(photos, tmp_path / "copy")


def folder(root):
    return identity(DataConfig("imagefolder", Backend.folder, str(root)))


def test_deleted_renamed_and_moved_pictures_are_other_data(photos, copy):
    known = folder(photos)
    assert len(known) == 16 and folder(copy) == known  # another place
    first, second = sorted((copy / "train" / "n02").iterdir())[:2]
    first.rename(first.with_name("zzz.jpg"))
    renamed = folder(copy)
    first.with_name("zzz.jpg").rename(copy / "train" / "n03" / first.name)
    moved = folder(copy)
    second.unlink()
    assert len({known, renamed, moved, folder(copy)}) == 4
    assert folder(copy / "nowhere") is None


@pytest.mark.skipif(find_spec("ffcv") is None, reason="ffcv is not installed")
def test_a_beton_of_another_preset_is_other_data_and_the_same_one_written_again_is_not(copy):
    from gsam.data.write import write_dataset

    def written(preset):
        write_dataset("imagefolder", str(copy), str(copy / "ffcv"), preset=preset, workers=1, overwrite=True)
        return identity(DataConfig("imagefolder", Backend.ffcv, str(copy)))

    first = written("500_jpeg90")
    assert first == written("500_jpeg90") != written("raw")


def test_a_run_is_refused_on_other_data_where_both_are_known(tmp_path):
    config = {"data": {"root": "/photos", "ffcv_root": None}}

    def run(data):
        return RunFolder(tmp_path / "run", config, {"config_hash": "1", "data": data}, True)

    for before in ("0" * 16, None):
        first = run(before)
        (tmp_path / "run" / "meta.json").unlink(missing_ok=True)
        first.open()
        first.close()
        run(before).refuse_other_run()
        if before == "0" * 16:
            with pytest.raises(ValueError, match=r"other data \(its classes, labels or pictures.*data.root=/photos"):
                run("1" * 16).refuse_other_run()
        else:
            run("1" * 16).refuse_other_run()
