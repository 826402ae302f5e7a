"""The trainer on real images through FFCV: it learns, records, continues exactly, and refuses what it cannot do."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from gsam.models import load_weights
from tests.runs import rows, train

ROOT = Path(__file__).parents[2]
SMALL = [
    "data.limit_train=400", "data.limit_eval=101", "train.batch_size=40", "train.epochs=12st", "schedule.warmup_steps=2",
    "train.log_every=2st", "train.eval_every=6st", "train.save_every=4st",
]  # fmt: skip


@pytest.fixture(scope="module")
def paths(fashion_root, tmp_path_factory):
    return [f"paths.fashion_mnist={fashion_root}", f"run.root={tmp_path_factory.mktemp('runs')}"]


def weights(trainer):
    return {k: v.clone() for k, v in trainer.model.state_dict().items()}


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for key in one:
        assert torch.equal(one[key], two[key]), key


def test_a_run_leaves_its_records(paths, capsys):
    trainer = train("optimizer=gsam", *SMALL, *paths)
    assert "starting of 12 · gsam, m = 40 · " in capsys.readouterr().out
    folder = trainer.folder.path
    assert {"config.yaml", "meta.json", "metrics.jsonl", "checkpoints", "DONE"} <= {p.name for p in folder.iterdir()}
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"last.pt", "last-1.pt", "best.pt"}
    steps = rows(folder, "train")
    assert [row["step"] for row in steps] == [2, 4, 6, 8, 10, 12]
    for row in steps:
        assert row["gap"] == pytest.approx(row["sharp_loss"] - row["loss"], abs=1e-5) and -1 <= row["cos"] <= 1.0001
        assert row["clean_norm"] > 0 < row["sharp_norm"] and row["alpha"] == 0.01
        assert row["skipped_clean"] == row["skipped_sharp"] == 0
        assert row["images_per_s"] > 0 and 0 <= row["data_wait"] <= 1 and row["peak_mem_mb"] > 0
    assert steps[-1]["grad_evals"] == 12 * 40 * 2
    at = trainer.stepper.schedules.at
    assert [(row["lr"], row["rho"]) for row in steps] == [pytest.approx(at(row["step"] - 1)[:2]) for row in steps]
    assert all(0.02 < row["rho"] < 0.04 for row in steps)
    evals = rows(folder, "eval")
    assert [(row["step"], row["n"]) for row in evals] == [(6, 101), (12, 101)]
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["m"] == 40 and meta["versions"]["torch"] == torch.__version__
    assert yaml.safe_load((folder / "config.yaml").read_text())["optimizer"]["name"] == "gsam"


def test_a_finished_run_says_so_and_is_left_alone(paths, capsys):
    first = train("optimizer=sam", *SMALL, *paths)
    before = (first.folder.path / "metrics.jsonl").stat().st_mtime_ns
    capsys.readouterr()
    train("optimizer=sam", *SMALL, *paths)
    assert "finished; nothing to do" in capsys.readouterr().out
    assert (first.folder.path / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.parametrize(("method", "extra"), [
    ("vanilla", ["train.accumulate=2"]), ("sam", ["optimizer.group_size=20"]), ("asam", []), ("entropy_sgd", []), ("gsam", []),
    ("gsam", ["ema.decay=0.9", "train.accumulate=2", "optimizer.group_size=20", "data.backend=folder"]),
])  # fmt: skip
def test_a_stopped_run_continues_bit_for_bit(method, extra, paths, tmp_path):
    """Stopped in the middle of the second epoch (10 steps each) and of a logging interval."""
    settings = [f"optimizer={method}", "train.seed=5", *extra, *SMALL, *paths[:1]]
    whole = train(*settings, f"run.root={tmp_path}/whole")
    train(*settings, f"run.root={tmp_path}/parts", "train.max_steps=3")
    train(*settings, f"run.root={tmp_path}/parts", "train.max_steps=11")
    parts = train(*settings, f"run.root={tmp_path}/parts")
    assert_equal(weights(whole), weights(parts))
    if whole.stepper.ema is not None:
        assert_equal(whole.stepper.ema.module.state_dict(), parts.stepper.ema.module.state_dict())
    losses = {row["step"]: row["loss"] for row in rows(whole.folder.path, "train")}
    again = {row["step"]: row["loss"] for row in rows(parts.folder.path, "train")}
    assert [losses[step] for step in (2, 6, 8, 10)] == [again[step] for step in (2, 6, 8, 10)]


def test_rho_zero_trains_like_vanilla_bit_for_bit(paths):
    vanilla = train("optimizer=vanilla", "train.seed=7", *SMALL, *paths)
    ours = train("optimizer=gsam", "optimizer.rho_max=0", "optimizer.rho_min=0", "train.seed=7", *SMALL, *paths)
    assert_equal(weights(vanilla), weights(ours))


def test_both_backends_train_on_the_same_pixels(paths):
    """Fashion-MNIST is stored raw and not resized, so even the weights are equal."""
    runs = [train("optimizer=sam", f"data.backend={b}", "train.seed=8", *SMALL, *paths) for b in ("ffcv", "folder")]
    assert_equal(*map(weights, runs))


@pytest.mark.parametrize(
    "mode",
    [
        ["train.precision=bf16"],
        ["train.precision=fp16", "train.clip_norm=1.0"],
        ["train.channels_last=true", "train.accumulate=4"],
        ["train.loss=sigmoid", "train.label_smoothing=0.0001", "model.head_bias=-2.2"],
        ["train.label_smoothing=0.1", "base=adamw", "base.weight_decay=0.1", "schedule=cosine"],
        ["optimizer.scope=global", "train.keep_every=5st"],
        ["optimizer.group_size=10", "ema.decay=0.5"],
    ],
    ids=lambda mode: mode[0],
)
def test_every_mode_lowers_the_loss(mode, paths):
    lr = "base.lr=0.003" if "base=adamw" in mode else "base.lr=0.03"
    trainer = train("optimizer=gsam", *SMALL, "train.epochs=24st", lr, "schedule.lr_min=0", *mode, *paths)
    losses = [row["loss"] for row in rows(trainer.folder.path, "train")]
    assert losses[-1] < 0.8 * losses[0], losses
    if "ema.decay=0.5" in mode:
        assert {row["weights"] for row in rows(trainer.folder.path, "eval")} == {"raw", "ema"}
        assert_equal(trainer.stepper.ema.module.state_dict(), load_weights(trainer.folder.path, "ema"))
    if "train.keep_every=5st" in mode:
        assert (trainer.folder.path / "checkpoints" / "step_20.pt").exists()


def test_fine_tuning_starts_from_a_runs_weights(paths):
    first = train("optimizer=vanilla", "train.seed=9", *SMALL, *paths)
    still = ["base.lr=1e-9", "schedule.lr_min=0", "schedule.warmup_steps=0", "train.epochs=1st", "train.seed=9"]
    tuned = train("optimizer=vanilla", f"model.init={first.folder.path}", *SMALL, *still, *paths)
    for key, value in first.model.named_parameters():
        torch.testing.assert_close(tuned.model.get_parameter(key), value, rtol=0, atol=1e-6)


def command(*args, env=None, world=1):
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"] if world > 1 else []
    options = {"cwd": ROOT, "env": {**os.environ, **(env or {})}, "capture_output": True, "text": True, "timeout": 280}
    return subprocess.run([sys.executable, *launch, *args], **options)


VIT = ["model.name=vit_tiny_patch16_224", "model.kwargs={patch_size: 7, depth: 2, embed_dim: 48, num_heads: 2}"]


@pytest.mark.parametrize(
    "settings", [["optimizer=gsam", "optimizer.group_size=20"], ["optimizer=vanilla", *VIT]], ids=" ".join
)
def test_two_ranks_train_like_one_process(settings, paths, tmp_path):
    """To rounding (sums in another order); batches, crops, perturbations and BatchNorm statistics are the same. (Vanilla with
    BatchNorm is not: each rank normalises with its own half of the batch, as under any DDP.)"""
    settings = ["experiment=quickstart", *settings, *SMALL, "train.epochs=6st", *paths[:1]]
    for world in (1, 2):
        result = command("train.py", *settings, f"run.dir={tmp_path}/{world}", world=world)
        assert result.returncode == 0, result.stderr
    one, two = (load_weights(tmp_path / str(world)) for world in (1, 2))
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=2e-3, atol=2e-4, msg=lambda m, key=key: f"{key}: {m}")
    assert {row["n"] for row in rows(tmp_path / "2", "eval")} == {101}


@pytest.mark.slow
def test_multirun_starts_one_process_per_job_and_reports_a_failed_one(paths, tmp_path):
    result = command(
        "train.py", "-m", "experiment=quickstart", "optimizer=vanilla,sam", "train.clip_norm=-1,1", *SMALL,
        "train.epochs=2st", "schedule.warmup_steps=0", paths[0], f"run.root={tmp_path}",
    )  # fmt: skip
    assert result.returncode != 0 and result.stderr.count("train.clip_norm=-1.0: must be positive") == 2
    assert len(list(tmp_path.glob("quickstart/*/DONE"))) == 2


HOLDS = """
import os, sys, time
from pathlib import Path
from gsam.train.run_folder import RunFolder

