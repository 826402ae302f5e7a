"""Checkpoints: whole, checked, rotated, written behind the loop's back, and harmless."""

import os
import pickle
import resource
import signal

import pytest
import torch

from gsam.train import checkpoint
from gsam.train.checkpoint import Damaged, Writer, newest, read, save


def state(step=1, size=1000):
    torch.manual_seed(step)
    tensors = {"w": torch.randn(size), "half": torch.randn(3, 2).bfloat16(), "count": torch.tensor(step)}
    return {"model": tensors, "base": {"state": {0: {"m": torch.ones(3)}}, "groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]},
            "ema": None, "step": step, "best": 0.25}  # fmt: skip


def saved(folder, *steps, keep=2):
    warnings: list[str] = []
    writer = Writer(folder, keep, warnings.append)
    for step in steps:
        writer.save(["last.pt"], state(step))
    writer.wait()
    assert not warnings
    return folder


def steps(folder):
    return {path.name: read(path)["step"] for path in folder.glob("*.pt")}


def test_what_was_saved_is_read(tmp_path):
    save(tmp_path / "last.pt", state())
    found = read(tmp_path / "last.pt")
    assert found.keys() == state().keys() and checkpoint.checksum(found) == checkpoint.checksum(state())
    assert (
        torch.equal(found["model"]["half"], state()["model"]["half"])
        and found["base"]["groups"] == state()["base"]["groups"]
    )


@pytest.mark.parametrize("change", [
    lambda s: s["model"]["w"].view(torch.int32)[77:78].bitwise_xor_(1), lambda s: s.update(step=2), lambda s: s.pop("ema"),
    lambda s: s["model"].update(count=s["model"]["count"].int()), lambda s: s["base"]["groups"][0].update(lr=0.2),
])  # fmt: skip
def test_the_checksum_sees_any_change(change):
    changed = state()
    change(changed)
    assert checkpoint.checksum(changed) != checkpoint.checksum(state())


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "cut off":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = b""
    elif how == "a bit flipped":
        at = data.index(state(2)["model"]["w"].numpy().tobytes()) + 2000
        data[at] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["cut off", "empty", "a bit flipped"])
def test_a_damaged_last_checkpoint_is_passed_over_with_a_warning(how, tmp_path):
    saved(tmp_path, 1, 2)
    damage(tmp_path / "last.pt", how)
    said: list[str] = []
    with pytest.raises(Damaged, match=r"last\.pt .*; whole ones beside it: last-1\.pt$"):
        read(tmp_path / "last.pt")
    assert newest(tmp_path, said.append).name == "last-1.pt"
    assert len(said) == 1 and "last.pt" in said[0] and "continuing from last-1.pt" in said[0]


def test_without_a_whole_one_the_run_does_not_start_over_silently(tmp_path):
    assert newest(tmp_path, print) is None
    saved(tmp_path, 1, 2)
    for path in tmp_path.glob("*.pt"):
        damage(path, "cut off")
    with pytest.raises(ValueError, match="last-1.pt.*to start from scratch"):
        newest(tmp_path, print)
    with pytest.raises(Damaged, match=r"last\.pt .*; none in .* is whole$"):
        read(tmp_path / "last.pt")


def test_those_that_stay_are_the_last_resort(tmp_path):
    saved(tmp_path, 9)
    for step in (100, 20):
        save(tmp_path / f"step_{step}.pt", state(step))
    save(tmp_path / "best.pt", state(5))
    order = []
    while (path := newest(tmp_path, lambda _: None)) is not None:
        order.append(path.name)
        path.unlink()
    assert order == ["last.pt", "step_100.pt", "step_20.pt", "best.pt"]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_few_are_kept(keep, tmp_path):
    saved(tmp_path, 1, 2, 3, 4, keep=keep)
    expected = {"last.pt": 4, "last-1.pt": 3, "last-2.pt": 2}
    assert steps(tmp_path) == dict(list(expected.items())[:keep])


def test_several_names_are_one_write_and_live_apart(tmp_path):
    writer = Writer(tmp_path, 2, print)
    writer.save(["best.pt", "last.pt", "step_1.pt"], state(1))
    writer.save(["last.pt"], state(2))
    writer.wait()
    assert steps(tmp_path) == {"best.pt": 1, "step_1.pt": 1, "last.pt": 2, "last-1.pt": 1}


def test_training_may_go_on_while_it_is_written(tmp_path):
    live = state(3, size=3_000_000)
    expected, writer = live["model"]["w"].clone(), Writer(tmp_path, 2, print)
    writer.save(["last.pt"], live)
    live["model"]["w"].zero_()
    writer.wait()
    assert torch.equal(read(tmp_path / "last.pt")["model"]["w"], expected) and writer.blocked > 0


def test_a_full_disk_is_a_warning_and_older_checkpoints_stay(tmp_path):
    """A real refusal by the system: no file of this process may grow beyond 20 kB."""
    saved(tmp_path, 1)
    before, said = (tmp_path / "last.pt").read_bytes(), []
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
        writer = Writer(tmp_path, 2, said.append)
        writer.save(["last.pt", "best.pt"], state(2, size=100_000))
        writer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert len(said) == 1 and "could not be written" in said[0] and "Is the disk full?" in said[0]
    assert (tmp_path / "last.pt").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    writer.save(["last.pt"], state(3))
    writer.wait()
    assert steps(tmp_path) == {"last.pt": 3, "last-1.pt": 1}


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    with pytest.raises(TypeError, match="no plain data"):
        Writer(tmp_path, 1, print).save(["last.pt"], {"model": {}, "version": torch.__version__})


def test_a_malicious_pickle_does_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "hacked"),)

    for name, write in (
        ("pickle.pt", lambda f: pickle.dump(Evil(), f)),
        ("zip.pt", lambda f: torch.save({"model": Evil()}, f)),
    ):
        with open(tmp_path / name, "wb") as f:
            write(f)
        with pytest.raises(Damaged, match="cannot be read"):
            read(tmp_path / name)
    assert not (tmp_path / "hacked").exists()


def test_another_format_is_named(tmp_path):
    torch.save({"format": 99, "checksum": ""}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="format 99, this version reads format 2"):
        read(tmp_path / "last.pt")
    torch.save({"weights": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(Damaged, match="no checkpoint of train.py"):
        read(tmp_path / "other.pt")
