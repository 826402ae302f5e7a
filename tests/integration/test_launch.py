"""scripts/launch.py on one host: whatever is asked or killed, nothing is left behind, and the same command continues."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gsam.launch.supervise import AGAIN_S
from gsam.train.checkpoint import read
from scripts.resume_check import differences, family, kill_all
from tests.integration.test_faults import SMALL, settings
from tests.integration.test_leaving import start
from tests.integration.test_reproduce import MINIATURE
from tests.processes import ROOT, finish, last_line, training, until, until_step
from tests.unit.test_launch import gone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TWO = [*SMALL, "train.epochs=120st", "data.backend=folder", "data.workers=1"]
LAUNCH = ("scripts/launch.py", "--standalone", "--nproc-per-node=2")


@pytest.fixture(scope="module")
def whole(fashion_root, tmp_path_factory):
    """A run of plain torchrun, left alone."""
    folder = tmp_path_factory.mktemp("whole")
    assert finish(settings(TWO, folder / "run", fashion_root), folder / "log", world=2) == 0
    return folder / "run"


def supervised(words, folder, log, step, *options):
    """(supervisor, torchrun, its ranks, everything) at this step."""
    process = start([*LAUNCH, *options, "train.py", *words], log)
    try:
        until_step(folder, step, process, log)
    except BaseException:
        kill_all(process)
        raise
    supervisor, agent, *rest = family(process.pid)
    return process, agent, rest[:2], [supervisor, agent, *rest]


def test_asked_or_killed_it_leaves_nothing_behind_and_continues(whole, fashion_root, tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    words = settings(TWO, folder, fashion_root)
    # With restarts allowed torchrun must not start the ranks again that left when they were asked to.
    for number, step, options in (
        (signal.SIGUSR1, 7, ["--max-restarts=3"]),
        (signal.SIGINT, 33, []),
    ):
        process, _, _, pids = supervised(words, folder, log, step, *options)
        os.killpg(process.pid, number)  # as Ctrl-C in a terminal
        assert process.wait(60) == 75, log.read_text()[-3000:]
        assert not any(map(alive, pids)) and "saved, the same command continues" in last_line(log)
        assert "Error" not in log.read_text()
    for victims, step in (("supervisor", 50), ("torchrun", 65), ("both", 80)):
        process, agent, _, pids = supervised(words, folder, log, step)
        for pid in {"supervisor": [process.pid], "torchrun": [agent], "both": [process.pid, agent]}[victims]:
            os.kill(pid, signal.SIGKILL)
        assert process.wait(60) == (137 if victims == "torchrun" else -9)
        assert all(gone(pid) for pid in pids), victims
        assert "saved, the same command continues" in log.read_text().split("continuing at step")[-1], victims
        assert step <= read(folder / "checkpoints" / "last.pt")["step"] < 120
    process, _, ranks, pids = supervised(words, folder, log, 95)
    os.kill(ranks[1], signal.SIGKILL)
    assert process.wait(60) == 1 and not any(map(alive, pids))
    assert start([*LAUNCH, "train.py", *words], log).wait(120) == 0
    assert differences(whole, folder) == [] and (folder / "DONE").exists()


def alive(pid):
    return not gone(pid, 0)


def test_a_rank_of_plain_torchrun_leaves_when_torchrun_is_killed(fashion_root, tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log"
    with training(settings(TWO, folder, fashion_root), log, world=2) as process:
        until_step(folder, 14, process, log)
        pids = family(process.pid)
        process.kill()
        process.wait()
        assert all(gone(pid) for pid in pids)
    assert last_line(log).endswith("saved, the same command continues")


def test_a_wrong_setting_has_the_exit_code_of_train_py(fashion_root, tmp_path):
    words = [*settings(TWO, tmp_path / "run", fashion_root), "train.epoch=3"]
    assert start([*LAUNCH, "train.py", *words], tmp_path / "log").wait(60) == 2
    assert "train.epoch: unknown key; did you mean train.epochs?" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("what", ["torch.distributed.run", "train.py"])
def test_a_signal_before_there_is_anything_to_save(what, fashion_root, tmp_path):
    """While torchrun itself starts, and while its ranks do."""
    log = tmp_path / "log"
    process = start([*LAUNCH, "train.py", *settings(TWO, tmp_path / "run", fashion_root)], log)
    try:
        until(lambda: any(runs(pid, what) for pid in family(process.pid)[1:]), process, log)
        pids = family(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75 and not any(map(alive, pids)), log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        kill_all(process)


def runs(pid, what):
    """Whether this is `python … what …`, apart from torchrun's own arguments."""
    try:
        return what in Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:4]
    except OSError:  # ended meanwhile
        return False