folder = RunFolder(Path(sys.argv[1]), {}, {"config_hash": "1", "data": None}, True)
folder.open()
(folder.path / "meta.json").unlink()
child = os.fork()
if child == 0:  # as a loader's worker process
    time.sleep(100)
else:
    print(child, flush=True)
    sys.stdin.readline()
    os._exit(0)
"""


def test_a_second_writer_is_refused_and_a_dead_ones_children_do_not_count(paths, tmp_path):
    settings = ["optimizer=vanilla", *SMALL, *paths, f"run.dir={tmp_path}/run"]
    words = [sys.executable, "-c", HOLDS, str(tmp_path / "run")]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        child = int(other.stdout.readline())
        with pytest.raises(ValueError, match=f"being written by process {other.pid} on .*; wait for it"):
            train(*settings)
        other.stdin.write("end\n")
        other.stdin.flush()
        assert other.wait(60) == 0
        train(*settings, "train.max_steps=1")
        os.kill(child, signal.SIGKILL)  # raises if it did not live


def test_a_folder_with_another_run_is_refused(paths, tmp_path):
    train("optimizer=vanilla", *SMALL, *paths, f"run.dir={tmp_path}/run", "train.max_steps=1")
    with pytest.raises(ValueError, match="differing: base.lr"):
        train("optimizer=vanilla", *SMALL, *paths, f"run.dir={tmp_path}/run", "base.lr=0.05")


def test_a_damaged_checkpoint_is_named(paths, tmp_path):
    settings = ["optimizer=vanilla", *SMALL, *paths, f"run.dir={tmp_path}/run"]
    train(*settings, "train.max_steps=4")
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="last.pt cannot be read"):
        train(*settings)


LOST = pytest.mark.filterwarnings("ignore:the perturbation is lost in rounding")  # of weights that exploded


@LOST
def test_a_loss_that_is_not_finite_stops_the_run_with_its_step(paths):
    with pytest.raises(FloatingPointError, match=r"step \d: the loss or gradient of the \w+ pass is not finite"):
        train("optimizer=sam", *SMALL, *paths, "base.lr=1e12", "schedule.warmup_steps=0", "schedule.lr_min=1e12")


def test_a_missing_data_root_is_one_message_and_leaves_nothing(tmp_path):
    result = command(
        "train.py",
        "experiment=quickstart",
        "data=imagefolder",
        f"paths.imagefolder={tmp_path}/none",
        f"run.root={tmp_path}/runs",
    )
    assert result.returncode == 2 and f"{tmp_path}/none" in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_wandb_offline_works_and_an_unreachable_server_neither_stops_nor_delays(mode, paths, tmp_path):
    env = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40, "WANDB_SILENT": "true"}
    settings = [
        "experiment=quickstart",
        "optimizer=vanilla",
        *SMALL,
        paths[0],
        f"run.dir={tmp_path}/run",
        f"wandb.mode={mode}",
    ]
    began = time.monotonic()
    result = command("train.py", *settings, env=env)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "DONE").exists()
    assert time.monotonic() - began < 120
    assert list((tmp_path / "run").glob("wandb/offline-run-*/*.wandb"))
    assert ("does not answer" in result.stderr) == (mode == "online")


@LOST
def test_a_diverged_run_saves_no_broken_weights(paths, tmp_path):
    """NaN weights in last.pt could never be continued from."""
    settings = ["optimizer=sam", *SMALL, *paths, f"run.dir={tmp_path}/run", "base.lr=1e12", "schedule.lr_min=1e12"]
    with pytest.raises(FloatingPointError, match="the weights are those before it"):
        train(
            *settings,
            "schedule.warmup_steps=0",
            "train.log_every=12st",
            "train.save_every=4st",
            "train.eval_every=12st",
        )
    assert not list((tmp_path / "run").glob("checkpoints/*.pt"))


def test_other_data_is_another_run(paths, tmp_path):
    from tests.photos import make_folder

    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    one, two = make_folder(tmp_path / "a"), make_folder(tmp_path / "b")
    for split in ("train", "val"):
        first = sorted((two / split).iterdir())[0]
        first.rename(first.with_name("zzz"))
    small = [
        "data=imagefolder",
        "data.backend=folder",
        "train.batch_size=4",
        "train.epochs=1st",
        "schedule.warmup_steps=0",
    ]
    small += [f"run.dir={tmp_path}/run", "data.workers=0"]
    train(*small, f"paths.imagefolder={one}")
    with pytest.raises(ValueError, match="was trained on other data"):
        train(*small, f"paths.imagefolder={two}")


def test_an_unreadable_image_on_any_rank_is_one_message(tmp_path):
    from tests.photos import make_folder

    root = make_folder(tmp_path)
    for path in sorted((root / "train").rglob("*.*"))[::2]:
        path.write_bytes(b"no picture")
    small = [
        "data=imagefolder",
        "data.backend=folder",
        f"paths.imagefolder={root}",
        "train.batch_size=4",
        "train.epochs=1",
    ]
    result = command("train.py", "experiment=quickstart", *small, f"run.dir={tmp_path}/run", world=2)
    assert result.returncode != 0 and "cannot be decoded" in result.stderr, result.stderr[-2000:]
    assert "Original Traceback" not in result.stderr
