"""Predictions on disk: what goes in comes out, sorted, and nothing else is accepted."""

import os
import pickle
import re

import numpy as np
import pytest

from gsam.report.predictions import file_name, load, save


def rows(n=6, **changes):
    rng = np.random.default_rng(0)
    top5 = rng.integers(0, 1000, (n, 5))
    given = {"index": np.arange(n)[::-1], "label": top5[:, 0], "correct": np.ones(n, bool), "top5": top5}
    return {**given, "nll": rng.random(n), "pictures": "0a1b2c3d", **changes}


def test_round_trip_sorted_by_index(tmp_path):
    given = rows()
    save(tmp_path / "new" / "a.npz", **given)
    found = load(tmp_path / "new" / "a.npz")
    assert found.index.tolist() == [0, 1, 2, 3, 4, 5] and found.pictures == "0a1b2c3d"
    assert (found.label == given["label"][::-1]).all() and (found.top5 == given["top5"][::-1]).all()
    assert found.nll.dtype == np.float32 and found.top5.dtype == np.int16 and found.correct.dtype == bool
    assert os.listdir(tmp_path / "new") == ["a.npz"]


def test_fifty_thousand_pictures_stay_small_and_reproducible(tmp_path):
    for name in ("a.npz", "b.npz"):
        save(tmp_path / name, **rows(50_000))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert (tmp_path / "a.npz").stat().st_size < 1_200_000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"index": [0, 1, 2, 3, 3, 3]}, "picture 3 was counted twice"),
        ({"label": [0, 1]}, "do not fit together"),
        ({"top5": np.zeros(6)}, "do not fit together"),
        ({"label": [40_000] * 6}, "label reaches 40000"),
    ],
)
def test_wrong_rows_are_refused(changes, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        save(tmp_path / "a.npz", **rows(**changes))
    assert not list(tmp_path.iterdir())


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_no_code_is_run_and_damage_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("a.npz", index=np.array([Harmful()], dtype=object))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Harmful()))
    save(tmp_path / "c.npz", **rows())
    (tmp_path / "c.npz").write_bytes((tmp_path / "c.npz").read_bytes()[:500])
    np.savez("d.npz", index=np.arange(3))
    for name in ("a", "b", "c", "d", "none"):
        with pytest.raises(ValueError, match=rf"{name}.npz cannot be read .*force=true"):
            load(tmp_path / f"{name}.npz")
    assert not (tmp_path / "executed").exists()


def test_names_are_files_and_tell_passes_apart():
    row = {"evalset": "imagenet", "corruption": None, "severity": None, "weights": "raw", "checkpoint": "last.pt"}
    noise = {"evalset": "imagenet_c", "corruption": "snow", "severity": 3}
    names = [
        file_name(row),
        file_name({**row, **noise, "weights": "ema"}),
        file_name({**row, "flip_tta": True, "precision": "bf16"}),
        file_name({**row, "checkpoint": "timm:resnet50.a1_in1k"}),
    ]
    assert [re.sub(r"-[0-9a-f]{8}\.npz$", "", name) for name in names] == [
        "imagenet-raw-last", "imagenet_c-snow-3-ema-last", "imagenet-raw-last-bf16-tta",
        "imagenet-raw-timm-resnet50.a1_in1k",
    ]  # fmt: skip
    others = ("settings", "weights_hash", "pictures", "preprocess", "model", "step")  # a limit is one of the settings
    assert len({file_name(row), *(file_name({**row, key: "another"}) for key in others)}) == 1 + len(others)
    assert file_name(row) == file_name({**row, "top1": 0.5, "time": "later"})