SCRIPT = """
import os, sys
code, rank = int(sys.argv[1]), os.environ["RANK"]
sys.exit(code if rank == "1" else 0)
"""


@pytest.mark.parametrize("code", [0, 3])
def test_any_script_can_be_launched(code, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    process = start([*LAUNCH, str(tmp_path / "script.py"), str(code)], tmp_path / "log")
    assert process.wait(60) == (1 if code else 0)  # torchrun's


DEAF = """
import os, sys, time
from gsam.launch.rank import follow_agent
follow_agent()
from signal import SIGTERM, SIGUSR1, pthread_sigmask, SIG_BLOCK, SIGINT, signal
if sys.argv[1] == "deaf":  # as a rank that waits in a driver: it has a handler, and never comes to it
    signal(SIGUSR1, print)
    pthread_sigmask(SIG_BLOCK, [SIGTERM, SIGUSR1, SIGINT])
open(sys.argv[2], "w").close()
time.sleep(300)
"""
SLURM_NODE = ("-m", "gsam.launch.nodes", "--this-node", "--standalone", "--nproc-per-node=1")


def start_script(launch, mode, tmp_path, **env):
    """(supervisor, process ids of it, torchrun and the rank), as soon as the script runs."""
    (tmp_path / "script.py").write_text(DEAF)
    started, log = tmp_path / "started", tmp_path / "log"
    words = [sys.executable, *launch, str(tmp_path / "script.py"), mode, str(started)]
    with log.open("ab") as out:
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        until(started.exists, process, log)
    except BaseException:
        kill_all(process)
        raise
    started.unlink()
    return process, family(process.pid)


def test_in_a_slurm_job_nothing_is_left_behind_either(tmp_path):
    """torchrun ignores SIGTERM there: Slurm sends it to every process."""
    for victims in ([0], [1], [0, 1]):
        process, pids = start_script(SLURM_NODE, "", tmp_path, SLURM_JOB_ID="7")
        try:
            for victim in victims:
                os.kill(pids[victim], signal.SIGKILL)
            process.wait(60)
            assert len(pids) == 3 and all(gone(pid) for pid in pids), victims
        finally:
            for pid in filter(alive, pids):
                os.kill(pid, signal.SIGKILL)


def test_a_second_signal_ends_ranks_that_do_not_leave(tmp_path):
    process, pids = start_script([*LAUNCH[:2], "--nproc-per-node=1"], "deaf", tmp_path)
    try:
        process.send_signal(signal.SIGTERM)
        time.sleep(AGAIN_S + 1)
        assert process.poll() is None and all(map(alive, pids))  # in their own time
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 137 and not any(map(alive, pids))
        assert "asked a second time" in (tmp_path / "log").read_text()
    finally:
        kill_all(process)


STARTERS = {
    "multirun": ["train.py", "-m", *SMALL, "optimizer=vanilla,sam", "run.root={root}"],
    "reproduce": ["scripts/reproduce.py", "table6/decayed", "--runs={root}", "--no-hours", *MINIATURE, "data.limit_train=400",
                  "schedule.warmup_steps=2", "train.save_every=20st"],
}  # fmt: skip


@pytest.mark.parametrize("starter", STARTERS)
def test_a_training_ends_with_what_started_it(starter, fashion_root, tmp_path):
    log, root = tmp_path / "log", tmp_path / "runs"
    words = [word.format(root=root) for word in STARTERS[starter]]
    process = start([*words, "train.epochs=40000st", f"paths.fashion_mnist={fashion_root}"], log)
    try:
        until(lambda: list(root.rglob("checkpoints/last.pt")), process, log)
        pids = family(process.pid)
        process.kill()
        assert all(gone(pid) for pid in pids) and len(pids) > 1
        process.wait()
        assert last_line(log).endswith("saved, the same command continues")
    finally:
        kill_all(process)
