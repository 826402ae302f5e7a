"""`launcher=slurm` before anything is submitted: what is refused, and which command runs a training on what is at hand."""

import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir

from gsam.cli import CONFIGS
from gsam.config import ConfigError, as_dict, load, read_composed, run_hash
from gsam.launch import job
from gsam.launch.allocation import TRAIN, training_command
from gsam.launch.settings import SlurmConfig

ROOT = TRAIN.parent
MISTAKES = {
    "launcher.node=2": "launcher.node: unknown key; did you mean launcher.nodes?",
    "launcher.nodes=0": "launcher.nodes=0: must be at least 1",
    "launcher.nodes=two": "launcher.nodes=two: Value 'two' of type 'str' could not be converted to Integer",
    "launcher.gpus_per_node=-1": "launcher.gpus_per_node=-1: must be at least 0",
    "launcher.cpus_per_node=0": "launcher.cpus_per_node=0: must be at least 1, or null",
    "launcher.time=24": "launcher.time=24: write 90m, 24h, 2d, 1d12h, or as Slurm does: 1-12:00:00",
    "launcher.time=0h": "launcher.time=0h: must be at least 1m",
    "launcher.time=2m": "launcher.grace_s=180: must be less than launcher.time=2m",
    "launcher.extra.time=5": "launcher.extra.time: set launcher.time instead",
    "launcher.extra.open_mode=truncate": "launcher.extra.open-mode: cannot be set; saving and continuing depend on it",
    "launcher.extra.wait=true": "launcher.extra.wait: cannot be set",
    "launcher.extra.export=NONE": "launcher.extra.export: cannot be set",
    "launcher.extra.gres={gpu:8}": "launcher.extra.gres={'gpu': 8}: give one value, or a list of values",
    "launcher.workers=8": "launcher.workers=8: workers are for scripts/sweep.py; a training is one job",
    "launcher.cpus_per_node=4 data.workers=5": "choose from 1 to 4, 1 per core of a host, or null",
    "launcher.nodes=3": "train.batch_size=250 is not divisible by 24 ranks x train.accumulate=1; nearest: 240 or 264",
}


def composed(fashion_root, *words):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        paths = [f"paths.fashion_mnist={fashion_root}", "run.experiment=quickstart"]
        return compose("train", ["experiment=quickstart", *paths, *(w if "=slurm" in w else f"++{w}" for w in words)])


@pytest.mark.parametrize("word", MISTAKES)
def test_mistakes_are_named_before_anything_is_submitted(word, fashion_root):
    with pytest.raises(ConfigError) as error:
        load(composed(fashion_root, "launcher=slurm", *word.split()))
    assert MISTAKES[word] in str(error.value)


def test_a_launcher_s_keys_without_a_launcher_are_refused(fashion_root):
    with pytest.raises(ConfigError, match="launcher.name=None: unknown; choose: slurm"):
        load(composed(fashion_root, "launcher.nodes=2"))


def test_the_launcher_decides_nothing_about_the_run(fashion_root):
    without = load(composed(fashion_root))
    other = load(composed(fashion_root, "launcher=slurm", "launcher.nodes=5", "launcher.gpus_per_node=2"))
    assert run_hash(without) == run_hash(other) and without.launcher is None
    saved = as_dict(without)
    assert read_composed(composed(fashion_root)).launcher is None and saved["launcher"] is None


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90m", 90), ("24h", 1440), ("2d", 2880), ("1d12h", 2160), ("1-12:00:00", 2160), ("12:30:00", 750)],
)
def test_times(text, minutes):
    assert SlurmConfig(time=text).minutes == minutes


def test_options_of_sbatch_are_written_as_it_reads_them():
    extra = {"mail_type": ["END", "FAIL"], "exclusive": True, "hold": False, "gres": None, "--nice": 0}
    assert SlurmConfig(extra=extra).options == {"mail-type": "END,FAIL", "exclusive": True, "nice": 0}


def test_what_does_not_reach_the_job_is_refused(fashion_root, tmp_path):
    words = ["experiment=quickstart", f"paths.fashion_mnist={fashion_root}", f"run.root={tmp_path}", "launcher=slurm"]
    words += ["launcher.gpus_per_node=1", "hydra.verbose=false", "--config-name=train"]
    run = subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert run.returncode == 2 and "Hydra's own options do not reach the job" in run.stderr, run.stderr
    assert "error: hydra.verbose=false --config-name=train: " in run.stderr


BUSY = """#!/bin/sh
echo "$0 $*" >> {calls}
[ $(grep -c "^$0 " {calls}) -ge 3 ] || { echo "Unable to contact slurm controller" >&2; exit 1; }
[ "${0##*/}" != squeue ] || echo RUNNING
"""


def test_a_controller_that_does_not_answer_at_once_is_asked_again(tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    for name in ("squeue", "scontrol"):
        (tmp_path / name).write_text(BUSY.replace("{calls}", str(calls)))
        (tmp_path / name).chmod(0o755)
    for key, value in {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "PATH": f"{tmp_path}:/usr/bin:/bin"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setattr(job, "ASK_S", 0.01)
    with pytest.raises(SystemExit, match="75"):
        job.Job(["-c", "exit(75)"], None, str(tmp_path))()
    assert calls.read_text().count("squeue --noheader --jobs=7") == calls.read_text().count("scontrol requeue 7") == 3


def test_one_training_on_what_is_at_hand(monkeypatch):
    for key in ("SLURM_JOB_NUM_NODES", "SLURM_JOB_ID"):
        monkeypatch.delenv(key, raising=False)
    plain = [str(TRAIN), "optimizer=sam"]
    assert training_command(["optimizer=sam"], 0) == training_command(["optimizer=sam"], 1) == [sys.executable, *plain]
    supervised = [sys.executable, str(ROOT / "scripts/launch.py"), "--standalone", "--nproc-per-node=4", *plain]
    assert training_command(["optimizer=sam"], 4) == supervised
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    assert training_command(["optimizer=sam"], 4)[2:] == ["gsam.launch.nodes", "--this-node", *supervised[2:]]
    assert training_command(["optimizer=sam"], 1) == [sys.executable, *plain]
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    assert training_command(["optimizer=sam"], 4) == [sys.executable, "-m", "gsam.launch.nodes", "4", *plain]


@pytest.mark.parametrize(
    ("variables", "message"),
    [({"PATH": "/nowhere"}, "no sbatch on this machine"), ({"TORCHELASTIC_RUN_ID": "x"}, "leave torchrun out")],
)
def test_where_there_is_nothing_to_submit_to(variables, message, fashion_root, tmp_path, monkeypatch):
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    words = ["experiment=quickstart", f"paths.fashion_mnist={fashion_root}", f"run.root={tmp_path}", "launcher=slurm"]
    words += ["launcher.gpus_per_node=1"]
    run = subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert run.returncode == 2 and message in run.stderr and "Traceback" not in run.stderr, run.stderr
    assert not list(tmp_path.iterdir())
